# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Datasets of clips from the arguments of a run; the trainer seeds what is random in them."""

from functools import partial

from datasets import Dataset as Table

from ..configuration_videoms import VideoMSConfig
from ..data.annotations import read_videos
from ..data.dataset import ClipDataset, ViewDataset
from ..data.shards import STREAM_PREFIX, Shards
from ..data.streaming import ClipStream
from ..data.tables import few_shot, read_class_names
from ..data.transforms import FinetuningTransform, PretrainingTransform
from ..sampling_videoms import finetuning_clip, pretraining_clip
from .arguments import AugmentationArguments, DataArguments


def training_table(data_args: DataArguments, require_labels: bool) -> Table | Shards:
    """The table of `train_data`, or `few_shot` videos of each class; `stream:folder` gives shards to stream."""
    names = None if data_args.class_names is None else read_class_names(data_args.class_names)
    if data_args.train_data.startswith(STREAM_PREFIX):
        if data_args.few_shot is not None:
            raise ValueError(f"few_shot is {data_args.few_shot}, but streams are read whole; give a list of videos")
        return Shards(data_args.train_data.removeprefix(STREAM_PREFIX), names, require_labels)
    table = read_videos(data_args.train_data, data_args.data_root, names, require_labels)
    return table if data_args.few_shot is None else few_shot(table, data_args.few_shot, data_args.few_shot_seed)


def _random_clips(table: Table | Shards, data_args: DataArguments, *positional, **named) -> ClipDataset:
    kind, cache_bytes = ClipStream if isinstance(table, Shards) else ClipDataset, int(data_args.cache_frames * 2**30)
    named |= {"seed": None, "max_bad_share": data_args.max_bad_share, "cache_bytes": cache_bytes}
    return kind(table, *positional, **named)


def pretraining_clips(table: Table | Shards, data_args: DataArguments, config: VideoMSConfig) -> ClipDataset:
    """Random clips of the videos of `table`, without labels."""
    choose = partial(pretraining_clip, num_frames=config.num_candidate_frames, stride=data_args.frame_stride)
    return _random_clips(table, data_args, choose, PretrainingTransform(data_args.image_size), with_labels=False)


def finetuning_clips(
    table: Table | Shards, data_args: DataArguments, augmentation_args: AugmentationArguments, config: VideoMSConfig
) -> ClipDataset:
    """Random, augmented clips of the labelled videos of `table`."""
    choose = partial(finetuning_clip, num_frames=config.num_candidate_frames, stride=data_args.frame_stride)
    transform = finetuning_transform(data_args, augmentation_args, config)
    return _random_clips(table, data_args, choose, transform, num_samples=augmentation_args.num_samples)


def finetuning_transform(
    data_args: DataArguments, augmentation_args: AugmentationArguments, config: VideoMSConfig
) -> FinetuningTransform:
    """The augmentation of labelled clips."""
    args = augmentation_args
    random = args.rand_augment, args.min_crop_area, args.horizontal_flip, args.random_erasing
    return FinetuningTransform(data_args.image_size, *random, config.image_mean, config.image_std)


def evaluation_clips(
    data_args: DataArguments, config: VideoMSConfig, class_names: list[str] | None = None
) -> ViewDataset | None:
    """The middle clip of each video of `eval_data` that is not corrupt; `None` without `eval_data`.

    `class_names` are those of training; without them the videos need no labels.
    """
    if data_args.eval_data is None:
        return None
    table = read_videos(data_args.eval_data, data_args.data_root, class_names, require_labels=class_names is not None)
    clip = config.num_candidate_frames, data_args.frame_stride
    return ViewDataset(table, *clip, size=data_args.image_size, skip_broken=True)
