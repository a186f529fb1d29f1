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
from .annotations import read_oscc, read_videos
from .labels import read_class_names
from .tables import UNLABELLED, VIDEO_NAME, make_table


logger = logging.get_logger(__name__)

BENCHMARKS = ("ucf101", "hmdb51", "kinetics", "ssv2", "oscc", "lists", "folders")
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
    return _table(path, rows, names, lambda name: _either(videos, name), errors, **missing)


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
        times = entry["time_start"], entry["time_end"]
        try:
            start, end = (int(float(time)) for time in times)
        except (TypeError, ValueError):
            errors.append(f"line {line}: the times are {times[0]!r} and {times[1]!r}; they must be numbers")
            continue
        if label not in number_of:
            errors.append(f"line {line}: the label is {label!r}; the classes are {shorten(names)}")
        else:
            rows.append((f"{entry['youtube_id']}_{start:06d}_{end:06d}", number_of[label], line))
    return _table(path, rows, names, _files_by_stem(videos).get, errors, max_missing_share, missing_list)


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
    try:
        entries = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a JSON file ({error})") from error
    if not isinstance(entries, list):
        raise ValueError(f"{path} holds a {type(entries).__name__}; it must be a list")
    for place, entry in enumerate(entries, 1):
        template = entry.get("template")
        name = None if template is None else re.sub(r"[\[\]]", "", template)
        if name is not None and name not in number_of:
            errors.append(f"entry {place}: the template is {template!r}, which is not in {labels}")
        else:
            rows.append((str(entry["id"]), UNLABELLED if name is None else number_of[name], place))
    return _table(path, rows, names, _files_by_stem(videos).get, errors, **missing)


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
    folder, share = Path(annotations), (0.2 if benchmark == "kinetics" else 0.0)
    share = share if max_missing_share is None else max_missing_share

    def missing(subset: str) -> dict:
        path = None if missing_folder is None else Path(missing_folder) / f"missing_{subset}.txt"
        return {"max_missing_share": share, "missing_list": path}

    def ssv2(name: str) -> Path:
        return _one_of(folder, name, f"something-something-v2-{name}")

    if benchmark in ("ucf101", "hmdb51"):
        read = read_ucf101 if benchmark == "ucf101" else read_hmdb51
        train, val = (read(folder, videos, subset, split, **missing(subset)) for subset in ("train", "test"))
    elif benchmark == "kinetics":
        train = read_kinetics(_one_of(folder, "train.csv"), videos, None, **missing("train"))
        path = _one_of(folder, "val.csv", "validate.csv", "validation.csv")
        val = read_kinetics(path, videos, train.features["label"].names, **missing("val"))
    elif benchmark == "ssv2":
        train, val = (
            read_something_something(ssv2(f"{subset}.json"), ssv2("labels.json"), videos, **missing(subset))
            for subset in ("train", "validation")
        )
    elif benchmark == "oscc":
        train, val = (read_oscc(_one_of(folder, f"fho_oscc-pnr_{name}.json"), videos) for name in ("train", "val"))
    else:  # lists or folders, of which the training one gives the classes
        paths = {name: folder / f"{name}{'.csv' * (benchmark == 'lists')}" for name in ("train", "val", "test")}
        if not paths["train"].exists():
            raise FileNotFoundError(f"there is no {paths['train']}")
        train = read_videos(paths.pop("train"))
        names = train.features["label"].names
        others = {name: read_videos(path, class_names=names) for name, path in paths.items() if path.exists()}
        return {"train": train, **others}
    return {"train": train, "val": val, "test": val}


def _one_of(folder: Path, *names: str) -> Path:
    if found := [folder / name for name in names if (folder / name).is_file()]:
        return found[0]
    raise FileNotFoundError(f"there is no {' or '.join(names)} in {folder}")


def _table(
    source: Path,
    rows: list[tuple[str, int, int]],
    class_names: list[str],
    find: Callable[[str], str | None],
    errors: Sequence[str] = (),
    max_missing_share: float = 0.0,
    missing_list: str | os.PathLike | None = None,
) -> Dataset:
    """The table of rows (name, label, line); `find` maps a name to its file or `None`. `errors` are raised."""
    _raise(source, errors)
    if not rows:
        raise ValueError(f"{source} lists no video")
    found = [(find(name), name, label, line) for name, label, line in rows]
    missing = [(name, line) for file, name, _, line in found if file is None]
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
    files, _, labels, lines = zip(*kept, strict=True)
    return make_table(files, labels, class_names, lines=lines)


def _either(folder: str | os.PathLike, name: str) -> str | None:
    """The file `class/name` in a folder, or `name` directly in it."""
    places = (os.path.abspath(os.path.join(folder, part)) for part in (name, name.split("/")[-1]))
    return next((place for place in places if os.path.isfile(place)), None)


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


def _raise(path: Path, errors: Sequence[str]) -> None:
    raise_problems(f"{path} has {count(len(errors), 'error')}:", errors)
