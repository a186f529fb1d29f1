# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""What a run can be told of network, data and augmentation (`command_line.py` reads it)."""

import dataclasses
from dataclasses import dataclass, field

from ..configuration_videoms import MODEL_SIZES, TOKEN_SELECTIONS, VideoMSConfig
from ..data.shards import STREAM_PREFIX


@dataclass
class ModelArguments:
    """Which network. Options that are not given come from the checkpoint or, from scratch, from the size."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Checkpoint to start from: a folder, a Hub name, or a file of the official code; VideoMAE's are "
            "converted on the way. Empty or null: from scratch."
        },
    )
    model_size: str = field(
        default="base",
        metadata={
            "help": "Size of a network from scratch (a checkpoint has its own).",
            "choices": list(MODEL_SIZES),
        },
    )
    token_selection: str | None = field(
        default=None, metadata={"help": "How tokens are chosen.", "choices": list(TOKEN_SELECTIONS)}
    )
    pretraining_keep_ratio: float | None = field(
        default=None,
        metadata={"help": "Share of tokens kept in pre-training, and by which frame selection ranks, in (0, 1]."},
    )
    mask_ratio: float | None = field(default=None, metadata={"help": "1 - visible share in pre-training, in (0, 1)."})
    keep_ratio: float | None = field(
        default=None, metadata={"help": "Share of tokens kept in classification, in (0, 1]; 1: no selection."}
    )
    candidate_ratio: float | None = field(
        default=None, metadata={"help": "Frame selection: load this many times num_frames, at least 1; 1: off."}
    )
    norm_pix_loss: bool | None = field(default=None, metadata={"help": "Predict normalised pixels (the default)."})
    drop_path_rate: float | None = field(default=None, metadata={"help": "Last block's stochastic depth, in [0, 1)."})
    hidden_dropout_prob: float | None = field(default=None, metadata={"help": "Dropout after linear maps, [0, 1]."})
    attention_probs_dropout_prob: float | None = field(default=None, metadata={"help": "Attention dropout, [0, 1]."})
    classifier_dropout: float | None = field(default=None, metadata={"help": "Dropout before the classifier, [0, 1]."})
    head_init_scale: float | None = field(default=None, metadata={"help": "Factor on the classifier's first weights."})
    patch_size: int | None = field(default=None, metadata={"help": "Height and width of a patch, pixels."})
    tubelet_size: int | None = field(default=None, metadata={"help": "Frames of a tubelet."})
    hidden_size: int | None = field(default=None, metadata={"help": "Width of the encoder."})
    num_hidden_layers: int | None = field(default=None, metadata={"help": "Blocks of the encoder."})
    num_attention_heads: int | None = field(default=None, metadata={"help": "Attention heads of the encoder."})
    intermediate_size: int | None = field(default=None, metadata={"help": "Width of the encoder's MLP."})
    decoder_hidden_size: int | None = field(default=None, metadata={"help": "Width of the decoder."})
    decoder_num_hidden_layers: int | None = field(default=None, metadata={"help": "Blocks of the decoder."})
    decoder_num_attention_heads: int | None = field(default=None, metadata={"help": "Heads of the decoder."})
    decoder_intermediate_size: int | None = field(default=None, metadata={"help": "Width of the decoder's MLP."})
    attn_implementation: str = field(
        default="sdpa", metadata={"help": "Attention: sdpa, eager, or a flash variant that is installed."}
    )

    def __post_init__(self):
        self.model_name_or_path = self.model_name_or_path or None

    def config_fields(self) -> dict:
        """The configuration's fields that were given, to be laid over a checkpoint's or a size's own."""
        names = {part.name for part in dataclasses.fields(VideoMSConfig)} & vars(self).keys()
        return {name: getattr(self, name) for name in sorted(names) if getattr(self, name) is not None}

    def to_config(self, **fields) -> VideoMSConfig:
        """Configuration of a network from scratch, with `fields` (those of the data) under what was given."""
        return VideoMSConfig.from_size(self.model_size, **(fields | self.config_fields()))


@dataclass
class DataArguments:
    """Which videos, and how clips are cut from them."""

    train_data: str | None = field(
        default=None,
        metadata={
            "help": "Training videos: a list with `path label` a line, a folder with one folder a class, a .parquet "
            "table, a folder of shards, or a data set of the Hub; stream:FOLDER streams shards."
        },
    )
    eval_data: str | None = field(default=None, metadata={"help": "Validation videos, likewise; none: no evaluation."})
    data_root: str | None = field(
        default=None, metadata={"help": "Folder that a list's relative paths start from; by default the list's own."}
    )
    class_names: str | None = field(
        default=None, metadata={"help": "File with a class name a line, in the order of the label numbers."}
    )
    num_frames: int | None = field(
        default=None,
        metadata={"help": "Frames of a clip that the network sees; null: the checkpoint's, or 16."},
    )
    frame_stride: int | None = field(
        default=None, metadata={"help": "Take every n-th frame of the video; null: the checkpoint's, or 4."}
    )
    image_size: int | None = field(
        default=None,
        metadata={"help": "Height and width of a clip, pixels; null: the checkpoint's, or 224."},
    )
    scale_in_decoder: bool = field(
        default=False,
        metadata={
            "help": "Pre-training: scale crops in the video's own colours. It takes less memory for large frames, and "
            "is not the same to the bit (within 2.5 levels of 255 on average)."
        },
    )
    max_bad_share: float = field(
        default=0.05,
        metadata={"help": "Share of videos that may turn out broken before the run stops, in [0, 1]."},
    )
    cache_frames: float = field(
        default=0.0,
        metadata={
            "help": "Decode training videos once and keep up to that many GiB of frames in memory, on each process; "
            "the clips are the same. For small data sets; 0: off."
        },
    )
    few_shot: int | None = field(
        default=None, metadata={"help": "Train on so many labelled videos of each class, drawn at random; null: all."}
    )
    few_shot_seed: int = field(default=0, metadata={"help": "Seed of that draw."})

    def __post_init__(self):
        if not self.train_data:
            raise ValueError(
                "train_data is not given; it must be a list of videos or a folder: --train_data my/train.csv"
            )
        for name in ("num_frames", "frame_stride", "image_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.few_shot is None and self.few_shot_seed:
            raise ValueError(f"few_shot_seed is {self.few_shot_seed}, but has no effect without few_shot")
        if self.cache_frames < 0:
            raise ValueError(f"cache_frames is {self.cache_frames}; it must be at least 0")
        if self.cache_frames and (self.scale_in_decoder or self.train_data.startswith(STREAM_PREFIX)):
            raise ValueError(
                "cache_frames is set, but a stream is not kept in memory, and scale_in_decoder scales while decoding; "
                "leave one of them out"
            )
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"max_bad_share is {self.max_bad_share}; it must be in [0, 1]")


@dataclass
class AugmentationArguments:
    """How labelled clips are varied. The defaults are the official fine-tuning recipe."""

    rand_augment: str | None = field(
        default="rand-m7-n4-mstd0.5-inc1", metadata={"help": "RandAugment policy, as timm writes it; null: none."}
    )
    random_crop: bool = field(
        default=True, metadata={"help": "Random resized crop (area 0.08 to 1); false: the centre, as in validation."}
    )
    horizontal_flip: bool = field(
        default=True, metadata={"help": "Mirror half of the clips; false where left and right make a difference."}
    )
    random_erasing: float = field(default=0.25, metadata={"help": "Probability of erasing a box, in [0, 1]."})
    mixup: float = field(default=0.0, metadata={"help": "Mixup's alpha; 0: off."})
    cutmix: float = field(default=0.0, metadata={"help": "Cutmix's alpha; 0: off."})
    num_samples: int = field(
        default=1,
        metadata={"help": "Clips of each video, from one decoding; a batch then has that many times more clips."},
    )

    def __post_init__(self):
        self.rand_augment = self.rand_augment or None
        if not 0 <= self.random_erasing <= 1:
            raise ValueError(f"random_erasing is {self.random_erasing}; it must be in [0, 1]")
        if self.num_samples < 1:
            raise ValueError(f"num_samples is {self.num_samples}; it must be at least 1")
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 (off) or positive")
