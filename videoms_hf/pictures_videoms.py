# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""From a decoder's frames to RGB pictures, upright as displayed."""

from typing import NamedTuple

import numpy as np


class Crop(NamedTuple):
    """A part of a displayed frame, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


class Painter:
    """Turns the frames of one video, which are `height` x `width` before they are displayed, into pictures."""

    def __init__(self, height: int, width: int):
        from av.video.reformatter import VideoReformatter

        self.height, self.width = height, width
        self._reformatter = VideoReformatter()  # one for all frames: setting it up takes longer than a small frame
        self._turn: tuple[bool, int, int] | None = None  # that of the first frame holds for the whole video

    def paint(self, frame) -> np.ndarray:
        """Picture (H, W, 3), RGB uint8: by the stream's matrix and range and swscale's usual tables, without alpha.

        A view of memory that the frame owns.
        """
        self._turn = self._turn or _turn_of(frame)
        # RGB is full range: without saying so, grey of limited range would stay limited.
        frame = self._reformatter.reformat(frame, self.width, self.height, "rgb24", dst_color_range="JPEG", threads=1)
        plane, (is_swapped, down, right) = frame.planes[0], self._turn
        rows = np.frombuffer(plane, dtype=np.uint8).reshape(-1, plane.line_size)
        picture = rows[: frame.height, : 3 * frame.width].reshape(frame.height, frame.width, 3)
        return (picture.swapaxes(0, 1) if is_swapped else picture)[::down, ::right]


def _turn_of(frame) -> tuple[bool, int, int]:
    """Whether rows and columns swap, and the steps (1 or -1) down and right: x' = a x + c y, y' = b x + d y."""
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 17 and 18 do not know every kind of side data
        matrix = None
    a, b, _, c, d = (1, 0, 0, 0, 1) if matrix is None else np.frombuffer(matrix, dtype=np.int32)[:5].tolist()
    is_swapped = abs(a) < abs(b)
    right, down = (c, b) if is_swapped else (a, d)
    return is_swapped, -1 if down < 0 else 1, -1 if right < 0 else 1
