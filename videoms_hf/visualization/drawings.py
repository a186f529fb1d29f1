# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Rows of kept tokens, importance, reconstruction and selected frames, and stills of them, about 1200 pixels wide.

Ids and importance are those of one clip of a model's output, for example `outputs.kept_ids[0]`. With frame selection
they count within the selected time steps: give only their frames. T frames, C channels (1 or 3), H x W pixels, N
tokens of the clip, M of them predicted.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..configuration_videoms import IMAGENET_MEAN, IMAGENET_STD
from .picture import (
    DROPPED_COLOR,
    GAP,
    TARGET_COLOR,
    VISIBLE_COLOR,
    ClipLayout,
    Row,
    clip_grid,
    dim,
    draw_rows,
    heat_color,
    outline,
    tint,
    token_members,
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
    return draw_rows([clip_row(layout), kept_row(layout, kept), *_importance_rows(layout, importance)])


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
    return draw_rows([clip_row(layout), roles_row(layout, visible, target), *_importance_rows(layout, importance)])


def clip_row(layout: ClipLayout) -> Row:
    """The clip itself."""
    return Row("Clip", layout.enlarge(layout.frames))


def kept_row(layout: ClipLayout, kept: Tensor, caption: str = "Kept tokens") -> Row:
    """The tokens `kept`, bool (N,), in colour, the others dark and grey."""
    looks = [
        outline(np.where(mask, picture, dim(picture)), mask, VISIBLE_COLOR)
        for picture, mask in zip(layout.enlarge(layout.frames), layout.spread(kept), strict=True)
    ]
    caption += f": {int(kept.sum())} of {layout.num_tokens} ({kept.float().mean().item():.0%})"
    return Row(caption, looks, [("kept", VISIBLE_COLOR), ("dropped", DROPPED_COLOR)])


def roles_row(layout: ClipLayout, visible: Tensor, target: Tensor, caption: str = "Roles in pre-training") -> Row:
    """Pre-training: tokens that are visible, bool (N,), in colour, targets blue, dropped ones dark and grey."""
    looks = []
    pictures = layout.enlarge(layout.frames)
    for picture, seen, wanted in zip(pictures, layout.spread(visible), layout.spread(target), strict=True):
        look = np.where(wanted, tint(picture, TARGET_COLOR), dim(picture))
        looks.append(outline(np.where(seen, picture, look), seen, VISIBLE_COLOR))
    counts = int(visible.sum()), int(target.sum()), int((~(visible | target)).sum())
    parts = ("visible", VISIBLE_COLOR), ("target", TARGET_COLOR), ("dropped", DROPPED_COLOR)
    legend = [(f"{count} {name}", color) for count, (name, color) in zip(counts, parts, strict=True)]
    return Row(caption, looks, legend)


def importance_row(layout: ClipLayout, importance: Tensor) -> Row:
    """The importance (N,) as a heat map, up to its 99th percentile."""
    scores = importance.detach().float().cpu()
    low, high = scores.min(), scores.quantile(0.99)
    scores = ((scores - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)).clamp(0, 1)
    heat = [heat_color(image) for image in layout.spread(scores)]
    return Row("Motion importance", heat, heat_ends=("still", "moving"))


def reconstruction_row(layout: ClipLayout, restored: Tensor, visible: Tensor, target: Tensor, caption: str) -> Row:
    """Targets from `restored`, uint8 (T, C, H, W) of any H x W; visible tokens as they are, dropped ones grey."""
    looks = []
    pictures, results = layout.enlarge(layout.frames), layout.enlarge(restored)
    for picture, result, known, made in zip(
        pictures, results, layout.spread(visible), layout.spread(target), strict=True
    ):
        looks.append(outline(np.where(made, result, np.where(known, picture, dim(picture))), made, TARGET_COLOR))
    return Row(caption, looks, [("predicted", TARGET_COLOR), ("dropped", DROPPED_COLOR)])


def frame_selection_row(frames: Tensor, tubelet_size: int, chosen: Tensor, width: int) -> Row:
    """A timeline, `width` pixels wide, of all candidate time steps: `chosen` ones, bool (t,), in colour, others grey.

    `frames` are all candidates, uint8 (T, C, H, W).
    """
    thumb_width = max((width + GAP) // len(chosen) - GAP, 4)
    size = thumb_width, max(round(thumb_width * frames.shape[2] / frames.shape[3]), 4)
    thumbs = []
    for frame, is_chosen in zip(frames[::tubelet_size], chosen.tolist(), strict=True):
        pixels = frame.expand(3, -1, -1).permute(1, 2, 0).numpy()
        thumb = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
        mask = np.full((*thumb.shape[:2], 1), is_chosen)
        thumbs.append(outline(np.where(mask, thumb, dim(thumb)), mask, VISIBLE_COLOR))
    caption = f"Frame selection: {int(chosen.sum())} of {len(chosen)} time steps"
    return Row(caption, thumbs, [("chosen", VISIBLE_COLOR), ("rejected", DROPPED_COLOR)])


def split_members(layout: ClipLayout, visible_ids: Tensor, target_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Which tokens are visible and which are targets, bool (N,) each; `ValueError` if a token is both."""
    visible, target = layout.members(visible_ids, "visible_ids"), layout.members(target_ids, "target_ids")
    if num_both := int((visible & target).sum()):
        raise ValueError(f"{num_both} tokens are in visible_ids and in target_ids; a token is one of the two")
    return visible, target


def _importance_rows(layout: ClipLayout, importance: Tensor | None) -> list[Row]:
    if importance is None:
        return []
    if importance.shape != (layout.num_tokens,):
        raise ValueError(
            f"importance has the shape {tuple(importance.shape)}; it must be ({layout.num_tokens},), a value per token"
        )
    return [importance_row(layout, importance)]


def patches_to_frames(
    patches: Tensor,
    target_ids: Tensor,
    frames: Tensor,
    tubelet_size: int,
    patch_size: int | Sequence[int],
    norm_pix_loss: bool = True,
) -> Tensor:
    """The clip with the predicted patches in place, float32 (T, C, H, W) on the CPU, in [0, 1] but not clipped.

    Args:
        patches: (M, tubelet_size * patch * patch * C) predictions of one clip, `outputs.logits[i]`, each ordered
            (frame, row, column, channel), channel fastest.
        target_ids: (M,) their ids, `outputs.target_ids[i]`.
        frames: (T, C, H, W) the original, uint8, or floating point in [0, 1] without normalisation.
        patch_size: one number, or height and width.
        norm_pix_loss: whether the patches are normalised, as in the configuration. Each channel of each tubelet then
            gets the original's mean and standard deviation, which the model does not predict.

    Raises:
        ValueError: Patches, ids, frames and sizes do not match.
    """
    pixels = (frames.float() / 255 if frames.dtype == torch.uint8 else frames.float()).detach().cpu()
    (steps, rows, columns), (patch_height, patch_width) = clip_grid(frames.shape, tubelet_size, patch_size)
    token_members(target_ids, steps * rows * columns, "target_ids")
    num_values = tubelet_size * patch_height * patch_width * frames.shape[1]
    if patches.shape != (len(target_ids), num_values):
        raise ValueError(
            f"patches have the shape {tuple(patches.shape)}; for these frames and {len(target_ids)} target_ids it "
            f"must be ({len(target_ids)}, {num_values})"
        )
    tubelets = pixels.unflatten(3, (columns, patch_width)).unflatten(2, (rows, patch_height))
    tubelets = tubelets.unflatten(0, (steps, tubelet_size))  # (t, frame, C, h, row, w, column)
    tubelets = tubelets.permute(0, 3, 5, 1, 4, 6, 2)  # (t, h, w, frame, row, column, C)
    grid_shape = tubelets.shape
    tubelets = tubelets.reshape(steps * rows * columns, -1, frames.shape[1])  # (N, values of a channel, C)

    target_ids = torch.as_tensor(target_ids).cpu().long()
    predicted = patches.detach().float().cpu().reshape(len(target_ids), -1, frames.shape[1])
    if norm_pix_loss:
        variance, mean = torch.var_mean(tubelets[target_ids], dim=1, keepdim=True, correction=1)
        predicted = predicted * (variance.sqrt() + 1e-6) + mean
    restored = tubelets.clone()
    restored[target_ids] = predicted
    return restored.view(grid_shape).permute(0, 3, 6, 1, 4, 2, 5).reshape(frames.shape)


def draw_reconstruction(
    frames: Tensor,
    patches: Tensor,
    visible_ids: Tensor,
    target_ids: Tensor,
    tubelet_size: int,
    patch_size: int | Sequence[int],
    norm_pix_loss: bool = True,
) -> Image.Image:
    """Rows: the clip, the encoder's input, and the reconstruction; about 1200 pixels wide.

    The reconstruction shows visible tokens as in the original; dropped tokens, never predicted, are dark and grey.

    Args:
        frames: uint8 (T, C, H, W).
        visible_ids, target_ids: (V,) and (M,) ids of the clip's tokens, none in both.
        patches, patch_size, norm_pix_loss: as in `patches_to_frames`.

    Raises:
        ValueError: Patches, ids, frames and sizes do not match, or a token is both visible and a target.
    """
    layout = ClipLayout(frames, tubelet_size, patch_size)
    visible, target = split_members(layout, visible_ids, target_ids)
    restored = patches_to_frames(patches, target_ids, layout.frames, tubelet_size, patch_size, norm_pix_loss)
    restored = (restored.clamp(0, 1) * 255).round().to(torch.uint8)
    encoder_sees = [
        outline(np.where(mask, picture, np.uint8(24)), mask, VISIBLE_COLOR)
        for picture, mask in zip(layout.enlarge(layout.frames), layout.spread(visible), strict=True)
    ]
    seen = f"What the encoder sees: {int(visible.sum())} of {layout.num_tokens} tokens"
    caption = "Reconstruction" + (" (mean and contrast of each token from the original)" if norm_pix_loss else "")
    return draw_rows(
        [
            clip_row(layout),
            Row(seen, encoder_sees, [("visible", VISIBLE_COLOR)]),
            reconstruction_row(layout, restored, visible, target, caption),
        ]
    )
