# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Motion-centric token selection and dynamic frame selection: which tokens and frames are worth computing on.

Source: Hwang et al., arXiv:2211.10636, section 3. B batch, T time steps (tubelets), L tokens per time step,
N = T * L tokens in raster order (time, row, column), K kept, V visible, M targets, D width.

Every method selects the same number of tokens in each clip, so shapes are static, and looks at that clip only, so its
tokens do not depend on the batch. Sorts are stable, so that equal scores are ordered by index on every device: ties
are the rule, because the first time step takes the scores of the second.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .configuration_videoms import VideoMSConfig, floor_share, token_counts


class TokenSelection(NamedTuple):
    """Token indices in [0, N), ascending. The sets are disjoint; tokens in neither are dropped."""

    visible_ids: Tensor  # (B, V) encoded
    target_ids: Tensor  # (B, M) predicted


def motion_importance(changes: Tensor) -> Tensor:
    """Motion of every token: the norm of the change of its embedding, (B, T - 1, L, D) -> (B, N), in float32 or 64.

    `changes[:, t - 1]` is embedding(t) - embedding(t - 1). The first time step has no predecessor and takes the scores
    of the second.
    """
    # Official code: correct for T = 8 only.
    dtype = torch.promote_types(changes.dtype, torch.float32)
    motion = torch.linalg.vector_norm(changes, dim=-1, dtype=dtype)  # (B, T - 1, L)
    return torch.cat([motion[:, :1], motion], dim=1).flatten(1)


def stable_order(values: Tensor, descending: bool = False) -> Tensor:
    """Indices that sort each row of (B, N); among equal values the lower index comes first."""
    if torch.onnx.is_in_onnx_export():  # ONNX has no stable sort, but its TopK prefers the lower index
        return values.topk(values.shape[1], dim=1, largest=descending).indices
    return values.sort(dim=1, descending=descending, stable=True).indices


def most_important(importance: Tensor, num_kept: int) -> Tensor:
    """Indices of the `num_kept` highest scores, highest first, (B, N) -> (B, K)."""
    return stable_order(importance, descending=True)[:, :num_kept]


def check_shape(name: str, tensor: Tensor, shape: tuple[int, int], meaning: str) -> None:
    """Raise `ValueError` if a tensor has another shape; `meaning` ends the message."""
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it must be {shape}{meaning}")


def split_kept(kept_ids: Tensor, num_visible: int, noise: Tensor) -> TokenSelection:
    """Split kept tokens (B, K): the `num_visible` with the smallest noise (B, K) are visible, the others targets."""
    kept_ids = kept_ids.gather(1, stable_order(noise))
    return TokenSelection(kept_ids[:, :num_visible].sort(dim=1).values, kept_ids[:, num_visible:].sort(dim=1).values)


def split_masked(bool_masked_pos: Tensor, batch_size: int, num_tokens: int) -> TokenSelection:
    """Split all tokens by a mask (B, N): True tokens are targets, False ones visible.

    Raises:
        ValueError: The mask has the wrong shape, masks all tokens or none, or masks more in one clip than in another.
    """
    check_shape("bool_masked_pos", bool_masked_pos, (batch_size, num_tokens), ": (batch, tokens of a clip)")
    counts = bool_masked_pos.bool().sum(dim=1).tolist()
    if len(set(counts)) > 1:
        raise ValueError(f"bool_masked_pos masks {counts} tokens; it must mask equally many in each clip")
    num_visible = num_tokens - counts[0]
    if not 0 < num_visible < num_tokens:
        raise ValueError(f"bool_masked_pos masks {counts[0]} of {num_tokens} tokens; it must mask some but not all")
    order = stable_order(bool_masked_pos.bool().to(torch.uint8))
    return TokenSelection(order[:, :num_visible], order[:, num_visible:])


def fixed_noise(num: int, device: torch.device) -> Tensor:
    """`num` uniformly distributed values in [0, 1), the same on every device and at every call.

    They are hashed integers: no generator is involved, so the function can be compiled and exported.
    """
    x = torch.arange(1, num + 1, device=device, dtype=torch.int64)
    for _ in range(2):
        x = ((x ^ (x >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return (x ^ (x >> 16)).to(torch.float32) / 2**32


def informative_slices(
    importance: Tensor, num_candidates: int, num_drawn: int, kept_share: float, noise: Tensor | None
) -> Tensor:
    """Select the time steps that hold most of the important tokens, (B, N) -> (B, num_drawn), ascending.

    The weight of a candidate is its number of tokens among the `kept_share` most important ones of all candidates.
    With `noise` (B, num_candidates), uniform in [0, 1), time steps are drawn without replacement with probabilities
    proportional to the weights; those of weight 0 are used only if no others are left. Without noise the time steps
    with the largest weights are selected, the earlier one on a tie.
    """
    num_tokens = importance.shape[1]
    kept_ids = most_important(importance, floor_share(kept_share, num_tokens))
    step = kept_ids // (num_tokens // num_candidates)
    weight = (step[..., None] == torch.arange(num_candidates, device=step.device)).sum(dim=1)
    if noise is None:
        order = stable_order(weight, descending=True)
    else:
        # Weighted draws without replacement are the smallest of exponential variables with the weights as rates.
        # Weight 0 comes last: its variables are shifted beyond the largest that a weight of 1 can give.
        times = -torch.log(noise.clamp_min(torch.finfo(torch.float32).tiny))
        order = stable_order(torch.where(weight > 0, times / weight.clamp_min(1), times + 1e3))
    return order[:, :num_drawn].sort(dim=1).values


class VideoMSFrameSelector(nn.Module):
    """Dynamic frame selection: selects the time steps of a clip from `candidate_ratio` times as many.

    It has no weights. In training, time steps are drawn with torch's global generator; in evaluation, those with the
    most important tokens are selected.
    """

    def __init__(self, config: VideoMSConfig):
        super().__init__()
        self.config = config

    def forward(self, importance: Tensor, num_candidates: int, noise: Tensor | None = None) -> Tensor:
        """Selected time steps, (B, N) -> (B, T), ascending; for `noise` see [`informative_slices`]."""
        ratio, shape = self.config.candidate_ratio, (importance.shape[0], num_candidates)
        num_drawn = floor_share(1 / ratio, num_candidates)
        if num_drawn < 1:
            raise ValueError(
                f"{num_candidates} candidate time steps leave none at candidate_ratio {ratio}; use more frames"
            )
        if noise is None and self.training:
            noise = torch.rand(shape, device=importance.device)
        elif noise is not None:
            check_shape("slice_noise", noise, shape, ": (batch, candidate time steps)")
        return informative_slices(importance, num_candidates, num_drawn, self.config.pretraining_keep_ratio, noise)


class VideoMSTokenSelector(nn.Module):
    """Selects tokens by the configured method. It has no weights.

    In training the noise comes from torch's global generator; in evaluation it is [`fixed_noise`] for every clip.
    """

    def __init__(self, config: VideoMSConfig):
        super().__init__()
        self.config = config

    def keep(self, importance, batch_size: int, grid: tuple, keep_ratio, device, num_kept_tokens=None) -> Tensor:
        """Tokens encoded in classification and feature extraction, (B, K), ascending; see [`token_counts`]."""
        num_tokens, num_kept, _ = token_counts(self.config, grid, False, keep_ratio, num_kept_tokens)
        if num_kept == num_tokens:
            return torch.arange(num_tokens, device=device).expand(batch_size, -1)
        if self.config.token_selection == "motion":
            return most_important(importance, num_kept).sort(dim=1).values
        return self._split_places(batch_size, grid, num_kept, None, device).visible_ids

    def split(self, importance, batch_size: int, grid: tuple, noise, device) -> TokenSelection:
        """Visible and target tokens of pre-training. Those with the smallest `noise` are visible.

        `noise` is (B, K) in order of descending importance for "motion", (B, N) in raster order for "random" and
        "none", (B, L) for "tube"; by default it is generated here.
        """
        _, num_visible, num_targets = token_counts(self.config, grid, for_pretraining=True)
        if self.config.token_selection == "motion":
            return self._split(most_important(importance, num_visible + num_targets), num_visible, noise)
        return self._split_places(batch_size, grid, num_visible, noise, device)

    def _split_places(self, batch_size: int, grid: tuple, num_visible: int, noise, device) -> TokenSelection:
        """Split all tokens at random or, for "tube", those of one time step, repeated over time."""
        num_steps = grid[0] if self.config.token_selection == "tube" else 1
        place_ids = torch.arange(math.prod(grid) // num_steps, device=device).expand(batch_size, -1)
        places = self._split(place_ids, num_visible // num_steps, noise)
        first_ids = torch.arange(num_steps, device=device)[:, None] * place_ids.shape[1]
        return TokenSelection(*((first_ids + ids[:, None]).flatten(1) for ids in places))

    def _split(self, ids: Tensor, num_visible: int, noise: Tensor | None) -> TokenSelection:
        if noise is not None:
            meaning = f" for token_selection {self.config.token_selection!r} and this clip"
            check_shape("noise", noise, tuple(ids.shape), meaning)
        elif self.training:
            noise = torch.rand(ids.shape, device=ids.device)
        else:
            noise = fixed_noise(ids.shape[1], ids.device).expand(ids.shape[0], -1)
        return split_kept(ids, num_visible, noise)
