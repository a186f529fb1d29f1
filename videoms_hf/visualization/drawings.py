# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Rows of kept tokens, importance and reconstruction, and stills of them, about 1200 pixels wide.

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
from .picture import VISIBLE_COLOR, ClipLayout, Row, clip_grid, draw_rows, token_members


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
    return to_uint8(pixels)


def to_uint8(pixels: Tensor) -> Tensor:
    """Pixels of the range [0, 1] in uint8; those outside are clipped."""
    return (pixels * 255).round().clamp(0, 255).to(torch.uint8)


def draw_kept_tokens(
    frames: Tensor,
    kept_ids: Tensor,
    tubelet_size: int,
    patch_size: int | Sequence[int],
    importance: Tensor | None = None,
) -> Image.Image:
    """Rows: the clip; the clip with its dropped tokens dark and grey; the importance as a heat map.

    `ValueError` if frames, sizes and ids do not match.

    Args:
        frames: uint8 (T, C, H, W), see `frames_from_pixel_values`.
        kept_ids: (K,) ids of the clip's kept tokens.
        patch_size: one number, or height and width.
        importance: (N,) scores of the clip's tokens, drawn up to their 99th percentile, so that a few extreme ones do
            not leave the rest dark. Without it the third row is omitted.
    """
    layout = ClipLayout(frames, tubelet_size, patch_size)
    rows = [layout.clip_row(), layout.kept_row(token_members(kept_ids, layout.num_tokens, "kept_ids"))]
    return draw_rows(rows if importance is None else [*rows, layout.importance_row(importance)])


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
    """
    layout = ClipLayout(frames, tubelet_size, patch_size)
    rows = [layout.clip_row(), layout.roles_row(*_visible_and_target(layout, visible_ids, target_ids))]
    return draw_rows(rows if importance is None else [*rows, layout.importance_row(importance)])


def _visible_and_target(layout: ClipLayout, visible_ids: Tensor, target_ids: Tensor) -> tuple[Tensor, Tensor]:
    visible, target = (
        token_members(ids, layout.num_tokens, name)
        for ids, name in ((visible_ids, "visible_ids"), (target_ids, "target_ids"))
    )
    if num_both := int((visible & target).sum()):
        raise ValueError(f"{num_both} tokens are in visible_ids and in target_ids; a token is one of the two")
    return visible, target


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
    """
    (steps, rows, columns), patch_shape = clip_grid(frames.shape, tubelet_size, patch_size)
    token_members(target_ids, steps * rows * columns, "target_ids")
    num_values = tubelet_size * patch_shape[0] * patch_shape[1] * frames.shape[1]
    if patches.shape != (len(target_ids), num_values):
        raise ValueError(
            f"patches have the shape {tuple(patches.shape)}; for these frames and {len(target_ids)} target_ids it "
            f"must be ({len(target_ids)}, {num_values})"
        )
    restored = (frames.float() / 255 if frames.dtype == torch.uint8 else frames.float().clone()).detach().cpu()
    # Views of `restored`: (t, frame, C, h, row, w, column), then (t, h, w, frame, row, column, C).
    tubelets = restored.unflatten(3, (columns, -1)).unflatten(2, (rows, -1)).unflatten(0, (steps, -1))
    tubelets = tubelets.permute(0, 3, 5, 1, 4, 6, 2)
    places = torch.unravel_index(torch.as_tensor(target_ids).cpu().long(), (steps, rows, columns))
    predicted = patches.detach().float().cpu().reshape(len(target_ids), *tubelets.shape[3:])
    if norm_pix_loss:
        original = tubelets[places].flatten(1, 3)  # (M, values of a channel, C)
        variance, mean = torch.var_mean(original, dim=1, keepdim=True, correction=1)
        predicted = (predicted.flatten(1, 3) * (variance.sqrt() + 1e-6) + mean).view_as(predicted)
    tubelets[places] = predicted
    return restored


def draw_reconstruction(
    frames: Tensor,
    patches: Tensor,
    visible_ids: Tensor,
    target_ids: Tensor,
    tubelet_size: int,
    patch_size: int | Sequence[int],
    norm_pix_loss: bool = True,
) -> Image.Image:
    """Rows: the clip, the encoder's input, and the reconstruction, where dropped tokens are dark and grey.

    Args:
        frames, visible_ids, target_ids: as in `draw_pretraining_tokens`.
        patches, patch_size, norm_pix_loss: as in `patches_to_frames`.
    """
    layout = ClipLayout(frames, tubelet_size, patch_size)
    visible, target = _visible_and_target(layout, visible_ids, target_ids)
    restored = to_uint8(patches_to_frames(patches, target_ids, layout.frames, tubelet_size, patch_size, norm_pix_loss))
    black = [np.full_like(picture, 24) for picture in layout.pictures]
    seen = Row(
        f"What the encoder sees: {int(visible.sum())} of {layout.num_tokens} tokens",
        layout.paint(VISIBLE_COLOR, (~visible, black), (visible, layout.pictures)),
        [("visible", VISIBLE_COLOR)],
    )
    caption = "Reconstruction" + (" (mean and contrast of each token from the original)" if norm_pix_loss else "")
    return draw_rows([layout.clip_row(), seen, layout.reconstruction_row(restored, visible, target, caption)])
