# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Training clips streamed from shards, file by file, for sets that are too large or too far away for random access.

An epoch goes through all videos once, in an order made from the seed and the epoch alone: the shards in random order,
one after the other, make a row that is cut into equal lanes, and within a lane each block of videos is shuffled. Batch
g is the next of lane g % num_lanes: a batch's videos are neighbours, but batches that follow each other come from far
apart. Shards whose own videos stand in random order (`videoms prepare` writes such) make up for the rest.

Process r of n has the batches g with g % n = r, and its workers have those in turn, as a `DataLoader` asks for them;
so a lane is read by one worker only. The number of lanes is `LANES` wherever the number of readers (processes times
workers) divides it, 1, 2, 3, 4, 6, 8, 12 ...: then the batches of a step are the same for all of these.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import torch
from datasets.distributed import split_dataset_by_node
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import TrainingArguments
from transformers.trainer_utils import seed_worker

from ..files import write_text
from .dataset import BadVideo, ClipDataset
from .seeding import SeededClips
from .shards import Shards


STREAM_FILE = "stream.json"
LANES = 48  # or the next number above that the readers divide
# Videos that are shuffled together, and how many are read at once and held in memory, for each lane of a worker: of a
# tar file every video can be had by itself, of a parquet file whole row groups are read.
BLOCKS = {".tar": (512, 1), ".parquet": (32, 32)}


class Lane(NamedTuple):
    """A run of videos in an epoch's order, and the sizes of the batches that are made of it."""

    first: int
    batch_sizes: tuple[int, ...]
    skipped: int  # batches at its beginning that a resumed run has seen


def num_lanes(num_readers: int) -> int:
    """Lanes of a stream that so many workers of all processes read together."""
    return math.lcm(LANES, num_readers)


def epoch_lanes(
    num_videos: int, batch_size: int, num_lanes: int, drop_last: bool, world_size: int, skip: int = 0
) -> list[Lane]:
    """The lanes of an epoch, which hold every video once; with `drop_last` only as many as give every one of
    `world_size` processes equally many full batches.

    `skip` is the number of batches of each process that a resumed run has seen.

    Raises:
        ValueError: several processes without `drop_last`: one would wait for the last batch of another for ever.
    """
    num_batches = num_videos // (batch_size * world_size) * world_size
    sizes = [batch_size] * num_batches
    if not drop_last:
        if batch_size > 1 and world_size > 1:
            raise ValueError(
                f"dataloader_drop_last is false with {world_size} processes; streamed videos give all of them "
                "equally many batches only if it is true"
            )
        rest = num_videos - batch_size * num_batches
        sizes += [batch_size] * (rest // batch_size) + [rest % batch_size] * (rest % batch_size > 0)
    lanes, first = [], 0
    for lane in range(num_lanes):
        own = tuple(sizes[lane::num_lanes])
        skipped = sum(batch // world_size < skip for batch in range(lane, len(sizes), num_lanes))
        lanes.append(Lane(first, own, skipped))
        first += sum(own)
    return lanes


class VideoStream(IterableDataset):
    """Pairs (number, row) of the videos of `shards`, this process's and worker's share of an epoch.

    Args:
        seed: of the order, together with the epoch.
        rank, world_size: this process's number, and how many there are.
        batch_size: neighbours that stay together; a loader must have the same.
        drop_last: leave the epoch's last videos out where they fill no batch of every process.
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
        # Shared with workers that live longer than an epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._skip = torch.zeros((), dtype=torch.int64).share_memory_()
        epoch_lanes(len(shards), batch_size, LANES, drop_last, world_size)  # complains early

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Have the videos of another epoch come next. Of its first `skip` batches the rows are `None`: a resumed run
        passes over them, and they are not read."""
        self._epoch.fill_(epoch)
        self._skip.fill_(skip)

    def __len__(self) -> int:
        """Videos of this process in an epoch."""
        lanes = epoch_lanes(len(self.shards), self.batch_size, self.world_size, self.drop_last, self.world_size)
        return sum(lanes[self.rank].batch_sizes)

    def __iter__(self) -> Iterator[tuple[int, dict | None]]:
        worker = get_worker_info()
        num_readers = self.world_size * (worker.num_workers if worker else 1)
        lanes = epoch_lanes(
            len(self.shards),
            self.batch_size,
            num_lanes(num_readers),
            self.drop_last,
            self.world_size,
            int(self._skip),
        )
        # A source of its own for each reader: `datasets` shares them out to the processes, and theirs to the workers.
        sources = [tuple(lanes[reader::num_readers]) for reader in range(num_readers)]
        order = epoch_order(self.shards, self.seed, self.epoch)
        options = {"sources": sources, "shards": self.shards, "order": order, "seeds": (self.seed, self.epoch)}
        stream = datasets.IterableDataset.from_generator(_read, gen_kwargs=options)
        for item in split_dataset_by_node(stream, self.rank, self.world_size):
            yield item["number"], item["row"]


def epoch_order(shards: Shards, seed: int, epoch: int) -> tuple[int, ...]:
    """The shards' numbers in the order of an epoch."""
    return tuple(np.random.default_rng([seed, epoch]).permutation(len(shards.shards)).tolist())


def _read(sources: list[tuple[Lane, ...]], shards: Shards, order: tuple[int, ...], seeds: tuple[int, int]):
    """Yields the videos of a reader's lanes, a batch of each in turn."""
    for lanes in sources:
        readers = [_read_lane(lane, shards, order, seeds) for lane in lanes]
        for turn in range(max((len(lane.batch_sizes) for lane in lanes), default=0)):
            for lane, reader in zip(lanes, readers, strict=True):
                if turn < len(lane.batch_sizes):
                    for _ in range(lane.batch_sizes[turn]):
                        yield next(reader)


def _read_lane(lane: Lane, shards: Shards, order: tuple[int, ...], seeds: tuple[int, int]) -> Iterator[dict]:
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
        for number in numbers[:seen]:
            yield {"number": number, "row": None}
        for start in range(seen, len(numbers), read_at_once):
            part = numbers[start : start + read_at_once]
            for number, row in zip(part, shards.read(part), strict=True):
                yield {"number": number, "row": row}


class ClipStream(IterableDataset):
    """One random clip of each video of shards, streamed; what [`ClipDataset`] gives for the same videos by number.

    `videos` says which videos come in which order, by default all of one process; the rest is as in [`ClipDataset`].
    A bad video is replaced by another that is drawn from the same numbers, wherever that lies.
    """

    def __init__(
        self,
        shards: Shards,
        choose_frames: Callable[..., np.ndarray],
        transform: Callable[[Tensor], Tensor],
        with_labels: bool = True,
        seed: int | None = 0,
        max_bad_share: float = 0.05,
        videos: VideoStream | None = None,
        num_samples: int = 1,
    ):
        self.clips = ClipDataset(shards, choose_frames, transform, with_labels, seed, max_bad_share, num_samples)
        self.videos = VideoStream(shards, seed or 0) if videos is None else videos

    @property
    def table(self) -> Shards:
        return self.clips.table

    def __len__(self) -> int:
        return len(self.videos)

    def set_epoch(self, epoch: int) -> None:
        """Have the clips of another epoch come next, in workers that run already too."""
        self.videos.set_epoch(epoch)
        self.clips.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict]:
        for number, row in self.videos:
            yield self.clips.clip(number, row)

    def bad_videos(self) -> list[BadVideo]:
        """The videos that turned out bad in any worker: see [`~ClipDataset.bad_videos`]."""
        return self.clips.bad_videos()


class SeededStream(IterableDataset):
    """The items of [`SeededClips`] for the videos of a stream, as they come.

    What a resumed run skips is neither read nor decoded: such an item has its "clip_number" only.
    """

    def __init__(self, clips: SeededClips, videos: VideoStream):
        self.clips, self.videos = clips, videos

    def __len__(self) -> int:
        return len(self.videos)

    def __iter__(self) -> Iterator[dict]:
        for row, video in self.videos:
            number = self.videos.epoch * len(self.clips) + row
            yield {"clip_number": number} if video is None else self.clips.item(number, video)


def stream_loader(clips: SeededClips, args: TrainingArguments, collate: Callable[[list[dict]], dict]) -> DataLoader:
    """Loader of this process's share of the clips of shards, in batches of the run; its `dataset` is a
    [`SeededStream`]. It is not for accelerate to prepare, which would have one process read for all."""
    videos = VideoStream(
        clips.clips.table,
        args.data_seed,
        args.process_index,
        args.world_size,
        args.train_batch_size,
        args.dataloader_drop_last,
    )
    return DataLoader(
        SeededStream(clips, videos),
        batch_size=args.train_batch_size,
        drop_last=args.dataloader_drop_last,
        collate_fn=collate,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
        persistent_workers=args.dataloader_persistent_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
        multiprocessing_context=args.dataloader_multiprocessing_context,
        worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
    )


def stream_order(videos: VideoStream, args: TrainingArguments) -> dict[str, int]:
    """What the order of a stream depends on, beside seed and epoch."""
    readers = args.world_size * max(args.dataloader_num_workers, 1)
    num_batches = args.world_size * (len(videos) // args.train_batch_size)
    return {"num_lanes": num_lanes(readers), "batch_size": args.train_batch_size, "num_batches": num_batches}


def save_stream_order(order: dict[str, int], checkpoint: str | os.PathLike) -> None:
    """Write what [`stream_order`] says beside a checkpoint's other files."""
    write_text(Path(checkpoint) / STREAM_FILE, json.dumps(order) + "\n")


def check_stream_order(order: dict[str, int], checkpoint: str | os.PathLike) -> None:
    """Complain if the rest of an epoch cannot be told from what the run that saved `checkpoint` has seen.

    Raises:
        ValueError: it read the stream in another order.
    """
    path = Path(checkpoint) / STREAM_FILE
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if before != order:
        raise ValueError(
            f"{checkpoint} lies in the middle of an epoch that was streamed in the order {before}, but now it is "
            f"{order}, and videos would be lost and doubled; set per_device_train_batch_size, dataloader_num_workers "
            "and the number of processes as they were"
        )
