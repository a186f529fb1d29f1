# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""The form of every table of videos, whatever it was read from.

A table is a `datasets.Dataset` with a row for each video:

- `video`: absolute path of a file or of a folder of pictures, or an address; or a file's bytes with its name, as
  `datasets.Video(decode=False)` keeps them: `{"path", "bytes"}`.
- `label`: a `ClassLabel` in which -1 means unlabelled. The order of its names is that of the model's classes.
- `start_seconds`, `end_seconds`, if the videos are parts of files: the part that is used; null is the file's end.
- `line`, if the table comes from a list: the line, counted from 1.
"""

import hashlib
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import BinaryIO

import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, Value, Video

from ..messages import first_of


UNLABELLED = -1
# Names that columns of paths have, the best first.
PATH_COLUMNS = (
    "video", "path", "video_path", "file_path", "filepath", "file_name", "filename", "file", "video_file", "video_name"
)  # fmt: skip
# Endings by which a video in a folder is known; a list may name any file.
VIDEO_ENDINGS = "3gp asf avi flv gif m4v mjpeg mkv mov mp4 mpeg mpg mts ogv ts vob webm wmv"
VIDEO_NAME = re.compile(rf".+\.({VIDEO_ENDINGS.replace(' ', '|')})", re.IGNORECASE | re.DOTALL)
SPLITS = {"train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing"}
WINDOW_COLUMNS = ("start_seconds", "end_seconds")


def make_table(
    videos: Iterable[str | dict],
    labels: Iterable[int],
    class_names: Sequence[str],
    lines: Iterable[int] | None = None,
    windows: Mapping[str, Iterable[float | None]] | None = None,
) -> Dataset:
    """The table of videos (paths, or `{"path", "bytes"}`) and the numbers of their labels.

    Raises:
        ValueError: paths that are not UTF-8, which no table can hold.
    """
    videos = list(videos)
    embedded = bool(videos) and isinstance(videos[0], dict)
    if bad := [] if embedded else [path for path in videos if re.search("[\ud800-\udfff]", path)]:
        paths = first_of([f"  {os.fsencode(path)!r}" for path in bad])
        raise ValueError("\n".join([f"the paths of {len(bad)} videos are not UTF-8; rename these files:", *paths]))
    data = {"video": videos, "label": list(labels)}
    features = {
        "video": Video(decode=False) if embedded else Value("string"),
        "label": ClassLabel(names=list(class_names)),
    }
    for name, values in (windows or {}).items():
        data[name], features[name] = list(values), Value("float64")
    if lines is not None:
        data["line"], features["line"] = list(lines), Value("int32")
    return Dataset.from_dict(data, features=Features(features))


def video_name(row: Mapping) -> str:
    """What a row's video is called: its path, or the name that its bytes came under."""
    video = row["video"]
    return video if isinstance(video, str) else video.get("path") or f"video of {len(video['bytes'])} bytes"


def video_names(table: Dataset) -> list[str]:
    """What the videos of a table are called, by row; no embedded bytes are read."""
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
    """Where a row's video is decoded from: its path, or its bytes under their name."""
    video = row["video"]
    if isinstance(video, str):
        return video
    if video.get("bytes") is None:
        return video["path"]
    file = io.BytesIO(video["bytes"])
    file.name = video_name(row)  # for messages
    return file


def window_of(row: Mapping) -> dict[str, float | None]:
    """The part of its file that a row's video is, as [`decode_frames`] takes it."""
    return {name: row[name] for name in WINDOW_COLUMNS if name in row}


def is_address(path: str) -> bool:
    """Whether a path is an address such as https://host/video.mp4."""
    return "://" in path


def find_column(columns: Iterable[str], known: Sequence[str]) -> str | None:
    """The column with the first of the known names, in capitals or with spaces too; `None` if there is none."""
    by_name = {re.sub(r"[ -]", "_", str(column).strip().lower()): column for column in columns}
    return next((by_name[name] for name in known if name in by_name), None)
