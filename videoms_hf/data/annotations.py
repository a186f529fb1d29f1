# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Lists and folders of labelled videos as tables (`tables.py` says what a table is).

Reading checks everything that does not need the videos to be opened, and reports all errors of a list at once.
`official_annotations.py` reads the files of benchmark datasets.
"""

import csv
import io
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset
from transformers.utils import logging

from ..files import read_text
from ..messages import count, raise_problems, shorten
from ..readers import is_frame_folder
from .stored_tables import is_stored_table, read_stored_table
from .tables import (
    CLASS_NAMES_FILE,
    LABEL_COLUMNS,
    OSCC_CLASSES,
    PATH_COLUMNS,
    SPLITS,
    UNLABELLED,
    VIDEO_ENDINGS,
    VIDEO_NAME,
    WINDOW_COLUMNS,
    absolute_path,
    check_class_names,
    find_column,
    is_address,
    make_table,
    number_labels,
    read_class_names,
    sort_names,
    why_missing,
)


logger = logging.get_logger(__name__)

SEPARATORS = {"\t": "tab", ",": "comma", ";": "semicolon"}
OSCC_FIELDS = ("unique_id", "video_uid", "parent_start_sec", "parent_end_sec")


def read_videos(
    path: str | os.PathLike,
    root: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
    require_labels: bool = False,
    allow_missing: bool = False,
) -> Dataset:
    """The table of a list, a folder or a stored table.

    - A **list** has a line for each video in the official form `path label`, separated by a space, without a header
      (paths may contain any characters, labels no space); or separated by tabs, commas or semicolons, as spreadsheets
      and pandas write it, with or without a header (quoted cells may contain the separator); or JSON, an object per
      line. A header, or the keys of JSON, must name a column of paths (`PATH_COLUMNS`) and may name one of labels
      (`LABEL_COLUMNS`). Without a header the path comes first. A list that fits two forms is read in the one that
      finds more existing videos; then in the one with a header, or whose paths have the ending of a video; then in the
      official form. Labels are numbers from 0, or names; -1, an empty label or a path alone mean unlabelled.
    - A **folder** has a folder for each class, its videos directly inside, in the order of their names (as numbers, if
      all are). Videos next to the class folders are unlabelled. Links are followed, and logged if they leave the
      folder. A class of `class_names` may have no folder, but every folder needs a class.
    - A **stored table** is a `.parquet` file, a folder with parquet or tar shards or of `save_to_disk`, or a dataset
      of the Hub, `owner/name`; the suffix `:split` chooses a split. [`read_stored_table`] describes its columns.
    - A `.json` is a file of Ego4D OSCC ([`read_oscc`]), and `root` the folder of its recordings.

    In lists and folders, a folder with a picture for each frame is a video too.

    Args:
        root: folder that relative paths start from, by default that of the list or table.
        class_names: names of the classes in the order of their numbers, as `table.features["label"].names` of the
            training table: splits for one model must share them. By default the stored ones, those of a `classes.txt`
            next to a list, or of the folders; without any, "class_0" to the highest number, or all names, sorted. If
            the names of classes are numbers, labels are these names.
        require_labels: refuse unlabelled videos, for fine-tuning and evaluation.
        allow_missing: keep videos without a file; the caller reports them.

    Raises:
        FileNotFoundError: there is no such list, folder or dataset.
        ValueError: there is no video, or some cannot be used; all errors are counted, and the first ones named.
    """
    if os.fspath(path).endswith(".json"):
        folder = Path(path).parent if root is None else root
        return read_oscc(path, folder, class_names, require_labels, allow_missing)
    root = None if root is None else Path(root)
    if is_stored_table(path):
        return read_stored_table(os.fspath(path), root, class_names, require_labels, allow_missing)
    path = Path(path)
    if not path.is_dir():
        return _read_list(path, root or path.parent, class_names, require_labels, allow_missing)
    if root is not None:
        raise ValueError(f"root is {root}, but {path} is a folder of videos, not a list of paths; leave root out")
    return _read_folder(path, class_names, require_labels)


def _read_list(
    path: Path, root: Path, class_names: Sequence[str] | None, require_labels: bool, allow_missing: bool
) -> Dataset:
    if VIDEO_NAME.fullmatch(path.name) and path.exists():
        raise ValueError(f"{path} is a video; give a list of videos, or the folder of the video")
    names_file = path.parent / CLASS_NAMES_FILE
    own_names = read_class_names(names_file) if class_names is None and names_file.is_file() else None
    form, rows = _read_rows(read_text(path), root)
    if not rows:
        raise ValueError(f"{path} lists no video; it must have a line `path label` for each")
    errors = [(row.line, row.problem) for row in rows if row.problem]
    rows = [row for row in rows if not row.problem]
    if not allow_missing:
        errors += [(row.line, row.missing) for row in rows if row.missing]
    labels, names, problems = number_labels(path, [row.label for row in rows], class_names, own_names)
    errors += [(rows[i].line, problem) for i, problem in problems]
    for row, label in zip(rows, labels, strict=False):
        if require_labels and label == UNLABELLED:
            errors.append((row.line, f"{row.video} has no label, but every video needs one here"))
    lines = [f"line {line}: {what}" for line, what in sorted(errors)]
    raise_problems(f"{path} has {count(len(errors), 'error')}; a line must be {form}:", lines)
    return make_table([row.video for row in rows], labels, names, lines=[row.line for row in rows])


def _read_folder(path: Path, class_names: Sequence[str] | None, require_labels: bool) -> Dataset:
    entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    folders = {entry.name: entry for entry in entries if entry.is_dir() and not is_frame_folder(entry)}
    if class_names is None and folders and SPLITS.issuperset(map(str.lower, folders)):
        raise ValueError(
            f"{path} has the splits {shorten(sorted(folders))}, not a folder for each class; give the folder of one "
            f"split, such as {path / max(folders)}"
        )
    names = check_class_names(sort_names(folders) if class_names is None else class_names, path)
    videos = _videos_in(path)
    labels, problems = [UNLABELLED] * len(videos), []
    if require_labels and videos:
        problems.append(f"{videos[0]} and {len(videos) - 1} others are in no class folder, but need a label here")
    for name in sort_names(folders):
        found = _videos_in(folders[name])
        if name not in names:
            problems.append(f"{name!r} is not a class; the classes are {shorten(names)}")
        elif not found:
            problems.append(f"{name!r} has no video directly in it; it must be a class with its videos")
        else:
            videos += found
            labels += [names.index(name)] * len(found)
    raise_problems(f"{path} is not a folder with a folder for each class:", problems)
    if not videos:
        raise ValueError(f"{path} has no video; their names must end in one of {VIDEO_ENDINGS}")
    inside = os.path.realpath(path) + os.sep
    if outside := [video for video in videos if not os.path.realpath(video).startswith(inside)]:
        what = f"{outside[0]} to {os.path.realpath(outside[0])}"
        logger.warning(f"{path}: {len(outside)} videos are links that leave the folder, such as {what}; all are used")
    return make_table(videos, labels, names)


def read_oscc(
    annotations: str | os.PathLike,
    videos: str | os.PathLike,
    class_names: Sequence[str] | None = None,
    require_labels: bool = False,
    allow_missing: bool = False,
) -> Dataset:
    """The table of a file of Ego4D's object state change classification: windows of 8 seconds in long recordings.

    `annotations` is the dataset's `fho_oscc-pnr_*.json`. The recording of a window is `<video_uid>.mp4` in the folder
    `videos`; decoding seeks into it. The table has `start_seconds`, `end_seconds` and `unique_id` too; `line` counts
    the windows. Class 1 is a state change; `state_change` false, null or absent is class 0, but if no window has it
    (the test set), all are unlabelled. [`read_videos`] describes the other arguments.
    """
    path, folder = Path(annotations), Path(videos)
    try:
        clips = json.loads(read_text(path))["clips"]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f'{path} is not an OSCC file; it must be JSON: {{"clips": [{{"unique_id": ...}}, ...]}}. '
            "If it is a list with a JSON object per line, call it .jsonl"
        ) from error
    names = OSCC_CLASSES if class_names is None else list(class_names)
    problems = [f"there are {len(names)} classes, {names}; OSCC has 2"] if len(names) != 2 else []
    is_labelled = any("state_change" in clip for clip in clips)
    if not clips:
        problems.append("it has no windows")
    elif require_labels and not is_labelled:
        problems.append("no window has state_change, but a label is needed here; take the train or val file")
    recordings = {clip["video_uid"]: folder / f"{clip['video_uid']}.mp4" for clip in clips if clip.get("video_uid")}
    if not allow_missing:
        problems += [f"there is no recording {file}" for file in recordings.values() if not file.is_file()]
    for number, clip in enumerate(clips, 1):
        if lacking := [name for name in OSCC_FIELDS if clip.get(name) is None]:
            problems.append(f"window {number} ({clip.get('unique_id')}) has no {', '.join(lacking)}")
        elif not 0 <= clip["parent_start_sec"] < clip["parent_end_sec"]:
            seconds = f"{clip['parent_start_sec']} to {clip['parent_end_sec']} s"
            problems.append(f"window {number} ({clip['unique_id']}) goes from {seconds}; it must end after it begins")
    raise_problems(f"{path} with {folder} has {count(len(problems), 'problem')}:", problems)
    table = make_table(
        [os.path.abspath(recordings[clip["video_uid"]]) for clip in clips],
        [int(clip.get("state_change") is True) if is_labelled else UNLABELLED for clip in clips],
        names,
        lines=range(1, len(clips) + 1),
        windows={f"{end}onds": [float(clip[f"parent_{end}"]) for clip in clips] for end in ("start_sec", "end_sec")},
    )
    return table.add_column("unique_id", [clip["unique_id"] for clip in clips])


class _Row(NamedTuple):
    """A line of a list: its number, the absolute path of its video, its label as written, and what is wrong."""

    line: int
    video: str
    label: str | int | float | None = None
    missing: str | None = None  # why there is no such video
    problem: str | None = None  # of the line


def _read_rows(text: str, folder: Path) -> tuple[str, list[_Row]]:
    """The form of a list in words, and its rows; [`read_videos`] describes the choice."""
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if lines and isinstance(_json(lines[0][1]), dict):
        rows = [_row_of(number, _json(line), folder) for number, line in lines]
        return 'a JSON object like {"path": ..., "label": ...}', rows
    form, rows = "`path label`", [_official_row(number, line, folder) for number, line in lines]
    header = lines[0][1].lower().split() if lines else []
    known = zip(header, (PATH_COLUMNS, LABEL_COLUMNS), strict=False)
    has_header = len(header) in (1, 2) and all(word in names for word, names in known) and bool(rows[0].missing)
    rows = rows[has_header:]
    best = _fit(has_header, rows)
    for separator in SEPARATORS if best[0] < len(rows) else ():
        if separator in text:
            with suppress(csv.Error):  # the quotes do not fit
                has_header, others = _separated_rows(text, separator, folder)
                if (fit := _fit(has_header, others)) > best:
                    form, rows, best = f"a path and a label, separated by a {SEPARATORS[separator]}", others, fit
    return form, rows


def _fit(has_header: bool, rows: Sequence[_Row]) -> tuple[int, bool, int]:
    """How well a form fits: existing files, a header, paths with the ending of a video."""
    num_files = sum(not (row.missing or row.problem or is_address(row.video)) for row in rows)
    return num_files, has_header, sum(VIDEO_NAME.fullmatch(row.video) is not None for row in rows)


def _official_row(number: int, line: str, folder: Path) -> _Row:
    """A line `path label`, or a path alone."""
    row = _row(number, *line.rsplit(maxsplit=1), folder=folder)
    if not row.missing or row.label is None:
        return row
    # "my clip.mp4" has no label: the part before the space is not a file.
    if not (whole := _row(number, line, folder=folder)).missing:
        return whole
    with suppress(csv.Error):
        cells = [cell for cell in next(csv.reader([line], delimiter=" ", strict=True)) if cell]
        if '"' in line and 1 <= len(cells) <= 2:
            return _row(number, *cells, folder=folder)
    return row


def _separated_rows(text: str, separator: str, folder: Path) -> tuple[bool, list[_Row]]:
    """Whether the first line is a header, and the rows of the other lines."""
    reader = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True, strict=True)
    lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(map(str.strip, cells))]
    header = lines[0][1]
    has_header = find_column(header, PATH_COLUMNS) is not None and not any(
        VIDEO_NAME.fullmatch(cell) or (cell and not _row(1, cell, folder=folder).missing) for cell in header
    )
    header = header if has_header else ["path", "label"]
    rows = []
    for number, cells in lines[has_header:]:
        row = _row_of(number, dict(zip(header, cells, strict=False)), folder)
        if any(cells[len(header) :]):
            what = f"it has {len(cells)} fields, not {len(header)}; quote those that hold a {SEPARATORS[separator]}"
            row = row._replace(problem=what)
        rows.append(row)
    return has_header, rows


def _row_of(number: int, cells, folder: Path) -> _Row:
    """The row of cells by the names of their columns."""
    cells = cells if isinstance(cells, dict) else {}
    path, label = (cells.get(find_column(cells, names)) for names in (PATH_COLUMNS, LABEL_COLUMNS))
    if not isinstance(path, str) or not path:
        return _Row(number, "", problem=f"it has no path; it has {shorten(list(cells)) or 'nothing'}")
    if any(name in cells for name in WINDOW_COLUMNS):
        return _Row(number, path, problem="it has seconds, which only a parquet table can have")
    return _row(number, path, label, folder)


def _row(number: int, path: str, label=None, folder: Path = Path()) -> _Row:
    video = absolute_path(path, folder)
    return _Row(number, video, label, why_missing(video))


def _json(line: str):
    with suppress(ValueError):
        return json.loads(line)


def _videos_in(folder: Path) -> list[str]:
    """Absolute paths of a folder's videos (files and frame folders), sorted by name; other files are logged."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    is_own = [is_frame_folder(entry) if entry.is_dir() else VIDEO_NAME.fullmatch(entry.name) for entry in entries]
    if others := [entry.name for entry, own in zip(entries, is_own, strict=True) if not own and entry.is_file()]:
        logger.warning(f"{folder}: skipped, because these are not videos: {shorten(others)}")
    return [os.path.abspath(entry) for entry, own in zip(entries, is_own, strict=True) if own]
