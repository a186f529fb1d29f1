# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Options of a run for model, data and augmentation (`command_line.py` reads them)."""

import dataclasses
from dataclasses import dataclass
from typing import get_args

from ..command_line import check_ranges
from ..configuration_videoms import MODEL_SIZES, TOKEN_SELECTIONS, MotionScore, VideoMSConfig
from ..data.shards import STREAM_PREFIX


def option(default, help: str, **metadata) -> dataclasses.Field:
    """A field of a dataclass of options, with its help; a function is called for its default."""
    kind = "default_factory" if callable(default) else "default"
    return dataclasses.field(metadata={"help": help, **metadata}, **{kind: default})


@dataclass
class ModelArguments:
    """The model. Unset options come from the checkpoint or, from scratch, from `model_size`."""

    model_name_or_path: str | None = option(
        None,
        "Checkpoint to start from: a folder, a Hub name, or a file of the official code; VideoMAE's are converted on "
        "the way. Empty or null: from scratch.",
    )
    model_size: str = option("base", "Size of a model trained from scratch.", choices=list(MODEL_SIZES))
    token_selection: str | None = option(None, "How tokens are selected.", choices=list(TOKEN_SELECTIONS))
    motion_score: str | None = option(None, "What motion is measured by.", choices=list(get_args(MotionScore)))
    pretraining_keep_ratio: float | None = option(
        None, "Share of tokens kept in pre-training, and by which frame selection ranks, in (0, 1]."
    )
    mask_ratio: float | None = option(None, "1 - visible share in pre-training, in (0, 1).")
    keep_ratio: float | None = option(None, "Share of tokens kept in classification, in (0, 1]; 1: no selection.")
    num_kept_tokens: int | None = option(None, "Number of tokens kept in classification, instead of keep_ratio.")
    candidate_ratio: float | None = option(None, "Frame selection: load this many times num_frames, at least 1 (off).")
    norm_pix_loss: bool | None = option(None, "Predict normalised pixels (the default).")
    drop_path_rate: float | None = option(None, "Stochastic depth of the last block, in [0, 1).")
    hidden_dropout_prob: float | None = option(None, "Dropout after linear layers, in [0, 1].")
    attention_probs_dropout_prob: float | None = option(None, "Attention dropout, in [0, 1].")
    classifier_dropout: float | None = option(None, "Dropout before the classifier, in [0, 1].")
    head_init_scale: float | None = option(None, "Factor on the classifier's initial weights.")
    patch_size: int | None = option(None, "Height and width of a patch in pixels.")
    tubelet_size: int | None = option(None, "Frames of a tubelet.")
    hidden_size: int | None = option(None, "Width of the encoder.")
    num_hidden_layers: int | None = option(None, "Blocks of the encoder.")
    num_attention_heads: int | None = option(None, "Attention heads of the encoder.")
    intermediate_size: int | None = option(None, "Width of the encoder's MLP.")
    decoder_hidden_size: int | None = option(None, "Width of the decoder.")
    decoder_num_hidden_layers: int | None = option(None, "Blocks of the decoder.")
    decoder_num_attention_heads: int | None = option(None, "Heads of the decoder.")
    decoder_intermediate_size: int | None = option(None, "Width of the decoder's MLP.")
    attn_implementation: str = option("sdpa", "Attention: sdpa, eager, or a flash variant that is installed.")

    def config_fields(self) -> dict:
        """Configuration fields that were given; they override those of a checkpoint or size."""
        names = {part.name for part in dataclasses.fields(VideoMSConfig)} & vars(self).keys()
        return {name: getattr(self, name) for name in sorted(names) if getattr(self, name) is not None}

    def to_config(self, **fields) -> VideoMSConfig:
        """Configuration of a model trained from scratch; given options override `fields`, those of the data."""
        return VideoMSConfig.from_size(self.model_size, **(fields | self.config_fields()))


@dataclass
class DataArguments:
    """The videos, and how clips are sampled from them."""

    train_data: str | None = option(
        None,
        "Training videos: a list with `path label` a line, a folder with one folder a class, a .parquet table, a "
        "folder of shards, or a dataset of the Hub; stream:FOLDER streams shards.",
    )
    eval_data: str | None = option(None, "Validation videos, likewise; null: no evaluation.")
    data_root: str | None = option(None, "Folder of a list's relative paths; by default the list's own.")
    class_names: str | None = option(None, "File with a class name a line, in the order of the label numbers.")
    num_frames: int | None = option(None, "Frames of a clip that the model sees; null: the checkpoint's, or 16.")
    frame_stride: int | None = option(None, "Take every n-th frame of the video; null: the checkpoint's, or 4.")
    image_size: int | None = option(None, "Height and width of a clip in pixels; null: the checkpoint's, or 224.")
    max_bad_share: float = option(0.05, "Share of corrupt videos at which the run stops, in [0, 1].")
    cache_frames: float = option(
        0.0,
        "Decode training videos once and keep up to this many GiB of frames in memory, on each process; the clips are "
        "the same. For small datasets; 0: off.",
    )
    few_shot: int | None = option(None, "Train on this number of random labelled videos of each class; null: all.")
    few_shot_seed: int = option(0, "Seed of that draw.")

    def __post_init__(self):
        if not self.train_data:
            raise ValueError("train_data is not given; give a list or folder of videos: --train_data my/train.csv")
        check_ranges(vars(self))
        if self.few_shot is None and self.few_shot_seed:
            raise ValueError(f"few_shot_seed is {self.few_shot_seed}, but has no effect without few_shot")
        if self.cache_frames and self.train_data.startswith(STREAM_PREFIX):
            raise ValueError("cache_frames is set, but a stream is not kept in memory; leave it out")


@dataclass
class AugmentationArguments:
    """Augmentation of labelled clips. The defaults are the official fine-tuning recipe."""

    rand_augment: str | None = option("rand-m7-n4-mstd0.5-inc1", "RandAugment policy in timm's notation; null: none.")
    min_crop_area: float = option(0.08, "Smallest area of a random crop, in (0, 1]; 1: the centre, as in validation.")
    horizontal_flip: bool = option(True, "Mirror half of the clips; false if left and right differ in meaning.")
    random_erasing: float = option(0.25, "Probability of erasing a box, in [0, 1].")
    mixup: float = option(0.0, "Mixup's alpha; 0: off.")
    cutmix: float = option(0.0, "Cutmix's alpha; 0: off.")
    num_samples: int = option(1, "Clips of each video, from one decoding; they multiply the batch size.")

    def __post_init__(self):
        self.rand_augment = self.rand_augment or None
        check_ranges(vars(self))
