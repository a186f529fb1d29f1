# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Random training clips that depend on seed, epoch and video alone.

Whatever is random about a clip (its frames, crop, colours, the noise of its token selection) is drawn from a seed made
of the run's seed, the epoch and the video's row. So a run that is resumed in the middle of an epoch, or spread over
other numbers of processes and workers, sees the same clips. The epoch travels inside the numbers that the sampler
gives out: accelerate passes it on to neither the dataset of a distributed run nor the sampler of a resumed one.
"""

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler

from ..configuration_videoms import VideoMSConfig, token_counts
from ..data.streaming import VideoStream


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


def noise_lengths(config: VideoMSConfig, for_pretraining: bool) -> dict[str, int]:
    """How many values of each kind of noise a model takes for one clip, by the argument's name."""
    lengths = {}
    if for_pretraining:
        total, encoded, predicted = token_counts(config, for_pretraining=True)
        lengths["noise"] = total // config.token_grid[0] if config.token_selection == "tube" else encoded + predicted
    if config.candidate_ratio > 1:
        lengths["slice_noise"] = config.num_candidate_frames // config.tubelet_size
    return lengths


class SeededClips(Dataset):
    """The items of `clips` by the numbers of an [`EpochSampler`], with what the trainer needs to know of them.

    Added are "video_id" (the row) and the noise of [`noise_lengths`], values in [0, 1). "clip_number" is for
    [`SeededCollator`].
    """

    def __init__(self, clips: Dataset, seed: int, noise: Mapping[str, int]):
        self.clips, self.seed, self.noise = clips, seed, noise

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, number: int) -> dict:
        epoch, row = divmod(number, len(self))
        with seeded(self.seed, epoch, row):
            item = self.clips[row]  # before the noise, whose length differs with the selection: the clips must not
            noise = {name: torch.rand(length) for name, length in self.noise.items()}
            return {**item, **noise, "video_id": row, "clip_number": number}


class SeededStream(IterableDataset):
    """The items of [`SeededClips`] for the videos of a stream, as they come.

    What a resumed run passes over is neither read nor decoded: such an item has its "clip_number" only.
    """

    def __init__(self, clips: Dataset, videos: VideoStream, seed: int, noise: Mapping[str, int]):
        self.clips, self.videos, self.seed, self.noise = clips, videos, seed, noise

    def __len__(self) -> int:
        return len(self.videos)

    def __iter__(self) -> Iterator[dict]:
        for row, video in self.videos:
            number = self.videos.epoch * len(self.clips) + row
            if video is None:
                yield {"clip_number": number}
                continue
            with seeded(self.seed, self.videos.epoch, row):
                item = self.clips.clip(row, video)
                noise = {name: torch.rand(length) for name, length in self.noise.items()}
                item = {**item, **noise, "video_id": row, "clip_number": number}
            yield item


class SeededCollator:
    """`collate` with whatever is random about it (mixup's partners and shares) made from seed and clips."""

    def __init__(self, collate: Callable[[list[dict]], dict], seed: int):
        self.collate, self.seed = collate, seed

    def __call__(self, items: list[dict]) -> dict:
        numbers = [item.pop("clip_number") for item in items]
        if not any(items):
            return {}  # a batch that a resumed stream passes over
        with seeded(self.seed, *numbers):
            return self.collate(items)
