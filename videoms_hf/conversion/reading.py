# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints of other programs as tensors; code that a file contains is never run."""

import argparse
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
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME


DEEPSPEED_FILE = "mp_rank_00_model_states.pt"
# Keys of the state dict: the official code, DeepSpeed, Lightning and mmengine, PyTorch's tutorials.
STATE_KEYS = ("model", "module", "state_dict", "model_state_dict")


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
