# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""From a decoder's frames to RGB pictures: upright as displayed, whole or a part of them scaled to a size."""

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import numpy as np


class Crop(NamedTuple):
    """A part of a displayed frame in pixels, and the height and width that it is scaled to; `None`: it is only cut."""

    top: int
    left: int
    height: int
    width: int
    size: tuple[int, int] | None = None

    @property
    def output_size(self) -> tuple[int, int]:
        return (self.height, self.width) if self.size is None else self.size

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


class Painter:
    """Turns the frames of one video, which are `height` x `width` before they are displayed, into pictures."""

    def __init__(self, height: int, width: int):
        from av.video.reformatter import VideoReformatter

        self.height, self.width = height, width
        self._reformatter = VideoReformatter()  # one for all frames: to set it up takes longer than a small frame
        self._matrix, self._is_first = None, True
        self._graphs: dict[tuple, Callable] = {}

    def displayed_size(self, frame) -> tuple[int, int]:
        """Height and width of a frame as displayed."""
        matrix = self._display_matrix(frame)
        turned = matrix is not None and _is_quarter_turn(matrix)
        return (self.width, self.height) if turned else (self.height, self.width)

    def paint(self, frame, crop: Crop | None = None) -> np.ndarray:
        """Picture (H, W, 3), RGB uint8: by the stream's matrix and range and swscale's usual tables, without alpha.

        A crop with a size is cut and scaled in the frame's own colour planes (bilinear, with antialiasing): only that
        part is converted. But frames of more than 8 bits, and of another size than the video's, become RGB first.
        """
        matrix = self._display_matrix(frame)
        # Planes of more bits, cut at odd places, come out of swscale as noise.
        is_plain = all(component.bits == 8 for component in frame.format.components)
        is_scaled = crop is not None and crop.size is not None
        if not is_scaled or not is_plain or (frame.height, frame.width) != (self.height, self.width):
            # RGB is full range: without saying so, grey of limited range would stay limited.
            frame = self._reformatter.reformat(
                frame, self.width, self.height, "rgb24", dst_color_range="JPEG", threads=1
            )
        if not is_scaled:
            picture = _upright(_pixels(frame), matrix)
            return picture if crop is None else picture[crop.slices]
        turned = matrix is not None and _is_quarter_turn(matrix)
        rows = np.arange(self.height * self.width, dtype=np.int64).reshape(self.height, self.width)
        part = _upright(rows, matrix)[crop.slices]
        (top, left), (bottom, right) = (divmod(int(place), self.width) for place in (part.min(), part.max()))
        size = crop.size[::-1] if turned else crop.size
        return _upright(self._scaled(frame, (top, left, bottom - top + 1, right - left + 1), size), matrix)

    def _scaled(self, frame, box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
        """A box (top, left, height, width) of a frame, scaled to a size."""
        key = (box, size, frame.format.name, frame.colorspace, frame.color_range)
        if key not in self._graphs:
            self._graphs[key] = _scaling_graph(frame, box, size)
        graph = self._graphs[key]
        frame.pts = None
        graph.push(frame)
        return _pixels(graph.pull())

    def _display_matrix(self, frame) -> np.ndarray | None:
        """The 3 x 3 matrix from decoded to displayed places; `None` if there is none, or none that PyAV can read."""
        if self._is_first:  # it holds for the whole video
            self._is_first = False
            try:
                data = frame.side_data.get("DISPLAYMATRIX")
            except ValueError:  # PyAV 17 and 18 do not know every kind of side data
                data = None
            self._matrix = None if data is None else np.frombuffer(data, dtype=np.int32).reshape(3, 3).copy()
        return self._matrix


def _scaling_graph(frame, box: tuple[int, int, int, int], size: tuple[int, int]):
    from av.filter import Graph

    top, left, height, width = box
    graph = Graph()
    graph.threads = 1
    graph.link_nodes(
        graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1)),
        graph.add("crop", f"{width}:{height}:{left}:{top}:exact=1"),
        graph.add("scale", f"{size[1]}:{size[0]}:flags=bilinear+accurate_rnd:out_range=full"),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    )
    graph.configure()
    return graph


def _pixels(frame) -> np.ndarray:
    """The values of an RGB frame, uint8 (H, W, 3): a view, for the caller copies them."""
    plane = frame.planes[0]
    rows = np.frombuffer(plane, dtype=np.uint8).reshape(-1, plane.line_size)
    return rows[: frame.height, : 3 * frame.width].reshape(frame.height, frame.width, 3)


def _is_quarter_turn(matrix: np.ndarray) -> bool:
    a, b = matrix[0, :2].tolist()
    return abs(a) < abs(b)


def _upright(image: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """The picture (H, W, ...) turned by quarter turns and mirrored: x' = a x + c y, y' = b x + d y."""
    if matrix is None:
        return image
    (a, b), (c, d) = matrix[:2, :2].tolist()
    if abs(a) < abs(b):
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
