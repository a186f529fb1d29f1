# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""What lies in a model folder, read and checked."""

import json
from functools import lru_cache
from pathlib import Path

import torch
import yaml
from safetensors import safe_open
from transformers.dynamic_module_utils import get_relative_imports

from ..configuration_videoms import VideoMSConfig
from ..evaluation.results import weights_digest
from ..modeling_videoms import VideoMSForPreTraining, VideoMSForVideoClassification, VideoMSModel
from .privacy import without_private


CARD_FILE = "README.md"
RECIPE_FILE = "recipe.yaml"
LOG_FILE = "training_log.json"
EVALUATION_FILE = "evaluation.json"
PROCESSOR_FILE = "video_preprocessor_config.json"
IMAGE_PROCESSOR_FILE = "preprocessor_config.json"  # by which AutoImageProcessor finds the video processor
SECRET_OPTION = "hub_token"  # recipes are published
INDEX_FILE = "model.safetensors.index.json"
KINDS = {
    "VideoMSForPreTraining": ("pretraining", VideoMSForPreTraining),
    "VideoMSForVideoClassification": ("classification", VideoMSForVideoClassification),
    "VideoMSModel": ("features", VideoMSModel),
}


def read_config(folder: Path) -> VideoMSConfig:
    """The configuration of a saved model, whose class must be one of ours."""
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder} has no config.json; give the folder that save_pretrained or training wrote")
    config = VideoMSConfig.from_pretrained(folder)
    if not config.architectures or config.architectures[0] not in KINDS:
        raise ValueError(
            f"the architectures in {folder / 'config.json'} are {config.architectures}; the first must be one of "
            f"{', '.join(KINDS)}"
        )
    return config


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a saved model; `FileNotFoundError` if one is missing."""
    index = folder / INDEX_FILE
    if index.exists():
        paths = [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    else:
        paths = [folder / "model.safetensors"]
    if missing := [path.name for path in paths if not path.exists()]:
        raise FileNotFoundError(f"{folder} lacks weights: {', '.join(missing)}; save the model again")
    return paths


def count_parameters(folder: Path) -> int:
    """Values in the weight files."""
    total = 0
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (it is no dictionary)
                total += torch.Size(weights.get_slice(name).get_shape()).numel()
    return total


def read_json(path: Path) -> dict | None:
    """The mapping in a JSON file; `None` if there is no such file."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); remove it or write it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; it must be the mapping that the run wrote")
    return content


def check_report(report: dict, config: VideoMSConfig, path: Path, folder: Path) -> None:
    """Raise `ValueError` if the evaluation in the file `path` is not one of the model in `folder`."""
    if config.architectures[0] != "VideoMSForVideoClassification":
        raise ValueError(f"{path} is for a {config.architectures[0]}, which has no accuracy; leave it out")
    needed = (
        *("accuracies", "chance_top1", "chance_top5", "class_names", "num_segments", "num_crops", "num_frames"),
        *("frame_stride", "image_size", "keep_ratio", "gflops_per_clip", "gflops_per_video", "arguments"),
        *("machine", "date", "command", "seconds", "weights_sha256"),
    )
    if missing := [name for name in needed if name not in report]:
        raise ValueError(
            f"{path} lacks {', '.join(missing)}; it must be what scripts/evaluate.py writes: evaluate again"
        )
    names = [config.id2label[i] for i in range(config.num_labels)]
    if report["class_names"] != names:
        raise ValueError(
            f"{path} is about {len(report['class_names'])} classes, {report['class_names'][:2]} ..., the model knows "
            f"{len(names)}, {names[:2]} ...; it must be the evaluation of this model"
        )
    if report["weights_sha256"] != _digest(tuple((path, path.stat().st_mtime_ns) for path in weight_files(folder))):
        raise ValueError(
            f"{path} is about other weights than those in {folder}; evaluate this model, or remove the file"
        )


@lru_cache(maxsize=4)  # a card and an upload ask several times
def _digest(files: tuple[tuple[Path, int], ...]) -> str:
    def weights():
        for path, _ in files:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (it is not a dictionary)
                    yield name, file.get_tensor(name)

    return weights_digest(weights())


def run_records(folder: Path, local_paths: bool = False) -> dict[str, dict]:
    """Recipe, log and evaluation of a model folder by file name, as they may be published.

    Args:
        local_paths: keep local paths and the names of user and machine in them.

    Raises:
        ValueError: A file is not what its name says, holds a secret, or the evaluation is one of another model.
    """
    path, records = folder / RECIPE_FILE, {}
    if path.exists():
        records[RECIPE_FILE] = read_options(path.read_text(encoding="utf-8"), path)
    for name in (LOG_FILE, EVALUATION_FILE):
        if (content := read_json(folder / name)) is not None:
            records[name] = content
    if EVALUATION_FILE in records:
        check_report(records[EVALUATION_FILE], read_config(folder), folder / EVALUATION_FILE, folder)
    return records if local_paths else {name: without_private(content) for name, content in records.items()}


def read_options(recipe: str, path: Path) -> dict:
    """The options of a recipe's text; `path` is for the message."""
    options = yaml.safe_load(recipe) or {}
    if not isinstance(options, dict):
        raise ValueError(f"{path} holds a {type(options).__name__}; it must be the mapping that the run wrote")
    if SECRET_OPTION in options:
        raise ValueError(
            f"{path} holds {SECRET_OPTION}, which is a secret; remove that line before others can read it"
        )
    return options


def repository_files(folder: Path) -> list[str]:
    """Names of the files to publish: configuration, weights, processor and their code, card and records of the run.

    Raises:
        FileNotFoundError: Some are missing; they are named.
        ValueError: The recipe, the log or the evaluation cannot be published.
    """
    read_config(folder)
    records = run_records(folder)
    weights = [path.name for path in weight_files(folder)]
    optional = [name for name in (INDEX_FILE, IMAGE_PROCESSOR_FILE) if (folder / name).exists()]
    names = ["config.json", *weights, *optional, PROCESSOR_FILE]
    missing = [name for name in names if not (folder / name).exists()]
    code: list[str] = []
    for name in {"config.json", PROCESSOR_FILE} - set(missing):
        classes = json.loads((folder / name).read_text(encoding="utf-8")).get("auto_map", {})
        if not classes:
            missing.append(f"the auto_map of {name}")
        code += [f"{reference.split('.')[0]}.py" for reference in classes.values()]
    code = list(dict.fromkeys(code))
    for name in code:  # which grows
        if not (folder / name).exists():
            missing.append(name)
            continue
        code += [file for part in get_relative_imports(folder / name) if (file := f"{part}.py") not in code]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(sorted(set(missing)))}; a repository needs model, processor and their code: "
            "load both with videoms_hf and save them into the folder with save_pretrained"
        )
    card = [CARD_FILE] if (folder / CARD_FILE).exists() else []
    return [*names, *sorted(code), *card, *records]
