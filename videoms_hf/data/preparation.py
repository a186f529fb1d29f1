# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Turns tables of videos into what training reads: lists, tables or shards of the videos, optionally re-encoded."""

import dataclasses
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Video

from ..decoding_videoms import VideoDecodeError, probe_video
from ..files import PARTIAL_NAME, atomic_path, write_text
from ..reader_videoms import VideoReader, redraws
from ..readers import is_frame_folder, open_video
from .shards import INDEX_FILE, add_video, tar_writer
from .tables import (
    CLASS_NAMES_FILE,
    UNLABELLED,
    WINDOW_COLUMNS,
    class_names_text,
    is_address,
    label_text,
    make_table,
    size_of,
    video_name,
    video_names,
    video_source,
    window_of,
)
from .transcoding import Encoding, transcode_video
from .workers import look_through


SETTINGS_FILE = "preparation.json"
REPORT_FILE = "report.json"
FORMS = ("csv", "parquet", "tar")
OWN_NAME = re.compile(rf"missing_.*|{PARTIAL_NAME.pattern}")  # what may be there before SETTINGS_FILE is
SHUFFLED = "train"  # the table whose videos are shuffled before they go into shards
MEGABYTE = 1 << 20
NAME_BYTES = 150  # of an encoded file's name and of its class, before what makes them unique
ROWS_TOGETHER = 4  # of a row group in a parquet file, which is read as a whole


def prepare_dataset(
    tables: Mapping[str, Dataset],
    output_dir: str | os.PathLike,
    form: str = "csv",
    encoding: Encoding | None = None,
    num_workers: int = 0,
    shard_megabytes: int = 256,
    settings: Mapping | None = None,
) -> dict:
    """Write the tables (by name: train, val, test) to `output_dir`; returns the report, which is also written there.

    With `form` "csv" a table becomes `<name>.csv` in the official format or, if its videos are windows of recordings,
    `<name>.parquet` with their paths; with "tar" and "parquet" a folder `<name>` of shards with the videos themselves.
    `classes.txt` has the class names. With an `encoding` the videos are first encoded to `videos/<class>/`. A video
    that cannot be read is left out and listed in the report with the reason.

    An interrupted preparation resumes; whatever file exists is complete. `settings` are what else the result depends
    on: they tell whether a folder belongs to this preparation.

    Raises:
        FileExistsError: `output_dir` holds something else, or was prepared with other settings.
        ValueError: an unknown form, tables with different classes, a table without any usable video.
    """
    if form not in FORMS:
        raise ValueError(f"form is {form!r}; it must be one of {', '.join(FORMS)}")
    names = next(iter(tables.values())).features["label"].names
    for split, table in tables.items():
        if table.features["label"].names != names:
            raise ValueError(f"the classes of {split} are not those of {next(iter(tables))}; they must be the same")
    folder = Path(output_dir)
    _claim(folder, {"form": form, "encoding": encoding and dataclasses.asdict(encoding), **(settings or {})})
    write_text(folder / CLASS_NAMES_FILE, class_names_text(names))
    targets, report = {}, {}
    for split, table in tables.items():
        usable, sizes, report[split] = _look(split, table, folder, encoding, targets, num_workers)
        if form != "csv":
            _write_shards(folder / split, usable, sizes, form, shard_megabytes * MEGABYTE)
        elif isinstance(usable.features["video"], Video):
            name = video_names(usable)[0]
            raise ValueError(f"{name} is embedded in a table; encode the videos, or choose the form parquet or tar")
        else:
            write_list(usable, folder, split)
    write_text(folder / REPORT_FILE, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return report


def summary(report: Mapping[str, Mapping]) -> str:
    """The lines of a report: totals of each table, and the videos that were left out."""
    lines = []
    for split, part in report.items():
        total = f"{split}: {part['videos']} videos, {part['hours']:.2f} h, {part['bytes'] / 1e9:.3f} GB"
        lines.append(f"{total}; {len(part['broken'])} broken ones left out")
        lines += [f"  {bad['video']} ({bad['place']}): {bad['reason']}" for bad in part["broken"]]
    return "\n".join(lines)


def _claim(folder: Path, settings: dict) -> None:
    """Mark a folder as belonging to this preparation."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SETTINGS_FILE
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        changes = sorted(name for name in before.keys() | settings if before.get(name) != settings.get(name))
        if changes:
            what = "; ".join(f"{name} was {before.get(name)!r}, now {settings.get(name)!r}" for name in changes)
            raise FileExistsError(f"{folder} was prepared with other settings ({what}); give another output_dir")
    elif any(not OWN_NAME.fullmatch(path.name) for path in folder.iterdir()):
        raise FileExistsError(f"{folder} holds something else; give another output_dir, or an empty one")
    write_text(path, json.dumps(settings, indent=2) + "\n")


def _look(
    split: str, table: Dataset, folder: Path, encoding: Encoding | None, targets: dict[str, tuple], num_workers: int
) -> tuple[Dataset, list[int], dict]:
    """The usable videos of a table, encoded if there is an `encoding`, their sizes in bytes, and the report."""
    classes, names, rows = table.features["label"].names, video_names(table), table.remove_columns("video").to_list()
    outputs = None
    if encoding is not None:
        is_embedded = isinstance(table.features["video"], Video)
        keys = [(split, i) if is_embedded else (name,) for i, name in enumerate(names)]
        outputs = [_target(*video, folder, classes, targets) for video in zip(names, rows, keys, strict=True)]
    look = partial(_look_at, outputs=outputs, encoding=encoding)
    # While encoding, a full disk is not the video's fault.
    faults = (VideoDecodeError, FileNotFoundError if encoding else OSError)
    found = look_through(look, table, num_workers, f"{'Encoding' if encoding else 'Looking at'} {split}", faults)
    broken = [
        {"video": name, "place": f"line {row['line']}" if "line" in row else f"row {i}", "reason": result}
        for i, (name, row, result) in enumerate(zip(names, rows, found, strict=True))
        if isinstance(result, str)
    ]
    kept = [i for i, result in enumerate(found) if not isinstance(result, str)]
    if not kept:
        first = f"{broken[0]['video']}: {broken[0]['reason']}"
        raise ValueError(f"none of {len(table)} videos of {split} can be used; the first is {first}")
    seconds, sizes = zip(*(found[i] for i in kept), strict=True)
    report = {"videos": len(kept), "hours": sum(seconds) / 3600, "bytes": sum(sizes), "broken": broken}
    usable = table.select(kept)
    if outputs:
        usable = make_table([os.fspath(outputs[i]) for i in kept], usable["label"][:], classes)
    return usable, sizes, report


def _target(name: str, row: Mapping, key: tuple, folder: Path, classes: Sequence[str], targets: dict) -> Path:
    """The file that a row's video is encoded to; the same part of the video `key` has the same in all tables."""
    label = "unlabelled" if row["label"] == UNLABELLED else classes[row["label"]]
    label = re.sub(r"^\.+$|[^-_ .,()A-Za-z0-9]", "_", label)[:NAME_BYTES]
    stem = re.sub(r"[\x00-\x1f]", "_", os.path.splitext(os.path.basename(name))[0])
    stem = os.fsencode(stem)[:NAME_BYTES].decode(errors="ignore").strip()
    seconds = list(window_of(row).values())
    window = "".join("_end" if second is None else f"_{round(second * 1000)}ms" for second in seconds)
    base, what = f"{label}/{stem}{window}", (*key, *seconds)
    names = itertools.chain([base], (f"{base}_{number}" for number in itertools.count(2)))
    name = next(name for name in names if targets.setdefault(name, what) == what)
    path = folder / "videos" / f"{name}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write_list(table: Dataset, folder: str | os.PathLike, name: str) -> Path:
    """The file that a table is written to: `<name>.csv` in the official format, with `classes.txt` next to it; or
    `<name>.parquet` if its videos are windows or embedded."""
    folder = Path(folder)
    if isinstance(table.features["video"], Video) or any(column in table.features for column in WINDOW_COLUMNS):
        path = folder / f"{name}.parquet"
        with atomic_path(path) as partial_path:
            table.select_columns([column for column in table.features if column != "line"]).to_parquet(partial_path)
        return path
    path, classes, lines = folder / f"{name}.csv", table.features["label"].names, []
    write_text(folder / CLASS_NAMES_FILE, class_names_text(classes))
    for video, label in zip(table["video"][:], table["label"][:], strict=True):
        if not is_address(video):  # a path inside the folder is relative to it, so that the folder can be moved
            video = os.path.abspath(video).removeprefix(os.path.abspath(folder) + os.sep)
        if "\n" in video or video != video.strip():
            raise ValueError(
                f"{video!r} cannot be listed because of its spaces or line breaks; rename or re-encode it"
            )
        lines.append(f"{video} {label_text(label, classes)}\n")
    write_text(path, "".join(lines))
    return path


def _look_at(
    number: int, read: Callable[[], dict], outputs: Sequence[Path] | None, encoding: Encoding | None
) -> tuple[float, int]:
    """Seconds and bytes of a video, encoded if there are outputs."""
    if outputs:
        if not (output := outputs[number]).exists():
            transcode_video(read(), output, encoding)
        return probe_video(output).duration_seconds, output.stat().st_size
    row = read()
    source = video_source(row)
    with open_video(source) as video:
        return _seconds(video, **window_of(row)), size_of(source)


@redraws
def _seconds(video: VideoReader, start_seconds: float | None = None, end_seconds: float | None = None) -> float:
    """Seconds of a video or a window of it, whose first frame can be decoded; of images 0, if all can be decoded."""
    length = len(video.window(start_seconds, end_seconds))
    video.seek([0])
    end_seconds = video.info.duration_seconds if end_seconds is None else end_seconds
    if not end_seconds:
        video.frames([0, length - 1])
    return end_seconds - (start_seconds or 0.0)


def _write_shards(folder: Path, table: Dataset, sizes: Sequence[int], form: str, shard_bytes: int) -> None:
    """Shards of about `shard_bytes` each; training videos are shuffled, so that neighbours are unrelated.

    A shard that already holds exactly these videos is kept, and `shards.json` is written after each one.
    """
    folder.mkdir(exist_ok=True)
    index_path, names = folder / INDEX_FILE, video_names(table)
    before = json.loads(index_path.read_text(encoding="utf-8")) if index_path.is_file() else {}
    order = np.random.default_rng(0).permutation(len(table)) if folder.name == SHUFFLED else np.arange(len(table))
    starts = np.cumsum([0] + [sizes[i] for i in order])[:-1] // shard_bytes
    numbers, index = np.unique(starts), {}
    for shard, number in enumerate(numbers):
        own = order[starts == number].tolist()
        path = folder / f"{shard:05d}.{form}"
        digest = hashlib.sha256("\n".join(f"{i} {names[i]} {sizes[i]}" for i in own).encode()).hexdigest()
        known = before.get(path.name, {})
        if known.get("digest") != digest or not path.is_file() or path.stat().st_size != known["num_bytes"]:
            (_write_tar if form == "tar" else _write_parquet)(path, table, own)
        index[path.name] = {"num_videos": len(own), "num_bytes": path.stat().st_size, "digest": digest}
        write_text(index_path, json.dumps(before | index if shard + 1 < len(numbers) else index, indent=2))
    for name in before.keys() - index.keys():  # our shards that are no longer needed
        if re.fullmatch(r"[0-9]{5,}\.(tar|parquet)", name):
            (folder / name).unlink(missing_ok=True)


def _content(row: Mapping) -> bytes:
    source = video_source(row)
    if not isinstance(source, str):
        return source.getvalue()
    if is_frame_folder(source):
        raise ValueError(f"{source} is a folder of images; encode the videos to put them into shards")
    return Path(source).read_bytes()


def _write_tar(path: Path, table: Dataset, numbers: Sequence[int]) -> None:
    classes = table.features["label"].names
    with tar_writer(path) as tar:
        for number in numbers:
            row = table[number]
            name, label = video_name(row), row["label"]
            about = {"label": label, **({"class": classes[label]} if label != UNLABELLED else {})}
            about |= window_of(row) | {"video": os.path.basename(name)}
            ending = os.path.splitext(name)[1].lstrip(".").lower() or "mp4"
            add_video(tar, f"{number:08d}", ending, _content(row), about)


def _write_parquet(path: Path, table: Dataset, numbers: Sequence[int]) -> None:
    columns = ["video", "label", *(name for name in WINDOW_COLUMNS if name in table.features)]
    schema = Features({name: table.features[name] for name in columns} | {"video": Video(decode=False)}).arrow_schema
    with atomic_path(path) as partial_path, pq.ParquetWriter(partial_path, schema) as writer:
        for start in range(0, len(numbers), ROWS_TOGETHER):
            rows = [table[number] for number in numbers[start : start + ROWS_TOGETHER]]
            for row in rows:
                row["video"] = {"bytes": _content(row), "path": os.path.basename(video_name(row))}
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
