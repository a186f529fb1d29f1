# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""The annotation files of benchmark datasets as tables (`tables.py`), one reader each.

A listed video without a file is an error that names it. Because downloads are often incomplete (Kinetics), up to
`max_missing_share` of the videos may be missing: they are logged, and written to `missing_list` if given.
"""

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from datasets import Dataset
from transformers.utils import logging

from ..files import read_text, write_text
from ..messages import count, first_of, raise_problems, shorten
from .annotations import read_videos
from .ego4d import read_oscc
from .labels import read_class_names
from .tables import UNLABELLED, VIDEO_NAME, make_table


logger = logging.get_logger(__name__)

UCF101_LISTS = {"train": "trainlist{:02}.txt", "test": "testlist{:02}.txt"}
HMDB51_CODES = {"train": "1", "test": "2", "unused": "0"}


def read_ucf101(
    annotations: str | os.PathLike, videos: str | os.PathLike, subset: str = "train", split: int = 1, **missing
) -> Dataset:
    """The table of UCF101's `subset` "train" or "test" of `split` 1 to 3, with the classes of `classInd.txt`.

    `annotations` is the folder `ucfTrainTestlist`; `videos` has a folder for each class, or all videos directly.
    """
    _check("subset", subset, UCF101_LISTS)
    _check("split", split, (1, 2, 3))
    index = [line.split(maxsplit=1) for _, line in _lines(Path(annotations) / "classInd.txt")]
    names = [name for _, name in index]
    if [number for number, _ in index] != [str(i + 1) for i in range(len(index))]:
        raise ValueError(f"{annotations}/classInd.txt must have the numbers from 1 on, in order")
    path = Path(annotations) / UCF101_LISTS[subset].format(split)
    rows, errors = [], []
    for line, text in _lines(path):
        name, _, number = text.partition(" ")
        label = names.index(name.split("/")[0]) if name.split("/")[0] in names else None
        if label is None:
            errors.append(f"line {line}: {name!r} is not in a class folder; the classes are {shorten(names)}")
        elif number and number.strip() != str(label + 1):
            errors.append(f"line {line}: {name!r} has the number {number!r}, but its class is {label + 1}")
        else:
            rows.append((name, label, line))
    _raise(path, errors)
    return _table(path, rows, names, lambda name: _either(videos, name), **missing)


def read_hmdb51(
    annotations: str | os.PathLike, videos: str | os.PathLike, subset: str = "train", split: int = 1, **missing
) -> Dataset:
    """The table of HMDB51's `subset` "train", "test" or "unused" of `split` 1 to 3; the classes in alphabetic order.

    `annotations` is the folder `testTrainMulti_7030_splits`; `videos` has a folder for each class. Lines are those of
    the class's own file.
    """
    _check("subset", subset, HMDB51_CODES)
    _check("split", split, (1, 2, 3))
    ending = f"_test_split{split}.txt"
    files = sorted(path for path in Path(annotations).iterdir() if path.name.endswith(ending))
    names = sorted(path.name.removesuffix(ending) for path in files)
    if not files:
        raise ValueError(f"{annotations} has no file *{ending}; give the folder testTrainMulti_7030_splits")
    rows = []
    for path in files:
        name, errors = path.name.removesuffix(ending), []
        for line, text in _lines(path):
            video, _, code = text.rpartition(" ")
            if not video or code not in HMDB51_CODES.values():
                errors.append(f"line {line}: {text!r} must be a file's name and 0, 1 or 2")
            elif code == HMDB51_CODES[subset]:
                rows.append((f"{name}/{video.strip()}", names.index(name), line))
        _raise(path, errors)
    return _table(Path(annotations), rows, names, lambda name: _either(videos, name), **missing)


def read_kinetics(
    annotations: str | os.PathLike,
    videos: str | os.PathLike,
    class_names: Sequence[str] | None = None,
    max_missing_share: float = 0.2,
    missing_list: str | os.PathLike | None = None,
) -> Dataset:
    """The table of a Kinetics-400, 600 or 700 list: a CSV with the columns label, youtube_id, time_start, time_end.

    A video is `<youtube_id>_<start>_<end>` with six digits each, of any ending, anywhere below `videos`. A list
    without labels (test) is unlabelled. The classes are those of the list in alphabetic order, or `class_names`, those
    of the training list.
    """
    path = Path(annotations)
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    columns = reader.fieldnames or []
    wanted = ["youtube_id", "time_start", "time_end"]
    if lacking := [name for name in wanted if name not in columns]:
        raise ValueError(f"{path} has the columns {shorten(columns)}; it must have {shorten(lacking)} too")
    entries = [(reader.line_num, entry) for entry in reader]
    labels = [(entry.get("label") or "").strip() for _, entry in entries]
    names = list(class_names) if class_names is not None else sorted(set(labels) - {""})
    number_of = {name: i for i, name in enumerate(names)} | {"": UNLABELLED}
    rows, errors = [], []
    for (line, entry), label in zip(entries, labels, strict=True):
        try:
            start, end = (int(float(entry[name])) for name in ("time_start", "time_end"))
        except (TypeError, ValueError):
            errors.append(
                f"line {line}: the times are {entry['time_start']!r} and {entry['time_end']!r}; they must be numbers"
            )
            continue
        if label not in number_of:
            errors.append(f"line {line}: the label is {label!r}; the classes are {shorten(names)}")
            continue
        rows.append((f"{entry['youtube_id']}_{start:06d}_{end:06d}", number_of[label], line))
    _raise(path, errors)
    files = _files_by_stem(videos)
    return _table(path, rows, names, files.get, max_missing_share, missing_list)


def read_something_something(
    annotations: str | os.PathLike, labels: str | os.PathLike, videos: str | os.PathLike, **missing
) -> Dataset:
    """The table of a list of Something-Something V2: `train.json`, `validation.json`, or `test.json` (unlabelled).

    The class is the template without brackets, its number that in `labels.json`. A video is `<id>`, of any ending,
    anywhere below `videos`. `line` counts the entries.
    """
    path = Path(annotations)
    names = read_class_names(labels)
    number_of = {name: i for i, name in enumerate(names)}
    rows, errors = [], []
    for place, entry in enumerate(_entries(path), 1):
        template = entry.get("template")
        name = None if template is None else re.sub(r"[\[\]]", "", template)
        if name is not None and name not in number_of:
            errors.append(f"entry {place}: the template is {template!r}, which is not in {labels}")
        else:
            rows.append((str(entry["id"]), UNLABELLED if name is None else number_of[name], place))
    _raise(path, errors)
    return _table(path, rows, names, _files_by_stem(videos).get, **missing)


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
        annotations: the folder of the benchmark's own files.
        videos: the folder of its videos; `None` for "lists" and "folders", which contain their paths.
        split: of UCF101 and HMDB51, 1 to 3.
        max_missing_share: share of the videos that may be missing, by default 0.2 for Kinetics and 0 for others.
        missing_folder: folder for lists `missing_<subset>.txt` of the missing ones.
    """
    _check("benchmark", benchmark, BENCHMARKS)
    if (videos is None) != (benchmark in ("lists", "folders")):
        raise ValueError(f"videos is {videos}; it must be the folder of the videos, and unset for lists and folders")
    share = (0.2 if benchmark == "kinetics" else 0.0) if max_missing_share is None else max_missing_share

    def missing(subset: str) -> dict:
        path = None if missing_folder is None else Path(missing_folder) / f"missing_{subset}.txt"
        return {"max_missing_share": share, "missing_list": path}

    return BENCHMARKS[benchmark](Path(annotations), videos, split, missing)


def _with_subsets(read: Callable) -> Callable:
    """Readers of datasets that have subsets "train" and "test" of several splits."""

    def tables(annotations: Path, videos, split: int, missing) -> dict[str, Dataset]:
        train, test = (read(annotations, videos, name, split, **missing(name)) for name in ("train", "test"))
        return {"train": train, "val": test, "test": test}

    return tables


def _kinetics(annotations: Path, videos, split: int, missing) -> dict[str, Dataset]:
    train = read_kinetics(_one_of(annotations, "train.csv"), videos, None, **missing("train"))
    val = _one_of(annotations, "val.csv", "validate.csv", "validation.csv")
    val = read_kinetics(val, videos, train.features["label"].names, **missing("val"))
    return {"train": train, "val": val, "test": val}


def _something_something(annotations: Path, videos, split: int, missing) -> dict[str, Dataset]:
    def find(name: str) -> Path:
        return _one_of(annotations, name, f"something-something-v2-{name}")

    train, val = (
        read_something_something(find(f"{name}.json"), find("labels.json"), videos, **missing(name))
        for name in ("train", "validation")
    )
    return {"train": train, "val": val, "test": val}


def _oscc(annotations: Path, videos, split: int, missing) -> dict[str, Dataset]:
    train, val = (read_oscc(_one_of(annotations, f"fho_oscc-pnr_{name}.json"), videos) for name in ("train", "val"))
    return {"train": train, "val": val, "test": val}


def _by_name(ending: str) -> Callable:
    """The tables of existing lists or folders; the training one gives the classes."""

    def tables(annotations: Path, videos, split: int, missing) -> dict[str, Dataset]:
        paths = {name: annotations / f"{name}{ending}" for name in ("train", "val", "test")}
        if not paths["train"].exists():
            raise FileNotFoundError(f"there is no {paths['train']}")
        train = read_videos(paths.pop("train"))
        names = train.features["label"].names
        others = {name: read_videos(path, class_names=names) for name, path in paths.items() if path.exists()}
        return {"train": train, **others}

    return tables


def _one_of(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"there is no {' or '.join(names)} in {folder}")


BENCHMARKS = {
    "ucf101": _with_subsets(read_ucf101),
    "hmdb51": _with_subsets(read_hmdb51),
    "kinetics": _kinetics,
    "ssv2": _something_something,
    "oscc": _oscc,
    "lists": _by_name(".csv"),
    "folders": _by_name(""),
}


def _table(
    source: Path,
    rows: list[tuple[str, int, int]],
    class_names: list[str],
    find: Callable[[str], str | None],
    max_missing_share: float = 0.0,
    missing_list: str | os.PathLike | None = None,
) -> Dataset:
    """The table of rows (name, label, line); `find` maps a name to its file or `None`."""
    if not rows:
        raise ValueError(f"{source} lists no video")
    found = [(find(name), label, line) for name, label, line in rows]
    missing = [(name, line) for (name, _, line), (file, _, _) in zip(rows, found, strict=True) if file is None]
    if missing_list is not None and missing:
        write_text(missing_list, "".join(f"{name}\n" for name, _ in missing))
    elif missing_list is not None:
        Path(missing_list).unlink(missing_ok=True)
    if missing:
        lines = [f"line {line}: there is no file of {name}" for name, line in missing]
        head = f"{source}: {len(missing)} of {len(rows)} videos are missing"
        if len(missing) > max_missing_share * len(rows):
            advice = f"more than max_missing_share {max_missing_share} allows; download them, or raise it"
            raise_problems(f"{head}, {advice}:", lines)
        logger.warning("\n".join([f"{head}; they are skipped:", *first_of([f"  {line}" for line in lines])]))
    kept = [row for row in found if row[0] is not None]
    if not kept:
        raise ValueError(f"{source}: none of {len(rows)} videos has a file")
    files, labels, lines = zip(*kept, strict=True)
    return make_table(files, labels, class_names, lines=lines)


def _either(folder: str | os.PathLike, name: str) -> str | None:
    """The file `class/name` in a folder, or `name` directly in it."""
    for candidate in (os.path.join(folder, name), os.path.join(folder, name.split("/")[-1])):
        if os.path.isfile(candidate):
            return os.path.abspath(candidate)
    return None


def _files_by_stem(folder: str | os.PathLike) -> dict[str, str]:
    """Absolute paths of all videos below a folder by names without ending; of two, the first path in order."""
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"there is no folder {folder}")
    found = [
        os.path.abspath(os.path.join(where, file))
        for where, _, files in os.walk(folder)
        for file in files
        if VIDEO_NAME.fullmatch(file)
    ]
    return {os.path.splitext(os.path.basename(path))[0]: path for path in sorted(found, reverse=True)}


def _lines(path: Path) -> list[tuple[int, str]]:
    return [(number, line.strip()) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]


def _entries(path: Path) -> list[dict]:
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a JSON file ({error})") from error
    if not isinstance(content, list):
        raise ValueError(f"{path} holds a {type(content).__name__}; it must be a list")
    return content


def _check(name: str, value, allowed: Iterable) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, allowed))}")


def _raise(path: Path, errors: list[str]) -> None:
    raise_problems(f"{path} has {count(len(errors), 'error')}:", errors)
