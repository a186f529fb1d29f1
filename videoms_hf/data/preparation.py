# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Turns tables of videos into what training reads: lists, tables or shards of the videos, optionally re-encoded."""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Value, Video

from ..decoding_videoms import VideoDecodeError, probe_video
from ..files import PARTIAL_NAME, atomic_path, write_text
from ..reader_videoms import VideoReader, redraws
from ..readers import is_frame_folder, open_video
from .labels import CLASS_NAMES_FILE, class_names_text, label_text
from .shards import INDEX_FILE, add_video, tar_writer
from .tables import UNLABELLED, WINDOW_COLUMNS, video_names, video_source, window_of
from .transcoding import Encoding, transcode_video
from .workers import WorkerKilled, work_through


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
    `classes.txt` has the class names. With an `encoding` the videos are first encoded to `videos/<class>/`.

    Every video is checked; one that cannot be read is left out and listed in the report with the reason. An
    interrupted preparation resumes; whatever file exists is complete.

    Args:
        settings: what else the result depends on; stored to tell whether a folder belongs to this preparation.

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
    targets: dict[str, tuple] = {}
    report = {}
    for split, table in tables.items():
        rows, report[split] = _look(split, table, folder if encoding else None, encoding, targets, num_workers)
        if not rows:
            raise ValueError(f"none of {len(table)} videos of {split} can be used; {_first_reason(report[split])}")
        has_windows = any(name in rows[0] for name in WINDOW_COLUMNS)
        if form == "csv" and not has_windows:
            write_text(folder / f"{split}.csv", "".join(_line(row, folder, names) for row in rows))
        elif form == "csv":
            _write_table(folder / f"{split}.parquet", rows, names)
        else:
            _write_shards(folder / split, split, rows, names, form, shard_megabytes * MEGABYTE)
    write_text(folder / REPORT_FILE, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return report


def summary(report: Mapping[str, Mapping]) -> str:
    """The lines of a report: totals of each table, and the videos that were left out."""
    lines = []
    for split, part in report.items():
        lines.append(
            f"{split}: {part['videos']} videos, {part['hours']:.2f} h, {part['bytes'] / 1e9:.3f} GB; "
            f"{len(part['broken'])} broken ones left out"
        )
        lines += [f"  {bad['video']} ({bad['place']}): {bad['reason']}" for bad in part["broken"]]
    return "\n".join(lines)


def _first_reason(part: Mapping) -> str:
    return f"the first is {part['broken'][0]['video']}: {part['broken'][0]['reason']}"


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


# -- checking and encoding the videos -----------------------------------------------------------------------------


def _look(
    split: str,
    table: Dataset,
    folder: Path | None,
    encoding: Encoding | None,
    targets: dict[str, tuple],
    num_workers: int,
) -> tuple[list[dict], dict]:
    """The usable rows of a table, encoded if there is a `folder` for that, and its report."""
    names = table.features["label"].names
    # Embedded videos stay in their table until they are needed; for others the workers need only the row.
    is_embedded = isinstance(table.features["video"], Video)
    sources = [
        {**row, "video": video}
        for row, video in zip(table.remove_columns("video").to_list(), video_names(table), strict=True)
    ]
    outputs: list[Path | None] = [None] * len(table)
    if folder is not None:
        keys = [(split, number) if is_embedded else (row["video"],) for number, row in enumerate(sources)]
        outputs = [_target(row, key, folder, names, targets) for row, key in zip(sources, keys, strict=True)]
    videos = range(len(table)) if is_embedded else sources
    work = partial(_look_at, table=table if is_embedded else None, encoding=encoding)
    description = f"Encoding {split}" if folder else f"Looking at {split}"
    found = dict(work_through(work, list(zip(videos, outputs, strict=True)), num_workers, description))
    rows, broken, seconds, size = [], [], 0.0, 0
    for number, (source, output) in enumerate(zip(sources, outputs, strict=True)):
        result = found[number]
        if isinstance(result, WorkerKilled):
            result = "the process that read it was killed (out of memory, or a fault of the decoder)"
        if isinstance(result, str):
            place = f"line {source['line']}" if "line" in source else f"row {number}"
            broken.append({"video": source["video"], "place": place, "reason": result})
            continue
        seconds, size = seconds + result[0], size + result[1]
        row = {"number": number, "label": source["label"], "bytes": result[1], "table": table}
        if output:
            row["path"] = os.fspath(output)
        else:
            row |= {"name" if is_embedded else "path": source["video"], **window_of(source)}
        rows.append(row)
    report = {"videos": len(rows), "hours": seconds / 3600, "bytes": size, "broken": broken}
    return rows, report


def _target(row: Mapping, key: tuple, folder: Path, names: Sequence[str], targets: dict[str, tuple]) -> Path:
    """The file that a row's video is encoded to; the same part of the video `key` has the same in all tables."""
    label = "unlabelled" if row["label"] == UNLABELLED else names[row["label"]]
    label = re.sub(r"^\.+$|[^-_ .,()A-Za-z0-9]", "_", label)[:NAME_BYTES]
    stem = re.sub(r"[\x00-\x1f]", "_", os.path.splitext(os.path.basename(row["video"]))[0])
    stem = os.fsencode(stem)[:NAME_BYTES].decode(errors="ignore").strip()
    seconds = list(window_of(row).values())
    window = "".join("_end" if second is None else f"_{round(second * 1000)}ms" for second in seconds)
    base, what = f"{label}/{stem}{window}", (*key, *seconds)
    name, count = base, 1
    while targets.setdefault(name, what) != what:
        count += 1
        name = f"{base}_{count}"
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
            table.remove_columns([column for column in ("line",) if column in table.features]).to_parquet(partial_path)
        return path
    write_text(folder / CLASS_NAMES_FILE, class_names_text(table.features["label"].names))
    rows = ({"path": video, "label": label} for video, label in zip(table["video"], table["label"], strict=True))
    write_text(folder / f"{name}.csv", "".join(_line(row, folder, table.features["label"].names) for row in rows))
    return folder / f"{name}.csv"


def _look_at(
    job: tuple[dict | int, Path | None], table: Dataset | None, encoding: Encoding | None
) -> tuple[float, int] | str:
    """Seconds and bytes of a video, encoded if there is an output path; or why it cannot be used."""
    row, output = job
    try:
        if output is None or not output.exists():
            row = row if table is None else table[row]
        if output is None:
            return _measure(row)
        if not output.exists():
            transcode_video(row, output, encoding)
        return probe_video(output).duration_seconds, output.stat().st_size
    except VideoDecodeError as error:
        return error.reason
    except OSError as error:
        if output is not None and not isinstance(error, FileNotFoundError):
            raise  # a full disk is not the video's fault
        return f"cannot be read ({error.strerror or error})"


def _measure(row: Mapping) -> tuple[float, int]:
    source = video_source(row)
    if not isinstance(source, str):
        size = len(source.getbuffer())
    elif os.path.isdir(source):
        size = sum(entry.stat().st_size for entry in os.scandir(source))
    else:
        size = 0 if "://" in source else os.path.getsize(source)
    with open_video(source) as video:
        return _seconds(video, **window_of(row)), size


@redraws
def _seconds(video: VideoReader, start_seconds: float | None = None, end_seconds: float | None = None) -> float:
    """Seconds of a video or a window of it, whose first frame can be decoded; of images 0, if all can be decoded."""
    length = len(video.window(start_seconds, end_seconds))
    video.seek([0])
    end_seconds = video.info.duration_seconds if end_seconds is None else end_seconds
    if not end_seconds:
        video.frames([0, length - 1])
    return end_seconds - (start_seconds or 0.0)


# -- writing ---------------------------------------------------------------------------------------------------------


def _line(row: Mapping, folder: Path, class_names: Sequence[str]) -> str:
    """A row of a list: a path inside the folder is relative to it, so that the folder can be moved."""
    if "path" not in row:
        raise ValueError(f"{row['name']} is embedded in a table; encode the videos, or choose the form parquet or tar")
    path = row["path"]
    inside = os.path.abspath(folder) + os.sep
    path = os.path.abspath(path).removeprefix(inside) if "://" not in path else path
    if "\n" in path or path != path.strip():
        raise ValueError(f"{path!r} cannot be listed because of its spaces or line breaks; rename or re-encode it")
    return f"{path} {label_text(row['label'], class_names)}\n"


def _write_table(path: Path, rows: Sequence[Mapping], names: Sequence[str]) -> None:
    """A table of paths and windows."""
    windows = [name for name in WINDOW_COLUMNS if name in rows[0]]
    features = {"video": Value("string"), "label": ClassLabel(names=list(names))}
    features |= {name: Value("float64") for name in windows}
    columns = {"video": [row["path"] for row in rows], "label": [row["label"] for row in rows]}
    columns |= {name: [row[name] for row in rows] for name in windows}
    if "unique_id" in rows[0]["table"].features:
        numbers = [row["number"] for row in rows]
        columns["unique_id"] = rows[0]["table"].select_columns("unique_id").select(numbers)["unique_id"][:]
        features["unique_id"] = rows[0]["table"].features["unique_id"]
    with atomic_path(path) as partial_path:
        Dataset.from_dict(columns, features=Features(features)).to_parquet(partial_path)


def _write_shards(
    folder: Path, split: str, rows: Sequence[Mapping], names: Sequence[str], form: str, shard_bytes: int
) -> None:
    """Shards of about `shard_bytes` each; training videos are shuffled, so that neighbours are unrelated.

    A shard that already holds exactly these videos is kept, and `shards.json` is written after each one.
    """
    folder.mkdir(exist_ok=True)
    index_path = folder / INDEX_FILE
    before = json.loads(index_path.read_text(encoding="utf-8")) if index_path.is_file() else {}
    order = np.random.default_rng(0).permutation(len(rows)) if split == SHUFFLED else np.arange(len(rows))
    starts = np.cumsum([0] + [rows[i]["bytes"] for i in order])[:-1] // shard_bytes
    index = {}
    for shard, number in enumerate(np.unique(starts)):
        own = order[starts == number].tolist()
        path = folder / f"{shard:05d}.{form}"
        described = "\n".join(f"{i} {rows[i].get('path', rows[i].get('name'))} {rows[i]['bytes']}" for i in own)
        digest = hashlib.sha256(described.encode()).hexdigest()
        known = before.get(path.name, {})
        if known.get("digest") != digest or not path.is_file() or path.stat().st_size != known["num_bytes"]:
            write = _write_tar if form == "tar" else _write_parquet
            write(path, [(i, rows[i]) for i in own], names)
        index[path.name] = {"num_videos": len(own), "num_bytes": path.stat().st_size, "digest": digest}
        write_text(
            index_path, json.dumps({**before, **index} if shard + 1 < len(np.unique(starts)) else index, indent=2)
        )
    for name in before.keys() - index.keys():  # our shards that are no longer needed
        if re.fullmatch(r"[0-9]{5,}\.(tar|parquet)", name):
            (folder / name).unlink(missing_ok=True)


def _content(row: Mapping) -> tuple[str, bytes]:
    """Name and bytes of a row's video."""
    if "path" not in row:
        source = video_source(row["table"][row["number"]])
        return row["name"], Path(source).read_bytes() if isinstance(source, str) else source.getvalue()
    if is_frame_folder(row["path"]):
        raise ValueError(f"{row['path']} is a folder of images; encode the videos to put them into shards")
    return row["path"], Path(row["path"]).read_bytes()


def _write_tar(path: Path, rows: Sequence[tuple[int, Mapping]], names: Sequence[str]) -> None:
    with tar_writer(path) as tar:
        for number, row in rows:
            name, content = _content(row)
            about = {"label": row["label"], **({"class": names[row["label"]]} if row["label"] != UNLABELLED else {})}
            about |= {name: row[name] for name in WINDOW_COLUMNS if name in row} | {"video": os.path.basename(name)}
            ending = os.path.splitext(name)[1].lstrip(".").lower() or "mp4"
            add_video(tar, f"{number:08d}", ending, content, about)


def _write_parquet(path: Path, rows: Sequence[tuple[int, Mapping]], names: Sequence[str]) -> None:
    windows = [name for name in WINDOW_COLUMNS if name in rows[0][1]]
    features = {"video": Video(decode=False), "label": ClassLabel(names=list(names))}
    features = Features(features | {name: Value("float64") for name in windows})
    with atomic_path(path) as partial_path, pq.ParquetWriter(partial_path, features.arrow_schema) as writer:
        for start in range(0, len(rows), ROWS_TOGETHER):
            batch = []
            for _, row in rows[start : start + ROWS_TOGETHER]:
                name, content = _content(row)
                video = {"bytes": content, "path": os.path.basename(name)}
                batch.append({"video": video, "label": row["label"], **{name: row[name] for name in windows}})
            writer.write_table(pa.Table.from_pylist(batch, schema=features.arrow_schema))
