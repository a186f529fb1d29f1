# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Videos re-encoded so that training decodes them faster: smaller, with more key frames, easier to decode."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain

import av
import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import functional as F  # noqa: N812

from ..files import atomic_path
from ..reader_videoms import VideoReader, redraws
from .tables import open_row


IMAGES_PER_SECOND = 25.0  # of a folder of images, which does not say


@dataclass(frozen=True)
class Encoding:
    """How videos are encoded, as H.264 in mp4 without sound.

    `short_side` (pixels, even) and `fps` are upper limits: nothing is enlarged, and no frame is doubled, because a
    doubled frame has no motion. `gop` is the distance between key frames: smaller makes decoding from a random start
    cheaper. `crf` is the quality, lower is better; `fastdecode` avoids what makes decoding slow, for larger files.
    """

    short_side: int | None = None
    fps: float | None = None
    gop: int = 16
    crf: int = 20
    preset: str = "veryfast"
    fastdecode: bool = False

    def __post_init__(self):
        if self.short_side is not None and (self.short_side < 16 or self.short_side % 2):
            raise ValueError(f"short_side is {self.short_side}; it must be even and at least 16")
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"fps is {self.fps}; it must be greater than 0")
        if self.gop < 1:
            raise ValueError(f"gop is {self.gop}; it must be at least 1")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf is {self.crf}; it must be from 0 to 51")


def transcode_video(row: Mapping, path: str | os.PathLike, encoding: Encoding) -> None:
    """Encode a row's video or window to a file that appears when it is complete; a variable rate becomes its mean.

    `VideoDecodeError` or `FileNotFoundError` if it cannot be decoded.
    """
    with open_row(row) as video:
        _transcode(video, path, encoding)


@redraws
def _transcode(video: VideoReader, path: str | os.PathLike, encoding: Encoding) -> None:
    rate, num_frames = video.info.fps or IMAGES_PER_SECOND, len(video)
    step = 1.0 if encoding.fps is None else max(rate / encoding.fps, 1.0)
    # With step 1 every frame; else those that are shown when the slower rate shows its own.
    wanted = np.minimum((np.arange(max(round(num_frames / step), 1)) * step + 1e-6).astype(int), num_frames - 1)
    frames = (_resize(frame, encoding.short_side) for frame in video.iterate(wanted))
    options = {"crf": str(encoding.crf), "preset": encoding.preset, "g": str(encoding.gop), "threads": "1"}
    options |= {"tune": "fastdecode"} if encoding.fastdecode else {}
    write_mp4((frame.permute(1, 2, 0).contiguous().numpy() for frame in frames), path, rate / step, options)


def write_mp4(
    pictures: Iterable[np.ndarray], path: str | os.PathLike, fps: float, options: Mapping[str, str] | None = None
) -> None:
    """Write pictures, uint8 (H, W, 3) with H and W even, as H.264 to an mp4 file that appears when it is complete."""
    pictures = iter(pictures)
    first = next(pictures)
    with (
        atomic_path(path) as partial,
        av.open(os.fspath(partial), "w", "mp4", {"movflags": "+faststart"}) as container,
    ):
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options=dict(options or {}))
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in chain([first], pictures):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def _resize(frame: Tensor, short_side: int | None) -> Tensor:
    """A frame whose short side is `short_side` at most, and both sides even, as the colours of H.264 need."""
    height, width = frame.shape[1:]
    scale = 1.0 if short_side is None else min(short_side / min(height, width), 1.0)
    size = [max(round(side * scale / 2), 1) * 2 for side in (height, width)]
    if size == [height, width]:
        return frame
    return F.resize(frame, size, interpolation=F.InterpolationMode.BILINEAR, antialias=True)
