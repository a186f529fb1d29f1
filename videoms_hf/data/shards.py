# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Videos in shards: tar files in WebDataset's format, or parquet files with the videos' bytes.

In a tar file the files of one video follow each other and share their name up to the first dot: `000017.mp4`, and
`000017.cls` (a label, number or name) or `000017.json` (an object with `label` and, optionally, `start_seconds` and
`end_seconds`). A parquet file has the columns of a table (`tables.py`). An optional `shards.json` next to the shards
says how many videos each holds, so that they need not be counted; `classes.txt` names the classes.
"""

import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Video

from ..files import atomic_path
from ..messages import shorten
from .tables import CLASS_NAMES_FILE, UNLABELLED, WINDOW_COLUMNS, LabelNumbers, read_class_names, window_of


STREAM_PREFIX = "stream:"  # marks a folder of shards as training data
INDEX_FILE = "shards.json"
OPEN_SHARDS = 128  # whose contents a process remembers: each lane of a stream reads one or two at a time


class Shard(NamedTuple):
    """A file with videos; the time of its last modification tells whether it is still the file that was counted."""

    path: str
    num_videos: int
    changed: int


class Shards(Sequence):
    """The videos of a folder of shards, numbered from 0 in the order of the shards' names.

    `shards[number]` is a row as in a table; [`~Shards.read`] takes several at once, which is cheaper.
    """

    def __init__(
        self, folder: str | os.PathLike, class_names: Sequence[str] | None = None, require_labels: bool = False
    ):
        self.folder, self.require_labels = os.path.abspath(folder), require_labels
        if not (paths := shard_files(folder)):
            raise ValueError(f"{folder} holds no shard; their names must end in .tar or .parquet")
        counted = _read_index(self.folder)
        self.shards = [counted.get(path) or count_videos(path) for path in paths]
        self.ends = np.cumsum([shard.num_videos for shard in self.shards])
        own_names = stored_class_names(paths[0])
        self.class_names = list(class_names) if class_names is not None else own_names
        if self.class_names is None and require_labels:
            raise ValueError(
                f"{folder} does not say what its classes are called; put a classes.txt next to the shards, with one "
                "name per line in the order of the numbers"
            )
        if own_names and (unknown := sorted(set(own_names) - set(self.class_names))):
            raise ValueError(f"{folder} has the classes {shorten(unknown)}, not among {shorten(class_names)}")
        self.features = Features({"video": Video(decode=False), "label": ClassLabel(names=self.class_names or [])})
        self._read_label = LabelNumbers(self.class_names or [], own_names)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, number: int) -> dict:
        return self.read([number])[0]

    def read(self, numbers: Iterable[int]) -> list[dict]:
        """Rows by number, read in the order of the files and returned in that of `numbers`."""
        numbers = np.asarray(list(numbers), dtype=np.int64)
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise IndexError(f"numbers must be from 0 to {len(self) - 1}, but go from {numbers.min()}")
        rows = {}
        which = np.searchsorted(self.ends, numbers, side="right")
        for i in np.unique(which):
            shard = self.shards[i]
            begin = int(self.ends[i]) - shard.num_videos
            places = np.unique(numbers[which == i]) - begin
            read = read_tar_videos if shard.path.endswith(".tar") else read_parquet_videos
            for place, row in zip(places.tolist(), read(shard, places.tolist()), strict=True):
                rows[begin + place] = {**row, "label": self._label(row, shard, place)}
        return [rows[number] for number in numbers.tolist()]

    def _label(self, row: dict, shard: Shard, place: int) -> int:
        """A row's label as a number of `class_names`."""
        if self.class_names is None:
            return UNLABELLED  # numbers without names: pre-training does not use them
        label = self._read_label(row.get("label"))
        if label is None or (label == UNLABELLED and self.require_labels):
            what = "no label" if label == UNLABELLED else f"the label {row['label']!r}"
            raise ValueError(f"video {place} of {shard.path} has {what}; it must be {self._read_label.wanted}")
        return label


def shard_files(folder: str | os.PathLike) -> list[str]:
    """Absolute paths of a folder's shards, sorted by name: its tar files or, without any, its parquet files."""
    folder = os.path.abspath(folder)
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    tars = [name for name in names if name.endswith(".tar")]
    return [os.path.join(folder, name) for name in tars or [name for name in names if name.endswith(".parquet")]]


def count_videos(path: str) -> Shard:
    """A shard with its number of videos, counted by the headers in it."""
    changed = os.stat(path).st_mtime_ns
    try:
        num_videos = len(_tar_starts(path, changed)) - 1 if path.endswith(".tar") else pq.read_metadata(path).num_rows
    except (OSError, tarfile.TarError, ValueError, ArithmeticError, MemoryError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({error}); download it again or leave it out") from error
    return Shard(path, num_videos, changed)


def _read_index(folder: str) -> dict[str, Shard]:
    """The shards that `shards.json` counts, by their path; a file of another size is counted again."""
    path, shards = Path(folder) / INDEX_FILE, {}
    try:
        index = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        for name, part in index.items():
            file, num_videos = os.path.join(folder, name), part["num_videos"]
            if not isinstance(num_videos, int) or num_videos < 0:
                raise ValueError(f"the number of videos in {name} is {num_videos!r}")
            if os.path.isfile(file) and os.path.getsize(file) == part["num_bytes"]:
                shards[file] = Shard(file, num_videos, os.stat(file).st_mtime_ns)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not an index of shards ({error}); remove it to count the shards") from error
    return shards


def _check_count(shard: Shard, found: int) -> None:
    if found != shard.num_videos:
        counts = f"{found} videos, but {INDEX_FILE} says {shard.num_videos}"
        raise ValueError(f"{shard.path} has {counts}; remove it to count the shards")


def stored_class_names(path: str) -> list[str] | None:
    """Class names that come with a shard: in the parquet file, or in `classes.txt` next to it or one folder up."""
    if path.endswith(".parquet"):
        features = Features.from_arrow_schema(pq.read_schema(path))
        if isinstance(features.get("label"), ClassLabel):
            return list(features["label"].names)
    for folder in Path(path).parents[:2]:
        if (folder / CLASS_NAMES_FILE).is_file():
            return read_class_names(folder / CLASS_NAMES_FILE)
    return None


@lru_cache(maxsize=OPEN_SHARDS)
def _tar_starts(path: str, changed: int) -> np.ndarray:
    """Where the files of each video of a tar file start, and where the last ones end: int64 (N + 1,)."""
    starts, last, endings = [], None, set()
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            tar.members = []  # or every header would be kept twice
            if member.size < 0:
                raise ValueError(f"the size of {member.name} is {member.size}")
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise ValueError(f"{member.name} is a link, a device or a sparse file; only plain files are read")
            key, ending = _split_member(member.name)
            if key != last:
                starts.append(member.offset)
                last, endings = key, set()
            if ending in endings:
                raise ValueError(f"it has two files {member.name}")
            endings.add(ending)
        return np.array([*starts, tar.offset])


def _split_member(name: str) -> tuple[str, str]:
    """The key of a video and the ending of one of its files."""
    folder, name = os.path.split(name)
    stem, _, ending = name.partition(".")
    return f"{folder}/{stem}" if folder else stem, ending.lower()


def read_tar_videos(shard: Shard, places: Sequence[int]) -> Iterator[dict]:
    """Rows of the videos at ascending `places` of a tar file."""
    starts = _tar_starts(shard.path, shard.changed)
    _check_count(shard, len(starts) - 1)
    with open(shard.path, "rb") as file:
        for place in places:
            file.seek(starts[place])
            content = file.read(starts[place + 1] - starts[place])
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
                found = {_split_member(part.name): tar.extractfile(part).read() for part in tar if part.isfile()}
            key, parts = next(iter(found))[0], {ending: data for (_, ending), data in found.items()}
            videos = [ending for ending in parts if ending not in ("cls", "json", "txt")]
            if len(videos) != 1:
                raise ValueError(f"{shard.path} has {len(videos)} videos of the name {key}; it must have one")
            try:
                about = json.loads(parts.get("json", "{}"))
                label = parts["cls"].decode().strip() if "cls" in parts else about.get("label")
            except (ValueError, AttributeError, RecursionError) as error:
                raise ValueError(f"{shard.path}: what it says about {key} cannot be read ({error})") from error
            name = f"{shard.path}/{key}.{videos[0]}"
            yield {"video": {"path": name, "bytes": parts[videos[0]]}, "label": label, **window_of(about)}


@contextmanager
def tar_writer(path: str | os.PathLike) -> Iterator[tarfile.TarFile]:
    """A tar file for [`add_video`]; it appears under its name when the `with` ends without an error."""
    with atomic_path(path) as partial, tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
        yield tar


def add_video(tar: tarfile.TarFile, key: str, ending: str, video: bytes, about: dict) -> None:
    for name, content in ((ending, video), ("json", json.dumps(about, ensure_ascii=False).encode())):
        member = tarfile.TarInfo(f"{key}.{name}")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def read_parquet_videos(shard: Shard, places: Sequence[int]) -> Iterator[dict]:
    """Rows of the videos at ascending `places` of a parquet file; only the row groups that hold them are read."""
    with pq.ParquetFile(shard.path) as file:
        columns = [name for name in ("video", "label", *WINDOW_COLUMNS) if name in file.schema_arrow.names]
        if "video" not in columns:
            raise ValueError(f"{shard.path} has no column 'video'; it has {shorten(file.schema_arrow.names)}")
        _check_count(shard, file.metadata.num_rows)
        places = np.asarray(places)
        starts = np.cumsum([0, *(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))])
        groups = np.searchsorted(starts, places, side="right") - 1
        for group in np.unique(groups).tolist():
            own = places[groups == group]
            rows = file.read_row_group(group, columns).take(own - starts[group]).to_pylist()
            for place, row in zip(own, rows, strict=True):
                video = row["video"]
                video = {"bytes": video} if isinstance(video, bytes) else video
                if isinstance(video, dict) and video.get("bytes") is not None:
                    name = video.get("path") or f"row {place}"
                    row["video"] = {"path": f"{shard.path}/{name}", "bytes": video["bytes"]}
                yield row
