# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""From items to batches: stacking, and mixing of clips and labels in fine-tuning."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.data import default_collate

from .seeding import seeded


def collate_clips(items: list[dict]) -> dict:
    """Stacked items: `pixel_values` (B, T, C, H, W), `labels` int64 (B,), and all other values.

    Items with R clips of a video, (R, T, C, H, W), give B * R clips, those of a video next to each other, with its
    other values repeated. `ValueError` if clips have different shapes.
    """
    shapes = sorted({tuple(item["pixel_values"].shape) for item in items})
    if len(shapes) > 1:
        raise ValueError(f"clips of the shapes {shapes} cannot make a batch; all must have the same shape")
    batch = default_collate(items)
    if batch["pixel_values"].ndim == 6:
        clips = batch.pop("pixel_values")
        batch = {name: value.repeat_interleave(clips.shape[1], dim=0) for name, value in batch.items()}
        batch["pixel_values"] = clips.flatten(0, 1)
    return batch


class MixingCollator:
    """Batches with soft labels, float32 (B, num_classes) of sum 1: smoothed and, optionally, mixed.

    Every batch is mixed by mixup or cutmix; if both are on, by one of them with equal probability. As in the official
    code, a clip's partner is its counterpart in the reversed batch; the middle video of an odd batch is not mixed, so
    that no clip is mixed with another of its own video. The share, and cutmix's box, are the same for the whole batch
    and all frames. uint8 clips stay uint8, rounded. Random numbers come from torch's global generator.

    Args:
        num_classes: number of classes.
        label_smoothing: share of a label that is spread over all classes, in [0, 1].
        mixup, cutmix: alpha of the Beta distribution of shares; 0: off.
    """

    def __init__(self, num_classes: int, label_smoothing: float = 0.0, mixup: float = 0.0, cutmix: float = 0.0):
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; it must be a share, in [0, 1]")
        self.num_classes, self.label_smoothing = num_classes, label_smoothing
        self.mixtures = [(mix, alpha) for mix, alpha in ((mixup_clips, mixup), (cutmix_clips, cutmix)) if alpha > 0]

    def __call__(self, items: list[dict]) -> dict:
        batch = collate_clips(items)
        clips, labels = batch["pixel_values"], one_hot(batch["labels"], self.num_classes).float()
        if self.mixtures:
            mix, alpha = self.mixtures[int(torch.randint(len(self.mixtures), ()))]
            share = torch.distributions.Beta(alpha, alpha).sample(()).item()
            own = torch.arange(len(clips))
            partners, num_samples = own.flip(0), len(clips) // len(items)
            partners = torch.where(partners // num_samples == own // num_samples, own, partners)
            clips, share = mix(clips, clips[partners], share)
            labels = share * labels + (1 - share) * labels[partners]
        labels = labels * (1 - self.label_smoothing) + self.label_smoothing / self.num_classes
        return {**batch, "pixel_values": clips, "labels": labels}


def mixup_clips(clips: Tensor, others: Tensor, share: float) -> tuple[Tensor, float]:
    """`share` of each clip plus 1 - `share` of its partner, and the share."""
    mixed = clips.float().mul_(share).add_(others, alpha=1 - share)
    return (mixed if clips.is_floating_point() else mixed.round_().byte()), share


def cutmix_clips(clips: Tensor, others: Tensor, share: float) -> tuple[Tensor, float]:
    """Clips with a random box of their partners (1 - `share` of the area, or less at an edge), and the true share."""
    sides = clips.shape[-2:]
    centres = [int(torch.randint(side, ())) for side in sides]
    halves = [int(0.5 * math.sqrt(1 - share) * side) for side in sides]
    top, left = (max(centre - half, 0) for centre, half in zip(centres, halves, strict=True))
    bottom, right = (min(c + half, side) for c, half, side in zip(centres, halves, sides, strict=True))
    clips = clips.clone()
    clips[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    return clips, 1 - (bottom - top) * (right - left) / math.prod(sides)


def collate_seeded(items: list[dict], collate: Callable[[list[dict]], dict], seed: int) -> dict:
    """`collate(items)`, whose draws (for mixup) depend on the seed and the clips alone."""
    numbers = [item.pop("clip_number") for item in items]
    if not any(items):
        return {}  # a batch that a resumed stream skips
    with seeded(seed, *numbers):
        return collate(items)
