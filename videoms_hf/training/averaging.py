# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""An exponential moving average of a model's weights, to be evaluated and saved in their place."""

import contextlib
import os
from collections.abc import Iterator

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..files import atomic_path


class WeightAverage:
    """average <- decay * average + (1 - decay) * weights, at each `update`; in float32, beginning with the weights."""

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
        """Within this context the model has the average for weights; afterwards its own again, bit for bit."""
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
        """Continue the average of a file that `save` wrote.

        Raises:
            ValueError: The file belongs to another model.
        """
        values = load_file(os.fspath(path))
        for name, value in self.average.items():
            if name not in values or values[name].shape != value.shape:
                found = tuple(values[name].shape) if name in values else "nothing"
                raise ValueError(f"{path} has {found} for {name}, where the model has {tuple(value.shape)}")
            value.copy_(values[name])
