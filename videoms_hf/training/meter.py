# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""What a training log says beside the loss: speed, waiting, memory, and how much was selected."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from transformers.modeling_outputs import ModelOutput


class StepMeter:
    """Counts between two logs. Values stay on their device until they are read, so counting does not wait for it."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        self.begin = time.perf_counter()
        self.waited_seconds = 0.0
        self.num_clips = self.num_batches = 0
        self.token_counts: dict[str, int] = {}
        self.importance = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time within this context is spent on waiting for data."""
        begin = time.perf_counter()
        yield
        self.waited_seconds += time.perf_counter() - begin

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time within this context (evaluating, saving) is not training."""
        begin = time.perf_counter()
        yield
        self.begin += time.perf_counter() - begin

    def count(self, outputs: ModelOutput, num_clips: int) -> None:
        """Take in the model's outputs for one batch."""
        self.num_clips += num_clips
        self.num_batches += 1
        self.token_counts = {
            f"{name}_tokens": outputs[f"{name}_ids"].shape[1]
            for name in ("kept", "visible", "target")
            if outputs.get(f"{name}_ids") is not None
        }
        if outputs.get("importance") is not None:
            self.importance = self.importance + outputs["importance"].detach().mean()

    def read(self, num_processes: int, gather: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Numbers since the last reading, of all processes, which do equally much; `gather` collects their values.

        "clips_per_second", "data_wait_share" in [0, 1] and "peak_memory_gib" (of the GPU, else of the process) of this
        process, "kept_tokens" or "visible_tokens" and "target_tokens" of a clip, "mean_importance" over all tokens.
        """
        seconds = max(time.perf_counter() - self.begin, 1e-9)
        logs = {
            "clips_per_second": round(self.num_clips * num_processes / seconds, 2),
            "data_wait_share": round(min(self.waited_seconds / seconds, 1.0), 3),
            "peak_memory_gib": round(peak_memory_gib(), 2),
            **self.token_counts,
        }
        if torch.is_tensor(self.importance):
            logs["mean_importance"] = round(gather(self.importance[None]).mean().item() / self.num_batches, 4)
        self.restart()
        return logs


def peak_memory_gib() -> float:
    """The most memory that was used so far, in GiB: of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    if sys.platform == "win32":  # the standard library cannot tell
        return float("nan")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
