# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""What a trainer needs to train on a stream: a loader for its process, and the place where a run goes on."""

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch.utils.data import DataLoader
from transformers.trainer_utils import seed_worker

from ..data.streaming import ClipStream, VideoStream, num_lanes
from ..files import write_text
from .clips import SeededCollator, SeededStream
from .training_arguments import TrainingArguments


STREAM_FILE = "stream.json"


def stream_loader(
    clips: ClipStream, args: TrainingArguments, collate: SeededCollator, noise: Mapping[str, int]
) -> DataLoader:
    """Loader of this process's share of a stream, in batches of the run; its `dataset` is a [`SeededStream`].

    It is not for accelerate to prepare, which would have one process read for all.
    """
    videos = VideoStream(
        clips.table,
        args.data_seed,
        args.process_index,
        args.world_size,
        args.train_batch_size,
        args.dataloader_drop_last,
    )
    return DataLoader(
        SeededStream(clips.clips, videos, args.data_seed, noise),
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
