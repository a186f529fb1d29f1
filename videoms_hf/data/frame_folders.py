# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Videos that are kept as folders with a picture for each frame, read as if they were files."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError

from ..decoding_videoms import MAX_FRAME_PIXELS, VideoDecodeError, decode_clips, decode_frames
from ..pictures_videoms import Crop
from .tables import is_address, video_source, window_of


PICTURE_ENDINGS = "bmp jpeg jpg png ppm tif tiff webp"
PICTURE_NAME = re.compile(rf"[^.].*\.({PICTURE_ENDINGS.replace(' ', '|')})", re.IGNORECASE)


def is_frame_folder(path: str | os.PathLike) -> bool:
    """Whether a path is a folder with pictures directly in it."""
    if not os.path.isdir(path):
        return False
    with os.scandir(path) as entries:
        return any(PICTURE_NAME.fullmatch(entry.name) for entry in entries)


def is_video(path: str) -> bool:
    """Whether a path can be that of a video: an address, a file that exists, or a folder of pictures."""
    return is_address(path) or os.path.isfile(path) or is_frame_folder(path)


def why_missing(path: str) -> str:
    """What is wrong with a path that [`is_video`] denies."""
    return f"{path} is a folder without pictures" if os.path.isdir(path) else f"there is no file {path}"


def frame_files(folder: str | os.PathLike) -> list[str]:
    """Names of a folder's pictures in the order of the frames: by the numbers in them, so that 2 comes before 10."""
    names = [name for name in os.listdir(folder) if PICTURE_NAME.fullmatch(name)]
    return sorted(names, key=lambda name: ([int(number) for number in re.findall(r"[0-9]+", name)], name))


def decode_frame_folder(
    folder: str | os.PathLike,
    indices: Iterable[int] | Callable[[int], Iterable[int]],
    *,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
) -> torch.Tensor:
    """Frames of a folder of pictures, RGB uint8 (len(indices), 3, H, W), as [`decode_frames`] gives those of a file.

    Raises:
        VideoDecodeError: no pictures, one that cannot be read or has another size than the first wanted one, a number
            without a picture, or seconds, for pictures have no times.
    """
    folder = os.fspath(folder)
    if start_seconds is not None or end_seconds is not None:
        raise VideoDecodeError(
            folder, f"{start_seconds} to {end_seconds} s was asked for, but a folder of pictures has no times"
        )
    names = frame_files(folder)
    if not names:
        raise VideoDecodeError(folder, f"holds no picture; their names must end in one of {PICTURE_ENDINGS}")
    wanted = np.asarray(list(indices(len(names)) if callable(indices) else indices), dtype=np.int64)
    if wanted.min(initial=0) < 0:
        raise ValueError(f"frame numbers count from 0, but indices holds {wanted.min()}")
    if wanted.max(initial=-1) >= len(names):
        raise VideoDecodeError(folder, f"frame {wanted.max()} was asked for, but there are {len(names)} pictures")
    clip = np.empty((0, 0, 0, 3), dtype=np.uint8)
    for number in np.unique(wanted):
        picture = _read_picture(folder, names[number])
        if not clip.size:
            clip = np.empty((len(wanted), *picture.shape), dtype=np.uint8)
        if picture.shape != clip.shape[1:]:
            sizes = [f"{shape[1]} x {shape[0]}" for shape in (picture.shape, clip.shape[1:])]
            raise VideoDecodeError(folder, f"{names[number]} is {sizes[0]}, but pictures before it are {sizes[1]}")
        clip[wanted == number] = picture
    return torch.from_numpy(clip).permute(0, 3, 1, 2)


def decode_row(row: Mapping, indices: Iterable[int] | Callable[[int], Iterable[int]]) -> torch.Tensor:
    """Frames of a row's video, RGB uint8 (len(indices), 3, H, W), be it a file, its bytes or a folder of pictures."""
    source = video_source(row)
    decode = decode_frame_folder if isinstance(source, str) and os.path.isdir(source) else decode_frames
    return decode(source, indices, **window_of(row))


def decode_row_clips(
    row: Mapping,
    indices: Iterable[int] | Callable[[int], Iterable[int]],
    num_clips: int,
    crops: Callable[[int, int], Sequence[Crop]] | None = None,
) -> list[torch.Tensor]:
    """Clips of a row's video as [`decode_clips`] gives them; parts of pictures are scaled with antialiasing."""
    source = video_source(row)
    if not (isinstance(source, str) and os.path.isdir(source)):
        return decode_clips(source, indices, num_clips, crops=crops, **window_of(row))
    return cut_clips(decode_frame_folder(source, indices, **window_of(row)), num_clips, crops)


def cut_clips(
    frames: torch.Tensor, num_clips: int, crops: Callable[[int, int], Sequence[Crop]] | None = None
) -> list[torch.Tensor]:
    """Decoded frames (T, 3, H, W) as clips, or the parts of them that `crops` gives for height and width."""
    clips = frames.chunk(num_clips)
    if crops is None:
        return list(clips)
    return [_part(clip, crop) for clip, crop in zip(clips, crops(*frames.shape[2:]), strict=True)]


def _part(frames: torch.Tensor, crop: Crop) -> torch.Tensor:
    part = frames[(..., *crop.slices)].contiguous(memory_format=torch.channels_last)
    return part if crop.size is None else F.interpolate(part, crop.size, mode="bilinear", antialias=True)


def _read_picture(folder: str, name: str) -> np.ndarray:
    """One picture, uint8 (H, W, 3), upright."""
    try:
        with Image.open(os.path.join(folder, name)) as picture:
            if picture.width * picture.height > MAX_FRAME_PIXELS:
                raise VideoDecodeError(folder, f"{name} has more than the {MAX_FRAME_PIXELS} pixels that are allowed")
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except UnidentifiedImageError as error:
        raise VideoDecodeError(folder, f"{name} is no picture, or broken; fetch it again or leave it out") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise VideoDecodeError(folder, f"{name} cannot be read ({error}); fetch it again or leave it out") from error
