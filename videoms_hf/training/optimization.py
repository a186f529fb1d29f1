# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Parameter groups and schedules of the official recipes, and the average of the weights.

Rates here are those of the run, already scaled by its total batch. Layers are numbered from the input: the patch
embedding is 0, encoder block i is i + 1, everything above the last block is depth + 1.
"""

import contextlib
import math
import os
import re
from collections.abc import Iterator

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..files import atomic_path


# What wrappers (DDP, torch.compile, FSDP, activation checkpointing) put into the names of parameters.
WRAPPER_PREFIXES = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def layer_of(name: str, depth: int) -> int:
    """Layer of the parameter `name` of a model with `depth` encoder blocks, in [0, depth + 1]."""
    name = WRAPPER_PREFIXES.sub("", name)
    if "embeddings.patch_embeddings." in name:
        return 0
    block = re.search(r"(?:^|\.)encoder\.layer\.(\d+)\.", name)
    return int(block[1]) + 1 if block else depth + 1


def parameter_groups(
    model: nn.Module, depth: int, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict]:
    """Optimiser groups of the trainable parameters, the last layer's first.

    Weight decay does not apply to biases and vectors, nor (official code) to the mask token.
    Layer l has the rate `learning_rate * layer_decay ** (depth + 1 - l)`, so the first group, which the log shows, has
    `learning_rate` itself. Each group also has its "layer".
    """
    groups: dict[tuple[int, bool], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = layer_of(name, depth)
        decayed = parameter.ndim > 1 and not name.endswith((".bias", "mask_token"))
        options = {"lr": learning_rate * layer_decay ** (depth + 1 - layer), "layer": layer}
        options["weight_decay"] = weight_decay if decayed else 0.0
        groups.setdefault((layer, decayed), {"params": [], **options})["params"].append(parameter)
    return [groups[key] for key in sorted(groups, reverse=True)]


def cosine_value(
    step: int, num_steps: int, peak: float, final: float, num_warmup_steps: int = 0, start: float = 0.0
) -> float:
    """Value at `step` in [0, num_steps): linear from `start` to `peak`, then half a cosine down to `final`.

    Official code: the last warm-up step and the first step of the cosine both have `peak`, and the last step is one
    short of `final`. Example with 2 + 4 steps, start 0, peak 1, final 0: 0, 1, 1, 0.85, 0.5, 0.15.
    """
    if step < num_warmup_steps:
        return start + (peak - start) * step / max(num_warmup_steps - 1, 1)
    # Schedulers ask once more after the last step, where the cosine would rise again.
    progress = min((step - num_warmup_steps) / max(num_steps - num_warmup_steps, 1), 1.0)
    return final + 0.5 * (peak - final) * (1 + math.cos(math.pi * progress))


class WeightAverage:
    """average <- decay * average + (1 - decay) * weights at each `update`, in float32; it starts with the weights."""

    def __init__(self, model: nn.Module, decay: float):
        self.weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.average = {name: weight.detach().float().clone() for name, weight in self.weights.items()}
        self.decay = decay

    @torch.no_grad()
    def update(self) -> None:
        for name, weight in self.weights.items():
            self.average[name].lerp_(weight.float(), 1 - self.decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within this context the average replaces the model's weights; afterwards they are restored exactly."""
        own = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self._assign(self.average)
        try:
            yield
        finally:
            self._assign(own)

    @torch.no_grad()
    def _assign(self, values: dict[str, torch.Tensor]) -> None:
        for name, weight in self.weights.items():
            weight.copy_(values[name])

    def save(self, path: str | os.PathLike) -> None:
        """Write the average to a safetensors file."""
        with atomic_path(path) as partial:
            save_file({name: value.contiguous() for name, value in self.average.items()}, partial)

    def load(self, path: str | os.PathLike) -> None:
        """Load an average that `save` wrote; `ValueError` if it is of another model."""
        values = load_file(os.fspath(path))
        for name, value in self.average.items():
            if name not in values or values[name].shape != value.shape:
                found = tuple(values[name].shape) if name in values else "nothing"
                raise ValueError(f"{path} has {found} for {name}, where the model has {tuple(value.shape)}")
            value.copy_(values[name])
