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
from transformers import TrainerCallback

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


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: not to biases and vectors, nor (official code) to the mask token."""
    return parameter.ndim > 1 and not name.endswith((".bias", "mask_token"))


def parameter_groups(
    model: nn.Module, depth: int, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict]:
    """Optimiser groups of the trainable parameters, the last layer's first.

    Layer l has the rate `learning_rate * layer_decay ** (depth + 1 - l)`, so the first group, which the log shows, has
    `learning_rate` itself. Each group also has its "layer".
    """
    groups: dict[tuple[int, bool], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer, decayed = layer_of(name, depth), is_decayed(name, parameter)
        group = groups.setdefault(
            (layer, decayed),
            {
                "params": [],
                "lr": learning_rate * layer_decay ** (depth + 1 - layer),
                "weight_decay": weight_decay if decayed else 0.0,
                "layer": layer,
            },
        )
        group["params"].append(parameter)
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


def warmup_cosine_schedule(
    optimizer: torch.optim.Optimizer,
    num_steps: int,
    num_warmup_steps: int,
    peak: float,
    final: float,
    start: float,
) -> torch.optim.lr_scheduler.LambdaLR:
    """Scheduler that scales every group's own rate by `cosine_value / peak`.

    Raises:
        ValueError: The warm-up is longer than the run, or `peak` is not positive.
    """
    if num_warmup_steps > num_steps:
        raise ValueError(
            f"the warm-up has {num_warmup_steps} steps, the run only {num_steps}; lower warmup_epochs or "
            "warmup_steps, or train longer"
        )
    if not peak > 0:
        raise ValueError(f"the learning rate is {peak}; it must be greater than 0")

    def factor(step: int) -> float:
        return cosine_value(step, num_steps, peak, final, num_warmup_steps, start) / peak

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class WeightDecaySchedule(TrainerCallback):
    """Moves the weight decay of the decayed groups to `final` by a cosine, without warm-up."""

    def __init__(self, initial: float, final: float):
        self.initial, self.final = initial, final

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        value = cosine_value(state.global_step, state.max_steps, self.initial, self.final)
        for group in optimizer.param_groups:
            if group["weight_decay"] > 0:
                group["weight_decay"] = value


class WeightAverage:
    """average <- decay * average + (1 - decay) * weights at each `update`, in float32; it starts with the weights."""

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay = model, decay
        self.average = {name: weight.detach().float().clone() for name, weight in self._weights()}

    def _weights(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad]

    @torch.no_grad()
    def update(self) -> None:
        for name, weight in self._weights():
            self.average[name].lerp_(weight.detach().float(), 1 - self.decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within this context the average replaces the model's weights; afterwards they are restored exactly."""
        own = {name: weight.detach().clone() for name, weight in self._weights()}
        self._assign(self.average)
        try:
            yield
        finally:
            self._assign(own)

    @torch.no_grad()
    def _assign(self, values: dict[str, torch.Tensor]) -> None:
        for name, weight in self._weights():
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
