# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""The annotation files of benchmark datasets as tables (`tables.py`).

A listed video without a file is an error that names it. Because downloads are often incomplete (Kinetics), up to
`max_missing_share` of the videos may be missing: they are logged, and written to `missing_list` if given.
"""

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset
from transformers.utils import logging

from ..files import read_text, write_text
from ..messages import count, first_of, raise_problems, shorten
from .annotations import read_oscc, read_videos
from .tables import UNLABELLED, VIDEO_NAME, make_table, read_class_names


logger = logging.get_logger(__name__)

UCF101_LISTS = {"train": "trainlist{:02}.txt", "test": "testlist{:02}.txt"}
HMDB51_CODES = {"train": "1", "test": "2", "unused": "0"}
# The second labelled subset of a benchmark, by its own name.
HELD_OUT = {"ucf101": "test", "hmdb51": "test", "kinetics": "val", "ssv2": "validation", "oscc": "val"}
BENCHMARKS = (*HELD_OUT, "lists", "folders")


def benchmark_tables(
    benchmark: str,
    annotations: str | os.PathLike,
    videos: str | os.PathLike | None = None,
    split: int = 1,
    max_missing_share: float | None = None,
    missing_folder: str | os.PathLike | None = None,
) -> dict[str, Dataset]:
    """The tables "train", "val" and "test" of a benchmark, if it has them, with the same classes.

    If a benchmark has two labelled subsets, "val" and "test" are the same videos, as in the official lists.

    Args:
        benchmark: one of `BENCHMARKS`.
        annotations: the folder of the benchmark's own files, or of train, val and test for "lists" and "folders".
        videos: the folder of its videos; `None` for "lists" and "folders", which contain their paths.
        split: of UCF101 and HMDB51, 1 to 3.
        max_missing_share: share of the videos that may be missing, by default 0.2 for Kinetics and 0 for others.
        missing_folder: folder for lists `missing_<subset>.txt` of the missing ones.
    """
    _check("benchmark", benchmark, BENCHMARKS)
    if (videos is None) != (benchmark in ("lists", "folders")):
        raise ValueError(f"videos is {videos}; it must be the folder of the videos, and unset for lists and folders")
    tables, names = {}, None
    for subset in ("train", "val", "test") if videos is None else ("train", HELD_OUT[benchmark]):
        if videos is None:
            path = Path(annotations) / f"{subset}{'.csv' * (benchmark == 'lists')}"
            if subset != "train" and not path.exists():
                continue
            tables[subset] = read_videos(path, class_names=names)
        else:
            missing_list = missing_folder and Path(missing_folder) / f"missing_{subset}.txt"
            options = (subset, split, names, max_missing_share, missing_list)
            tables[subset] = read_subset(benchmark, annotations, videos, *options)
        names = tables["train"].features["label"].names
    return tables if videos is None else {"train": tables["train"], "val": tables[subset], "test": tables[subset]}


def read_subset(
    benchmark: str,
    annotations: str | os.PathLike,
    videos: str | os.PathLike,
    subset: str = "train",
    split: int = 1,
    class_names: Sequence[str] | None = None,
    max_missing_share: float | None = None,
    missing_list: str | os.PathLike | None = None,
) -> Dataset:
    """The table of one subset of a benchmark, by the benchmark's own name: "train", that in `HELD_OUT`, or "test".

    - "ucf101": `annotations` is the folder `ucfTrainTestlist`. `videos` has a folder for each class, or all videos
      directly.
    - "hmdb51": the folder `testTrainMulti_7030_splits`, with a subset "unused" too. The classes are in alphabetic
      order; `line` is that of the class's own file. `videos` is as for UCF101.
    - "kinetics": `<subset>.csv` of Kinetics-400, 600 or 700, with the columns label, youtube_id, time_start, time_end;
      without labels (test) it is unlabelled. A video is `<youtube_id>_<start>_<end>` with six digits each, of any
      ending, anywhere below `videos`. The classes are those of the list in alphabetic order, or `class_names`.
    - "ssv2": `<subset>.json` and `labels.json`. The class is the template without brackets; "test" is unlabelled. A
      video is `<id>`, of any ending, anywhere below `videos`. `line` counts the entries.
    - "oscc": as [`read_oscc`] says.
    """
    _check("split", split, (1, 2, 3))
    folder, place = Path(annotations), {"ssv2": "entry", "oscc": "window"}.get(benchmark, "line")
    if benchmark == "oscc":
        path = _one_of(folder, f"fho_oscc-pnr_{subset}.json", f"fho_oscc-pnr_{subset}_unannotated.json")
        table = read_oscc(path, videos, class_names, allow_missing=True)
    else:
        read = {"ucf101": _ucf101, "hmdb51": _hmdb51, "kinetics": _kinetics, "ssv2": _something_something}[benchmark]
        path, names, entries = read(folder, subset, split)
        names = names if class_names is None else list(class_names)
        number_of = {name: i for i, name in enumerate(names)} | {None: UNLABELLED}
        unknown = f"the classes are {shorten(names)}"
        errors = [
            f"{place} {entry.number}: {entry.problem or f'the label is {entry.label!r}; {unknown}'}"
            for entry in entries
            if entry.problem or entry.label not in number_of
        ]
        raise_problems(f"{path} has {count(len(errors), 'error')}:", errors)
        if not entries:
            raise ValueError(f"{path} lists no video")
        in_folders = benchmark in ("ucf101", "hmdb51")
        find = partial(_either, videos) if in_folders else _files_by_stem(videos).get
        files = [find(entry.name) or entry.name for entry in entries]
        labels, numbers = zip(*((number_of[entry.label], entry.number) for entry in entries), strict=True)
        table = make_table(files, labels, names, lines=numbers)
    share = (0.2 if benchmark == "kinetics" else 0.0) if max_missing_share is None else max_missing_share
    return _present(table, path, place, share, missing_list)


class _Entry(NamedTuple):
    """An entry of a list: its number, the name of its video, the name of its class, and what is wrong."""

    number: int
    name: str
    label: str | None  # unlabelled
    problem: str | None = None


def _ucf101(folder: Path, subset: str, split: int) -> tuple[Path, list[str], list[_Entry]]:
    _check("subset", subset, UCF101_LISTS)
    path, names, entries = folder / UCF101_LISTS[subset].format(split), read_class_names(folder / "classInd.txt"), []
    for line, text in _lines(path):
        video, _, number = text.partition(" ")
        label, problem = video.split("/")[0], None
        if label in names and number.strip() not in ("", str(names.index(label) + 1)):
            problem = f"{video!r} has the number {number!r}, but its class is {names.index(label) + 1}"
        entries.append(_Entry(line, video, label, problem))
    return path, names, entries


def _hmdb51(folder: Path, subset: str, split: int) -> tuple[Path, list[str], list[_Entry]]:
    _check("subset", subset, HMDB51_CODES)
    ending, entries = f"_test_split{split}.txt", []
    files = {path.name.removesuffix(ending): path for path in sorted(folder.glob(f"*{ending}"))}
    if not files:
        raise ValueError(f"{folder} has no file *{ending}; give the folder testTrainMulti_7030_splits")
    for label, path in files.items():
        for line, text in _lines(path):
            video, _, code = text.rpartition(" ")
            if not video or code not in HMDB51_CODES.values():
                problem = f"{text!r} in {path.name} must be a file's name and 0, 1 or 2"
                entries.append(_Entry(line, "", label, problem))
            elif code == HMDB51_CODES[subset]:
                entries.append(_Entry(line, f"{label}/{video.strip()}", label))
    return folder, sorted(files), entries


def _kinetics(folder: Path, subset: str, _: int) -> tuple[Path, list[str], list[_Entry]]:
    path = _one_of(folder, f"{subset}.csv", *(("validate.csv", "validation.csv") if subset == "val" else ()))
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    columns, entries = reader.fieldnames or [], []
    if lacking := [name for name in ("youtube_id", "time_start", "time_end") if name not in columns]:
        raise ValueError(f"{path} has the columns {shorten(columns)}; it must have {shorten(lacking)} too")
    for row in reader:
        name, problem, times = "", None, (row["time_start"], row["time_end"])
        try:
            name = "{}_{:06d}_{:06d}".format(row["youtube_id"], *(int(float(time)) for time in times))
        except (TypeError, ValueError):
            problem = f"the times are {times[0]!r} and {times[1]!r}; they must be numbers"
        entries.append(_Entry(reader.line_num, name, (row.get("label") or "").strip() or None, problem))
    return path, sorted({entry.label for entry in entries} - {None}), entries


def _something_something(folder: Path, subset: str, _: int) -> tuple[Path, list[str], list[_Entry]]:
    files = (f"{subset}.json", "labels.json")
    path, labels = (_one_of(folder, name, f"something-something-v2-{name}") for name in files)
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a JSON file ({error})") from error
    if not isinstance(content, list):
        raise ValueError(f"{path} holds a {type(content).__name__}; it must be a list")
    entries = []
    for number, entry in enumerate(content, 1):
        template = entry.get("template")
        entries.append(_Entry(number, str(entry["id"]), template and re.sub(r"[\[\]]", "", template)))
    return path, read_class_names(labels), entries


def _one_of(folder: Path, *names: str) -> Path:
    if found := [folder / name for name in names if (folder / name).is_file()]:
        return found[0]
    raise FileNotFoundError(f"there is no {' or '.join(names)} in {folder}")


def _present(
    table: Dataset, source: Path, place: str, max_missing_share: float, missing_list: str | os.PathLike | None
) -> Dataset:
    """The rows whose video has a file; of others the column has the name alone, or a path without a file."""
    rows = list(zip(table["video"][:], table["line"][:], strict=True))
    missing = [(name, line) for name, line in rows if not (os.path.isabs(name) and os.path.isfile(name))]
    if missing_list is not None:
        Path(missing_list).unlink(missing_ok=True)
    if not missing:
        return table
    if missing_list is not None:
        write_text(missing_list, "".join(f"{name}\n" for name in dict.fromkeys(name for name, _ in missing)))
    lines = [f"{place} {line}: there is no file of {name}" for name, line in missing]
    head = f"{source}: {len(missing)} of {len(rows)} videos are missing"
    if len(missing) > max_missing_share * len(rows):
        advice = f"more than max_missing_share {max_missing_share} allows; download them, or raise it"
        raise_problems(f"{head}, {advice}:", lines)
    if len(missing) == len(rows):
        raise ValueError(f"{source}: none of {len(rows)} videos has a file")
    logger.warning("\n".join([f"{head}; they are skipped:", *first_of([f"  {line}" for line in lines])]))
    gone = set(missing)
    return table.select([i for i, row in enumerate(rows) if row not in gone])


def _either(folder: str | os.PathLike, name: str) -> str | None:
    """The file `class/name` in a folder, or `name` directly in it."""
    places = (os.path.abspath(os.path.join(folder, part)) for part in (name, name.split("/")[-1]))
    return next(filter(os.path.isfile, places), None)


def _files_by_stem(folder: str | os.PathLike) -> dict[str, str]:
    """Absolute paths of all videos below a folder by names without ending; of two, the first path in order."""
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"there is no folder {folder}")
    found = [Path(where, file) for where, _, files in os.walk(os.path.abspath(folder)) for file in files]
    paths = sorted((str(path) for path in found if VIDEO_NAME.fullmatch(path.name)), reverse=True)
    return {Path(path).stem: path for path in paths}


def _lines(path: Path) -> list[tuple[int, str]]:
    return [(number, line.strip()) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]


def _check(name: str, value, allowed: Iterable) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, allowed))}")
