# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Training clips streamed from shards, for datasets too large or too remote for random access.

An epoch visits every video once, in an order that depends on the seed and the epoch alone: the shards in random order
are cut into equal lanes, and within a lane each block of videos is shuffled. Batch g is the next of lane
g % num_lanes: its videos are neighbours, but consecutive batches come from far apart. (Prepared shards hold videos in
random order.)

Process r of n takes the batches g with g % n = r, and its workers take turns, as a `DataLoader` asks them, so that one
worker reads a lane. If the number of readers (processes times workers) divides `LANES`, as 1, 2, 3, 4, 6, 8 and 12 do,
the batches of a step are the same for all of these.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import TrainingArguments
from transformers.trainer_utils import seed_worker

from ..files import write_text
from .dataset import ClipDataset
from .seeding import SeededClips
from .shards import Shards


STREAM_FILE = "stream.json"
LANES = 48  # or the least common multiple with the number of readers
# Videos that are shuffled together, and how many are read at once and held in memory, for each lane of a worker: a tar
# file gives single videos, a parquet file whole row groups.
BLOCKS = {".tar": (512, 1), ".parquet": (32, 32)}


class Lane(NamedTuple):
    """A run of videos in an epoch's order, and the sizes of its batches."""

    first: int
    batch_sizes: tuple[int, ...]
    skipped: int  # first batches, which a resumed run has seen


def num_lanes(num_readers: int) -> int:
    """Lanes of a stream for that number of workers of all processes."""
    return math.lcm(LANES, num_readers)


def epoch_lanes(
    num_videos: int, batch_size: int, num_lanes: int, drop_last: bool, world_size: int, skip: int = 0
) -> list[Lane]:
    """The lanes of an epoch, which hold every video once; with `drop_last` only full batches, equally many for each of
    `world_size` processes. Of these a resumed run has seen `skip` each."""
    sizes = [min(batch_size, num_videos - first) for first in range(0, num_videos, batch_size)]
    if drop_last:
        sizes = sizes[: num_videos // (batch_size * world_size) * world_size]
    elif batch_size > 1 and world_size > 1:  # one would wait forever for the last batch of another
        raise ValueError(
            f"dataloader_drop_last is false with {world_size} processes; streamed videos give all of them equally "
            "many batches only if it is true"
        )
    lanes, first = [], 0
    for lane in range(num_lanes):
        own = tuple(sizes[lane::num_lanes])
        lanes.append(Lane(first, own, len(sizes[lane : skip * world_size : num_lanes])))
        first += sum(own)
    return lanes


class VideoStream(IterableDataset):
    """Pairs (number, row) of the videos of `shards`: this worker's share of an epoch.

    This is process `rank` of `world_size`. With `drop_last` an epoch's last videos are left out if they do not fill a
    batch of every process.
    """

    def __init__(
        self,
        shards: Shards,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int = 1,
        drop_last: bool = False,
    ):
        self.shards, self.seed, self.rank, self.world_size = shards, seed, rank, world_size
        self.batch_size, self.drop_last = batch_size, drop_last
        self._progress = torch.zeros(2, dtype=torch.int64).share_memory_()  # with workers of several epochs
        self._lanes(1)  # raises early

    @property
    def epoch(self) -> int:
        return int(self._progress[0])

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Continue with another epoch; rows of its first `skip` batches, which a resumed run has seen, are `None`."""
        self._progress.copy_(torch.tensor([epoch, skip]))

    def _lanes(self, number: int) -> list[Lane]:
        skip = int(self._progress[1])
        return epoch_lanes(len(self.shards), self.batch_size, number, self.drop_last, self.world_size, skip)

    def __len__(self) -> int:
        """Videos of this process in an epoch."""
        return sum(self._lanes(self.world_size)[self.rank].batch_sizes)

    def __iter__(self) -> Iterator[tuple[int, dict | None]]:
        """Yields the videos of this reader's lanes, one batch of each in turn."""
        worker = get_worker_info()
        num_workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        num_readers = self.world_size * num_workers
        lanes = self._lanes(num_lanes(num_readers))[self.rank + self.world_size * number :: num_readers]
        order = epoch_order(self.shards, self.seed, self.epoch)
        readers = [_read_lane(lane, self.shards, order, (self.seed, self.epoch)) for lane in lanes]
        for turn in range(max(len(lane.batch_sizes) for lane in lanes)):
            for lane, reader in zip(lanes, readers, strict=True):
                yield from islice(reader, sum(lane.batch_sizes[turn : turn + 1]))


def epoch_order(shards: Shards, seed: int, epoch: int) -> tuple[int, ...]:
    """The numbers of the shards in the order of an epoch."""
    return tuple(np.random.default_rng([seed, epoch]).permutation(len(shards.shards)).tolist())


def _read_lane(
    lane: Lane, shards: Shards, order: tuple[int, ...], seeds: tuple[int, int]
) -> Iterator[tuple[int, dict | None]]:
    """Yields the videos of a lane, block by block in random order."""
    sizes = np.array([shards.shards[i].num_videos for i in order])
    ends = np.cumsum(sizes)
    starts = shards.ends[list(order)] - sizes  # number of each shard's first video
    last = lane.first + sum(lane.batch_sizes)
    num_skipped = sum(lane.batch_sizes[: lane.skipped])
    block, read_at_once = BLOCKS[os.path.splitext(shards.shards[0].path)[1]]
    for begin in range(lane.first, last, block):
        places = begin + np.random.default_rng([*seeds, begin]).permutation(min(block, last - begin))
        which = np.searchsorted(ends, places, side="right")
        numbers = (starts[which] + places - (ends[which] - sizes[which])).tolist()
        seen = min(max(num_skipped - (begin - lane.first), 0), len(numbers))
        yield from ((number, None) for number in numbers[:seen])
        for start in range(seen, len(numbers), read_at_once):
            part = numbers[start : start + read_at_once]
            yield from zip(part, shards.read(part), strict=True)


class ClipStream(ClipDataset, IterableDataset):
    """The clips of [`ClipDataset`] for the videos of shards, streamed. A bad video is replaced by any other."""

    def __init__(self, shards: Shards, *args, **kwargs):
        super().__init__(shards, *args, **kwargs)
        self.videos = VideoStream(shards, self.seed or 0)

    def set_epoch(self, epoch: int) -> None:
        """Continue with the clips of another epoch, also in running workers."""
        super().set_epoch(epoch)
        self.videos.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict]:
        for number, row in self.videos:
            yield self.clip(number, row)


class SeededStream(VideoStream):
    """The items of [`SeededClips`] for the videos of shards, as they come.

    What a resumed run skips is neither read nor decoded: such an item has its "clip_number" only.
    """

    def __init__(self, clips: SeededClips, args: TrainingArguments):
        place, drop_last = (args.process_index, args.world_size), args.dataloader_drop_last
        super().__init__(clips.clips.table, args.data_seed, *place, args.train_batch_size, drop_last)
        self.clips = clips
        self.order = {  # what it depends on besides seed and epoch
            "num_lanes": num_lanes(args.world_size * max(args.dataloader_num_workers, 1)),
            "batch_size": args.train_batch_size,
            "num_batches": args.world_size * (len(self) // args.train_batch_size),
        }

    def __iter__(self) -> Iterator[dict]:
        for row, video in super().__iter__():
            number = self.epoch * len(self.clips) + row
            yield {"clip_number": number} if video is None else self.clips.item(number, video)

    def save_order(self, checkpoint: str | os.PathLike) -> None:
        """Write the order to a checkpoint."""
        write_text(Path(checkpoint) / STREAM_FILE, json.dumps(self.order) + "\n")

    def check_order(self, checkpoint: str | os.PathLike) -> None:
        """Raises `ValueError` if the run that saved `checkpoint` read the stream in another order."""
        path = Path(checkpoint) / STREAM_FILE
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        if before != self.order:
            raise ValueError(
                f"{checkpoint} lies in the middle of an epoch that was streamed in the order {before}, but now it is "
                f"{self.order}, and videos would be lost and doubled; set per_device_train_batch_size, "
                "dataloader_num_workers and the number of processes as they were"
            )


def stream_loader(clips: SeededClips, args: TrainingArguments, collate: Callable[[list[dict]], dict]) -> DataLoader:
    """Loader of a [`SeededStream`] of this process, in batches of the run.

    It is not for accelerate to prepare, which would have one process read for all.
    """
    same = ("drop_last", "num_workers", "persistent_workers", "prefetch_factor", "multiprocessing_context")
    return DataLoader(
        SeededStream(clips, args),
        batch_size=args.train_batch_size,
        collate_fn=collate,
        pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
        worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
        **{name: getattr(args, f"dataloader_{name}") for name in same},
    )
