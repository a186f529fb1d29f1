# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Our models from the checkpoints of other programs; code that a file contains is never run."""

import argparse
import functools
import json
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import VideoMAEConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from ..configuration_videoms import BUDGETS, VideoMSConfig
from ..modeling_videoms import KINDS, VideoMSForVideoClassification, VideoMSModel, VideoMSPreTrainedModel
from .state_dict import (
    Converted,
    checkpoint_kind,
    convert,
    has_final_norm,
    infer_heads,
    infer_sizes,
    is_official,
    to_official,
)


DEEPSPEED_FILE = "mp_rank_00_model_states.pt"
# Keys of the state dict: the official code, DeepSpeed, Lightning and mmengine, PyTorch's tutorials.
STATE_KEYS = ("model", "module", "state_dict", "model_state_dict")
# Fields that no tensor shows, taken from the configuration of transformers' VideoMAE.
_TAKEN_OVER = (
    *("image_size", "num_frames", "num_attention_heads", "decoder_num_attention_heads", "hidden_act"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "norm_pix_loss", "problem_type"),
)


class Checkpoint(NamedTuple):
    """Tensors by the names of the program that wrote them, with its configuration."""

    source: str
    state: dict[str, Tensor]
    config: dict | None = None  # of transformers
    processor: dict | None = None  # likewise
    arguments: dict | None = None  # of the official code's command line

    @property
    def is_on_hub(self) -> bool:
        return not Path(self.source).exists()


def is_foreign(source: str | os.PathLike) -> bool:
    """Whether a checkpoint must be converted: a file, DeepSpeed's folder, or a model that is not ours."""
    path = Path(source)
    if path.is_file() or (path / DEEPSPEED_FILE).is_file():
        return True
    try:
        config = _read_json(os.fspath(source), "config.json") or {}
    except (OSError, HFValidationError):
        return False
    return config.get("model_type") not in (None, "videoms")


def read_checkpoint(source: str | os.PathLike) -> Checkpoint:
    """The checkpoint in a file, a folder or on the Hub.

    That is a `.pth` or `.ckpt` file (a state dict, or one under a key of [`STATE_KEYS`]), DeepSpeed's
    `mp_rank_00_model_states.pt` or its folder, a safetensors file; or a folder or Hub name of a model of transformers.
    `ValueError` if a file is corrupt, has no state dict, or would run code if it were loaded.
    """
    source = os.fspath(source)
    path = Path(source)
    path = path / DEEPSPEED_FILE if (path / DEEPSPEED_FILE).is_file() else path
    if path.is_file():
        folder = str(path.parent) if path.suffix in (".safetensors", ".bin") else None  # of transformers?
        state, arguments = _read_file(path)
        config = folder and _read_json(folder, "config.json")
        return Checkpoint(source, _complete(state, config), config, folder and _read_processor(folder), arguments)
    try:
        config, reason = _read_json(source, "config.json"), "no config.json"
    except (OSError, HFValidationError) as error:
        config, reason = None, " ".join(str(error).split())
    if config is None:
        raise FileNotFoundError(
            f"there is no checkpoint {source} ({reason}); it must be a .pth or safetensors file, or a folder or Hub "
            "name (owner/name) with config.json"
        )
    state: dict[str, Tensor] = {}
    for file in weight_files(source):
        state |= _read_file(file)[0]
    return Checkpoint(source, _complete(state, config), config, _read_processor(source))


def _complete(state: dict[str, Tensor], config: dict | None) -> dict[str, Tensor]:
    """A VideoMAE's weights with zeros for biases that it lacks of queries and values; it computes the same."""
    config = config or {}
    has_biases = config.get("qv_bias", config.get("qkv_bias", True))  # the name since transformers 5.23, and before
    if has_biases or config.get("model_type") != "videomae":
        return state
    names = [name for name in state if name.endswith(("attention.query.weight", "attention.value.weight"))]
    return state | {f"{name.removesuffix('weight')}bias": state[name].new_zeros(len(state[name])) for name in names}


def weight_files(source: str | os.PathLike, safe_only: bool = False) -> list[Path]:
    """The weight files of a model in a folder or on the Hub; `FileNotFoundError` if one is missing."""
    formats = ((SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME), (WEIGHTS_INDEX_NAME, WEIGHTS_NAME))
    formats = formats[:1] if safe_only else formats
    missing = " or ".join(name for _, name in formats)
    for index_name, name in formats:
        index = _read_json(source, index_name)
        names = [name] if index is None else sorted({*index["weight_map"].values()})
        found = [_find(source, name) for name in names]
        if None not in found:
            return found
        if index is not None:
            missing = ", ".join(name for name, file in zip(names, found, strict=True) if file is None)
            break
    raise FileNotFoundError(f"{source} lacks weights: {missing}; save or download it again")


def _find(source: str | os.PathLike, name: str) -> Path | None:
    """A file of a folder or of a repository on the Hub; `None` if there is none of that name."""
    if Path(source).is_dir():
        return path if (path := Path(source) / name).is_file() else None
    try:
        return Path(hf_hub_download(source, name))
    except EntryNotFoundError:
        return None


def _read_json(source: str | os.PathLike, name: str) -> dict | None:
    file = _find(source, name)
    return None if file is None else json.loads(file.read_text(encoding="utf-8"))


def _read_processor(source: str) -> dict | None:
    return _read_json(source, "video_preprocessor_config.json") or _read_json(source, "preprocessor_config.json")


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict | None]:
    """A file's state dict, and the arguments of the command line if it has them."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path), None
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(_refusal(path, str(error))) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}); download it again if it is truncated") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}; it must hold a state dict")
    arguments = content.get("args")
    state = next((content[key] for key in STATE_KEYS if isinstance(content.get(key), Mapping)), content)
    if not any(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(
            f"{path} has no state dict under {' or '.join(STATE_KEYS)} and is not one itself; its keys are "
            f"{', '.join(map(str, state))}"
        )
    state = {str(name): value for name, value in state.items()}
    return state, vars(arguments) if isinstance(arguments, argparse.Namespace) else arguments


def _refusal(path: Path, reason: str) -> str:
    named = re.search(r"GLOBAL (\S+)", reason)
    asks = f"asks for {named[1]}" if named else f"has other content than tensors ({reason.splitlines()[0]})"
    return (
        f"{path} was not loaded, and nothing in it was run: its pickle {asks}. Only tensors, plain values and "
        "argparse.Namespace are read, because anything else can run code. If you trust the file's author, load it in "
        "a sandbox, save only its state dict with torch.save, and convert that"
    )


def build_config(checkpoint: Checkpoint, **fields) -> VideoMSConfig:
    """The configuration of a checkpoint's tensors; `fields` override it.

    Sizes are those of the tensors, which config.json may not contradict. The rest comes from transformers' config.json
    or the official command line, or is the default: 16 frames of 224 x 224, selection by motion.
    """
    known = infer_sizes(checkpoint.state)
    if checkpoint.config is not None:
        known |= _from_transformers(checkpoint, known)
    if not is_official(checkpoint.state):  # official encoders all have one
        known["final_norm"] = has_final_norm(checkpoint.state) or known.get("final_norm", False)
    known |= _from_arguments(checkpoint.arguments or {})
    processor = checkpoint.processor or {}
    known |= {name: [*map(float, processor[name])] for name in ("image_mean", "image_std") if name in processor}
    fields = {name: value for name, value in fields.items() if value is not None}
    if fields.keys() & {*BUDGETS}:
        known.pop("keep_ratio", None)
    known |= fields
    for part in ("", "decoder_"):
        heads, width = f"{part}num_attention_heads", f"{part}hidden_size"
        if heads not in known and width in known:
            known[heads] = infer_heads(heads, known[width])
    if "decoder_hidden_size" not in known:  # there is no decoder
        known["decoder_num_attention_heads"] = VideoMSConfig().decoder_num_attention_heads
    if "id2label" in known:
        known.pop("num_labels", None)
    return VideoMSConfig(**known)


def _from_transformers(checkpoint: Checkpoint, sizes: Mapping) -> dict:
    if (kind := checkpoint.config.get("model_type")) != "videomae":
        raise ValueError(f"{checkpoint.source} is a {kind!r} model of transformers; it must be a 'videomae' one")
    theirs = VideoMAEConfig.from_dict(checkpoint.config)
    contradictions = [
        f"{name} {getattr(theirs, name)} in config.json, {size} in the tensors"
        for name, size in sizes.items()
        if name != "patch_size" and getattr(theirs, name) != size
    ]
    if contradictions:
        raise ValueError(f"{checkpoint.source} contradicts itself: {'; '.join(contradictions)}; download it again")
    # Official code: every LayerNorm has epsilon 1e-6. transformers has 1e-12 in the blocks and 1e-5 in the norms of
    # head and decoder, for the same weights. We restore 1e-6; the difference is near float32's rounding unless a
    # token's variance is tiny. A larger epsilon belongs to another network.
    if theirs.layer_norm_eps > 1e-5:
        raise ValueError(
            f"{checkpoint.source} has layer_norm_eps {theirs.layer_norm_eps}; it must be at most 1e-5, because the "
            "official 1e-6 replaces it"
        )
    known = {name: getattr(theirs, name) for name in _TAKEN_OVER} | {"final_norm": not theirs.use_mean_pooling}
    if "num_labels" in sizes:
        known |= {"id2label": theirs.id2label, "label2id": theirs.label2id}
    return known


def _from_arguments(arguments: Mapping) -> dict:
    """Fields that the official command line set; its ratios are dropped shares where ours are kept shares."""
    given = {name: value for name, value in arguments.items() if isinstance(value, (int, float))}
    same = {"num_frames": "num_frames", "input_size": "image_size", "mask_ratio": "mask_ratio"}
    dropped = {"motion_centric_masking_ratio": "pretraining_keep_ratio", "mcm_ratio": "keep_ratio"}
    known = {ours: given[theirs] for theirs, ours in same.items() if theirs in given}
    return known | {ours: round(1 - given[theirs], 9) for theirs, ours in dropped.items() if theirs in given}


def convert_checkpoint(checkpoint: Checkpoint, **fields) -> tuple[VideoMSPreTrainedModel, Converted]:
    """The model of a checkpoint, and its converted weights; `fields` override the configuration.

    A model of transformers computes the same as before, on all tokens (in pre-training with a tube mask), unless
    `fields` have a `token_selection`; official ones select by motion.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape (all are named), or the network is not one of
            this package.
    """
    kind = checkpoint_kind(checkpoint.state)
    if kind == "first_token":
        raise ValueError(
            f"{checkpoint.source} classifies by its first token after a final norm (use_mean_pooling false); VideoMS "
            "classifies by the mean of the kept tokens, so no conversion computes the same. You can fine-tune its "
            "encoder: videoms finetune --model_name_or_path"
        )
    if kind == "encoder" and is_official(checkpoint.state):
        raise ValueError(
            f"{checkpoint.source} has only an encoder's blocks: no decoder, no head and no final norm. You can "
            "fine-tune it: videoms finetune --model_name_or_path"
        )
    if fields.get("token_selection") is None and not is_official(checkpoint.state):
        fields["token_selection"] = "tube" if kind == "pretraining" else "none"  # transformers' VideoMAE
    config = build_config(checkpoint, **fields)
    model_class = KINDS.get(kind, VideoMSModel)
    converted = convert(checkpoint.state, wanted_shapes(model_class, config))
    return load(model_class(config), converted), converted


def official_weights(checkpoint: Checkpoint, **fields) -> dict[str, torch.Tensor]:
    """The weights of any checkpoint, ours too, in the official layout, for `torch.save({"model": ...})`."""
    kind = checkpoint_kind(checkpoint.state)
    if kind not in KINDS or kind == "pretraining" and not has_final_norm(checkpoint.state):
        raise ValueError(
            f"{checkpoint.source} is neither a classifier on all tokens nor a network with a final norm; the official "
            "layout has no others"
        )
    if (checkpoint.config or {}).get("model_type") == "videoms":
        config = VideoMSConfig.from_dict(checkpoint.config)
    else:
        config = build_config(checkpoint, **fields)
    return to_official(convert(checkpoint.state, wanted_shapes(KINDS[kind], config)).state)


def wanted_shapes(cls: type[VideoMSPreTrainedModel], config: VideoMSConfig) -> dict[str, torch.Size]:
    """Names (as under a head) and shapes of the weights of a model of that configuration."""
    with torch.device("meta"):
        return {_bare_prefix(cls) + name: value.shape for name, value in cls(config).state_dict().items()}


def _bare_prefix(cls: type[VideoMSPreTrainedModel]) -> str:
    """The prefix that names in the bare encoder lack."""
    return f"{cls.base_model_prefix}." if issubclass(cls, VideoMSModel) else ""


def load(model: VideoMSPreTrainedModel, converted: Converted, dtype: torch.dtype | None = None):
    """`model` with the converted weights, in evaluation mode, in `dtype` or by default in the weights' own type."""
    if dtype is None:
        dtype = functools.reduce(torch.promote_types, {value.dtype for value in converted.state.values()})
    prefix = _bare_prefix(type(model))
    state = {name.removeprefix(prefix): value for name, value in converted.state.items()}
    model.to(dtype).load_state_dict(state, strict=not converted.new)  # `convert` has checked what is new
    return model.eval()


def name_classes(model: VideoMSPreTrainedModel, class_names: list[str], source: str | os.PathLike) -> None:
    """Name a model's classes; `ValueError` if their number differs. `source` is for the message."""
    if not isinstance(model, VideoMSForVideoClassification):
        raise ValueError(f"labels is {os.fspath(source)}, but the checkpoint has no classifier; leave labels out")
    if len(class_names) != model.num_labels:
        raise ValueError(
            f"{os.fspath(source)} has {len(class_names)} class names, but the checkpoint has {model.num_labels} "
            "classes; give the names of the dataset that it was trained on"
        )
    model.config.id2label = dict(enumerate(class_names))
    model.config.label2id = {name: i for i, name in enumerate(class_names)}
