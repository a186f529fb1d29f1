# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Opens any video: a file, a folder with an image for each frame, or an array of frames."""

import os
import re
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from .decoding_videoms import FileReader
from .reader_videoms import VideoInfo, VideoReader
from .sources_videoms import MAX_FRAME_PIXELS, VideoDecodeError


IMAGE_ENDINGS = "bmp jpeg jpg png ppm tif tiff webp"
IMAGE_NAME = re.compile(rf"[^.].*\.({IMAGE_ENDINGS.replace(' ', '|')})", re.IGNORECASE)


def open_video(
    source: str | os.PathLike | bytes | BinaryIO | np.ndarray | torch.Tensor, num_threads: int | None = None
) -> VideoReader:
    """Open a video for reading its length, size and frames.

    ```python
    with open_video("video.mp4") as video:
        print(video.info)
        clip = video.frames(range(0, len(video), 4))  # uint8 (T, 3, H, W)
    ```

    Args:
        source: path of a file or of a folder of images, http(s) address, a file's bytes, a binary file object, or
            frames: an array uint8 (T, H, W, 3) or a tensor uint8 (T, 3, H, W).
        num_threads: threads of the decoder of a file; by default 1, in workers of a `DataLoader` their share of cores.

    Raises:
        FileNotFoundError: there is no such file.
        VideoDecodeError: it is not a video that can be read.
    """
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return ArrayReader(source)
    if isinstance(source, (str, os.PathLike)) and os.path.isdir(source):
        return FolderReader(source)
    return FileReader(source, num_threads)


class ArrayReader(VideoReader):
    """Reader of frames in memory: an array uint8 (T, H, W, 3) or a tensor uint8 (T, 3, H, W)."""

    def __init__(self, frames: np.ndarray | torch.Tensor):
        frames = frames.permute(0, 2, 3, 1).numpy() if isinstance(frames, torch.Tensor) else frames
        super().__init__(f"array of {len(frames)} frames")
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
            raise VideoDecodeError(self.name, f"is {frames.dtype} {frames.shape}; it must be uint8 (T, H, W, 3)")
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def info(self) -> VideoInfo:
        height, width = self.size
        return VideoInfo(len(self), 0.0, width, height, 0.0, len(self))

    def _pictures(self, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        if wanted[-1] >= len(self):
            raise VideoDecodeError(self.name, f"frame {wanted[-1]} was asked for, but there are {len(self)} frames")
        for number in wanted.tolist():
            yield number, self._picture(number)

    def _picture(self, number: int) -> np.ndarray:
        return self._frames[number]


class FolderReader(ArrayReader):
    """Reader of a folder of images, which are its frames in the order of [`frame_files`].

    Raises:
        VideoDecodeError: no image, one that cannot be read or has another size than the first wanted one.
    """

    def __init__(self, folder: str | os.PathLike):
        VideoReader.__init__(self, os.fspath(folder))
        self._frames = frame_files(folder)
        if not self._frames:
            raise VideoDecodeError(self.name, f"holds no image; their names must end in one of {IMAGE_ENDINGS}")

    def _picture(self, number: int) -> np.ndarray:
        name = self._frames[number]
        picture = _read_image(self.name, name)
        if self._size not in (None, picture.shape[:2]):
            sizes = [f"{width} x {height}" for height, width in (picture.shape[:2], self._size)]
            raise VideoDecodeError(self.name, f"{name} is {sizes[0]}, but images before it are {sizes[1]}")
        return picture


def is_frame_folder(path: str | os.PathLike) -> bool:
    """Whether a path is a folder with images directly in it."""
    if not os.path.isdir(path):
        return False
    with os.scandir(path) as entries:
        return any(IMAGE_NAME.fullmatch(entry.name) for entry in entries)


def frame_files(folder: str | os.PathLike) -> list[str]:
    """Names of a folder's images in the order of the frames: by the numbers in them, so that 2 comes before 10."""
    names = [name for name in os.listdir(folder) if IMAGE_NAME.fullmatch(name)]
    return sorted(names, key=lambda name: ([int(number) for number in re.findall(r"[0-9]+", name)], name))


def _read_image(folder: str, name: str) -> np.ndarray:
    """One image, uint8 (H, W, 3), upright."""
    try:
        with Image.open(os.path.join(folder, name)) as image:
            if image.width * image.height > MAX_FRAME_PIXELS:
                raise VideoDecodeError(folder, f"{name} has more than the {MAX_FRAME_PIXELS} pixels that are allowed")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError as error:
        raise VideoDecodeError(folder, f"{name} is not an image or is corrupt; replace it or leave it out") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise VideoDecodeError(folder, f"{name} cannot be read ({error}); replace it or leave it out") from error
