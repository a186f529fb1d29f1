# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Which frames of a video make a clip: arithmetic on frame indices.

Every function returns indices int64 (num_frames,) in [0, video_length), ascending; only the last one may repeat.
`stride` is the distance between neighbouring frames of a clip; a window has `num_frames * stride` frames.

Source: the official code's datasets for pre-training, fine-tuning and testing.
"""

import numpy as np


def pretraining_clip(video_length: int, num_frames: int, stride: int, rng: np.random.Generator) -> np.ndarray:
    """Every stride-th frame of a random window.

    A video shorter than the window starts at its first frame and repeats the last one that the steps reach:
    10 frames, 6 at stride 4 -> 0 4 8 8 8 8.
    """
    _check(video_length, num_frames, stride)
    start = rng.integers(max(video_length - num_frames * stride, 0) + 1)
    # Official code: a step may not end on a video's very last frame, an off-by-one (9 frames would give 0 4 4 4 4 4).
    return _pad(np.arange(start, video_length, stride)[:num_frames], num_frames)


def finetuning_clip(video_length: int, num_frames: int, stride: int, rng: np.random.Generator) -> np.ndarray:
    """Frames spread linearly over a random window, from its first to its last.

    A video shorter than the window gives every stride-th frame, then repeats the last of these.
    """
    _check(video_length, num_frames, stride)
    # Official code: the window that ends with a video's last frame is never drawn.
    start = rng.integers(max(video_length - num_frames * stride, 0) + 1)
    return _window(start, video_length, num_frames, stride)


def validation_clip(video_length: int, num_frames: int, stride: int) -> np.ndarray:
    """As [`finetuning_clip`], with the window in the middle of the video."""
    _check(video_length, num_frames, stride)
    # Official code: drawn at random here too. The middle makes a metric repeatable.
    return _window(max(video_length - num_frames * stride, 0) // 2, video_length, num_frames, stride)


def segment_clip(video_length: int, num_frames: int, stride: int, segment: int, num_segments: int) -> np.ndarray:
    """Every stride-th frame from the start of test segment `segment`, counted from 0.

    Of the S frames 0, stride, 2 stride ... of the whole video, segment i takes num_frames neighbours from number
    floor(i (S - num_frames) / (num_segments - 1)) on: the first segment begins with the video, the last ends with it.
    A single segment is the middle. A video with S < num_frames repeats its last such frame.
    """
    _check(video_length, num_frames, stride)
    if not 0 <= segment < num_segments:
        raise ValueError(f"segment is {segment}; it must be at least 0 and less than num_segments, {num_segments}")
    strided = _pad(np.arange(0, video_length, stride), num_frames)
    spare = len(strided) - num_frames
    start = spare // 2 if num_segments == 1 else segment * spare // (num_segments - 1)
    return strided[start : start + num_frames]


def uniform_clip(video_length: int, num_frames: int) -> np.ndarray:
    """The middle frames of `num_frames` equal parts of the whole video: 8 frames, 4 of them -> 1 3 5 7.

    A video with fewer frames than that gives every frame, then repeats the last.
    """
    _check(video_length, num_frames, 1)
    parts = min(num_frames, video_length)
    return _pad((2 * np.arange(parts) + 1) * video_length // (2 * parts), num_frames)


def _window(start: int, video_length: int, num_frames: int, stride: int) -> np.ndarray:
    window = num_frames * stride
    if video_length < window:
        # Official code: spreads video_length // stride frames over a short video, some a frame further apart.
        return _pad(np.arange(0, video_length, stride), num_frames)
    frames = np.linspace(start, start + window, num_frames).astype(np.int64)
    return np.minimum(frames, start + window - 1)


def _pad(frames: np.ndarray, num_frames: int) -> np.ndarray:
    """`frames`, with the last one repeated if there are fewer than `num_frames`."""
    return np.concatenate([frames, np.full(max(num_frames - len(frames), 0), frames[-1])]).astype(np.int64)


def _check(video_length: int, num_frames: int, stride: int) -> None:
    for name, value in (("video_length", video_length), ("num_frames", num_frames), ("stride", stride)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
