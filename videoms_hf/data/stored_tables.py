# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Tables that others stored: parquet files, shards, saved `datasets`, data sets of the Hub; with paths or bytes."""

import os
import re
from collections.abc import Sequence

import datasets
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, Video
from transformers.utils import logging

from .frame_folders import is_frame_folder
from .shards import Shards, shard_files
from .tables import UNLABELLED, WINDOW_COLUMNS, first_of, make_table, shorten


logger = logging.get_logger(__name__)

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
LIST_ENDINGS = (".csv", ".tsv", ".txt", ".json", ".tar", ".mp4", ".avi")  # a name with these is no data set of the Hub
SAVED_FILES = ("state.json", "dataset_dict.json")
KEPT_COLUMNS = (*WINDOW_COLUMNS, "unique_id")


def is_stored_table(path: str | os.PathLike) -> bool:
    """Whether a path is for [`read_stored_table`]; a name that is neither file nor folder may be one of the Hub."""
    path, _ = split_name(path)
    if os.path.isdir(path):
        return _is_saved(path) or _is_repository(path) or bool(shard_files(path))
    if os.path.isfile(path):
        return path.endswith(".parquet")
    return HUB_NAME.fullmatch(path) is not None and not path.endswith((*LIST_ENDINGS, ".parquet"))


def split_name(path: str | os.PathLike) -> tuple[str, str | None]:
    """Path and split of `path:split`; `None` if no split is named."""
    path = os.fspath(path)
    parts = re.fullmatch(r"(.+):([\w.-]+)", path)
    return (path, None) if parts is None or os.path.exists(path) else (parts[1], parts[2])


def read_stored_table(
    path: str | os.PathLike,
    root: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
    require_labels: bool = False,
) -> Dataset:
    """The table of a stored data set, with its videos' paths or bytes.

    The videos are the column `video`, or the only one of the type `Video`; labels are the column `label`, or the only
    `ClassLabel`: numbers or names. What `datasets` cannot map into memory as it is (parquet, tar) is copied to its
    cache first; [`ClipStream`] reads shards without that.

    Args:
        path: a `.parquet` file; a folder of `save_to_disk`, with shards, or a copy of a data set of the Hub; or the
            name of one, `owner/name`. `:split` behind any of them chooses the split.
        root: folder that relative paths start from, by default that of `path`.
        class_names: names of the classes in the order of their numbers, as those of the training table; by default
            those that are stored, or all names, sorted, or "class_0" to the highest number.
        require_labels: refuse unlabelled videos.

    Raises:
        FileNotFoundError: there is neither a folder nor a data set of the Hub of this name.
        ValueError: splits to choose from, no column of videos, missing files, labels that are no classes.
    """
    where, split = split_name(path)
    if os.path.isdir(where) and not _is_saved(where) and not _is_repository(where) and split is None:
        files = shard_files(where)
        if files[0].endswith(".tar"):
            return _table_of_tars(where, class_names, require_labels)
        table = Dataset.from_parquet(files)
    else:
        table = _one_split(_load(where), where, split)
    folder = root if root is not None else where if os.path.isdir(where) else os.path.dirname(os.path.abspath(where))
    table = _with_videos(table, where, folder)
    return _with_labels(table, where, class_names, require_labels)


def _is_saved(path: str) -> bool:
    return any(os.path.isfile(os.path.join(path, name)) for name in SAVED_FILES)


def _is_repository(path: str) -> bool:
    """A copy of a data set of the Hub: its parquet files lie in `data`, or its videos beside their metadata."""
    data = os.path.join(path, "data")
    has_data = os.path.isdir(data) and any(name.endswith(".parquet") for name in os.listdir(data))
    metadata = [f"metadata.{ending}" for ending in ("csv", "jsonl", "parquet")]
    return has_data or any(os.path.isfile(os.path.join(path, name)) for name in metadata)


def _load(where: str) -> Dataset | DatasetDict:
    if os.path.isfile(where):
        return Dataset.from_parquet(where)
    if os.path.isdir(where):
        return datasets.load_from_disk(where) if _is_saved(where) else datasets.load_dataset(where)
    try:
        return datasets.load_dataset(where)
    except (OSError, datasets.exceptions.DatasetsError) as error:
        raise FileNotFoundError(
            f"there is neither a file nor a folder {where}, and no data set of this name can be had from the Hub "
            f"({error})"
        ) from error


def _one_split(table: Dataset | DatasetDict, where: str, split: str | None) -> Dataset:
    if isinstance(table, Dataset):
        if split is not None:
            raise ValueError(f"{where} has no splits, but {split!r} was asked for; leave :{split} out")
        return table
    if split is None and len(table) == 1:
        return next(iter(table.values()))
    if split not in table:
        what = "one must be chosen" if split is None else f"none is {split!r}"
        raise ValueError(f"{where} has the splits {shorten(list(table))}, {what}; write {where}:{next(iter(table))}")
    return table[split]


def _with_videos(table: Dataset, where: str, folder: str | os.PathLike) -> Dataset:
    """The table with its videos under that name: paths, which must exist, or bytes."""
    found = [name for name, feature in table.features.items() if isinstance(feature, Video)]
    name = "video" if "video" in table.features else found[0] if len(found) == 1 else None
    if name is None:
        raise ValueError(f"{where} has no column of videos; call it 'video'. It has {shorten(list(table.features))}")
    table = table if name == "video" else table.rename_column(name, "video")
    if table.features["video"] != Value("string"):
        return table.cast_column("video", Video(decode=False))
    paths = [path if "://" in path else os.path.abspath(os.path.join(folder, path)) for path in table["video"][:]]
    missing = [
        f"  row {row}: there is no file {path}"
        for row, path in enumerate(paths)
        if "://" not in path and not os.path.isfile(path) and not is_frame_folder(path)
    ]
    if missing:
        raise ValueError("\n".join([f"{where} names {len(missing)} files that there are not:", *first_of(missing)]))
    return table.remove_columns("video").add_column("video", paths)


def _with_labels(table: Dataset, where: str, class_names: Sequence[str] | None, require_labels: bool) -> Dataset:
    """The table with labels as numbers of `class_names`, and no columns but those that tables have."""
    found = [name for name, feature in table.features.items() if isinstance(feature, ClassLabel)]
    name = "label" if "label" in table.features else found[0] if len(found) == 1 else None
    given = [None] * len(table) if name is None else table[name][:]
    stored = list(table.features[name].names) if name is not None and name in found else None
    given = [stored[label] if stored and isinstance(label, int) and label >= 0 else label for label in given]
    labelled = [label for label in given if label not in (None, UNLABELLED)]
    if class_names is not None:
        names = list(class_names)
    elif stored is not None:
        names = stored
    elif all(isinstance(label, str) for label in labelled):
        names = sorted(set(labelled))
    else:
        names = [f"class_{i}" for i in range(max((x for x in labelled if isinstance(x, int)), default=-1) + 1)]
    number_of = {name: i for i, name in enumerate(names)} | {i: i for i in range(len(names))} | {None: UNLABELLED}
    labels = [number_of.get(label, UNLABELLED) if label != UNLABELLED else UNLABELLED for label in given]
    wanted = f"a number from 0 to {len(names) - 1} or one of {shorten(names)}"
    problems = [
        f"  row {row}: the label is {text!r}; it must be {wanted}"
        for row, text in enumerate(given)
        if text != UNLABELLED and text not in number_of
    ]
    if require_labels:
        problems += [f"  row {row} has no label" for row, text in enumerate(given) if text in (None, UNLABELLED)]
    if problems:
        raise ValueError("\n".join([f"{where} has {len(problems)} labels that cannot be used:", *first_of(problems)]))
    kept = [name for name in KEPT_COLUMNS if name in table.features]
    # Put beside the rest, for a cast of a column would copy the videos.
    column = Dataset.from_dict({"label": labels}, features=Features({"label": ClassLabel(names=names)}))
    table = datasets.concatenate_datasets([table.select_columns(["video", *kept]), column], axis=1)
    return table.select_columns(["video", "label", *kept])


def _table_of_tars(folder: str, class_names: Sequence[str] | None, require_labels: bool) -> Dataset:
    shards = Shards(folder, class_names, require_labels)
    logger.warning(
        f"{folder}: {len(shards)} videos of tar files are copied to the cache of `datasets`, so that each can be had "
        f"at any time; stream:{folder} reads training videos from the files as they are"
    )
    first = shards[0]
    windows = {name: [first[name]] for name in WINDOW_COLUMNS if name in first}
    features = make_table([first["video"]], [first["label"]], shards.class_names or [], windows=windows).features
    return Dataset.from_generator(_rows, features=features, gen_kwargs={"shards": shards})


def _rows(shards: Shards):
    yield from shards
