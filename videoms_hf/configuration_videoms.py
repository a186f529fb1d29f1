# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""VideoMSConfig: every number of the method. Fields are validated when set, and together when a model is built.

Source: Hwang et al., arXiv:2211.10636 (later versions: EVEREST, ICML 2024), sections 3 and 4.
"""

import math
from dataclasses import field
from os import PathLike
from typing import Literal, NamedTuple, get_args

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# The auto classes of a saved folder; they let a process without this package load it (trust_remote_code=True).
AUTO_CLASSES = {
    "AutoConfig": "configuration_videoms.VideoMSConfig",
    "AutoModel": "modeling_videoms.VideoMSModel",
    "AutoModelForPreTraining": "modeling_videoms.VideoMSForPreTraining",
    "AutoModelForVideoClassification": "modeling_videoms.VideoMSForVideoClassification",
}

BUDGETS = ("keep_ratio", "num_kept_tokens")  # alternatives
Selection = Literal["motion", "random", "tube", "none"]
TOKEN_SELECTIONS = get_args(Selection)
MotionScore = Literal["embedding", "pixel"]

MODEL_SIZES = {  # width, depth, heads, decoder width, decoder heads; MLPs are 4 times as wide, decoders 4 blocks deep
    "small": (384, 12, 6, 192, 3),
    "base": (768, 12, 12, 384, 6),
    "large": (1024, 24, 16, 512, 8),
    "huge": (1280, 32, 16, 640, 8),
}


def floor_share(ratio: float, total: int) -> int:
    """floor(ratio * total), tolerant of float error: a share of 0.1 (or 1 - 0.9) of 1570 is 157, not 156."""
    return math.floor(ratio * total + 1e-6)


def check_budget(keep_ratio: float | None, num_kept_tokens: int | None) -> None:
    if (keep_ratio is None) == (num_kept_tokens is None):
        raise ValueError(
            f"keep_ratio is {keep_ratio} and num_kept_tokens {num_kept_tokens}; set one and leave the other None"
        )


@strict
class VideoMSConfig(PreTrainedConfig):
    r"""Configuration of a VideoMS model; the defaults are ViT-B on 16 frames of 224 x 224.

    Fields of `VideoMAEConfig` keep their names. The others are:

    Args:
        token_selection (`str`, defaults to `"motion"`):
            `"motion"` keeps the tokens that move most (the paper), `"random"` random ones, `"tube"` the same random
            positions in every time step, `"none"` all (in pre-training as `"random"`).
        motion_score (`str`, defaults to `"embedding"`):
            What moves: `"embedding"` compares patch embeddings (the paper), `"pixel"` pixels, which costs a fraction
            and does not depend on the weights.
        pretraining_keep_ratio (`float`, defaults to 0.3):
            Share of tokens kept in pre-training, in (0, 1] (the paper's rho_pre); the others are neither encoded nor
            predicted. Frame selection ranks time steps by their number of such tokens, in classification too.
        mask_ratio (`float`, defaults to 0.9):
            1 - (visible tokens / all tokens) in pre-training, in (0, 1). Other kept tokens are predicted.
        keep_ratio (`float`, defaults to 0.6):
            Share of tokens kept in classification and feature extraction, in (0, 1]; 1 turns selection off.
        num_kept_tokens (`int`, *optional*):
            Number of tokens kept instead, whatever the clip's frames and resolution; `keep_ratio` is then `None`.
            `"tube"` rounds it down to whole tubes.
        candidate_ratio (`float`, defaults to 1.0):
            Frame selection: the model takes this many times `num_frames`, at least 1, and uses the time steps with the
            most important tokens; 1 turns it off.
        drop_path_rate (`float`, defaults to 0.0):
            Stochastic depth of the last encoder block, in [0, 1); the rate rises linearly from 0 at the first block.
        classifier_dropout (`float`, defaults to 0.0):
            Dropout before the classifier, in [0, 1].
        head_init_scale (`float`, defaults to 0.001):
            Factor on the classifier's initial weights, greater than 0.
        image_mean, image_std (`list[float]`, default to ImageNet's):
            Mean and standard deviation of each channel, for pixels in [0, 1], of normalised clips. Pre-training uses
            them to restore the pixels that it predicts.
        final_norm (`bool`, defaults to `True`):
            Whether a LayerNorm follows the encoder's last block; classifiers set it to `False`. It also decides how
            linear weights are initialised: Xavier uniform with it, a truncated normal without.

    Raises:
        StrictDataclassError: A field has the wrong type or is out of range. Fields that contradict each other raise a
            `ValueError` when a model is built.
    """

    model_type = "videoms"
    # Trainer's predictions are then the logits alone.
    keys_to_ignore_at_inference = ["visible_ids", "target_ids", "kept_ids", "importance", "slice_ids"]
    keys_to_ignore_at_inference += ["hidden_states", "attentions"]

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
    token_selection: Selection = "motion"
    motion_score: MotionScore = "embedding"
    pretraining_keep_ratio: float | int = 0.3
    mask_ratio: float | int = 0.9
    keep_ratio: float | int | None = None  # 0.6 without num_kept_tokens
    num_kept_tokens: int | None = None
    candidate_ratio: float | int = 1.0
    drop_path_rate: float | int = 0.0
    classifier_dropout: float | int = 0.0
    head_init_scale: float | int = 0.001
    image_mean: list[float | int] | tuple[float | int, ...] = field(default_factory=lambda: list(IMAGENET_MEAN))
    image_std: list[float | int] | tuple[float | int, ...] = field(default_factory=lambda: list(IMAGENET_STD))
    final_norm: bool = True

    def __post_init__(self, **kwargs):
        if self.keep_ratio is None and self.num_kept_tokens is None:
            self.keep_ratio = 0.6
        super().__post_init__(**kwargs)

    @classmethod
    def from_size(cls, size: str, **fields) -> "VideoMSConfig":
        """Configuration of a published size: "small", "base", "large" or "huge". `fields` override its values."""
        if size not in MODEL_SIZES:
            raise ValueError(f"size is {size!r}; it must be one of {', '.join(map(repr, MODEL_SIZES))}")
        width, depth, heads, decoder_width, decoder_heads = MODEL_SIZES[size]
        encoder = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}
        decoder = {"decoder_hidden_size": decoder_width, "decoder_num_attention_heads": decoder_heads}
        mlps = {"intermediate_size": 4 * width, "decoder_intermediate_size": 4 * decoder_width}
        return cls(**(encoder | decoder | mlps | fields))

    def save_pretrained(self, save_directory: str | PathLike, push_to_hub: bool = False, **kwargs):
        """As in transformers, but with all of `AUTO_CLASSES`: every kind of model loads from the folder."""
        # Entries of derived classes are kept, those of other repositories are not: the code is in the folder.
        entries = (getattr(self, "auto_map", None) or {}).items()
        self.auto_map = AUTO_CLASSES | {name: reference for name, reference in entries if "--" not in reference}
        super().save_pretrained(save_directory, push_to_hub, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        """As in transformers. A given `keep_ratio` or `num_kept_tokens` replaces the saved one."""
        if budget := {name: kwargs[name] for name in BUDGETS if kwargs.get(name) is not None}:
            config_dict = config_dict | dict.fromkeys(BUDGETS) | budget
        if config_dict.get("architectures") == ["VideoMSForVideoClassification"]:  # maybe older than `final_norm`
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
    def budget(self) -> tuple[str, float | int]:
        """`keep_ratio` or `num_kept_tokens`, whichever is set, and its value."""
        return next((name, getattr(self, name)) for name in BUDGETS if getattr(self, name) is not None)

    @property
    def kept_share(self) -> float:
        """`keep_ratio`, or the share that `num_kept_tokens` is of such a clip's tokens."""
        return self.keep_ratio or self.num_kept_tokens / self.num_tokens

    @property
    def num_candidate_frames(self) -> int:
        """Frames to load for one clip: `num_frames`, or `candidate_ratio` times as many for frame selection."""
        return math.ceil(self.token_grid[0] * self.candidate_ratio - 1e-6) * self.tubelet_size

    def validate_fields(self):
        # Single fields only: transformers' tools construct configurations with one odd field.
        # `check_architecture` compares fields with each other when a model is built.
        counts = [name for name, kind in VideoMSConfig.__annotations__.items() if kind is int]
        dropouts = ["hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"]
        for names, allowed, is_allowed in (
            ([*counts, "num_kept_tokens"], "at least 1", lambda value: value >= 1),
            (["pretraining_keep_ratio", "keep_ratio"], "in (0, 1]", lambda value: 0 < value <= 1),
            (["mask_ratio"], "in (0, 1)", lambda value: 0 < value < 1),
            (["candidate_ratio"], "at least 1", lambda value: 1 - 1e-12 < value < math.inf),
            (["head_init_scale"], "greater than 0", lambda value: 0 < value < math.inf),
            (["drop_path_rate"], "in [0, 1)", lambda value: 0 <= value < 1),
            (dropouts, "in [0, 1]", lambda value: 0 <= value <= 1),
        ):
            for name in names:
                value = getattr(self, name)
                if value is not None and not is_allowed(value):
                    raise ValueError(f"{name} is {value}; it must be {allowed}")
        check_budget(self.keep_ratio, self.num_kept_tokens)
        for name in ("image_size", "patch_size"):
            value = getattr(self, name)
            if not (isinstance(value, int) or len(value) == 2) or min(_pair(value)) < 1:
                raise ValueError(f"{name} is {value}; it must be one positive number or two: height, width")
        if len(self.image_mean) != len(self.image_std) or min(self.image_std, default=0) <= 0:
            raise ValueError(
                f"image_mean is {self.image_mean} and image_std {self.image_std}; each must have one number per "
                "channel, and those of image_std must be positive"
            )


def _pair(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


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
    num_kept_tokens: int | None = None,
) -> TokenCounts:
    """Number of tokens that a model encodes and predicts, for every `token_selection`.

    `grid` is the clip's [`token_grid`], after frame selection; `keep_ratio` or `num_kept_tokens` is the share or
    number kept outside pre-training. They default to the configuration's.

    Raises:
        ValueError: No token would be encoded or, in pre-training, predicted; or the clip cannot keep that many.
    """
    num_steps, *places = config.token_grid if grid is None else grid
    is_tube = config.token_selection == "tube"  # a tube is kept or dropped in all time steps
    copies, unit = (num_steps, math.prod(places)) if is_tube else (1, num_steps * math.prod(places))
    total = copies * unit
    if for_pretraining:
        kept = floor_share(config.pretraining_keep_ratio, total) if config.token_selection == "motion" else total
        masked = copies * floor_share(config.mask_ratio, unit)
        visible = total - masked if is_tube else floor_share(1 - config.mask_ratio, total)
        if not 0 < visible < kept:
            raise ValueError(
                f"of {total} tokens, pretraining_keep_ratio {config.pretraining_keep_ratio} keeps {kept} and "
                f"mask_ratio {config.mask_ratio} shows {visible}; at least 1 must be visible and 1 predicted: "
                "choose 1 - mask_ratio less than pretraining_keep_ratio, or use a larger clip"
            )
        return TokenCounts(total, visible, kept - visible)
    if keep_ratio is None and num_kept_tokens is None:
        keep_ratio, num_kept_tokens = config.keep_ratio, config.num_kept_tokens
    check_budget(keep_ratio, num_kept_tokens)
    if num_kept_tokens is not None:
        kept = num_kept_tokens // copies
        if not 1 <= kept <= unit:
            raise ValueError(
                f"num_kept_tokens is {num_kept_tokens}; it must be from {copies} to {total}, the tokens of such a "
                "clip: give another, or a keep_ratio"
            )
    elif not 0 < keep_ratio <= 1:
        raise ValueError(f"keep_ratio is {keep_ratio}; it must be in (0, 1]")
    elif not (kept := floor_share(keep_ratio, unit)):
        raise ValueError(f"keep_ratio {keep_ratio} keeps none of {total} tokens; it must be at least {1 / unit:.3g}")
    return TokenCounts(total, total if config.token_selection == "none" else copies * kept, 0)


def noise_lengths(config: VideoMSConfig, for_pretraining: bool) -> dict[str, int]:
    """How many values of each kind of noise a model takes for one clip, by the argument's name."""
    lengths = {}
    if for_pretraining:
        total, encoded, predicted = token_counts(config, for_pretraining=True)
        lengths["noise"] = total // config.token_grid[0] if config.token_selection == "tube" else encoded + predicted
    if config.candidate_ratio > 1:
        lengths["slice_noise"] = config.num_candidate_frames // config.tubelet_size
    return lengths
