# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""The files of a model folder, read and checked."""

import json
from functools import lru_cache
from pathlib import Path

import yaml
from safetensors.torch import load_file
from transformers.dynamic_module_utils import get_relative_imports
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from ..configuration_videoms import VideoMSConfig
from ..conversion.models import weight_files
from ..evaluation.results import weights_digest
from ..modeling_videoms import KINDS
from .privacy import without_private


CARD_FILE = "README.md"
RECIPE_FILE = "recipe.yaml"
LOG_FILE = "training_log.json"
LOG_PICTURE = "training_log.png"
EVALUATION_FILE = "evaluation.json"
PROCESSOR_FILE = "video_preprocessor_config.json"
IMAGE_PROCESSOR_FILE = "preprocessor_config.json"  # by which AutoImageProcessor finds the video processor
SECRET_OPTION = "hub_token"  # recipes are published
MODELS = {model_class.__name__: kind for kind, model_class in KINDS.items()}


def read_config(folder: Path) -> VideoMSConfig:
    """The configuration of a saved model, whose class must be one of ours."""
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder} has no config.json; give the folder that save_pretrained or training wrote")
    config = VideoMSConfig.from_pretrained(folder)
    if not config.architectures or config.architectures[0] not in MODELS:
        raise ValueError(
            f"the architectures in {folder / 'config.json'} are {config.architectures}; the first must be one of "
            f"{', '.join(MODELS)}"
        )
    return config


def read_record(path: Path) -> dict:
    """The mapping in a recipe, or in a JSON file."""
    text, is_recipe = path.read_text(encoding="utf-8"), path.name == RECIPE_FILE
    try:
        content = yaml.safe_load(text) or {} if is_recipe else json.loads(text)
    except (ValueError, yaml.YAMLError) as error:
        kind = "YAML" if is_recipe else "JSON"
        raise ValueError(f"{path} is not {kind} ({error}); remove it or write it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; it must be the mapping that the run wrote")
    return content


def check_report(report: dict, config: VideoMSConfig, path: Path, folder: Path) -> None:
    """Raise `ValueError` if the evaluation in the file `path` is not of the model in `folder`."""
    if config.architectures[0] != "VideoMSForVideoClassification":
        raise ValueError(f"{path} is for a {config.architectures[0]}, which has no accuracy; leave it out")
    needed = (
        *("accuracies", "chance_top1", "chance_top5", "class_names", "num_segments", "num_crops", "num_frames"),
        *("frame_stride", "image_size", "keep_ratio", "gflops_per_clip", "gflops_per_video", "arguments"),
        *("machine", "date", "command", "seconds", "weights_sha256"),
    )
    if missing := [name for name in needed if name not in report]:
        raise ValueError(
            f"{path} lacks {', '.join(missing)}; it must be the output of `videoms evaluate`: evaluate again"
        )
    names = [config.id2label[i] for i in range(config.num_labels)]
    if report["class_names"] != names:
        raise ValueError(
            f"{path} is about {len(report['class_names'])} classes, {report['class_names'][:2]} ..., the model knows "
            f"{len(names)}, {names[:2]} ...; it must be the evaluation of this model"
        )
    files = tuple((path, path.stat().st_mtime_ns) for path in weight_files(folder, safe_only=True))
    if report["weights_sha256"] != _digest(files):
        raise ValueError(
            f"{path} is about other weights than those in {folder}; evaluate this model, or remove the file"
        )


@lru_cache(maxsize=4)  # a card and an upload ask several times
def _digest(files: tuple[tuple[Path, int], ...]) -> str:
    return weights_digest(weight for path, _ in files for weight in load_file(path).items())


def run_records(folder: Path, local_paths: bool = False) -> dict[str, dict]:
    """Recipe, log and evaluation in a model folder by file name, ready to publish.

    `local_paths` keeps local paths and the names of user and machine. `ValueError` if a file has other content than
    its name says or contains a secret, or the evaluation is of another model.
    """
    names = (RECIPE_FILE, LOG_FILE, EVALUATION_FILE)
    records = {name: read_record(folder / name) for name in names if (folder / name).exists()}
    if SECRET_OPTION in records.get(RECIPE_FILE, {}):
        what = f"{folder / RECIPE_FILE} holds {SECRET_OPTION}, which is a secret"
        raise ValueError(f"{what}; remove that line before others can read it")
    if EVALUATION_FILE in records:
        check_report(records[EVALUATION_FILE], read_config(folder), folder / EVALUATION_FILE, folder)
    return records if local_paths else {name: without_private(content) for name, content in records.items()}


def repository_files(folder: Path) -> list[str]:
    """Names of the files to publish: configuration, weights, processor and their code, card and records of the run.

    `FileNotFoundError` names all that are missing.
    """
    read_config(folder)
    records = run_records(folder)
    weights = [path.name for path in weight_files(folder, safe_only=True)]
    optional = [name for name in (SAFE_WEIGHTS_INDEX_NAME, IMAGE_PROCESSOR_FILE) if (folder / name).exists()]
    names = ["config.json", *weights, *optional, PROCESSOR_FILE]
    missing = [name for name in names if not (folder / name).exists()]
    code: list[str] = []
    for name in {"config.json", PROCESSOR_FILE} - set(missing):
        classes = json.loads((folder / name).read_text(encoding="utf-8")).get("auto_map", {})
        missing += [] if classes else [f"the auto_map of {name}"]
        code += [f"{reference.split('.')[0]}.py" for reference in classes.values()]
    code = list(dict.fromkeys(code))
    for name in code:  # which grows
        if (folder / name).exists():
            code += [file for part in get_relative_imports(folder / name) if (file := f"{part}.py") not in code]
        else:
            missing.append(name)
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(sorted(set(missing)))}; a repository needs model, processor and their code: "
            "load both with videoms_hf and save them into the folder with save_pretrained"
        )
    optional = [name for name in (CARD_FILE, LOG_PICTURE) if (folder / name).exists()]
    return [*names, *sorted(code), *optional, *records]
