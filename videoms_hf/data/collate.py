# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""From items to batches: stacking, and the mixtures of clips and labels that fine-tuning trains on."""

import torch
from torch.utils.data import default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2


def collate_clips(items: list[dict]) -> dict:
    """Items stacked: `pixel_values` (B, T, C, H, W), `labels` int64 (B,), and so whatever else there is.

    Items with several clips of a video, (R, T, C, H, W), make a batch of B R clips, a video's clips together and all
    with what its item has beside them.

    Raises:
        ValueError: clips of different shapes.
    """
    shapes = sorted({tuple(item["pixel_values"].shape) for item in items})
    if len(shapes) > 1:
        raise ValueError(f"clips of the shapes {shapes} are to make a batch; all must have the same shape")
    batch = default_collate(items)
    if batch["pixel_values"].ndim == 6:
        num_samples = batch["pixel_values"].shape[1]
        batch = {
            name: value.flatten(0, 1) if name == "pixel_values" else value.repeat_interleave(num_samples, dim=0)
            for name, value in batch.items()
        }
    return batch


class MixingCollator:
    """Batches with soft labels, float32 (B, num_classes) of sum 1: smoothed, and mixed if so wished.

    Every batch is mixed by mixup or by cutmix; with both, by either as often. Partners are neighbours in the batch;
    the share, and cutmix's box, hold for the whole batch and all frames. Clips of uint8 stay so: mixed ones are
    rounded, by half a level at most. What is random is drawn from torch's global generator.

    Args:
        num_classes: classes of the labels.
        label_smoothing: share of a label that is given to all classes alike, in [0, 1].
        mixup, cutmix: the alpha of the Beta distribution that shares are drawn from; 0: off.
    """

    def __init__(self, num_classes: int, label_smoothing: float = 0.0, mixup: float = 0.0, cutmix: float = 0.0):
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; it must be a share, in [0, 1]")
        self.num_classes, self.label_smoothing = num_classes, label_smoothing
        self.mixtures = [
            mixture(alpha=alpha, num_classes=num_classes)
            for mixture, alpha in ((v2.MixUp, mixup), (v2.CutMix, cutmix))
            if alpha > 0
        ]

    def __call__(self, items: list[dict]) -> dict:
        batch = collate_clips(items)
        clips, labels = batch["pixel_values"], batch["labels"]
        if self.mixtures:
            mixture = self.mixtures[int(torch.randint(len(self.mixtures), ()))]
            is_rounded = not clips.is_floating_point() and isinstance(mixture, v2.MixUp)
            clips, labels = mixture(tv_tensors.Video(clips.float() if is_rounded else clips), labels)
            clips = clips.as_subclass(torch.Tensor)
            clips = clips.round_().byte() if is_rounded else clips
        else:
            labels = torch.nn.functional.one_hot(labels, self.num_classes)
        labels = labels * (1 - self.label_smoothing) + self.label_smoothing / self.num_classes
        return {**batch, "pixel_values": clips, "labels": labels.to(torch.float32)}
