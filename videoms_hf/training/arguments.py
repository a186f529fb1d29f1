# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""What a run can be told of network and data, and the parser that takes it from a recipe file and the command line."""

import dataclasses
import difflib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from ..configuration_videoms import MODEL_SIZES, VideoMSConfig


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
    token_selection: str | None = field(default=None, metadata={"help": "motion, random, tube or none."})
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


def parse_recipe(*dataclass_types: type, arguments: Sequence[str] | None = None) -> tuple:
    """One instance of each dataclass, from the command line: `[recipe.yaml] [--key value ...]`.

    A recipe is a YAML mapping of option names to values; it is read as if it stood on the command line, before what is
    really there, which wins. Lists are several values, `null` is None, mappings (as `fsdp_config`) are passed whole.

    Raises:
        ValueError: The recipe is no mapping, or it or the command line has an option that there is not, or twice the
            same; the message names file and option.
        FileNotFoundError: There is no such recipe.
        SystemExit: `--help`, or a value of the wrong type (argparse's message says which).
    """
    parser, words = _parser_and_words(dataclass_types, arguments)
    *parsed, unknown = parser.parse_args_into_dataclasses(
        words, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        names = _option_names(dataclass_types)
        raise ValueError(f"there is no option {unknown[0]!r}{_suggestion(unknown[0], names)}; --help lists them")
    return tuple(parsed)


def given_options(*dataclass_types: type, arguments: Sequence[str] | None = None) -> dict:
    """What recipe and command line set to something else than the default, by name: a recipe of the whole run."""
    parser, words = _parser_and_words(dataclass_types, arguments)
    values = vars(parser.parse_known_args(words)[0])
    defaults = vars(HfArgumentParser(dataclass_types).parse_known_args([])[0])
    return {name: values[name] for name in sorted(values) if values[name] != defaults[name]}


def _parser_and_words(
    dataclass_types: tuple[type, ...], arguments: Sequence[str] | None
) -> tuple[HfArgumentParser, list[str]]:
    """The parser, and the command line with the recipe's settings before it."""
    parser = HfArgumentParser(dataclass_types, allow_abbrev=False)
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0].startswith("-"):
        return parser, words
    recipe, words = Path(words[0]), words[1:]
    settings = read_recipe(recipe)
    names = _option_names(dataclass_types)
    for name in settings:
        if name not in names:
            raise ValueError(f"{recipe}: there is no option {name!r}{_suggestion(name, names)}")
    # argparse has no way to write these two on a command line.
    parser.set_defaults(**{name: value for name, value in settings.items() if value is None or value == []})
    return parser, [word for name, value in settings.items() for word in _as_words(name, value)] + words


def _option_names(dataclass_types: tuple[type, ...]) -> list[str]:
    return [part.name for kind in dataclass_types for part in dataclasses.fields(kind) if part.init]


def read_recipe(path: str | os.PathLike) -> dict:
    """The settings of a recipe file, in its order; see [`parse_recipe`] for what is refused."""
    text = Path(path).read_text(encoding="utf-8")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not a YAML file: {error}") from error
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ValueError(f"{path} is a YAML {type(settings).__name__}; it must be a mapping of options to values")
    keys = [key.value for key, _ in root.value]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"{path} has the option {key!r} {keys.count(key)} times; it must have it once")
    return settings


def _as_words(name: str, value) -> list[str]:
    """A setting as it would stand on a command line."""
    if value is None or value == []:
        return []
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}={json.dumps(value) if isinstance(value, dict) else value}"]


def _suggestion(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name.lstrip("-").split("=")[0].replace("-", "_"), names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
