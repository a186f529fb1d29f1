# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""What this machine can do: library versions, device, speed of decoding and of training, disk space, suggestions."""

import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from packaging.requirements import Requirement

from .configuration_videoms import VideoMSConfig
from .data.tables import UNLABELLED, make_table
from .experiments.synthetic import ENCODINGS, encode_video, render_motion_clip
from .modeling_videoms import VideoMSForPreTraining
from .training.arguments import DataArguments
from .training.clip_datasets import pretraining_clips
from .training.training_arguments import available_cores, default_num_workers


MIN_FREE_GIB = 10


class Library(NamedTuple):
    """A required library."""

    name: str
    installed: str | None  # version; `None`: missing
    required: str
    is_met: bool


class Findings(NamedTuple):
    """What [`examine`] found. Speeds are clips of 16 frames of 224 x 224 per second."""

    libraries: list[Library]
    device: str
    cores: int
    threads: int
    num_workers: int  # decoding processes of a training run, by default
    decoding_speed: float  # of one process
    training_speed: float  # forward and backward pass of pre-training a ViT-S
    free_gib: float

    @property
    def total_decoding_speed(self) -> float:
        return self.decoding_speed * max(self.num_workers, 1)

    @property
    def bottleneck(self) -> str:
        """What limits pre-training a ViT-S: "decoding" or "the model"."""
        return "decoding" if self.total_decoding_speed < self.training_speed else "the model"


def required_libraries() -> list[Library]:
    """The libraries that this package requires, without those of its extras."""
    found = []
    for requirement in map(Requirement, requires("videoms_hf") or []):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            try:
                installed = version(requirement.name)
            except PackageNotFoundError:
                installed = None
            is_met = installed is not None and requirement.specifier.contains(installed, prereleases=True)
            found.append(Library(requirement.name, installed, str(requirement.specifier), is_met))
    return found


def clips_per_second(read: Callable[[int], int], seconds: float) -> float:
    """Speed of `read`, which is given 0, 1, 2 ... and returns a number of clips; the first call does not count."""
    read(0)
    start, count = time.perf_counter(), 0
    for i in itertools.count(1):
        count += read(i)
        if (elapsed := time.perf_counter() - start) >= seconds:
            return count / elapsed


def decoding_speed(seconds: float) -> float:
    """Random pre-training clips per second of one process, from a rendered H.264 video of 10 s."""
    with tempfile.TemporaryDirectory() as folder:
        codec, suffix, options = ENCODINGS[0]
        path = Path(folder) / f"video{suffix}"
        encode_video(render_motion_clip("right", 256, 160, np.random.default_rng(0)), path, codec, options)
        table = make_table([str(path)], [UNLABELLED], [])
        arguments = DataArguments(train_data=str(path), num_frames=16, frame_stride=4, image_size=224)
        clips = pretraining_clips(table, arguments, VideoMSConfig.from_size("small"))
        return clips_per_second(lambda _: len(clips[0]["pixel_values"][None]), seconds)


def training_speed(seconds: float, config: VideoMSConfig | None = None) -> float:
    """Clips per second of pre-training (forward and backward pass), by default of a ViT-S; on CUDA in bfloat16."""
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    model = VideoMSForPreTraining(config or VideoMSConfig.from_size("small")).to(device)
    config = model.config
    shape = (2 if device.type == "cpu" else 32, config.num_frames, config.num_channels, *config.image_shape)
    batch = torch.rand(shape, device=device)

    def step(_: int) -> int:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = model(batch).loss
        loss.backward()
        loss.item()  # waits for the device
        return len(batch)

    return clips_per_second(step, seconds)


def examine(folder: str | os.PathLike, seconds: float = 3.0) -> Findings:
    """Findings for this machine; each measurement takes about `seconds`, and disk space is that of `folder`."""
    name = str(torch.accelerator.current_accelerator(check_available=True) or "CPU")
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else name
    return Findings(
        required_libraries(), name, available_cores(), torch.get_num_threads(), default_num_workers(),
        decoding_speed(seconds), training_speed(seconds), shutil.disk_usage(folder).free / 2**30,
    )  # fmt: skip


def suggestions(found: Findings) -> list[str]:
    """What to change, most important first."""
    lines = []
    if bad := [f"'{library.name}{library.required}'" for library in found.libraries if not library.is_met]:
        lines.append(f"Install or update libraries: pip install --upgrade {' '.join(bad)}")
    if found.free_gib < MIN_FREE_GIB:
        lines.append(f"Only {found.free_gib:.1f} GiB are free: use another --output_dir or --save_total_limit 1")
    if found.bottleneck == "decoding":
        lines.append("Decoding is the bottleneck: re-encode the videos once for faster reading,")
        lines.append("  videoms prepare DATASET ... --short_side 256 --gop 16 --fastdecode")
        if found.num_workers < found.cores:
            lines.append(f"  or use more processes: --dataloader_num_workers {found.cores}")
    if found.device == "CPU":
        lines.append("No GPU was found: start with a small network, as `videoms quickstart` does")
        if found.threads < found.cores:
            lines.append(f"  torch uses {found.threads} of {found.cores} cores: check OMP_NUM_THREADS")
    return lines


def report(found: Findings) -> str:
    """The findings and suggestions as text."""
    lines = ["libraries"]
    for library in found.libraries:
        problem = "" if library.is_met else f"   <-- {library.required} is required"
        lines.append(f"  {library.name:18}{library.installed or 'not installed'}{problem}")
    lines += [
        "machine",
        f"  {'device':18}{found.device}, {found.threads} threads on {found.cores} cores",
        f"  {'free disk space':18}{found.free_gib:.1f} GiB",
        "speed for clips of 16 frames of 224 x 224, pre-training a ViT-S",
        f"  {'decoding':18}{found.decoding_speed:.3g} clips/s per process, "
        f"{found.total_decoding_speed:.3g} clips/s with {found.num_workers} workers",
        f"  {'model':18}{found.training_speed:.3g} clips/s, forward and backward",
        f"  {'bottleneck':18}{found.bottleneck}",
        "suggestions",
    ]
    return "\n".join([*lines, *(f"  {line}" for line in suggestions(found) or ["None: this machine is ready"])])
