# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Predicted patches of the pre-training model as pixels, and pictures of them.

T frames, C channels (1 or 3), H x W pixels, M predicted tokens, N tokens of the clip.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .picture import (
    DROPPED_COLOR,
    TARGET_COLOR,
    VISIBLE_COLOR,
    ClipLayout,
    Row,
    clip_grid,
    dim,
    draw_rows,
    outline,
    token_members,
)
from .tokens import split_members


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

    pictures = layout.enlarge(layout.frames)
    seen, wanted = layout.spread(visible), layout.spread(target)
    encoder_sees = [
        outline(np.where(mask, picture, np.uint8(24)), mask, VISIBLE_COLOR)
        for picture, mask in zip(pictures, seen, strict=True)
    ]
    results = []
    for picture, result, known, made in zip(pictures, layout.enlarge(restored), seen, wanted, strict=True):
        look = np.where(made, result, np.where(known, picture, dim(picture)))
        results.append(outline(look, made, TARGET_COLOR))
    caption = "Reconstruction" + (" (mean and contrast of each token from the original)" if norm_pix_loss else "")
    return draw_rows(
        [
            Row("Clip", pictures),
            Row(
                f"What the encoder sees: {int(visible.sum())} of {layout.num_tokens} tokens",
                encoder_sees,
                [("visible", VISIBLE_COLOR)],
            ),
            Row(caption, results, [("predicted", TARGET_COLOR), ("dropped", DROPPED_COLOR)]),
        ]
    )
