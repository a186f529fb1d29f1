# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Clips as tubelets: whether they fit the model, cutting, gathering, and the pixels to predict. No parameters.

A tubelet is `tubelet_size` frames by one patch. B batch, T frames, C channels, t x h x w tubelets of a clip, which are
its tokens in raster order (time, row, column), V or M selected tokens, D width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .configuration_videoms import IMAGENET_MEAN, IMAGENET_STD, VideoMSConfig


def check_architecture(config: VideoMSConfig) -> None:
    """Validate the fields, which may have been set since, and raise `ValueError` if some do not fit together."""
    config.validate()
    for prefix in ("", "decoder_"):
        width, heads = f"{prefix}hidden_size", f"{prefix}num_attention_heads"
        size, count = getattr(config, width), getattr(config, heads)
        if size % count:
            raise ValueError(
                f"{width} {size} is not a multiple of {heads} {count}; choose {heads} so that it divides {width}"
            )
    token_grid((config.num_frames, config.num_channels, *config.image_shape), config)


def token_grid(clip_shape: tuple[int, int, int, int], config: VideoMSConfig) -> tuple[int, int, int]:
    """Number of tokens along time, height and width of a clip (T, C, H, W).

    Raises:
        ValueError: The clip does not divide into tubelets, its channels differ from the configuration's, or it is one
            tubelet long and tokens are selected by motion.
    """
    frames, channels, height, width = clip_shape
    if channels != config.num_channels:
        expected = "pixel_values must be (batch, frames, channels, height, width)"
        raise ValueError(f"clips have {channels} channels but num_channels is {config.num_channels}; {expected}")
    tubelet, (patch_height, patch_width) = config.tubelet_size, config.patch_shape
    for name, size, unit, unit_size in (
        ("number of frames", frames, "tubelet_size", tubelet),
        ("frame's height", height, "patch_size", patch_height),
        ("frame's width", width, "patch_size", patch_width),
    ):
        if size < 1 or size % unit_size:
            raise ValueError(f"the {name} is {size}; it must be a multiple of {unit} {unit_size}")
    if frames == tubelet and config.token_selection == "motion":
        raise ValueError(
            f"a clip of {frames} frames is one tubelet (tubelet_size {tubelet}) and shows no motion: "
            f'use at least {2 * tubelet} frames, or token_selection "random", "tube" or "none"'
        )
    return frames // tubelet, height // patch_height, width // patch_width


def check_clip(pixel_values: Tensor, config: VideoMSConfig) -> tuple[int, int, int]:
    """Number of tokens along time, height and width of `pixel_values` (B, T, C, H, W).

    Raises:
        TypeError, ValueError: They are not a tensor of floating-point clips, or [`token_grid`] rejects their shape.
    """
    if not isinstance(pixel_values, Tensor):
        raise TypeError(
            f"pixel_values is a {type(pixel_values).__name__}; it must be a tensor. Call model(**inputs), not "
            "model(inputs), with what a processor returns"
        )
    shape, dtype = tuple(pixel_values.shape), pixel_values.dtype
    if len(shape) != 5:
        names = "(batch, frames, channels, height, width)"
        raise ValueError(f"pixel_values has shape {shape}; it must have five dimensions: {names}")
    if not dtype.is_floating_point:
        advice = "process frames with VideoMSVideoProcessor first"
        raise ValueError(f"pixel_values is {dtype}; it must be floating point and normalised: {advice}")
    return token_grid(shape[1:], config)


def split_tubelets(pixel_values: Tensor, config: VideoMSConfig) -> Tensor:
    """Tubelets of clips, (B, T, C, H, W) -> (B, t, h, w, C, tubelet, patch, patch): a view, not a copy."""
    height, width = config.patch_shape
    tubelets = pixel_values.unflatten(4, (-1, width)).unflatten(3, (-1, height))
    return tubelets.unflatten(1, (-1, config.tubelet_size)).permute(0, 1, 4, 6, 3, 2, 5, 7)


def gather_tubelets(tubelets: Tensor, ids: Tensor) -> Tensor:
    """Tubelets of the tokens `ids` (B, V), ascending, (B, t, h, w, ...) -> (B, V, ...); only these are copied."""
    steps, rows, columns = tubelets.shape[1:4]
    if ids.shape[1] == steps * rows * columns:
        return tubelets.flatten(1, 3)
    batch = torch.arange(ids.shape[0], device=ids.device)[:, None]
    return tubelets[batch, ids // (rows * columns), ids // columns % rows, ids % columns]


def gather_slices(pixel_values: Tensor, slice_ids: Tensor, tubelet_size: int) -> Tensor:
    """Frames of the time steps `slice_ids` (B, t), (B, T, C, H, W) -> (B, t * tubelet_size, C, H, W)."""
    slices = pixel_values.unflatten(1, (-1, tubelet_size))
    batch = torch.arange(slice_ids.shape[0], device=slice_ids.device)[:, None]
    return slices[batch, slice_ids].flatten(1, 2)


def mean_per_time_step(features: Tensor, ids: Tensor, num_steps: int, num_patches: int) -> Tensor:
    """Mean feature of each time step, (B, V, D) of the tokens `ids` -> (B, t, D); zeros if it has no token."""
    member = F.one_hot(ids // num_patches, num_steps).to(features.dtype)  # (B, V, T)
    return member.transpose(1, 2) @ features / member.sum(dim=1).clamp_min(1)[..., None]


def pixel_targets(
    tubelets: Tensor, normalize: bool, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> Tensor:
    """Values that the decoder learns to predict, (B, M, C, tubelet, patch, patch) -> (B, M, values), in float32 or 64.

    The normalisation of clips by `mean` and `std` is undone, except for clips with another number of channels. With
    `normalize`, the mean of each channel of each tubelet is subtracted and the result divided by its unbiased standard
    deviation + 1e-6. Values are ordered (frame, row, column, channel), channel fastest.
    """
    pixels = tubelets.to(torch.promote_types(tubelets.dtype, torch.float32)).flatten(3)  # (B, M, C, P)
    if pixels.shape[2] == len(mean):
        mean, std = (pixels.new_tensor(values)[:, None] for values in (mean, std))
        pixels = pixels * std + mean
    if normalize:
        pixels = pixels - pixels.mean(dim=-1, keepdim=True)
        # On a CPU the norm is 7 times faster than `torch.var`.
        deviation = torch.linalg.vector_norm(pixels, dim=-1, keepdim=True) / (pixels.shape[-1] - 1) ** 0.5
        pixels = pixels / (deviation + 1e-6)
    return pixels.transpose(2, 3).flatten(2)
