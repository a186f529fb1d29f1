# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""What every open video offers, be it a file, a folder of images or an array: ask, choose frames, decode them."""

import functools
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch

from .sources_videoms import VideoDecodeError


MAX_CLIP_BYTES = 16 << 30  # of the frames that one call returns


class Crop(NamedTuple):
    """A part of a displayed frame, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


class VideoInfo(NamedTuple):
    """What is known of a video. `num_frames` counts the frames that can be decoded, whatever the header promises."""

    num_frames: int
    fps: float  # mean frames per second; 0: unknown
    width: int  # as displayed
    height: int
    duration_seconds: float
    promised_frames: int = 0  # by the header; 0: it promises none
    codec: str = ""


class StaleInfoError(VideoDecodeError):
    """Decoding showed that the length or size which a reader gave before is wrong; it now gives the right one."""


def redraws(read: Callable) -> Callable:
    """Decorator of a function that chooses frames by a reader's length or size, and decodes them.

    It is called again if these prove wrong, so it must seed its own draws.
    """

    @functools.wraps(read)
    def repeated(*args, **kwargs):
        while True:
            try:
                return read(*args, **kwargs)
            except StaleInfoError:
                continue

    return repeated


class VideoReader(ABC):
    """An open video: its length, `size` and `info`, and any of its frames; a context manager.

    `len(video)` is the number of frames (of the window, if there is one). Frames are RGB uint8 (T, 3, H, W), upright
    as displayed: views of channels-last memory. Where the file turns out to differ from what the reader said of it,
    [`StaleInfoError`] is raised; choose frames again, as [`redraws`] does.

    Raises:
        VideoDecodeError: whatever is wrong with the video; also a frame that it does not have, or a limit
            (`MAX_FRAME_PIXELS`, `MAX_CLIP_BYTES`, `MAX_SECONDS`, packets_videoms.py's `MAX_PACKETS`).
        ValueError: a negative frame number, a crop outside the frame.
    """

    def __init__(self, name: str):
        self.name = name  # for messages
        self._size: tuple[int, int] | None = None
        self._given_size: tuple[int, int] | None = None  # to the caller
        self._ahead: tuple[np.ndarray, Iterator] | None = None  # wanted frames, and what remains of their decoding

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._ahead = self._size = None

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def info(self) -> VideoInfo:
        """What is known of the whole video, whatever the window."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames as displayed; the first frame is decoded if none has been."""
        if self._size is None:
            self._read(self._seek, np.zeros(1, dtype=np.int64))
        self._given_size = self._size
        return self._size

    def window(self, start_seconds: float | None = None, end_seconds: float | None = None) -> "VideoReader":
        """This reader, from now on with only the frames that are shown in [start, end) seconds after the first."""
        if start_seconds is not None or end_seconds is not None:
            reason = f"{start_seconds} to {end_seconds} s was asked for, but images have no times"
            raise VideoDecodeError(self.name, reason)
        return self

    def seek(self, indices: Iterable[int]) -> None:
        """Decode the first of these frames, by which `size` is known; asked for the same ones, `frames` continues."""
        self._read(self._seek, np.unique(_frame_numbers(indices)))

    def frames(self, indices: Iterable[int] | None = None, crop: Crop | None = None) -> torch.Tensor:
        """Frames by their numbers from 0, in any order and repeated or not; `None`: all. Only the crop is kept."""
        indices = range(len(self)) if indices is None else indices
        return self.clips([indices], None if crop is None else [crop])[0]

    def clips(self, indices: Sequence[Iterable[int]], crops: Sequence[Crop] | None = None) -> list[torch.Tensor]:
        """Several clips, each of its own frames and with its own crop; a frame that several share is decoded once."""
        if not indices:
            raise ValueError("no clip was asked for; give the frames of at least one")
        if crops is not None and len(crops) != len(indices):
            raise ValueError(f"{len(crops)} crops were given for {len(indices)} clips; there must be one for each")
        return self._read(self._collect, list(map(_frame_numbers, indices)), crops)

    def iterate(self, indices: Iterable[int]) -> Iterator[torch.Tensor]:
        """Yields frames (3, H, W) of ascending numbers by one decoding: for more than memory holds."""
        wanted, waiting, done = _frame_numbers(indices), {}, set()
        self._ahead = None
        for number in wanted.tolist():
            while number not in waiting:
                found, picture = self._read(self._next, wanted, done)
                waiting[found] = picture.copy()
            for passed in [passed for passed in waiting if passed < number]:
                del waiting[passed]
            yield torch.from_numpy(waiting[number]).permute(2, 0, 1)

    def _read(self, read: Callable, *args):
        """`read(*args)`; files try again with less trust in them."""
        return read(*args)

    @abstractmethod
    def _pictures(self, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number, picture uint8 (H, W, 3)) of ascending frame numbers, each once, in any order."""

    def _seek(self, wanted: np.ndarray) -> None:
        if self._ahead is not None and np.array_equal(self._ahead[0], wanted):
            return
        pictures = self._pictures(wanted)
        first = next(pictures)
        self._ahead, self._size = (wanted, chain([first], pictures)), first[1].shape[:2]
        if self._given_size not in (None, self._size):
            self._given_size = None
            raise StaleInfoError(self.name, f"frames are {self._size[1]} x {self._size[0]}, not what its header says")

    def _next(self, wanted: np.ndarray, done: set[int]) -> tuple[int, np.ndarray]:
        if self._ahead is None:
            self._seek(np.setdiff1d(wanted, list(done)))
        number, picture = next(self._ahead[1])
        done.add(number)
        return number, picture

    def _collect(self, lists: list[np.ndarray], crops: Sequence[Crop] | None) -> list[torch.Tensor]:
        wanted = np.unique(np.concatenate(lists))
        self._seek(wanted if wanted.size else np.zeros(1, dtype=np.int64))
        height, width = self._size
        crops = [Crop(0, 0, height, width)] * len(lists) if crops is None else crops
        num_bytes = 0
        for numbers, crop in zip(lists, crops, strict=True):
            if min(crop.top, crop.left) < 0 or crop.top + crop.height > height or crop.left + crop.width > width:
                raise ValueError(f"{crop} is not within frames of {height} x {width}")
            if min(crop.height, crop.width) < 1:
                raise ValueError(f"{crop} is empty; height and width must be at least 1")
            num_bytes += len(numbers) * crop.height * crop.width * 3
        if num_bytes > MAX_CLIP_BYTES:
            count = f"{sum(map(len, lists))} frames of {width} x {height} were asked for, {num_bytes} bytes"
            raise VideoDecodeError(self.name, f"{count}, but {MAX_CLIP_BYTES} are allowed: ask for fewer at once")
        clips, places = [], defaultdict(list)
        for numbers, crop in zip(lists, crops, strict=True):
            clips.append(np.empty((len(numbers), crop.height, crop.width, 3), dtype=np.uint8))
            for frame, number in zip(clips[-1], numbers.tolist(), strict=True):
                places[number].append((frame, crop.slices))
        (_, pictures), self._ahead = self._ahead, None
        for number, picture in pictures if wanted.size else ():
            for frame, part in places[number]:
                frame[:] = picture[part]
        return [torch.from_numpy(clip).permute(0, 3, 1, 2) for clip in clips]


def _frame_numbers(indices: Iterable[int]) -> np.ndarray:
    """Frame numbers int64 (n,)."""
    wanted = np.asarray(indices if hasattr(indices, "__len__") else list(indices))
    if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iu"):
        raise ValueError(f"indices must be a list of integers, not of shape {wanted.shape} and type {wanted.dtype}")
    wanted = wanted.astype(np.int64)
    if wanted.min(initial=0) < 0:
        raise ValueError(f"frame numbers count from 0, but indices holds {wanted.min()}")
    return wanted
