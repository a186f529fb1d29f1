# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Clips as tubelets: cutting, gathering and the pixels to predict. Plain functions, nothing is trained here.

B batch, T frames, C channels, N tokens of the clip, V or M chosen tokens. Token order is raster: (time, row, column),
time slowest. A tubelet is `tubelet_size` frames by one patch.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .configuration_videoms import IMAGENET_MEAN, IMAGENET_STD, VideoMSConfig, token_grid


def check_clip(pixel_values: Tensor, config: VideoMSConfig) -> tuple[int, int, int]:
    """Tokens along time, height and width of `pixel_values`; `ValueError` if they are no clips for this model."""
    if not isinstance(pixel_values, Tensor):
        raise TypeError(
            f"pixel_values is a {type(pixel_values).__name__}; it must be a tensor. Pass what a processor returns as "
            "model(**inputs), not as model(inputs)"
        )
    if pixel_values.ndim != 5:
        raise ValueError(
            f"pixel_values has the shape {tuple(pixel_values.shape)}; it must have five dimensions: "
            "(batch, frames, channels, height, width)"
        )
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"pixel_values is {pixel_values.dtype}; it must be floating point and normalised: pass frames through "
            "VideoMSVideoProcessor first"
        )
    return token_grid(tuple(pixel_values.shape[1:]), config)


def split_tubelets(pixel_values: Tensor, config: VideoMSConfig) -> Tensor:
    """Clip (B, T, C, H, W) as its tubelets, (B, t, h, w, C, tubelet, patch, patch): a view, nothing is copied."""
    height, width = config.patch_shape
    tubelets = pixel_values.unflatten(4, (-1, width)).unflatten(3, (-1, height))
    return tubelets.unflatten(1, (-1, config.tubelet_size)).permute(0, 1, 4, 6, 3, 2, 5, 7)


def gather_tubelets(tubelets: Tensor, ids: Tensor) -> Tensor:
    """The tubelets with the token indices `ids` (B, V), from (B, t, h, w, ...) to (B, V, ...): copies these only."""
    rows, columns = tubelets.shape[2:4]
    batch = torch.arange(ids.shape[0], device=ids.device)[:, None]
    return tubelets[batch, ids // (rows * columns), ids // columns % rows, ids % columns]


def gather_slices(pixel_values: Tensor, slice_ids: Tensor, tubelet_size: int) -> Tensor:
    """The frames of the time steps `slice_ids` (B, t), from (B, T, C, H, W) to (B, t * tubelet_size, C, H, W)."""
    slices = pixel_values.unflatten(1, (-1, tubelet_size))
    batch = torch.arange(slice_ids.shape[0], device=slice_ids.device)[:, None]
    return slices[batch, slice_ids].flatten(1, 2)


def mean_per_time_step(features: Tensor, ids: Tensor, num_steps: int, num_patches: int) -> Tensor:
    """Features (B, V, D) of the tokens `ids` as means over each time step's, (B, T, D); zeros where it has none."""
    member = F.one_hot(ids // num_patches, num_steps).to(features.dtype)  # (B, V, T)
    return member.transpose(1, 2) @ features / member.sum(dim=1).clamp_min(1)[..., None]


def pixel_targets(
    tubelets: Tensor, normalize: bool, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> Tensor:
    """What the decoder is to predict of tubelets (B, M, C, tubelet, patch, patch), as (B, M, values) in float32 or 64.

    Clips that were normalised by `mean` and `std` are brought back to [0, 1]; those with another number of channels
    are taken as they are.
    With `normalize`, each channel of each tubelet loses its mean and is divided by its unbiased standard deviation
    + 1e-6. The values are ordered (frame, row, column, channel), channel fastest.
    """
    pixels = tubelets.to(torch.promote_types(tubelets.dtype, torch.float32)).flatten(3)  # (B, M, C, P)
    if pixels.shape[2] == len(mean):
        mean, std = (pixels.new_tensor(values)[:, None] for values in (mean, std))
        pixels = pixels * std + mean
    if normalize:
        pixels = pixels - pixels.mean(dim=-1, keepdim=True)
        # The norm gives the deviation in a seventh of the time that `torch.var` takes on a CPU.
        deviation = torch.linalg.vector_norm(pixels, dim=-1, keepdim=True) / (pixels.shape[-1] - 1) ** 0.5
        pixels = pixels / (deviation + 1e-6)
    return pixels.transpose(2, 3).flatten(2)
