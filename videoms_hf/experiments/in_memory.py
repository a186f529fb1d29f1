# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Clips of a small dataset whose frames fit into memory: every video is decoded once, not once per epoch."""

from collections.abc import Callable

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as tv

from ..data.tables import open_row
from ..reader_videoms import VideoReader, redraws


class ClipsInMemory(Dataset):
    """One random clip of each video, from frames that are decoded and shrunk on construction.

    Draws come from torch's global generator. `choose_frames` and `transform` are those of [`ClipDataset`]; they may be
    replaced, for another run on the same videos.

    Args:
        table: videos and labels; a broken video is an error.
        with_labels: include labels.
        size: shorter side of the frames that are kept, in pixels; smaller videos are not resized.
    """

    def __init__(
        self,
        table: datasets.Dataset,
        with_labels: bool,
        size: int,
        choose_frames: Callable[..., np.ndarray] | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
    ):
        self.table, self.with_labels, self.choose_frames, self.transform = table, with_labels, choose_frames, transform
        self.frames = []
        for row in table:
            with open_row(row) as video:
                self.frames.append(_small_frames(video, size))
        self.labels = table["label"][:]

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict:
        rng = np.random.default_rng(torch.randint(2**62, ()).item())
        frames = self.frames[index]
        clip = self.transform(frames[self.choose_frames(len(frames), rng=rng)])
        return {"pixel_values": clip, **({"labels": self.labels[index]} if self.with_labels else {})}


@redraws
def _small_frames(video: VideoReader, size: int) -> Tensor:
    frames = video.frames()
    return tv.resize(frames, size, antialias=True).contiguous() if min(frames.shape[-2:]) > size else frames
