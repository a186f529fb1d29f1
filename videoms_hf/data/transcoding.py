# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Videos encoded anew so that training decodes them faster: smaller, with more key frames, easier to decode."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain

import av
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F  # noqa: N812

from ..decoding_videoms import VideoInfo, iterate_frames, probe_video
from ..files import atomic_path
from .frame_folders import decode_row
from .tables import video_source, window_of


CHUNK_BYTES = 128 << 20  # decoded frames that are held at once
PICTURES_PER_SECOND = 25.0  # of a folder of pictures, which does not say


@dataclass(frozen=True)
class Encoding:
    """How videos are encoded, as H.264 in mp4 without sound.

    `short_side` (pixels, even) and `fps` are upper limits: nothing is enlarged, and no frame is doubled, for a doubled
    frame has no motion. `gop` is the distance of key frames, by which decoding from a random start gets cheaper; `crf`
    the quality, lower is better; `fastdecode` leaves out what makes decoding slow, for larger files.
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
    """Encode a row's video, or the part of it that the row is, to a file that appears when it is complete.

    A variable rate becomes its mean.

    Raises:
        VideoDecodeError, FileNotFoundError: the video cannot be decoded.
    """
    source = video_source(row)
    is_folder = isinstance(source, str) and os.path.isdir(source)
    info = None if is_folder else probe_video(source)
    rate = PICTURES_PER_SECOND if info is None else info.fps
    step = 1.0 if encoding.fps is None else max(rate / encoding.fps, 1.0)
    frames = (_resize(part, encoding.short_side) for part in _frames(row, step, info))
    first = next(frames)
    with (
        atomic_path(path) as partial,
        av.open(os.fspath(partial), "w", "mp4", {"movflags": "+faststart"}) as container,
    ):
        options = {"crf": str(encoding.crf), "preset": encoding.preset, "g": str(encoding.gop), "threads": "1"}
        options |= {"tune": "fastdecode"} if encoding.fastdecode else {}
        stream = container.add_stream("libx264", rate=Fraction(rate / step).limit_denominator(1001), options=options)
        stream.height, stream.width = first.shape[2:]
        stream.pix_fmt = "yuv420p"
        for part in chain([first], frames):
            for picture in part.permute(0, 2, 3, 1).contiguous().numpy():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def _frames(row: Mapping, step: float, info: VideoInfo | None) -> Iterator[Tensor]:
    """Yields the frames to encode, uint8 (T, 3, H, W), as many at a time as `CHUNK_BYTES` allows."""
    window = window_of(row)
    is_whole = all(second is None for second in window.values())
    found, size = [], 0
    if info is not None and is_whole:
        num_frames = info.num_frames
    else:
        size = decode_row(row, lambda num_frames: found.append(num_frames) or [0])[0].numel()
        num_frames = found[-1]
    # With step 1 every frame; else those that are shown when the slower rate shows its own.
    wanted = np.minimum((np.arange(max(round(num_frames / step), 1)) * step + 1e-6).astype(int), num_frames - 1)
    if info is not None and (is_whole or not info.is_regular):
        for frame in iterate_frames(video_source(row), wanted.tolist(), **window):
            yield frame[None]
        return
    for part in np.array_split(wanted, max(-(-len(wanted) * size // CHUNK_BYTES), 1)):
        yield decode_row(row, part)


def _resize(frames: Tensor, short_side: int | None) -> Tensor:
    """Frames whose short side is `short_side` at most and both are even, as the colours of H.264 need."""
    height, width = frames.shape[2:]
    scale = 1.0 if short_side is None else min(short_side / min(height, width), 1.0)
    size = [max(round(side * scale / 2), 1) * 2 for side in (height, width)]
    if size == [height, width]:
        return frames
    return F.resize(frames, size, interpolation=F.InterpolationMode.BILINEAR, antialias=True).to(torch.uint8)
