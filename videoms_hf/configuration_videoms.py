# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""VideoMSConfig: every number of the method in one place, checked when it is set and again when a model is built.

Source: Hwang et al., arXiv:2211.10636 (later versions: EVEREST, ICML 2024), sections 3 and 4.
"""

import math
from dataclasses import field
from os import PathLike
from typing import NamedTuple

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# What a saved folder's own code offers, for processes without this package.
AUTO_CLASSES = {
    "AutoConfig": "configuration_videoms.VideoMSConfig",
    "AutoModel": "modeling_videoms.VideoMSModel",
    "AutoModelForPreTraining": "modeling_videoms.VideoMSForPreTraining",
    "AutoModelForVideoClassification": "modeling_videoms.VideoMSForVideoClassification",
}

TOKEN_SELECTIONS = ("motion", "random", "tube", "none")

COUNTS = (  # fields that must be at least 1
    "num_channels",
    "num_frames",
    "tubelet_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "decoder_hidden_size",
    "decoder_num_hidden_layers",
    "decoder_num_attention_heads",
    "decoder_intermediate_size",
)

MODEL_SIZES = {  # width, depth, heads, decoder width, decoder heads; the MLP is 4 times as wide, the decoder 4 deep
    "small": (384, 12, 6, 192, 3),
    "base": (768, 12, 12, 384, 6),
    "large": (1024, 24, 16, 512, 8),
    "huge": (1280, 32, 16, 640, 8),
}


def floor_share(ratio: float, total: int) -> int:
    """floor(ratio * total) with float error forgiven: a share of 0.1 (or 1 - 0.9) of 1570 is 157, not 156."""
    return math.floor(ratio * total + 1e-6)


@strict
class VideoMSConfig(PreTrainedConfig):
    r"""Configuration of a VideoMS model; the defaults are ViT-B on 16 frames of 224 x 224.

    The names are those of `VideoMAEConfig`; these are new:

    Args:
        token_selection (`str`, defaults to `"motion"`):
            How tokens are chosen: `"motion"` keeps the most moving ones (the paper), `"random"` any, `"tube"` the same
            places in every time step, `"none"` keeps all (in pre-training: any, as `"random"`).
        pretraining_keep_ratio (`float`, defaults to 0.3):
            Share of all tokens kept in pre-training, in (0, 1]; the others are neither encoded nor predicted. Frame
            selection ranks time steps by their number of such tokens, in classification too (the paper's rho_pre).
        mask_ratio (`float`, defaults to 0.9):
            1 - (visible tokens / all tokens) in pre-training, in (0, 1). The kept tokens that are not visible are
            predicted.
        keep_ratio (`float`, defaults to 0.6):
            Share of all tokens kept in classification and feature extraction, in (0, 1]; 1 means no selection.
        candidate_ratio (`float`, defaults to 1.0):
            Frame selection: this many times `num_frames` are loaded, and the time steps with most of the
            `pretraining_keep_ratio` most moving tokens are used; 1 means off.
        drop_path_rate (`float`, defaults to 0.0):
            Stochastic depth of the last encoder block, in [0, 1); it rises linearly from 0 at the first block.
        classifier_dropout (`float`, defaults to 0.0):
            Dropout before the classifier, in [0, 1].
        head_init_scale (`float`, defaults to 0.001):
            Factor on the classifier's initial weights, greater than 0.
        image_mean, image_std (`list[float]`, default to ImageNet's):
            Mean and standard deviation of each channel, on a scale from 0 to 1, that clips were normalised with; the
            processor has the same. Pre-training undoes the normalisation of its targets with them.
        final_norm (`bool`, defaults to `True`):
            Whether a LayerNorm follows the encoder's last block, and linear weights start from Xavier uniform. Without
            it they start from a truncated normal. A classifier is always without it and sets this to `False`.

    Raises:
        StrictDataclassError: A field has a wrong type or is out of its range. Fields that clash with each other are
            refused with a `ValueError` when a model is built.
    """

    model_type = "videoms"
    # Trainer's predictions are the logits alone.
    keys_to_ignore_at_inference = [
        "visible_ids",
        "target_ids",
        "kept_ids",
        "importance",
        "slice_ids",
        "hidden_states",
        "attentions",
    ]

    image_size: int | list[int] | tuple[int, int] = 224
    patch_size: int | list[int] | tuple[int, int] = 16
    num_channels: int = 3
    num_frames: int = 16
    tubelet_size: int = 2
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    initializer_range: float | int = 0.02
    layer_norm_eps: float | int = 1e-6
    decoder_hidden_size: int = 384
    decoder_num_hidden_layers: int = 4
    decoder_num_attention_heads: int = 6
    decoder_intermediate_size: int = 1536
    norm_pix_loss: bool = True
    token_selection: str = "motion"
    pretraining_keep_ratio: float | int = 0.3
    mask_ratio: float | int = 0.9
    keep_ratio: float | int = 0.6
    candidate_ratio: float | int = 1.0
    drop_path_rate: float | int = 0.0
    classifier_dropout: float | int = 0.0
    head_init_scale: float | int = 0.001
    image_mean: list[float] | tuple[float, ...] = field(default_factory=lambda: list(IMAGENET_MEAN))
    image_std: list[float] | tuple[float, ...] = field(default_factory=lambda: list(IMAGENET_STD))
    final_norm: bool = True

    @classmethod
    def from_size(cls, size: str, **fields) -> "VideoMSConfig":
        """Configuration of a published size, "small", "base", "large" or "huge", with `fields` on top."""
        if size not in MODEL_SIZES:
            raise ValueError(f"size is {size!r}; it must be one of {', '.join(map(repr, MODEL_SIZES))}")
        width, depth, heads, decoder_width, decoder_heads = MODEL_SIZES[size]
        named = {
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "intermediate_size": 4 * width,
            "decoder_hidden_size": decoder_width,
            "decoder_num_attention_heads": decoder_heads,
            "decoder_intermediate_size": 4 * decoder_width,
        }
        return cls(**(named | fields))

    def save_pretrained(self, save_directory: str | PathLike, push_to_hub: bool = False, **kwargs):
        """Save as transformers does, with the map of all classes, so that each kind of model loads from the folder.

        transformers would enter the saved class alone. A class derived from ours keeps the entry that it has been
        given, one of another repository does not: the code is in the folder.
        """
        entries = (getattr(self, "auto_map", None) or {}).items()
        self.auto_map = AUTO_CLASSES | {name: reference for name, reference in entries if "--" not in reference}
        super().save_pretrained(save_directory, push_to_hub, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        """As transformers', and for classifiers that were saved before `final_norm` was a field: they have none."""
        if config_dict.get("architectures") == ["VideoMSForVideoClassification"]:
            config_dict = {"final_norm": False} | config_dict
        return super().from_dict(config_dict, **kwargs)

    def __setattr__(self, name: str, value):
        if name == "id2label" and value is not None:  # JSON has strings; transformers converts them in `__init__` only
            value = {int(i): label for i, label in value.items()}
        elif name == "label2id" and value is not None:
            value = {label: int(i) for label, i in value.items()}
        super().__setattr__(name, value)

    @property
    def patch_shape(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return _pair(self.patch_size)

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        return _pair(self.image_size)

    @property
    def token_grid(self) -> tuple[int, int, int]:
        """Tokens along time, height and width of a clip of `num_frames` at `image_size`."""
        (height, width), (patch_height, patch_width) = self.image_shape, self.patch_shape
        return self.num_frames // self.tubelet_size, height // patch_height, width // patch_width

    @property
    def num_tokens(self) -> int:
        """Tokens of such a clip before selection: N."""
        return math.prod(self.token_grid)

    @property
    def num_candidate_frames(self) -> int:
        """Frames to load for one clip: `num_frames`, or `candidate_ratio` times as many for frame selection."""
        return math.ceil(self.token_grid[0] * self.candidate_ratio - 1e-6) * self.tubelet_size

    # The validators see one field each: transformers' own tools construct configurations with a single odd field.
    # Clashes between fields are found by `check_architecture` when a model is built.

    def validate_token_selection(self):
        if self.token_selection not in TOKEN_SELECTIONS:
            raise ValueError(
                f"token_selection is {self.token_selection!r}; it must be one of "
                f"{', '.join(map(repr, TOKEN_SELECTIONS))}"
            )

    def validate_sizes(self):
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("image_size", "patch_size"):
            value = getattr(self, name)
            if not (isinstance(value, int) or len(value) == 2) or min(_pair(value)) < 1:
                raise ValueError(f"{name} is {value}; it must be one positive number or two: height, width")

    def validate_ratios(self):
        for name, low, high, allowed in (
            ("pretraining_keep_ratio", 0, 1, "in (0, 1]"),
            ("keep_ratio", 0, 1, "in (0, 1]"),
            ("candidate_ratio", 1 - 1e-12, math.inf, "at least 1"),
            ("head_init_scale", 0, math.inf, "greater than 0"),
        ):
            if not low < getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {allowed}")
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio is {self.mask_ratio}; it must be greater than 0 and less than 1")

    def validate_colours(self):
        if len(self.image_mean) != len(self.image_std) or min(self.image_std, default=0) <= 0:
            raise ValueError(
                f"image_mean is {self.image_mean} and image_std {self.image_std}; they must have a number for each "
                "channel, and image_std positive ones"
            )

    def validate_probabilities(self):
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 1]")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate is {self.drop_path_rate}; it must be at least 0 and less than 1")


def _pair(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def check_architecture(config: VideoMSConfig) -> None:
    """Raise `ValueError` if fields of the configuration clash: their names, their values and what would be right."""
    for width, heads in (
        ("hidden_size", "num_attention_heads"),
        ("decoder_hidden_size", "decoder_num_attention_heads"),
    ):
        if getattr(config, width) % getattr(config, heads):
            raise ValueError(
                f"{width} {getattr(config, width)} is not a multiple of {heads} {getattr(config, heads)}; "
                f"choose {heads} so that it divides {width}"
            )
    shape = (config.num_frames, config.num_channels, *config.image_shape)
    token_grid(shape, config)


def token_grid(clip_shape: tuple[int, int, int, int], config: VideoMSConfig) -> tuple[int, int, int]:
    """Tokens along time, height and width of a clip (T, C, H, W).

    Raises:
        ValueError: The tubelet or the patch does not divide the clip, the channels differ from the configuration's,
            or the clip is one tubelet long and tokens are to be chosen by motion.
    """
    frames, channels, height, width = clip_shape
    patch_height, patch_width = config.patch_shape
    if channels != config.num_channels:
        raise ValueError(
            f"clips have {channels} channels where num_channels is {config.num_channels}; "
            "pixel_values must be (batch, frames, channels, height, width)"
        )
    if frames < 1 or frames % config.tubelet_size:
        raise ValueError(
            f"the number of frames is {frames}; it must be a multiple of tubelet_size {config.tubelet_size}"
        )
    for name, size, patch in (("height", height, patch_height), ("width", width, patch_width)):
        if size < 1 or size % patch:
            raise ValueError(f"the frame's {name} is {size} (image_size); it must be a multiple of patch_size {patch}")
    if frames == config.tubelet_size and config.token_selection == "motion":
        raise ValueError(
            f"a clip of {frames} frames is one tubelet (tubelet_size {config.tubelet_size}) and shows no motion: "
            f'use at least {2 * config.tubelet_size} frames, or token_selection "random", "tube" or "none"'
        )
    return frames // config.tubelet_size, height // patch_height, width // patch_width


class TokenCounts(NamedTuple):
    """Tokens of one clip."""

    total: int
    encoded: int  # classification: kept; pre-training: visible
    predicted: int  # pre-training: targets; else 0


def token_counts(
    config: VideoMSConfig,
    grid: tuple[int, int, int] | None = None,
    for_pretraining: bool = False,
    keep_ratio: float | None = None,
) -> TokenCounts:
    """How many tokens a model encodes and predicts, for every `token_selection`.

    `grid` is the clip's (see [`token_grid`]; with frame selection, after it) and `keep_ratio` the share to keep
    outside pre-training; both default to the configuration's.

    Raises:
        ValueError: No token would be encoded, or, in pre-training, none predicted.
    """
    num_steps, *places = config.token_grid if grid is None else grid
    num_patches = math.prod(places)
    total, is_tube = num_steps * num_patches, config.token_selection == "tube"
    if for_pretraining:
        uses_motion = config.token_selection == "motion"
        kept = floor_share(config.pretraining_keep_ratio, total) if uses_motion else total
        if is_tube:
            visible = num_steps * (num_patches - floor_share(config.mask_ratio, num_patches))
        else:
            visible = floor_share(1 - config.mask_ratio, total)
        if not 0 < visible < kept:
            raise ValueError(
                f"of {total} tokens, pretraining_keep_ratio {config.pretraining_keep_ratio} keeps {kept} and "
                f"mask_ratio {config.mask_ratio} shows {visible}; at least 1 must be visible and fewer than kept: "
                "1 - mask_ratio must be less than pretraining_keep_ratio, or the clip larger"
            )
        return TokenCounts(total, visible, kept - visible)
    keep_ratio = config.keep_ratio if keep_ratio is None else keep_ratio
    if not 0 < keep_ratio <= 1:
        raise ValueError(f"keep_ratio is {keep_ratio}; it must be in (0, 1]")
    unit = num_patches if is_tube else total  # a tube is kept or dropped in all time steps
    kept = total if config.token_selection == "none" else total // unit * floor_share(keep_ratio, unit)
    if kept < 1:
        raise ValueError(f"keep_ratio {keep_ratio} keeps none of {total} tokens; it must be at least {1 / unit:.3g}")
    return TokenCounts(total, kept, 0)
