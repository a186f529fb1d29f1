# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Tables of videos: the same form for every source.

A table is a `datasets.Dataset` with a row for each video:

- `video`: absolute path of a file or of a folder of pictures, or an address; or a file's bytes with its name, as
  `datasets.Video(decode=False)` keeps them: `{"path", "bytes"}`.
- `label`: a `ClassLabel` in which -1 means unlabelled. Its names have the order of the model's classes.
- `start_seconds`, `end_seconds`, if the videos are parts of files; null is the file's end.
- `line`, if the table comes from a list: the line, counted from 1.
"""

import hashlib
import io
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import BinaryIO

import numpy as np
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, Value, Video

from ..decoding_videoms import VideoDecodeError
from ..messages import raise_problems, shorten
from ..reader_videoms import VideoReader
from ..readers import is_frame_folder, open_video


UNLABELLED = -1
# Names of columns of paths, in order of preference.
PATH_COLUMNS = (
    "video", "path", "video_path", "file_path", "filepath", "file_name", "filename", "file", "video_file", "video_name"
)  # fmt: skip
# Endings of videos in folders; a list may name any file.
VIDEO_ENDINGS = "3gp asf avi flv gif m4v mjpeg mkv mov mp4 mpeg mpg mts ogv ts vob webm wmv"
VIDEO_NAME = re.compile(rf".+\.({VIDEO_ENDINGS.replace(' ', '|')})", re.IGNORECASE | re.DOTALL)
SPLITS = {"train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing"}
WINDOW_COLUMNS = ("start_seconds", "end_seconds")


def make_table(
    videos: Iterable[str | dict],
    labels: Iterable[int],
    class_names: Sequence[str],
    lines: Iterable[int] | None = None,
    windows: Mapping[str, list[float | None]] | None = None,
) -> Dataset:
    """The table of videos (paths, or `{"path", "bytes"}`) and label numbers; paths must be UTF-8."""
    videos = list(videos)
    embedded = bool(videos) and isinstance(videos[0], dict)
    if bad := [] if embedded else [path for path in videos if re.search("[\ud800-\udfff]", path)]:
        paths = [f"{os.fsencode(path)!r}" for path in bad]
        raise_problems(f"the paths of {len(bad)} videos are not UTF-8; rename these files:", paths)
    kind = Video(decode=False) if embedded else Value("string")
    windows = windows or {}
    data = {"video": videos, "label": list(labels), **windows}
    features = {"video": kind, "label": ClassLabel(names=list(class_names))}
    features |= dict.fromkeys(windows, Value("float64"))
    if lines is not None:
        data["line"], features["line"] = list(lines), Value("int32")
    return Dataset.from_dict(data, features=Features(features))


def video_name(row: Mapping) -> str:
    """The name of a row's video: its path, or the name stored with its bytes."""
    video = row["video"]
    return video if isinstance(video, str) else video.get("path") or f"video of {len(video['bytes'])} bytes"


def video_names(table: Dataset) -> list[str]:
    """The names of a table's videos, by row; embedded bytes are not read."""
    if not isinstance(table.features["video"], Video):
        return table["video"][:]
    batches = table.select_columns("video").with_format("arrow").iter(batch_size=256)
    names = [name for batch in batches for name in pc.struct_field(batch["video"], "path").to_pylist()]
    return [name or f"video of row {row}" for row, name in enumerate(names)]


def table_fingerprint(table: Dataset) -> str:
    """A hash of a table's videos (their names and windows) and labels, in their order."""
    columns = [name for name in ("label", *WINDOW_COLUMNS) if name in table.column_names]
    rows = zip(video_names(table), *(table[name][:] for name in columns), strict=True)
    return hashlib.sha256("\n".join(map(repr, rows)).encode(errors="backslashreplace")).hexdigest()


def video_source(row: Mapping) -> str | BinaryIO:
    """What a row's video is decoded from: its path, or its bytes with their name."""
    video = row["video"]
    if isinstance(video, str):
        return video
    if video.get("bytes") is None:
        return video["path"]
    file = io.BytesIO(video["bytes"])
    file.name = video_name(row)  # for messages
    return file


def window_of(row: Mapping) -> dict[str, float | None]:
    """The part of its file that a row's video is, as [`~VideoReader.window`] takes it."""
    return {name: row[name] for name in WINDOW_COLUMNS if name in row}


def is_address(path: str) -> bool:
    """Whether a path is an address such as https://host/video.mp4."""
    return "://" in path


def absolute_path(path: str, folder: str | os.PathLike) -> str:
    """The path from that folder on; an address as it is."""
    return path if is_address(path) else os.path.abspath(os.path.join(folder, path))


def find_column(columns: Iterable[str], known: Sequence[str]) -> str | None:
    """The column with the first known name, in any case and with spaces or underscores; `None` if there is none."""
    by_name = {re.sub(r"[ -]", "_", str(column).strip().lower()): column for column in columns}
    return next((by_name[name] for name in known if name in by_name), None)


def open_row(row: Mapping) -> VideoReader:
    """Reader of a row's video, or of the part of it that the row is."""
    return open_video(video_source(row)).window(**window_of(row))


def reason_of(error: VideoDecodeError | OSError) -> str:
    """Why a video cannot be used, without its name."""
    return error.reason if isinstance(error, VideoDecodeError) else f"cannot be read ({error.strerror or error})"


def size_of(source: str | BinaryIO) -> int:
    """Bytes of a video's file or of its images; 0 for an address."""
    if not isinstance(source, str):
        return source.seek(0, os.SEEK_END)
    if os.path.isdir(source):
        return sum(entry.stat().st_size for entry in os.scandir(source))
    return 0 if is_address(source) else os.path.getsize(source)


def why_missing(path: str) -> str | None:
    """Why a path cannot be that of a video; `None` for an address, a file that exists, and a folder of images."""
    if is_address(path) or os.path.isfile(path) or is_frame_folder(path):
        return None
    return f"{path} is a folder without images" if os.path.isdir(path) else f"there is no file {path}"


def hold_out(table: Dataset, share: float, seed: int = 0) -> tuple[Dataset, Dataset]:
    """The table without, and only with, a random `share` of each class's videos.

    A class of two or more videos has at least one in both. Unlabelled videos, and the only video of a class, stay in
    the first. Both keep the table's order and its classes.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; it must be greater than 0 and less than 1")
    rng = np.random.default_rng(seed)
    labels = np.array(table["label"][:])
    held = []
    for label in sorted(set(labels.tolist()) - {UNLABELLED}):
        rows = rng.permutation(np.flatnonzero(labels == label))
        if len(rows) > 1:
            held += rows[: min(max(round(share * len(rows)), 1), len(rows) - 1)].tolist()
    if not held:
        raise ValueError("no class has two labelled videos, so none can be held out; give a separate test list")
    rest = sorted(set(range(len(table))) - set(held))
    return table.select(rest), table.select(sorted(held))


def few_shot(table: Dataset, num_per_class: int, seed: int = 0) -> Dataset:
    """`num_per_class` random videos of each class, in the table's order; the classes stay those of the table.

    The draw depends on seed and table alone, and n + 1 videos include those for n.
    """
    if num_per_class < 1:
        raise ValueError(f"num_per_class is {num_per_class}; it must be at least 1")
    labels, names, rows = table["label"][:], table.features["label"].names, defaultdict(list)
    for row in np.random.default_rng(seed).permutation(len(table)).tolist():
        rows[labels[row]].append(row)
    few = [f"{name} ({len(rows[i])})" for i, name in enumerate(names) if len(rows[i]) < num_per_class]
    if few:
        raise ValueError(f"{num_per_class} videos of each class are required, but there are fewer of {shorten(few)}")
    return table.select(sorted(row for i in range(len(names)) for row in rows[i][:num_per_class]))
