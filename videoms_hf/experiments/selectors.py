# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Laboratory: selections that are compared, among them static tokens, and scores without the camera's motion.

Between neighbouring time steps an affine motion of the camera is fitted robustly, coarse to fine, and the earlier step
is warped by it; a token's score is its distance to the warped predecessor. Sources: Wang and Schmid, ICCV 2013 (scores
without the camera); Smolic et al., ICIP 2000 (robust global motion). B pairs of time steps, C channels, P patches.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..configuration_videoms import VideoMSConfig, floor_share, token_counts
from ..modeling_videoms import VideoMSEmbeddings, VideoMSPreTrainedModel
from ..selection_videoms import VideoMSTokenSelector, most_important, motion_importance
from ..tubelets_videoms import split_tubelets


NUM_ITERATIONS = 8  # at each of the scales
SMALLEST_MOTION = 0.25  # pixels; a smaller one is set to 0
AGREEMENT = 0.75  # share of the texture whose squared error the motion must halve
EPSILON = 1e-4


def coordinates(height: int, width: int, like: Tensor) -> Tensor:
    """Places of the pixels' centres from the centre of the frame, in [-1, 1], (H, W, 2): column and row."""
    x, y = ((torch.arange(size, device=like.device, dtype=like.dtype) * 2 + 1) / size - 1 for size in (width, height))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def warp(frames: Tensor, theta: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """What was at each pixel's origin, (B, C, H, W), and whether that is inside the frame, (B, 1, H, W).

    `theta` is in pixels of which `scale` make one of `frames`.
    """
    size, matrix = frames.new_tensor([frames.shape[3], frames.shape[2]]), theta.unflatten(1, (2, 3))
    places = coordinates(*frames.shape[2:], frames)
    displacement = matrix[:, None, None, :, 0] + torch.einsum("hwi,bji->bhwj", places, matrix[:, :, 1:])
    origin = places + displacement / scale * 2 / size  # (B, H, W, 2)
    warped = F.grid_sample(frames, origin, padding_mode="border", align_corners=False)
    return warped, (origin.abs() <= 1).all(dim=-1)[:, None]


def by_patch(values: Tensor, patch: tuple[int, int]) -> Tensor:
    """The pixels of each of P patches, (..., H, W) -> (..., P, pixels)."""
    patches = values.unflatten(-1, (-1, patch[1])).unflatten(-3, (-1, patch[0])).transpose(-3, -2)
    return patches.flatten(-4, -3).flatten(-2)


def residuals(earlier: Tensor, later: Tensor, theta: Tensor, patch: tuple[int, int], scale: float):
    """Squared error and gradient by patch, (B, P) each, and products by pixel, summed over channels, for the fit.

    These are xx, xy, yy of the gradients, (B, 3, P, pixels), and theirs with the error, (B, 2, P, pixels).
    """
    warped, _ = warp(earlier, theta, scale)
    y, x = torch.gradient(warped, dim=(2, 3))
    error = later - warped
    pairs = ((x, x), (x, y), (y, y), (x, error), (y, error), (error, error))
    products = by_patch(torch.stack([(a * b).sum(dim=1) for a, b in pairs], dim=1), patch)
    sums = products.sum(dim=-1)
    return sums[:, 5], sums[:, 0] + sums[:, 2], products[:, :3], products[:, 3:5]


def fit_camera(earlier: Tensor, later: Tensor, patch: tuple[int, int]) -> Tensor:
    """Motion of the camera from `earlier` to `later` frames, (B, C, H, W) -> theta (B, 6), in float32.

    The origin of a pixel at (X, Y) in [-1, 1] is `theta[0:3] . (1, X, Y)` pixels to the right and `theta[3:6] . (1, X,
    Y)` down. Motions below a quarter of a pixel everywhere, and those that most of the texture does not follow (scene
    cuts, large objects, flicker, noise), are exactly 0.
    """
    earlier, later = earlier.float(), later.float()
    theta = later.new_zeros(len(later), 6)
    identity = torch.eye(6, device=later.device)
    for part in (2, 4):  # pixels of a patch along each side
        scale = [max(side // part, 1) for side in patch]
        small, target = F.avg_pool2d(earlier, scale), F.avg_pool2d(later, scale)
        cells = (patch[0] // scale[0], patch[1] // scale[1])
        x, y = coordinates(*target.shape[2:], target).unbind(-1)
        basis = by_patch(torch.stack([torch.ones_like(x), x, y]), cells)  # (3, P, pixels)
        for _ in range(NUM_ITERATIONS):
            error, texture, products, moments = residuals(small, target, theta, cells, scale[0])
            distance = (error / (texture + EPSILON)).sqrt()
            spread = 1.48 * distance.median(dim=1, keepdim=True).values + 1e-6
            weight = ((1 + (distance / (2 * spread)) ** 2) ** -2)[:, None, :, None]
            xx, xy, yy = torch.einsum("bgpq,ipq,jpq->gbij", weight * products, basis, basis)
            a = torch.cat([torch.cat([xx, xy], dim=2), torch.cat([xy, yy], dim=2)], dim=1)
            b = torch.einsum("bgpq,ipq->bgi", weight * moments, basis).flatten(1)
            theta = theta + scale[0] * torch.linalg.solve_ex(a + EPSILON * identity, b[..., None]).result[..., 0]
    zero = torch.zeros_like(theta)
    still, texture, *_ = residuals(small, target, zero, cells, scale[0])
    moved, *_ = residuals(small, target, theta, cells, scale[0])
    follows = (texture * (moved < 0.5 * still)).sum(dim=1) >= AGREEMENT * texture.sum(dim=1).clamp_min(EPSILON)
    corners = theta.abs().unflatten(1, (2, 3)).sum(dim=2)  # the largest displacement along each axis
    is_motion = follows & (corners.norm(dim=1) >= SMALLEST_MOTION) & theta.isfinite().all(dim=1)
    return torch.where(is_motion[:, None], theta, zero)


def compensated_changes(pixel_values: Tensor, config: VideoMSConfig) -> Tensor:
    """Change of each pixel since the previous time step as the camera now sees it, (B, T, C, H, W) -> (B, T - 2, ...).

    Without motion of the camera it is the plain difference, bit by bit; so it is where the frame shows new parts.
    """
    size = config.tubelet_size
    earlier, later = (
        part.unflatten(1, (-1, size)).flatten(0, 1) for part in (pixel_values[:, :-size], pixel_values[:, size:])
    )  # (pairs, tubelet, C, H, W)
    theta = fit_camera(earlier.mean(dim=2), later.mean(dim=2), config.patch_shape)
    warped, is_inside = warp(earlier.flatten(1, 2).float(), theta)
    is_used = is_inside & (theta != 0).any(dim=1)[:, None, None, None]
    reference = torch.where(is_used, warped.to(earlier.dtype), earlier.flatten(1, 2)).unflatten(1, earlier.shape[1:3])
    return (later - reference).unflatten(0, (len(pixel_values), -1)).flatten(1, 2)


def keep_with_reference(importance: Tensor, num_kept: int, num_reference: int) -> Tensor:
    """The most important tokens, (B, N) -> (B, num_kept), but `num_reference` of them spread evenly over the rest."""
    num_moving = num_kept - num_reference
    order = most_important(importance, importance.shape[1])
    others = order[:, num_moving:].sort(dim=1).values
    picks = ((torch.arange(num_reference, device=order.device) + 0.5) * others.shape[1] / max(num_reference, 1)).long()
    return torch.cat([order[:, :num_moving], others[:, picks]], dim=1).sort(dim=1).values


class CompensatedEmbeddings(VideoMSEmbeddings):
    """Embeddings that score tokens without the camera's motion."""

    @torch.no_grad()
    def importance(self, pixel_values: Tensor) -> Tensor:
        weight = self.patch_embeddings.projection.weight
        frames = pixel_values.to(torch.promote_types(weight.dtype, torch.float32))
        changes = split_tubelets(compensated_changes(frames, self.config), self.config)
        return motion_importance(self.patch_embeddings(changes, with_bias=False).flatten(2, 3))

    def importance_and_embeddings(self, pixel_values: Tensor) -> tuple[Tensor, None]:
        return self.importance(pixel_values), None  # the changes are not those of the embeddings


class ReferenceSelector(VideoMSTokenSelector):
    """Spends `reference_share` of the budget on tokens that do not move most."""

    reference_share = 0.0

    def keep(self, importance, batch_size, grid, keep_ratio, device, num_kept_tokens=None) -> Tensor:
        _, num_kept, _ = token_counts(self.config, grid, keep_ratio=keep_ratio, num_kept_tokens=num_kept_tokens)
        num_reference = floor_share(self.reference_share, num_kept)
        if importance is None or num_reference == 0:
            return super().keep(importance, batch_size, grid, keep_ratio, device, num_kept_tokens)
        return keep_with_reference(importance, num_kept, num_reference)


def select_for_moving_camera(
    model: VideoMSPreTrainedModel, compensate: bool = True, reference_share: float = 0.0
) -> VideoMSPreTrainedModel:
    """`model` itself, which from now on selects with these; nothing of it is saved with the weights."""
    embeddings = model.base_model.embeddings
    if compensate:
        embeddings.__class__ = CompensatedEmbeddings
    embeddings.selector.__class__ = ReferenceSelector
    embeddings.selector.reference_share = reference_share
    return model


class StaticEmbeddings(VideoMSEmbeddings):
    """Embeddings that prefer the tokens that move least: a control."""

    def importance(self, pixel_values: Tensor) -> Tensor:
        return -super().importance(pixel_values)

    def importance_and_embeddings(self, pixel_values: Tensor) -> tuple[Tensor, Tensor | None]:
        importance, embeddings = super().importance_and_embeddings(pixel_values)
        return -importance.abs(), embeddings  # with a gradient they come from `importance`


def _select_static(model: VideoMSPreTrainedModel) -> None:
    model.base_model.embeddings.__class__ = StaticEmbeddings


# Name -> what changes a model that selects by motion.
SELECTORS = {
    "static": _select_static,
    "camera": select_for_moving_camera,
    "camera+10%": partial(select_for_moving_camera, reference_share=0.1),
    "camera+20%": partial(select_for_moving_camera, reference_share=0.2),
    "motion+10%": partial(select_for_moving_camera, compensate=False, reference_share=0.1),
    "motion+20%": partial(select_for_moving_camera, compensate=False, reference_share=0.2),
}
SELECTIONS = ("motion", "random", "tube", "pixel", *SELECTORS)


def with_selector(model: VideoMSPreTrainedModel, name: str) -> VideoMSPreTrainedModel:
    """`model` itself, which from now on selects by one of `SELECTORS`, or as configured for any other name."""
    if name in SELECTORS:
        SELECTORS[name](model)
    return model


def configured_selection(name: str) -> dict[str, str]:
    """The fields of the configuration for a selection by `name`, whatever a recipe or checkpoint says."""
    is_known = name != "pixel" and name not in SELECTORS
    score = "pixel" if name == "pixel" else "embedding"
    return {"token_selection": name if is_known else "motion", "motion_score": score}
