# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""A small labelled data set of real video files in which only motion tells the classes apart.

A textured object moves over a still, textured background with sensor noise. Its state is a point on a four-dimensional
torus: column, row, log size and angle, each on a circle of length 1. A class moves it along one of the circles in one
direction, at a constant random speed from a random start; so at every frame the state is uniform on the torus for
every class, and no single frame can tell them apart. An object that leaves the picture on one side comes in on the
other; one that has grown to the largest size dissolves into the smallest.
"""

import json
import math
import os
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from ..files import atomic_path


# Class name -> circle of the state (0 column, 1 row, 2 log size, 3 angle) and direction on it. Rows grow downwards, so
# a growing angle is a clockwise turn.
MOTIONS = {
    "left": (0, -1),
    "right": (0, 1),
    "up": (1, -1),
    "down": (1, 1),
    "approach": (2, 1),
    "recede": (2, -1),
    "spin_clockwise": (3, 1),
    "spin_counterclockwise": (3, -1),
}
FRAMES_PER_SECOND = 16
# Rounds of the circle a frame, slowest and fastest: chosen so that an object's outline moves by about a pixel or two a
# frame at 80 pixels, whatever the class.
ROUNDS_PER_FRAME = ((0.020, 0.035), (0.020, 0.035), (0.035, 0.060), (0.015, 0.025))
SMALLEST_RADIUS, LARGEST_RADIUS = 0.17, 0.42  # share of the picture; below one half, an object never meets itself
DISSOLVE = 0.2  # share of the size circle in which the largest size gives way to the smallest
TEXTURE_SIZE = 64
NOISE_LEVEL = 2.5  # standard deviation of the sensor noise, of 255
# (codec, suffix, options). Encoders on one thread do not depend on the machine's number of cores, and x264 without its
# assembly, which reads memory that nobody has written, not on what was in memory before.
ENCODINGS = (
    ("libx264", ".mp4", {"crf": "18", "preset": "veryfast", "threads": "1", "x264-params": "asm=0"}),
    ("mpeg4", ".avi", {"qmin": "2", "qmax": "4", "threads": "1"}),
)
SETTINGS_FILE = "dataset.json"
RENDERER_VERSION = 2  # raise it when the pictures change, so that an older rendering is not taken for a newer one


def motion_states(motion: str, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """States of one object, float64 (num_frames, 4) in [0, 1): column, row, log size, angle."""
    circle, direction = MOTIONS[motion]
    start = rng.random(4)
    speed = rng.uniform(*ROUNDS_PER_FRAME[circle])
    states = np.tile(start, (num_frames, 1))
    states[:, circle] += direction * speed * np.arange(num_frames)
    return states % 1.0


def render_motion_clip(motion: str, image_size: int, num_frames: int, rng: np.random.Generator) -> Tensor:
    """One random video of the class `motion`, uint8 (T, 3, H, W).

    Everything random comes from `rng`, the class only from `motion`: two calls with equal generators differ in nothing
    but the path on the torus.
    """
    states = motion_states(motion, num_frames, rng)
    frames = _background(image_size, rng).expand(num_frames, -1, -1, -1)
    sprite = _sprite(rng)
    # Log size goes round its circle: near the end the largest object dissolves into the smallest, one round earlier.
    size = states[:, 2]
    fresh = np.clip((size - (1 - DISSOLVE)) / DISSOLVE, 0, 1)
    frames = _paste(frames, sprite, states, opacity=1 - fresh)
    if fresh.any():
        frames = _paste(frames, sprite, states - np.array([0, 0, 1, 0]), opacity=fresh)
    noise = rng.standard_normal((num_frames, image_size, image_size, 3), dtype=np.float32) * NOISE_LEVEL
    pixels = frames.permute(0, 2, 3, 1) * 255 + torch.from_numpy(noise)
    return pixels.round_().clamp_(0, 255).to(torch.uint8).permute(0, 3, 1, 2)


def encode_video(frames: Tensor, path: str | os.PathLike, codec: str, options: dict[str, str]) -> None:
    """Write uint8 frames (T, 3, H, W), H and W even, to a video file; the path's suffix names the container."""
    with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream(codec, rate=FRAMES_PER_SECOND, options=options)
        stream.height, stream.width = frames.shape[2:]
        stream.pix_fmt = "yuv420p"
        for picture in frames.permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def render_motion_dataset(
    folder: str | os.PathLike,
    *,
    num_train: int = 400,
    num_val: int = 64,
    num_test: int = 96,
    image_size: int = 80,
    num_frames: int = 32,
    seed: int = 0,
) -> Path:
    """Render the data set into `folder` and return the folder; a complete one with the same settings is reused.

    The folder then holds `train.csv`, `val.csv` and `test.csv` in the official form (`path label` a line, labels as
    numbers, paths relative to the folder), `pretrain.csv` (the training videos without labels: -1), `classes.txt` (one
    name a line, in the order of the numbers), the settings in `dataset.json`, and the videos as
    `<split>/<class>/<number>`, half of them H.264 .mp4 and half MPEG-4 .avi. The classes take turns, so each has
    equally many videos, up to one.

    Rendering goes to a temporary folder beside `folder` that is renamed at the end: what exists is complete.

    Args:
        num_train, num_val, num_test: videos of each split, at least 1.
        image_size: height and width in pixels, even, at least 32.
        num_frames: frames of each video, at least 2.
        seed: at least 0; the same seed gives the same pixels.

    Raises:
        ValueError: A number is out of its range.
        FileExistsError: `folder` holds something other than this data set; nothing is changed or deleted.
    """
    folder = Path(folder)
    settings = {
        "renderer_version": RENDERER_VERSION,
        "num_train": num_train,
        "num_val": num_val,
        "num_test": num_test,
        "image_size": image_size,
        "num_frames": num_frames,
        "seed": seed,
    }
    _check_settings(settings)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        _check_complete(folder, settings)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_path(folder) as partial:
            partial.mkdir()
            _render(partial, settings)
    except OSError:
        # Another process may have finished the same data set meanwhile.
        if not folder.is_dir() or not any(folder.iterdir()):
            raise
        _check_complete(folder, settings)
    return folder


def _check_settings(settings: dict[str, int]) -> None:
    lowest = {"num_train": 1, "num_val": 1, "num_test": 1, "image_size": 32, "num_frames": 2, "seed": 0}
    for name, low in lowest.items():
        if settings[name] < low:
            raise ValueError(f"{name} is {settings[name]}; it must be at least {low}")
    if settings["image_size"] % 2:
        raise ValueError(f"image_size is {settings['image_size']}; it must be even, as the video codecs need it")


def _check_complete(folder: Path, settings: dict[str, int]) -> None:
    """Raise `FileExistsError` unless `folder` holds the data set with these settings, every video included."""
    advice = "choose another folder or remove this one yourself"
    try:
        found = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileExistsError(f"{folder} exists and is not a rendered motion data set; {advice}") from error
    if found != settings:
        raise FileExistsError(f"{folder} was rendered with {found}, wanted is {settings}; {advice}")
    for table in ("train.csv", "val.csv", "test.csv", "pretrain.csv"):
        try:
            lines = (folder / table).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise FileExistsError(f"{folder / table} cannot be read; {advice}") from error
        for line in lines:
            video = folder / line.rsplit(maxsplit=1)[0]
            if not video.is_file():
                raise FileExistsError(f"{video} is missing from a rendered data set; {advice}")


def _render(folder: Path, settings: dict[str, int]) -> None:
    names = list(MOTIONS)
    splits = {split: settings[f"num_{split}"] for split in ("train", "val", "test")}
    with tqdm(total=sum(splits.values()), desc="Rendering videos", unit="video") as progress:
        for split_number, (split, num_videos) in enumerate(splits.items()):
            rows = []
            for i in range(num_videos):
                turn, label = divmod(i, len(names))
                # In every turn each class has its own mixture of containers, over the turns an even one.
                codec, suffix, options = ENCODINGS[(turn + label) % len(ENCODINGS)]
                rng = np.random.default_rng([settings["seed"], split_number, i])
                clip = render_motion_clip(names[label], settings["image_size"], settings["num_frames"], rng)
                path = f"{split}/{names[label]}/{turn:04d}{suffix}"
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                encode_video(clip, folder / path, codec, options)
                rows.append((path, label))
                progress.update()
            _write_table(folder / f"{split}.csv", rows)
            if split == "train":
                _write_table(folder / "pretrain.csv", [(path, -1) for path, _ in rows])
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _write_table(path: Path, rows: list[tuple[str, int]]) -> None:
    path.write_text("".join(f"{video} {label}\n" for video, label in rows), encoding="utf-8")


def _pattern(size: int, rng: np.random.Generator) -> Tensor:
    """A random grey texture (size, size) in [0, 1]: stripes, checks or spots, with soft edges."""
    y, x = torch.meshgrid(*[torch.linspace(0, 1, size)] * 2, indexing="ij")
    kind = rng.integers(3)
    turn, shift_x, shift_y = rng.uniform(0, 2 * math.pi, 3)
    waves = rng.uniform(2.0, 3.5) * 2 * math.pi
    u = torch.sin(waves * (x * math.cos(turn) + y * math.sin(turn)) + shift_x)
    if kind == 0:
        wave = u
    elif kind == 1:
        wave = 1.6 * u * torch.sin(waves * (y * math.cos(turn) - x * math.sin(turn)) + shift_y)
    else:
        wave = 2 * _smooth_noise(size, 1, int(rng.integers(5, 8)), rng)[0]
    return (3 * wave).sigmoid()


def _smooth_noise(size: int, num_channels: int, num_cells: int, rng: np.random.Generator) -> Tensor:
    """Noise with a wavelength of about `size / num_cells` pixels, (num_channels, size, size), deviation about 1."""
    coarse = torch.from_numpy(rng.standard_normal((1, num_channels, num_cells, num_cells), dtype=np.float32))
    return F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)[0]


def _background(size: int, rng: np.random.Generator) -> Tensor:
    """A still, muted colour texture (3, size, size) in [0, 1]."""
    tint = torch.from_numpy(rng.uniform(0.3, 0.6, 3).astype(np.float32))[:, None, None]
    clouds = _smooth_noise(size, 3, 4, rng) * 0.04 + _smooth_noise(size, 1, 9, rng) * 0.03
    texture = (_pattern(size, rng) - 0.5) * float(rng.uniform(0.05, 0.15))
    return (tint + clouds + texture).clamp(0, 1)


def _sprite(rng: np.random.Generator) -> Tensor:
    """A textured object (4, TEXTURE_SIZE, TEXTURE_SIZE): red, green, blue and opacity in [0, 1]."""
    dark = rng.uniform(0.0, 0.35, 3)
    light = rng.uniform(0.65, 1.0, 3)
    light[rng.integers(3)] = rng.uniform(0.0, 1.0)  # one free channel gives saturated colours, not only pastel ones
    dark, light = (torch.from_numpy(colour.astype(np.float32))[:, None, None] for colour in (dark, light))
    pattern = _pattern(TEXTURE_SIZE, rng)
    # One half is darker, so that no shape or texture looks the same after half a turn.
    ramp = torch.linspace(0.55, 1, TEXTURE_SIZE)[:, None]
    colour = (dark + (light - dark) * pattern) * ramp
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, TEXTURE_SIZE)] * 2, indexing="ij")
    angle, distance = torch.atan2(y, x), torch.hypot(x, y)
    kind = rng.integers(4)
    if kind == 0:
        edge = torch.full_like(angle, 0.85)
    elif kind == 1:  # a flower
        edge = 0.75 + 0.2 * torch.cos(int(rng.integers(3, 6)) * angle)
    else:  # a triangle or a square
        sides = 3 if kind == 2 else 4
        sector = 2 * math.pi / sides
        edge = 0.97 * math.cos(sector / 2) / torch.cos(angle % sector - sector / 2)
    opacity = ((edge - distance) * TEXTURE_SIZE / 2 + 0.5).clamp(0, 1)
    return torch.cat([colour, opacity[None]])


def _paste(frames: Tensor, sprite: Tensor, states: np.ndarray, opacity: np.ndarray) -> Tensor:
    """Frames (T, 3, S, S) with the sprite on them at `states` (T, 4), wrapped round the picture's edges."""
    size = frames.shape[-1]
    column, row, log_size, angle = torch.from_numpy(states.astype(np.float32)).T[..., None, None]
    places = (torch.arange(size) + 0.5) / size
    x = (places - column + 0.5) % 1 - 0.5  # (T, 1, S): the nearest of the object's copies on the torus
    y = (places[:, None] - row + 0.5) % 1 - 0.5  # (T, S, 1)
    radius = SMALLEST_RADIUS * (LARGEST_RADIUS / SMALLEST_RADIUS) ** log_size
    cos, sin = (torch.cos(2 * math.pi * angle) / radius, torch.sin(2 * math.pi * angle) / radius)
    grid = torch.stack([x * cos + y * sin, y * cos - x * sin], dim=-1)  # (T, S, S, 2) in the sprite's own [-1, 1]
    layer = F.grid_sample(sprite.expand(len(states), -1, -1, -1), grid, padding_mode="zeros", align_corners=False)
    alpha = layer[:, 3:] * torch.from_numpy(opacity.astype(np.float32))[:, None, None, None]
    return frames + (layer[:, :3] - frames) * alpha
