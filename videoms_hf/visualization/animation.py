# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Animations as files: mp4, GIF and WebP."""

import io
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.transcoding import write_mp4
from ..files import atomic_path


MAX_GIF_RATE = 50.0  # browsers slow faster ones down


def write_animation(pictures: Iterable[np.ndarray], path: str | os.PathLike, fps: float, quality: int = 80) -> None:
    """Write pictures, uint8 (H, W, 3), to a .mp4 (picture by picture), .gif or .webp file; see [`image_animation`]."""
    kind = Path(path).suffix.lower().lstrip(".")
    if kind == "mp4":
        pictures = (np.pad(p, ((0, len(p) % 2), (0, p.shape[1] % 2), (0, 0)), mode="edge") for p in pictures)
        return write_mp4(pictures, path, fps, {"crf": "18", "preset": "veryfast"})
    with atomic_path(path) as partial:
        partial.write_bytes(image_animation(pictures, kind, fps, quality))


def image_animation(pictures: Iterable[np.ndarray], kind: str, fps: float, quality: int = 80) -> bytes:
    """The content of a GIF or WebP file (`kind` "gif" or "webp") of pictures uint8 (H, W, 3), in an endless loop.

    `quality` is that of WebP, to 100. Times in a GIF are hundredths of a second: frames differ by one so that the
    whole keeps its duration, and above 50 frames a second some are left out.
    """
    if kind == "webp":
        images = [Image.fromarray(picture) for picture in pictures]
        options = {"duration": 1000 / fps, "quality": quality, "method": 4}
    else:
        step = max(int(np.ceil(fps / MAX_GIF_RATE)), 1)
        images = [Image.fromarray(picture) for i, picture in enumerate(pictures) if i % step == 0]
        samples = [np.asarray(image)[::2, ::2] for image in images[:: -(-len(images) // 24)]]
        palette = Image.fromarray(np.concatenate(samples)).quantize(256)  # one for all, so that colours do not flicker
        images = [image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for image in images]
        ends = np.round(np.arange(len(images) + 1) * 100 * step / fps).astype(int)
        options = {"duration": (10 * np.diff(ends)).tolist(), "disposal": 1}
    file = io.BytesIO()
    images[0].save(file, kind, save_all=True, append_images=images[1:], loop=0, **options)
    return file.getvalue()
