# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures of the tokens that a model kept, about 1200 pixels wide.

Ids and importance are those of one clip of a model's output, for example `outputs.kept_ids[0]`. With frame selection
they count within the selected time steps: give only their frames. T frames, C channels (1 or 3), N tokens.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..configuration_videoms import IMAGENET_MEAN, IMAGENET_STD
from .picture import (
    DROPPED_COLOR,
    TARGET_COLOR,
    VISIBLE_COLOR,
    ClipLayout,
    Row,
    dim,
    draw_rows,
    heat_color,
    outline,
    tint,
)


def frames_from_pixel_values(
    pixel_values: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> Tensor:
    """The frames to draw, uint8 (T, C, H, W) on the CPU, from one clip of a model's input (T, C, H, W).

    Undoes the normalisation by `mean` and `std`; clips with another number of channels are values in [0, 1].
    """
    pixels = pixel_values.detach().float().cpu()
    if pixels.shape[1] == len(mean):
        mean, std = (torch.tensor(values)[:, None, None] for values in (mean, std))
        pixels = pixels * std + mean
    return (pixels * 255).round().clamp(0, 255).to(torch.uint8)


def draw_kept_tokens(
    frames: Tensor,
    kept_ids: Tensor,
    tubelet_size: int,
    patch_size: int | Sequence[int],
    importance: Tensor | None = None,
) -> Image.Image:
    """Rows: the clip; the clip with its dropped tokens dark and grey; the importance as a heat map.

    Args:
        frames: uint8 (T, C, H, W), see `frames_from_pixel_values`.
        kept_ids: (K,) ids of the clip's kept tokens.
        patch_size: one number, or height and width.
        importance: (N,) scores of the clip's tokens, drawn up to their 99th percentile, so that a few extreme ones do
            not leave the rest dark. Without it the third row is omitted.

    Raises:
        ValueError: Frames, sizes and ids do not match.
    """
    layout = ClipLayout(frames, tubelet_size, patch_size)
    kept = layout.members(kept_ids, "kept_ids")
    pictures = layout.enlarge(layout.frames)
    looks = [
        outline(np.where(mask, picture, dim(picture)), mask, VISIBLE_COLOR)
        for picture, mask in zip(pictures, layout.spread(kept), strict=True)
    ]
    caption = f"Kept tokens: {int(kept.sum())} of {layout.num_tokens} ({kept.float().mean().item():.0%})"
    legend = [("kept", VISIBLE_COLOR), ("dropped", DROPPED_COLOR)]
    return draw_rows([Row("Clip", pictures), Row(caption, looks, legend), *_importance_row(layout, importance)])


def draw_pretraining_tokens(
    frames: Tensor,
    visible_ids: Tensor,
    target_ids: Tensor,
    tubelet_size: int,
    patch_size: int | Sequence[int],
    importance: Tensor | None = None,
) -> Image.Image:
    """Rows: the clip; its visible tokens in colour, targets blue, dropped ones dark and grey; the importance.

    Args:
        visible_ids, target_ids: (V,) and (M,) ids of the clip's tokens, none in both.
        frames, patch_size, importance: as in `draw_kept_tokens`.

    Raises:
        ValueError: Frames, sizes and ids do not match, or a token is both visible and a target.
    """
    layout = ClipLayout(frames, tubelet_size, patch_size)
    visible, target = split_members(layout, visible_ids, target_ids)
    pictures = layout.enlarge(layout.frames)
    looks = []
    for picture, seen, wanted in zip(pictures, layout.spread(visible), layout.spread(target), strict=True):
        look = np.where(wanted, tint(picture, TARGET_COLOR), dim(picture))
        looks.append(outline(np.where(seen, picture, look), seen, VISIBLE_COLOR))
    caption = f"Tokens: {int(visible.sum())} visible and {int(target.sum())} targets of {layout.num_tokens}"
    legend = [("visible", VISIBLE_COLOR), ("target", TARGET_COLOR), ("dropped", DROPPED_COLOR)]
    return draw_rows([Row("Clip", pictures), Row(caption, looks, legend), *_importance_row(layout, importance)])


def split_members(layout: ClipLayout, visible_ids: Tensor, target_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Which tokens are visible and which are targets, bool (N,) each; `ValueError` if a token is both."""
    visible, target = layout.members(visible_ids, "visible_ids"), layout.members(target_ids, "target_ids")
    if num_both := int((visible & target).sum()):
        raise ValueError(f"{num_both} tokens are in visible_ids and in target_ids; a token is one of the two")
    return visible, target


def _importance_row(layout: ClipLayout, importance: Tensor | None) -> list[Row]:
    if importance is None:
        return []
    if importance.shape != (layout.num_tokens,):
        raise ValueError(
            f"importance has the shape {tuple(importance.shape)}; it must be ({layout.num_tokens},), a value per token"
        )
    scores = importance.detach().float().cpu()
    low, high = scores.min(), scores.quantile(0.99)
    scores = ((scores - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)).clamp(0, 1)
    heat = [heat_color(image) for image in layout.spread(scores)]
    return [Row("Motion importance", heat, heat_ends=("still", "moving"))]
