# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""(seed, epoch, index, attempt) give the one generator of a training clip's frames, crop and augmentation.

So clips depend neither on the workers nor on where a run resumes. The epoch travels inside the sampler's numbers, as
accelerate tells it neither to distributed datasets nor to resumed samplers.
"""

import contextlib
import random
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler


@contextlib.contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Within this context the generators of torch (CPU), numpy and Python start from `numbers`; then as before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    random.seed(seed), np.random.seed(seed % 2**32), torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0]), np.random.set_state(states[1]), torch.set_rng_state(states[2])


def clip_generators(seed: int | None, epoch: int, index: int, attempts: int) -> Iterator[np.random.Generator]:
    """Yields a generator for each attempt at a clip; without a seed, torch's generator seeds them."""
    numbers = (torch.randint(2**62, ()).item(),) if seed is None else (seed, epoch, index)
    return (np.random.default_rng([*numbers, attempt]) for attempt in range(attempts))


def seed_torch(rng: np.random.Generator) -> None:
    """Start torch's generator (CPU), which transforms draw from, from a number of `rng`."""
    torch.default_generator.manual_seed(int(rng.integers(2**63)))


class EpochSampler(Sampler[int]):
    """`epoch * num_rows + row` for all rows, in a random order made from `seed` and the epoch; set `epoch` before."""

    def __init__(self, num_rows: int, seed: int):
        self.num_rows, self.seed, self.epoch = num_rows, seed, 0

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[int]:
        with seeded(self.seed, self.epoch):
            rows = torch.randperm(self.num_rows).tolist()
        return iter([self.epoch * self.num_rows + row for row in rows])


class SeededClips(Dataset):
    """The items of any dataset `clips` by the numbers of an [`EpochSampler`].

    Added are "video_id" (the row), `noise` in [0, 1) by argument and length, and "clip_number" for [`collate_seeded`].
    """

    def __init__(self, clips: Dataset, seed: int, noise: Mapping[str, int]):
        self.clips, self.seed, self.noise = clips, seed, noise

    def __len__(self) -> int:
        return len(self.clips)

    def item(self, number: int, video: dict | None = None) -> dict:
        """Item `number`; `video` is its row in the table, if already read."""
        epoch, row = divmod(number, len(self))
        with seeded(self.seed, epoch, row):
            # Before the noise, whose length depends on the selection: clips must not.
            clip = self.clips[row] if video is None else self.clips.clip(row, video)
            noise = {name: torch.rand(length) for name, length in self.noise.items()}
            return {**clip, **noise, "video_id": row, "clip_number": number}

    __getitem__ = item
