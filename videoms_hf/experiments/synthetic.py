# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""A small labelled data set of real video files in which only motion tells the classes apart.

A smoothly coloured object moves over a still background with sensor noise. Its place is a point on a torus: column and
row, each on a circle of length 1. A class moves it in one direction, at a constant random speed from a random start.
So at every frame the place is uniform on the torus for every class, and no single frame can tell them apart. An object
that leaves the picture on one side comes in on the other.

Textures are longer than a patch of a small network and edges are soft, so that a token can be predicted from its
neighbours: on textures as fine as patches masked autoencoders of this size learn nothing in minutes.
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


# Class name -> direction in columns and rows, of length 1. Rows grow downwards.
MOTIONS = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
    "up_left": (-(0.5**0.5), -(0.5**0.5)),
    "up_right": (0.5**0.5, -(0.5**0.5)),
    "down_left": (-(0.5**0.5), 0.5**0.5),
    "down_right": (0.5**0.5, 0.5**0.5),
}
FRAMES_PER_SECOND = 16
SPEEDS = (0.010, 0.030)  # share of the picture a frame, slowest and fastest
SMALLEST_RADIUS, LARGEST_RADIUS = 0.22, 0.45  # share of the picture; below one half, an object never meets itself
SOFT_EDGE = 0.35  # width of an object's edge, share of its radius
TEXTURE_SIZE = 64
NOISE_LEVEL = 1.0  # standard deviation of the sensor noise, of 255
# (codec, suffix, options). Encoders on one thread do not depend on the machine's number of cores, and x264 without its
# assembly, which reads memory that nobody has written, not on what was in memory before.
ENCODINGS = (
    ("libx264", ".mp4", {"crf": "18", "preset": "veryfast", "threads": "1", "x264-params": "asm=0"}),
    ("mpeg4", ".avi", {"qmin": "2", "qmax": "4", "threads": "1"}),
)
SPLITS = ("train", "val", "test")
SETTINGS_FILE = "dataset.json"
RENDERER_VERSION = 3  # raise it when the pictures change, so that an older rendering is not taken for a newer one


def motion_places(motion: str, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Places of one object, float64 (num_frames, 2) in [0, 1): column and row."""
    start, speed = rng.random(2), rng.uniform(*SPEEDS)
    return (start + speed * np.arange(num_frames)[:, None] * np.array(MOTIONS[motion])) % 1.0


def render_motion_clip(
    motion: str, image_size: int, num_frames: int, rng: np.random.Generator, moving_camera: bool = False
) -> Tensor:
    """One random video of the class `motion`, uint8 (T, 3, H, W).

    A moving camera pans at a constant velocity over a background of finer texture; the class stays the motion over
    that background. Everything random comes from `rng`, the class only from `motion`: two calls with equal generators
    differ in nothing but the path on the torus.
    """
    places = motion_places(motion, num_frames, rng)
    angle, radius = 2 * math.pi * rng.random(), SMALLEST_RADIUS * (LARGEST_RADIUS / SMALLEST_RADIUS) ** rng.random()
    if moving_camera:
        angle_of_pan, speed = 2 * math.pi * rng.random(), rng.uniform(*SPEEDS)
        pan = speed * np.arange(num_frames)[:, None] * np.array([math.cos(angle_of_pan), math.sin(angle_of_pan)])
        frames, places = _panned_background(image_size, pan, rng), (places - pan) % 1.0
    else:
        frames = _background(image_size, rng).expand(num_frames, -1, -1, -1)
    frames = _paste(frames, _sprite(rng), places, angle, radius)
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
    image_size: int = 64,
    num_frames: int = 24,
    seed: int = 0,
    moving_camera: bool = False,
) -> Path:
    """Render the data set into `folder` and return the folder; a complete one with the same settings is reused.

    The folder then holds `train.csv`, `val.csv` and `test.csv` in the official form (`path label` a line, labels as
    numbers, paths relative to the folder), `pretrain.csv` (the training videos without labels: -1), `classes.txt`, the
    settings in `dataset.json`, and the videos as `<split>/<class>/<number>`, half of them H.264 .mp4 and half MPEG-4
    .avi. The classes have equally many videos, up to one. The folder appears when it is complete.

    Args:
        num_train, num_val, num_test: videos of each split, at least 1.
        image_size: height and width in pixels, even, at least 32.
        num_frames: frames of each video, at least 2.
        seed: at least 0; the same seed gives the same pixels.
        moving_camera: see [`render_motion_clip`].

    Raises:
        ValueError: A number is out of its range.
        FileExistsError: `folder` holds something other than this data set; nothing is changed or deleted.
    """
    folder = Path(folder)
    settings = {"renderer_version": RENDERER_VERSION, "num_train": num_train, "num_val": num_val, "num_test": num_test}
    settings |= {"image_size": image_size, "num_frames": num_frames, "seed": seed}
    for name, low in (("image_size", 32), ("num_frames", 2), ("seed", 0), *((f"num_{split}", 1) for split in SPLITS)):
        if settings[name] < low:
            raise ValueError(f"{name} is {settings[name]}; it must be at least {low}")
    if image_size % 2:
        raise ValueError(f"image_size is {image_size}; it must be even, as the video codecs need it")
    settings |= {"moving_camera": True} if moving_camera else {}
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


def _check_complete(folder: Path, settings: dict[str, int]) -> None:
    """Raise `FileExistsError` unless `folder` holds the data set with these settings, every video included."""
    advice = "choose another folder or remove this one yourself"
    try:
        found = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileExistsError(f"{folder} exists and is not a rendered motion data set; {advice}") from error
    if found != settings:
        raise FileExistsError(f"{folder} was rendered with {found}, wanted is {settings}; {advice}")
    tables = [folder / f"{name}.csv" for name in (*SPLITS, "pretrain")]
    lines = [line for table in tables if table.is_file() for line in table.read_text(encoding="utf-8").splitlines()]
    for path in [*tables, *(folder / line.rsplit(maxsplit=1)[0] for line in lines)]:
        if not path.is_file():
            raise FileExistsError(f"{path} is missing from a rendered data set; {advice}")


def _render(folder: Path, settings: dict[str, int]) -> None:
    names, size = list(MOTIONS), (settings["image_size"], settings["num_frames"])
    total = sum(settings[f"num_{split}"] for split in SPLITS)
    with tqdm(total=total, desc="Rendering videos", unit="video") as progress:
        for split_number, split in enumerate(SPLITS):
            rows = []
            for i in range(settings[f"num_{split}"]):
                turn, label = divmod(i, len(names))
                # In every turn each class has its own mixture of containers, over the turns an even one.
                codec, suffix, options = ENCODINGS[(turn + label) % len(ENCODINGS)]
                rng = np.random.default_rng([settings["seed"], split_number, i])
                clip = render_motion_clip(names[label], *size, rng, settings.get("moving_camera", False))
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


def _smooth_noise(size: int, num_channels: int, num_cells: int, rng: np.random.Generator) -> Tensor:
    """Noise that is random at the corners of `num_cells` x `num_cells` cells, (num_channels, size, size)."""
    corners = torch.from_numpy(rng.standard_normal((1, num_channels, *[num_cells + 1] * 2), dtype=np.float32))
    return F.interpolate(corners, size=(size, size), mode="bicubic", align_corners=True)[0]


def _background(size: int, rng: np.random.Generator, num_cells: int = 2) -> Tensor:
    """A still, muted colour texture (3, size, size) in [0, 1]."""
    tint = torch.from_numpy(rng.uniform(0.33, 0.57, 3).astype(np.float32))[:, None, None]
    return (tint + 0.1 * _smooth_noise(size, 3, num_cells, rng)).clamp(0, 1)


def _panned_background(size: int, pan: np.ndarray, rng: np.random.Generator) -> Tensor:
    """A textured background seen from `pan` (T, 2), in pictures, at most 1: (T, 3, size, size) in [0, 1]."""
    world = _background(3 * size, rng, num_cells=18)  # of three pictures along each side
    column, row = torch.from_numpy(pan.astype(np.float32)).T[..., None, None]
    place = (torch.arange(size) + 0.5) / size - 0.5
    x, y = (place + column).expand(-1, size, -1), (place[:, None] + row).expand(-1, -1, size)
    grid = torch.stack([x, y], dim=-1) / 1.5
    return F.grid_sample(world.expand(len(pan), -1, -1, -1), grid, align_corners=False)


def _sprite(rng: np.random.Generator) -> Tensor:
    """A textured object (4, TEXTURE_SIZE, TEXTURE_SIZE): red, green, blue and opacity in [0, 1]."""
    dark = rng.uniform(0.0, 0.35, 3)
    light = rng.uniform(0.65, 1.0, 3)
    light[rng.integers(3)] = rng.uniform(0.0, 1.0)  # one free channel gives saturated colours, not only pastel ones
    dark, light = (torch.from_numpy(colour.astype(np.float32))[:, None, None] for colour in (dark, light))
    pattern = (1.7 * _smooth_noise(TEXTURE_SIZE, 1, int(rng.integers(2, 4)), rng)).sigmoid()
    colour = dark + (light - dark) * pattern
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
    opacity = ((edge - distance) / SOFT_EDGE + 0.5).clamp(0, 1) * (8 * (1 - distance)).clamp(0, 1)
    return torch.cat([colour, opacity[None]])


def _paste(frames: Tensor, sprite: Tensor, places: np.ndarray, angle: float, radius: float) -> Tensor:
    """Frames (T, 3, S, S) with the sprite on them at `places` (T, 2), wrapped round the picture's edges."""
    size = frames.shape[-1]
    column, row = torch.from_numpy(places.astype(np.float32)).T[..., None, None]
    pixels = (torch.arange(size) + 0.5) / size
    x = (pixels - column + 0.5) % 1 - 0.5  # (T, 1, S): the nearest of the object's copies on the torus
    y = (pixels[:, None] - row + 0.5) % 1 - 0.5  # (T, S, 1)
    cos, sin = math.cos(angle) / radius, math.sin(angle) / radius
    grid = torch.stack([x * cos + y * sin, y * cos - x * sin], dim=-1)  # (T, S, S, 2) in the sprite's own [-1, 1]
    layer = F.grid_sample(sprite.expand(len(places), -1, -1, -1), grid, padding_mode="zeros", align_corners=False)
    return frames + (layer[:, :3] - frames) * layer[:, 3:]
