# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Lists and folders of labelled videos as tables (`tables.py` says what a table is).

Everything that can be known without opening the videos is checked while reading, and all complaints about a list come
in one error. The benchmarks' own files are read in `benchmarks.py`.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from transformers.utils import logging

from .ego4d import read_oscc
from .frame_folders import is_frame_folder
from .stored_tables import is_stored_table, read_stored_table
from .tables import CLASS_NAMES_FILE, UNLABELLED, first_of, make_table, read_class_names, read_text, shorten


logger = logging.get_logger(__name__)

# Endings by which a video in a folder is known; a list may name any file.
VIDEO_ENDINGS = "3gp asf avi flv gif m4v mjpeg mkv mov mp4 mpeg mpg mts ogv ts vob webm wmv"
VIDEO_NAME = re.compile(rf".+\.({VIDEO_ENDINGS.replace(' ', '|')})", re.IGNORECASE)


def read_videos(
    path: str | os.PathLike,
    root: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
    require_labels: bool = False,
    allow_missing: bool = False,
) -> Dataset:
    """The table of a list ([`read_csv`]), a folder ([`read_folder`]) or a stored one ([`read_stored_table`]).

    Stored are a `.parquet` file, a folder with parquet or tar shards or of `save_to_disk`, and a data set of the Hub,
    `owner/name`; `:split` behind chooses a split. A `.json` is a file of Ego4D OSCC ([`read_oscc`]), `root` the folder
    of its recordings.
    """
    if os.fspath(path).endswith(".json"):
        return read_oscc(path, Path(path).parent if root is None else root, class_names, require_labels)
    if is_stored_table(path):
        return read_stored_table(path, root, class_names, require_labels)
    if not Path(path).is_dir():
        return read_csv(path, root, class_names, require_labels, allow_missing)
    if root is not None:
        raise ValueError(f"root is {root}, but {path} is a folder of videos and not a list with paths; leave root out")
    return read_folder(path, class_names, require_labels)


def read_csv(
    path: str | os.PathLike,
    root: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
    require_labels: bool = False,
    allow_missing: bool = False,
) -> Dataset:
    """The table of a list in the official form: `path label` a line, parted by a space, without a header.

    A path may be that of a folder with a picture for each frame. Paths may hold spaces, and relative ones start from
    the list's own folder. Labels are numbers from 0 or names without spaces, the same throughout a list. The label -1,
    and a line with a path alone, mean unlabelled.

    Args:
        path: the list.
        root: folder that relative paths start from instead.
        class_names: names of the classes in the order of their numbers, as `table.features["label"].names` of the
            training list: splits that are to share a model must share them. By default those of a `classes.txt` beside
            the list; without one, "class_0" to the highest number, or all names of the list, sorted.
        require_labels: refuse unlabelled videos, for fine-tuning and evaluation.
        allow_missing: take videos without a file too, to be reported by who looks at them.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: lines that cannot be used: their numbers, what is wrong and what would be right; or no line at all.
    """
    path = Path(path)
    folder = path.parent if root is None else Path(root)
    if class_names is None and (path.parent / CLASS_NAMES_FILE).is_file():
        class_names = read_class_names(path.parent / CLASS_NAMES_FILE)
    lines = [(number, line.strip()) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
    if not lines:
        raise ValueError(f"{path} lists no video; it must have a line `path label` for each")
    errors: list[tuple[int, str]] = []
    videos, texts = [], []
    for number, line in lines:
        video, text = _split_line(line, folder)
        if not allow_missing and not _exists(video):
            what = f"{video} is a folder without pictures" if os.path.isdir(video) else f"there is no file {video}"
            errors.append((number, what))
        videos.append(video), texts.append(text)
    numbers = [number for number, _ in lines]
    labels, names = _to_labels(numbers, texts, class_names, errors)
    if require_labels:
        errors += [
            (number, f"{video} has no label, but every video needs one here")
            for number, video, label in zip(numbers, videos, labels, strict=True)
            if label == UNLABELLED
        ]
    if errors:
        raise ValueError(_report(path, errors))
    return make_table(videos, labels, names, lines=numbers)


def read_folder(
    path: str | os.PathLike, class_names: Sequence[str] | None = None, require_labels: bool = False
) -> Dataset:
    """The table of a folder with a folder for each class, its videos directly inside, in the order of their names.

    A video is a file, or a folder with a picture for each frame. Videos beside the class folders are unlabelled, -1;
    there need be no class folder at all.

    Args:
        path: the folder.
        class_names: names of the classes in the order of their numbers, by default the folders' names, sorted; see
            [`read_csv`]. A class may be without a folder, but not a folder without a class.
        require_labels: refuse unlabelled videos, for fine-tuning and evaluation.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no video, a class folder without videos or not among `class_names`; all of them are named.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path}")
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in entries if entry.is_dir() and not is_frame_folder(entry)]
    names = list(class_names) if class_names is not None else [folder.name for folder in folders]
    videos = _videos_in(path)
    labels = [UNLABELLED] * len(videos)
    problems = []
    if require_labels and videos:
        problems.append(f"{videos[0]} and {len(videos) - 1} others are in no class folder, but need a label here")
    for folder in folders:
        found = _videos_in(folder)
        if folder.name not in names:
            problems.append(f"{folder.name!r} is not a class; the classes are {shorten(names)}")
        elif not found:
            problems.append(f"{folder.name!r} has no video directly in it; it must be a class with its videos")
        else:
            videos += found
            labels += [names.index(folder.name)] * len(found)
    if problems:
        raise ValueError("\n".join([f"{path} is not a folder with a folder for each class:", *first_of(problems)]))
    if not videos:
        raise ValueError(f"{path} holds no video; their names must end in one of {VIDEO_ENDINGS}")
    return make_table(videos, labels, names)


def _split_line(line: str, folder: Path) -> tuple[str, str | None]:
    """Absolute path and text of the label of a line; `None` if the line is a path alone."""
    whole = _absolute(line, folder)
    parts = line.rsplit(maxsplit=1)
    if len(parts) == 1:
        return whole, None
    video = _absolute(parts[0], folder)
    # "my clip.mp4" has no label: what stands before its space is no file.
    return (whole, None) if not _exists(video) and _exists(whole) else (video, parts[1])


def _absolute(path: str, folder: Path) -> str:
    return path if _is_address(path) else os.path.abspath(folder / path)


def _exists(path: str) -> bool:
    return _is_address(path) or os.path.isfile(path) or is_frame_folder(path)


def _is_address(path: str) -> bool:
    return "://" in path


def _to_labels(
    numbers: list[int], texts: list[str | None], class_names: Sequence[str] | None, errors: list[tuple[int, str]]
) -> tuple[list[int], list[str]]:
    """Label numbers of the lines, and the class names; what cannot be understood is added to `errors`."""
    given = [text for text in texts if text not in (None, "-1")]
    numeric = [text for text in given if _is_number(text)]
    # What most lines have, so that a slip is one error and not many.
    takes_numbers = class_names is not None or 2 * len(numeric) >= len(given)
    takes_names = class_names is not None or not takes_numbers
    if class_names is not None:
        names = list(class_names)
        wanted = f"a number from 0 to {len(names) - 1} or one of {shorten(names)}"
    elif takes_numbers:
        names = [f"class_{i}" for i in range(max(map(int, numeric), default=-1) + 1)]
        wanted = "a number from 0 on"
    else:
        names = sorted(set(given) - set(numeric))
        wanted = "a name, as in most lines"
    number_of = {name: i for i, name in enumerate(names)}
    labels = []
    for number, text in zip(numbers, texts, strict=True):
        label = None
        if text in (None, "-1"):
            label = UNLABELLED
        elif takes_numbers and _is_number(text):
            label = int(text) if 0 <= int(text) < len(names) else None
        elif takes_names:
            label = number_of.get(text)
        if label is None:
            errors.append((number, f"the label is {text!r}; it must be {wanted}, or -1 for unlabelled"))
        labels.append(label)
    return labels, names


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]+", text) is not None


def _report(path: Path, errors: list[tuple[int, str]]) -> str:
    """The message that lists the first errors, by line."""
    lines = [f"  line {number}: {what}" for number, what in sorted(errors)]
    head = f"{path} has {len(errors)} {'error' if len(errors) == 1 else 'errors'}; a line must be `path label`:"
    return "\n".join([head, *first_of(lines)])


def _videos_in(folder: Path) -> list[str]:
    """Absolute paths of a folder's videos, files and folders of pictures, sorted by name; other files are logged."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    videos = [
        os.path.abspath(entry)
        for entry in entries
        if (is_frame_folder(entry) if entry.is_dir() else VIDEO_NAME.fullmatch(entry.name))
    ]
    if others := [entry.name for entry in entries if entry.is_file() and not VIDEO_NAME.fullmatch(entry.name)]:
        logger.warning(f"{folder}: left out as no videos: {shorten(others)}")
    return videos
