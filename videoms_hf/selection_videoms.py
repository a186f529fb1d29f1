# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Which tokens and which frames are worth computing on.

Source: Hwang et al., arXiv:2211.10636, section 3 (motion-centric token selection, dynamic frame selection).
B batch, T tubelets (time steps), L patches a time step, N = T * L tokens in raster order (time, row, column), K kept,
V visible. Every choice has the same count for each clip and looks at that clip alone, so shapes are static and a clip
gets the same tokens in any batch. Sorts are stable: the first time step borrows the scores of the second, so ties are
the rule, and the lower index wins on every device.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .configuration_videoms import VideoMSConfig, floor_share, token_counts


class TokenSelection(NamedTuple):
    """Token indices in [0, N), ascending. The two sets are disjoint; what is in neither is dropped."""

    visible_ids: Tensor  # (B, V) what the encoder sees
    target_ids: Tensor  # (B, M) what the decoder reconstructs


def motion_importance(changes: Tensor) -> Tensor:
    """How much each token moves: the norm of its embedding's change, (B, T - 1, L, D) -> (B, N).

    Computed in float32, or in float64 for a model in float64.

    `changes[:, t - 1]` is embedding(t) - embedding(t - 1). The first time step has no predecessor and borrows the
    scores of the second. (Official code: right for T = 8 only.)
    """
    dtype = torch.promote_types(changes.dtype, torch.float32)
    motion = torch.linalg.vector_norm(changes, dim=-1, dtype=dtype)  # (B, T - 1, L)
    return torch.cat([motion[:, :1], motion], dim=1).flatten(1)


def stable_order(values: Tensor, descending: bool = False) -> Tensor:
    """Indices that sort each row of (B, N); of equal values the lower index comes first."""
    if torch.onnx.is_in_onnx_export():  # no stable sort there, but ONNX defines that TopK prefers the lower index
        return values.topk(values.shape[1], dim=1, largest=descending).indices
    return values.sort(dim=1, descending=descending, stable=True).indices


def most_important(importance: Tensor, num_kept: int) -> Tensor:
    """Indices of the `num_kept` highest scores, highest first, (B, N) -> (B, K)."""
    return stable_order(importance, descending=True)[:, :num_kept]


def split_kept(kept_ids: Tensor, num_visible: int, noise: Tensor) -> TokenSelection:
    """Make the `num_visible` kept tokens with the smallest noise visible and the others targets.

    `noise` (B, K) belongs to `kept_ids` (B, K) in the order given: descending importance for motion selection.
    """
    kept_ids = kept_ids.gather(1, stable_order(noise))
    return TokenSelection(
        kept_ids[:, :num_visible].sort(dim=1).values,
        kept_ids[:, num_visible:].sort(dim=1).values,
    )


def split_masked(bool_masked_pos: Tensor, num_tokens: int) -> TokenSelection:
    """Indices from a mask (B, N), True = masked: the False ones are visible, the True ones targets.

    Raises:
        ValueError: The mask has another shape, masks unequal counts in a batch, or masks all tokens or none.
    """
    if bool_masked_pos.ndim != 2 or bool_masked_pos.shape[1] != num_tokens:
        raise ValueError(
            f"bool_masked_pos has the shape {tuple(bool_masked_pos.shape)}; it must be (batch, {num_tokens}), "
            "one value a token of this clip"
        )
    bool_masked_pos = bool_masked_pos.bool()
    counts = bool_masked_pos.sum(dim=1)
    num_masked = int(counts[0])
    if not bool((counts == num_masked).all()):
        raise ValueError(
            f"bool_masked_pos masks {counts.tolist()} tokens of the clips; it must mask equally many in each clip"
        )
    if not 0 < num_masked < num_tokens:
        raise ValueError(
            f"bool_masked_pos masks {num_masked} of {num_tokens} tokens; it must mask some and leave some"
        )
    order = stable_order(bool_masked_pos.to(torch.uint8))
    return TokenSelection(order[:, : num_tokens - num_masked], order[:, num_tokens - num_masked :])


def fixed_noise(num: int, device: torch.device) -> Tensor:
    """The same `num` uniform-looking values in [0, 1) on every device, at every call: integers hashed by shifts.

    No generator is involved, so that it can be compiled and exported.
    """
    x = torch.arange(1, num + 1, device=device, dtype=torch.int64)
    for _ in range(2):
        x = ((x ^ (x >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return (x ^ (x >> 16)).to(torch.float32) / 2**32


def informative_slices(
    importance: Tensor, num_candidates: int, num_drawn: int, kept_share: float, noise: Tensor | None
) -> Tensor:
    """Draw the time steps in which most of the important tokens lie, (B, N) -> (B, num_drawn) ascending.

    A candidate's weight is its number of tokens among the `kept_share` most important of all. With `noise`
    (B, num_candidates), uniform in [0, 1), steps are drawn without replacement with probability proportional to the
    weight; those of weight 0 only when nothing else is left. Without noise the heaviest are taken, on a tie the
    earlier.
    """
    num_tokens = importance.shape[1]
    kept_ids = most_important(importance, floor_share(kept_share, num_tokens))
    step = kept_ids // (num_tokens // num_candidates)
    weight = torch.zeros(importance.shape[0], num_candidates, device=importance.device)
    weight = weight.scatter_add(1, step, torch.ones_like(step, dtype=weight.dtype))
    if noise is None:
        order = stable_order(weight, descending=True)
    else:
        # Successive weighted draws without replacement are the smallest of exponential times with these rates.
        # Steps of weight 0 come after all others: their times are lifted beyond any that a weight of 1 can reach.
        times = -torch.log(noise.clamp_min(torch.finfo(torch.float32).tiny))
        order = stable_order(torch.where(weight > 0, times / weight.clamp_min(1), times + 1e3))
    return order[:, :num_drawn].sort(dim=1).values


class VideoMSFrameSelector(nn.Module):
    """Chooses the time steps of a clip out of `candidate_ratio` times as many (paper: dynamic frame selection).

    It goes before any token selector and has no weights. In training steps are drawn by torch's global generator; in
    `eval()` the steps with the most important tokens are taken.
    """

    def __init__(self, config: VideoMSConfig):
        super().__init__()
        self.candidate_ratio = config.candidate_ratio
        self.kept_share = config.pretraining_keep_ratio

    def forward(self, importance: Tensor, num_candidates: int, noise: Tensor | None = None) -> Tensor:
        """Time steps to go on with, (B, N) -> (B, T) ascending; `noise` as for [`informative_slices`]."""
        num_drawn = floor_share(1 / self.candidate_ratio, num_candidates)
        if num_drawn < 1:
            raise ValueError(
                f"{num_candidates} candidate time steps leave none at candidate_ratio {self.candidate_ratio}; "
                "give the model more frames"
            )
        shape = (importance.shape[0], num_candidates)
        if noise is None and self.training:
            noise = torch.rand(shape, device=importance.device)
        elif noise is not None and noise.shape != shape:
            raise ValueError(
                f"slice_noise has the shape {tuple(noise.shape)}; it must be {shape}, one value a candidate time step"
            )
        return informative_slices(importance, num_candidates, num_drawn, self.kept_share, noise)


class VideoMSTokenSelector(nn.Module):
    """The masking module: turns motion scores into token indices by the configured method. It has no weights.

    In training the noise comes from torch's global generator; in `eval()` it is a fixed sequence, the same for every
    clip, so that an evaluation can be repeated and compared.
    """

    def __init__(self, config: VideoMSConfig):
        super().__init__()
        self.config = config

    @property
    def uses_motion(self) -> bool:
        """Whether the tokens are chosen by their motion, so that scores are needed."""
        return self.config.token_selection == "motion"

    def keep(
        self, importance: Tensor | None, batch_size: int, grid: tuple, keep_ratio: float | None, device
    ) -> Tensor:
        """Tokens to encode in classification and feature extraction, (B, K) ascending."""
        num_tokens, num_kept, _ = token_counts(self.config, grid, keep_ratio=keep_ratio)
        if num_kept == num_tokens:
            return torch.arange(num_tokens, device=device).expand(batch_size, -1)
        if self.uses_motion:
            return most_important(importance, num_kept).sort(dim=1).values
        num_steps = grid[0] if self.config.token_selection == "tube" else 1  # a tube: the same places in every step
        num_places = num_tokens // num_steps
        order = stable_order(self._noise(batch_size, num_places, None, device))
        return _repeat_over_time(order[:, : num_kept // num_steps].sort(dim=1).values, num_steps, num_places)

    def split(self, importance: Tensor | None, batch_size: int, grid: tuple, noise: Tensor | None, device):
        """Visible and target tokens of pre-training.

        `noise`: (B, K) in order of descending importance for "motion", (B, N) in raster order for "random" and "none",
        (B, L) for "tube"; the smallest become visible. Drawn here if not given.
        """
        num_tokens, num_visible, num_targets = token_counts(self.config, grid, for_pretraining=True)
        if self.uses_motion:
            num_kept = num_visible + num_targets
            noise = self._noise(batch_size, num_kept, noise, device)
            return split_kept(most_important(importance, num_kept), num_visible, noise)
        num_steps = grid[0] if self.config.token_selection == "tube" else 1
        num_places = num_tokens // num_steps
        place_ids = torch.arange(num_places, device=device).expand(batch_size, -1)
        places = split_kept(place_ids, num_visible // num_steps, self._noise(batch_size, num_places, noise, device))
        return TokenSelection(*(_repeat_over_time(ids, num_steps, num_places) for ids in places))

    def _noise(self, batch_size: int, num: int, noise: Tensor | None, device) -> Tensor:
        if noise is not None:
            if noise.shape != (batch_size, num):
                raise ValueError(
                    f"noise has the shape {tuple(noise.shape)}; it must be {(batch_size, num)} for token_selection "
                    f"{self.config.token_selection!r} and this clip"
                )
            return noise
        if self.training:
            return torch.rand(batch_size, num, device=device)
        return fixed_noise(num, device).expand(batch_size, -1)


def _repeat_over_time(place_ids: Tensor, num_steps: int, num_patches: int) -> Tensor:
    """The same places in each of `num_steps` steps of `num_patches` tokens, (B, P) -> (B, T * P) ascending."""
    steps = torch.arange(num_steps, device=place_ids.device)[:, None] * num_patches
    return (steps + place_ids[:, None]).flatten(1)
