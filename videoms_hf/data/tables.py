# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Tables of videos: the same form for every source; names of classes, and numbers of labels.

A table is a `datasets.Dataset` with a row for each video:

- `video`: absolute path of a file or of a folder of pictures, or an address; or a file's bytes with its name, as
  `datasets.Video(decode=False)` keeps them: `{"path", "bytes"}`.
- `label`: a `ClassLabel` in which -1 means unlabelled. Its names have the order of the model's classes.
- `start_seconds`, `end_seconds`, if the videos are parts of files; null is the file's end.
- `line`, if the table comes from a list: the line, counted from 1.
"""

import hashlib
import io
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, Value, Video
from transformers.utils import logging

from ..decoding_videoms import VideoDecodeError
from ..files import read_text
from ..messages import raise_problems, shorten
from ..reader_videoms import VideoReader
from ..readers import is_frame_folder, open_video


logger = logging.get_logger(__name__)

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
CLASS_NAMES_FILE = "classes.txt"
LABEL_COLUMNS = (
    "label", "labels", "class", "class_name", "label_name", "class_id", "label_id", "category", "action", "target"
)  # fmt: skip
OSCC_CLASSES = ["no state change", "state change"]
FRAME_STRIDES = {"ucf101": 4, "hmdb51": 2, "kinetics400": 4, "ssv2": 2, "oscc": 10}  # of the recipes
MAX_CLASSES = 100_000  # larger numbers are a mistake, such as a column of times
_NUMBER = re.compile(r"-?[0-9]{1,18}")
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # control characters, and what is not UTF-8


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


def sort_names(names: Iterable[str]) -> list[str]:
    """Class names in alphabetical order; if all are numbers, in numeric order: 2 before 10."""
    names = sorted(names)
    return sorted(names, key=int) if _are_numbers(names) else names


def check_class_names(names: Sequence[str], source: str | os.PathLike) -> list[str]:
    """The names; `ValueError` if one is empty, repeated, -1, or has characters that cannot be printed."""
    seen: dict[str, int] = {}
    for i, name in enumerate(names):
        if not name.strip() or name == str(UNLABELLED) or _UNUSABLE.search(name):
            raise ValueError(
                f"{source}: class {i} is called {ascii(name)}; a name must be printable UTF-8 text, and not "
                f"{UNLABELLED}, which means unlabelled"
            )
        if seen.setdefault(name, i) != i:
            raise ValueError(f"{source}: classes {seen[name]} and {i} are both called {name!r}; rename one")
    return list(names)


def known_dataset(name: str) -> tuple[list[str], int] | None:
    """The classes of a benchmark in the official order, and the frame stride of its recipes; `None` for other names.

    Known in any spelling (`Kinetics-400`, `kinetics400`, `K400`) are UCF101 and SSv2 (in the order of their own
    lists), HMDB51 and Kinetics-400 (alphabetical), and Ego4D OSCC.
    """
    key = "".join(filter(str.isalnum, name.lower()))
    key = {"k400": "kinetics400", "somethingsomethingv2": "ssv2", "ego4doscc": "oscc"}.get(key, key)
    if key not in FRAME_STRIDES:
        return None
    if key == "oscc":
        names = OSCC_CLASSES
    elif key == "kinetics400":
        from torchvision.models.video import MViT_V2_S_Weights  # late: it imports all of torchvision's video networks

        names = MViT_V2_S_Weights.KINETICS400_V1.meta["categories"]
    else:
        names = read_text(Path(__file__).parent / "class_names" / f"{key}.txt").splitlines()
    return list(names), FRAME_STRIDES[key]


def read_labels(source: str | os.PathLike) -> list[str]:
    """The class names of a known dataset, or of a file ([`read_class_names`]), in the order of their numbers."""
    if Path(source).is_file():
        return read_class_names(source)
    if known := known_dataset(os.fspath(source)):
        return known[0]
    raise ValueError(
        f"labels is {os.fspath(source)!r}; it must be a file of class names, or one of UCF101, HMDB51, Kinetics-400, "
        "SSv2, OSCC"
    )


def read_class_names(path: str | os.PathLike) -> list[str]:
    """Class names in the order of their numbers, from text with a name per line or JSON {name: number}, as SSv2's.

    Lines may begin with those numbers, counted from 0 (`0 wave`) or, as in UCF101's classInd.txt, from 1.
    """
    if Path(path).suffix.lower() == ".json":
        try:
            numbers = {name: int(number) for name, number in json.loads(read_text(Path(path))).items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} must be JSON that maps class names to their numbers ({error})") from error
        if sorted(numbers.values()) != list(range(len(numbers))):
            raise ValueError(f"{path} must number its classes from 0 to {len(numbers) - 1}, each once")
        return sorted(numbers, key=numbers.get)
    names = [line.strip() for line in read_text(Path(path)).rstrip().split("\n")]
    if "" in names:
        raise ValueError(f"{path}: line {names.index('') + 1} is empty; every line must name a class")
    return check_class_names([name.split(maxsplit=1)[1] for name in names] if _are_numbered(names) else names, path)


def class_names_text(names: Sequence[str]) -> str:
    """The text of a file from which [`read_class_names`] reads these names."""
    numbered = _are_numbered(names)  # else the name "0 wave" would be read as "wave"
    return "".join(f"{i} {name}\n" if numbered else f"{name}\n" for i, name in enumerate(names))


def _are_numbered(names: Sequence[str]) -> bool:
    return any(all(re.match(rf"{i}\s+\S", name) for i, name in enumerate(names, first)) for first in (0, 1))


def label_text(label: int, names: Sequence[str]) -> str:
    """A label for a list: its number, or its name if names are numbers; see [`LabelNumbers`]."""
    return names[label] if label != UNLABELLED and _are_numbers(names) else str(label)


class LabelNumbers:
    """Maps written labels to numbers of the classes `names`: -1 for unlabelled, `None` for unknown classes.

    A label is a name or a number, as text or not; 1.0 is 1. None, NaN, an empty text and -1 mean unlabelled. If class
    names are numbers (folders 1, 2, 10), a number is a name: "2" is the class with this name, not the third. Numbers
    count `own_names`, the data's own classes, if given.
    """

    def __init__(self, names: Sequence[str], own_names: Sequence[str] | None = None):
        self.counted = list(names if own_names is None else own_names)
        self.is_own = own_names is not None
        self.are_names = _are_numbers(self.counted)
        self.number_of = {name: i for i, name in enumerate(names)}
        self.wanted = f"one of {shorten(names)}"
        if not self.are_names and self.counted == list(names):
            self.wanted = f"a number from 0 to {len(self.counted) - 1} or {self.wanted}"

    def __call__(self, label) -> int | None:
        text = _text(label)
        return UNLABELLED if text is None else self.number_of.get(self.name_of(label))

    def name_of(self, label) -> str | None:
        """The class name that a label means, known or not."""
        if isinstance(label, str) and label in self.number_of and not _NUMBER.fullmatch(label):  # "1.0" may be a name
            return label
        text = _text(label)
        if text and _NUMBER.fullmatch(text) and not (self.are_names and (isinstance(label, str) or not self.is_own)):
            return self.counted[int(text)] if 0 <= int(text) < len(self.counted) else None
        return text


def number_labels(
    source: str | os.PathLike,
    labels: Sequence,
    class_names: Sequence[str] | None = None,
    own_names: Sequence[str] | None = None,
) -> tuple[list[int | None], list[str], list[tuple[int, str]]]:
    """Numbers of labels, names of the classes, and problems by position.

    Without names the classes are "class_0" to the highest number or, if most labels are names, all of them, sorted.
    Classes without a video are logged, unless `class_names` are given: a split may lack some.
    """
    if several := [i for i, label in enumerate(labels) if isinstance(label, list | dict)]:
        what = "the label is {!r}; each video must have one label, a number or a name"
        return [], [], [(i, what.format(labels[i])) for i in several]
    texts = [text for text in map(_text, labels) if text is not None]
    numbers = [int(text) for text in texts if _NUMBER.fullmatch(text)]
    is_open = class_names is None and own_names is None
    # The majority decides, so that a typo is one error and not many.
    if is_open and 2 * len(numbers) < len(texts):
        names, hint = sort_names({text for text in texts if not _NUMBER.fullmatch(text)}), ""
        read = LabelNumbers(names)
        read.are_names, read.wanted = True, "a name, as in most lines"
    else:
        count = max((number for number in numbers if number < MAX_CLASSES), default=-1) + 1
        names = [f"class_{i}" for i in range(count)] if own_names is None else own_names
        names = list(names if class_names is None else class_names)
        read = LabelNumbers(names, own_names)
        read.wanted = f"a number from 0 to {MAX_CLASSES - 1}" if is_open else read.wanted
        starts_at_1 = not read.are_names and min(numbers, default=0) == 1 and 1 < max(numbers) >= len(names) - is_open
        hint = "; the labels seem to start at 1: subtract 1 from each" if starts_at_1 else ""
    found = [read(label) for label in labels]
    problems = [
        (i, f"the label is {(read.name_of(label) or label)!r}; it must be {read.wanted}, or -1 for unlabelled{hint}")
        for i, (label, number) in enumerate(zip(labels, found, strict=True))
        if number is None
    ]
    used = set(found)
    empty = [name for i, name in enumerate(names) if i not in used] if class_names is None else []
    if empty and len(empty) < len(names) and not problems:
        logger.warning(f"{source}: {len(empty)} of {len(names)} classes have no video: {shorten(empty)}{hint}")
    return found, check_class_names(names, source), problems


def _text(label) -> str | None:
    """A label as text, whole numbers without a fraction; `None` for unlabelled."""
    if label is None or label != label:  # NaN
        return None
    label = int(label) if isinstance(label, bool) or (isinstance(label, float) and label.is_integer()) else label
    text = re.sub(r"^(-?[0-9]+)\.0*$", r"\1", str(label).strip())
    return None if text in ("", str(UNLABELLED)) else text


def _are_numbers(names: Sequence[str]) -> bool:
    return bool(names) and all(_NUMBER.fullmatch(name) for name in names)
