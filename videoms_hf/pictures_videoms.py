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
        """Its rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


class Painter:
    """Turns the frames of one video, which are `height` x `width` before they are displayed, into pictures."""

    def __init__(self, height: int, width: int):
        from av.video.reformatter import VideoReformatter

        self.height, self.width = height, width
        self._reformatter = VideoReformatter()  # one for all frames: setting it up takes longer than a small frame
        self._matrix, self._is_first = None, True

    def paint(self, frame) -> np.ndarray:
        """Picture (H, W, 3), RGB uint8: by the stream's matrix and range and swscale's usual tables, without alpha.

        A view of memory that the frame owns.
        """
        if self._is_first:  # the display matrix holds for the whole video
            self._matrix, self._is_first = _display_matrix(frame), False
        # RGB is full range: without saying so, grey of limited range would stay limited.
        frame = self._reformatter.reformat(frame, self.width, self.height, "rgb24", dst_color_range="JPEG", threads=1)
        plane = frame.planes[0]
        rows = np.frombuffer(plane, dtype=np.uint8).reshape(-1, plane.line_size)
        return _upright(rows[: frame.height, : 3 * frame.width].reshape(frame.height, frame.width, 3), self._matrix)


def _display_matrix(frame) -> np.ndarray | None:
    """The 3 x 3 matrix from decoded to displayed places; `None` if there is none, or none that PyAV can read."""
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 17 and 18 do not know every kind of side data
        return None
    return None if data is None else np.frombuffer(data, dtype=np.int32).reshape(3, 3).copy()


def _upright(image: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """The picture (H, W, ...) turned by quarter turns and mirrored: x' = a x + c y, y' = b x + d y."""
    if matrix is None:
        return image
    (a, b), (c, d) = matrix[:2, :2].tolist()
    if abs(a) < abs(b):
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
