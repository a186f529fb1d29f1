# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Training clips streamed from shards, for datasets too large or too remote for random access.

An epoch visits every video once, in an order that depends on the seed and the epoch alone: the shards in random order
are cut into equal lanes, and within a lane each block of videos is shuffled. Batch g is the next of lane
g % num_lanes: its videos are neighbours, but consecutive batches come from far apart.

Process r of n takes the batches g with g % n = r, and its workers take turns, so that one worker reads a lane. If the
number of readers (processes times workers) divides `LANES`, the batches of a step do not depend on it.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from itertools import accumulate, islice, pairwise, starmap
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import TrainingArguments

from ..files import write_text
from .dataset import ClipDataset
from .seeding import SeededClips
from .shards import Shards


STREAM_FILE = "stream.json"
LANES = 48  # or the least common multiple with the number of readers
# Videos that are shuffled together, and how many are read at once and held in memory, for each lane of a worker: a tar
# file gives single videos, a parquet file whole row groups.
BLOCKS = {".tar": (512, 1), ".parquet": (32, 32)}


def epoch_lanes(num_videos: int, batch_size: int, num_lanes: int) -> list[range]:
    """The places of each lane in an epoch's order: every place is in one lane, and batch g in lane g % num_lanes."""
    full, rest = divmod(num_videos, batch_size * num_lanes)
    sizes = [full * batch_size + min(max(rest - lane * batch_size, 0), batch_size) for lane in range(num_lanes)]
    return [range(*ends) for ends in pairwise(accumulate(sizes, initial=0))]


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
        if batch_size > 1 and world_size > 1 and not drop_last:  # one would wait forever for the last batch of another
            raise ValueError(f"dataloader_drop_last is false with {world_size} processes; streams need it to be true")
        self.shards, self.seed, self.batch_size = shards, seed, batch_size
        self.rank, self.world_size = rank, world_size
        self._num_used = len(shards) - (len(shards) % (batch_size * world_size) if drop_last else 0)
        self._progress = torch.zeros(2, dtype=torch.int64).share_memory_()  # with workers of several epochs

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Continue with another epoch; rows of its first `skip` batches, which a resumed run has seen, are `None`."""
        self._progress.copy_(torch.tensor([epoch, skip]))

    def __len__(self) -> int:
        """Videos of this process in an epoch."""
        return len(epoch_lanes(self._num_used, self.batch_size, self.world_size)[self.rank])

    def __iter__(self) -> Iterator[tuple[int, dict | None]]:
        """Yields the videos of this reader's lanes, one batch of each in turn."""
        worker = get_worker_info()
        num_workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        num_readers = self.world_size * num_workers
        num_lanes = math.lcm(LANES, num_readers)
        lanes = epoch_lanes(self._num_used, self.batch_size, num_lanes)
        epoch, skip = self._progress.tolist()
        readers = []
        for lane in range(self.rank + self.world_size * number, num_lanes, num_readers):
            num_seen = self.batch_size * len(range(lane, skip * self.world_size, num_lanes))
            readers.append(self._read(lanes[lane], num_seen, epoch))
        for _ in lanes[0][:: self.batch_size]:  # no lane is longer
            for reader in readers:
                yield from islice(reader, self.batch_size)

    def _read(self, places: range, num_seen: int, epoch: int) -> Iterator[tuple[int, dict | None]]:
        """Yields the videos of a lane, block by block in random order."""
        shards = self.shards
        order = np.random.default_rng([self.seed, epoch]).permutation(len(shards.shards))
        ends = np.diff(shards.ends, prepend=0)[order].cumsum()
        shifts = shards.ends[order] - ends  # from a place to the number of its video
        block, read_at_once = BLOCKS[os.path.splitext(shards.shards[0].path)[1]]
        for begin in places[::block]:
            size = min(block, places.stop - begin)
            drawn = begin + np.random.default_rng([self.seed, epoch, begin]).permutation(size)
            numbers = (drawn + shifts[np.searchsorted(ends, drawn, side="right")]).tolist()
            seen = min(max(places.start + num_seen - begin, 0), size)
            yield from ((number, None) for number in numbers[:seen])
            for start in range(seen, size, read_at_once):
                part = numbers[start : start + read_at_once]
                yield from zip(part, shards.read(part), strict=True)


class ClipStream(ClipDataset, IterableDataset):
    """The clips of [`ClipDataset`] for the videos of shards, streamed. A bad video is replaced by any other."""

    def __iter__(self) -> Iterator[dict]:
        videos = VideoStream(self.table, self.seed or 0)
        videos.set_epoch(int(self._epoch))
        return starmap(self.clip, videos)


class SeededStream(VideoStream):
    """The items of [`SeededClips`] for streamed videos; one that a resumed run skips only has its "clip_number"."""

    def __init__(self, clips: SeededClips, args: TrainingArguments):
        place, drop_last = (args.process_index, args.world_size), args.dataloader_drop_last
        super().__init__(clips.clips.table, args.data_seed, *place, args.train_batch_size, drop_last)
        self.clips = clips
        lanes = math.lcm(LANES, args.world_size * max(args.dataloader_num_workers, 1))
        num_batches = args.world_size * (len(self) // self.batch_size)
        # What it depends on besides seed and epoch.
        self.order = {"num_lanes": lanes, "batch_size": self.batch_size, "num_batches": num_batches}

    def __iter__(self) -> Iterator[dict]:
        for row, video in super().__iter__():
            number = int(self._progress[0]) * len(self.clips) + row
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
                f"{checkpoint} lies in the middle of an epoch streamed in the order {before}, now {self.order}; set "
                "per_device_train_batch_size, dataloader_num_workers and the number of processes as they were"
            )


def stream_loader(clips: SeededClips, args: TrainingArguments, collate: Callable[[list[dict]], dict]) -> DataLoader:
    """Loader of this process's [`SeededStream`]; accelerate must not prepare it: one process would read for all."""
    same = ("drop_last", "num_workers", "persistent_workers", "prefetch_factor", "multiprocessing_context")
    return DataLoader(
        SeededStream(clips, args),
        batch_size=args.train_batch_size,
        collate_fn=collate,
        pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
        **{name: getattr(args, f"dataloader_{name}") for name in same},
    )
