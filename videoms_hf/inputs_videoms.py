# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Videos in every form that a processor accepts: sources to decode, or frames as RGB tensors (T, C, H, W)."""

import io
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor


ONE_FRAME = "has 1 frame; motion needs at least 2"
FORMS = (
    "A video is a path, an address, bytes, an open file, a mapping with path or bytes, one array (T, H, W, C) or "
    "(T, C, H, W), or a list of frames. A pipeline takes a list for several videos: give it the frames of one as one "
    "array, or as [[frame, ...]]"
)
# Interpolation can leave the range of its inputs; this much counts as rounding.
UNIT_TOLERANCE = 0.01


def list_videos(
    given: Any, channels_last: bool | None = None, to_rgb: bool = True
) -> list[str | bytes | BinaryIO | Tensor]:
    """The videos in what was given: one, a batch (B, T, ...), or a list of videos, nested or not.

    Frames become a tensor (T, C, H, W) of 1 or 3 channels (of any number unless `to_rgb`); alpha is dropped, as the
    decoder does. `channels_last` tells the layout of arrays; `None` infers it from their shape.
    """
    if isinstance(given, Mapping):
        given = _row_source(given)
    if isinstance(given, (str, PathLike)):
        return [fspath(given)]
    if isinstance(given, io.TextIOBase):
        raise ValueError("an open file of text is not a video; open it in binary mode, 'rb'")
    if isinstance(given, (bytes, bytearray, memoryview)) or hasattr(given, "read"):
        return [given]
    is_list = isinstance(given, (list, tuple)) and len(given) > 0
    if (is_list and not all(map(_is_frame, given))) or (_is_array(given) and given.ndim == 5):
        return [video for item in given for video in list_videos(item, channels_last, to_rgb)]
    if is_list:
        frames = [_frame_tensor(frame, channels_last, to_rgb) for frame in given]
        if len(shapes := {tuple(frame.shape) for frame in frames}) > 1:
            raise ValueError(f"the frames of a video have the shapes {sorted(shapes)} (C, H, W); they must have one")
        return [_checked(torch.stack(frames), to_rgb)]
    if _is_array(given) and given.ndim == 4:
        return [_checked(_channels_first(_tensor(given), channels_last), to_rgb)]
    if _is_frame(given):
        size = f"{given.width} x {given.height}" if hasattr(given, "convert") else f"shape {tuple(given.shape)}"
        raise ValueError(f"a {type(given).__name__} of {size} is 1 frame; motion needs at least 2. {FORMS}")
    what = "an empty list" if isinstance(given, (list, tuple)) else f"a {type(given).__name__}"
    raise ValueError(f"{what} is not a video. {FORMS}")


def to_8_bits(frames: Tensor) -> Tensor:
    """Frames in [0, 255]: those that are, as they are; floats in [0, 1] and booleans as uint8, rounded."""
    if frames.dtype == torch.uint8:
        return frames
    if frames.dtype == torch.bool:
        return frames.to(torch.uint8) * 255
    is_float = frames.is_floating_point()
    values = frames if is_float else frames.to(torch.int64)  # torch has no maximum for other types
    low, high = (value.item() for value in values.aminmax())
    if is_float and low >= -UNIT_TOLERANCE and high <= 1 + UNIT_TOLERANCE:
        return (frames.float().clamp(0, 1) * 255).round().to(torch.uint8)
    if not (low >= 0 and high <= 255):  # nor is NaN
        raise ValueError(
            f"frames of {str(frames.dtype).removeprefix('torch.')} have values from {low:g} to {high:g}; they must be "
            "in [0, 255], or floats in [0, 1]. Scale them, or turn do_rescale off if they are scaled already"
        )
    return frames


def _row_source(row: Mapping) -> str | BinaryIO:
    """What a row of a `datasets` column `Video(decode=False)` holds: the path, or the bytes by that name."""
    if row.get("bytes") is not None:
        file = io.BytesIO(row["bytes"])
        file.name = row.get("path") or f"video of {len(row['bytes'])} bytes"  # for messages
        return file
    if not row.get("path"):
        raise ValueError(f"a mapping with {list(row)} names no video; it must have path or bytes. {FORMS}")
    return row["path"]


def _is_array(given: Any) -> bool:
    return isinstance(given, (np.ndarray, Tensor))


def _is_frame(given: Any) -> bool:
    """Whether this is a PIL image, or an array that can be one."""
    return hasattr(given, "convert") or (_is_array(given) and given.ndim in (2, 3))


def _tensor(array: np.ndarray | Tensor) -> Tensor:
    if isinstance(array, Tensor):
        return array
    if array.dtype.kind not in "buif":
        raise ValueError(f"frames are arrays of {array.dtype}; they must hold numbers, best uint8 in [0, 255]")
    # Torch reads neither negative strides nor foreign byte orders, and warns about read-only memory.
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def _frame_tensor(frame: Any, channels_last: bool | None, to_rgb: bool) -> Tensor:
    """One frame (C, H, W)."""
    if not hasattr(frame, "convert"):
        return _channels_first(_tensor(frame), channels_last)
    # Modes of more than 8 bits would be clipped; as arrays, their range is checked.
    if to_rgb and frame.mode != "RGB" and frame.mode[0] not in "IF":
        frame = frame.convert("RGB")
    return _channels_first(_tensor(np.array(frame)), channels_last=True)


def _channels_first(frames: Tensor, channels_last: bool | None) -> Tensor:
    """A view (..., C, H, W) of frames whose channels are the last or the third last axis; of grey ones (H, W) too."""
    if frames.ndim == 2:
        return frames[None]
    if channels_last is None:
        found = [axis for counts in ((1, 3), (4,)) for axis in (-3, -1) if frames.shape[axis] in counts]
        if not found:
            raise ValueError(
                f"frames of shape {tuple(frames.shape[-3:])} have no axis of 1, 3 or 4 channels; they must be "
                "(H, W, C), (C, H, W), or grey (H, W) in a list"
            )
        channels_last = found[0] == -1
    return frames.movedim(-1, -3) if channels_last else frames


def _checked(video: Tensor, to_rgb: bool) -> Tensor:
    """A video (T, C, H, W) without alpha, of at least two frames."""
    if len(video) < 2:
        raise ValueError(f"a video of shape {tuple(video.shape)} {ONE_FRAME if len(video) else 'has no frame'}")
    if to_rgb and video.shape[1] not in (1, 3, 4):
        raise ValueError(f"frames have {video.shape[1]} channels; they must have 1, 3 or 4 (RGB with alpha)")
    return video[:, :3] if to_rgb else video
