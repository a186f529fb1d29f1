# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Stored tables with paths or bytes: parquet files, shards, saved `datasets`, datasets of the Hub."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, Value, Video
from transformers.utils import logging

from ..messages import raise_problems, shorten
from .shards import Shards, shard_files
from .tables import (
    LABEL_COLUMNS,
    PATH_COLUMNS,
    SPLITS,
    UNLABELLED,
    VIDEO_NAME,
    WINDOW_COLUMNS,
    absolute_path,
    find_column,
    number_labels,
    why_missing,
)


logger = logging.get_logger(__name__)

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# A name with one of these endings, or with that of a video, is not a dataset of the Hub.
LIST_ENDINGS = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".tar", ".parquet")
SAVED_FILES = ("state.json", "dataset_dict.json")
KEPT_COLUMNS = (*WINDOW_COLUMNS, "unique_id")


def is_stored_table(path: str | os.PathLike) -> bool:
    """Whether a path is for [`read_stored_table`]; a name that is neither file nor folder may be one of the Hub."""
    path, _ = split_name(path)
    if os.path.isdir(path):
        return _has_splits(path) or bool(shard_files(path))
    if os.path.isfile(path):
        return path.endswith(".parquet")
    return bool(HUB_NAME.fullmatch(path)) and not path.endswith(LIST_ENDINGS) and not VIDEO_NAME.fullmatch(path)


def split_name(path: str | os.PathLike) -> tuple[str, str | None]:
    """Path and split of `path:split`; `None` if no split is named."""
    path = os.fspath(path)
    parts = re.fullmatch(r"(.+):([\w.-]+)", path)
    return (path, None) if parts is None or os.path.exists(path) else (parts[1], parts[2])


def read_stored_table(
    where: str, root: Path | None, class_names: Sequence[str] | None, require_labels: bool, allow_missing: bool
) -> Dataset:
    """The table of a stored dataset, with its videos' paths or bytes.

    Videos are the column `video`, the only one of the type `Video`, or one of `PATH_COLUMNS`; labels are the column
    `label`, the only `ClassLabel`, or one of `LABEL_COLUMNS`: numbers or names, as in a list. `datasets` copies
    parquet and tar to its cache first; [`ClipStream`] reads shards without a copy. [`read_videos`] describes the
    arguments.
    """
    where, split = split_name(where)
    files = shard_files(where) if split is None and os.path.isdir(where) and not _has_splits(where) else []
    if files and files[0].endswith(".tar"):
        return _table_of_tars(Shards(where, class_names, require_labels))
    folder = Path(where) if os.path.isdir(where) else Path(where).parent
    folder = folder if root is None else root
    table = _with_videos(_load(where, split, files), where, folder, allow_missing)
    return _with_labels(table, where, class_names, require_labels)


def _is_saved(path: str) -> bool:
    return any(os.path.isfile(os.path.join(path, name)) for name in SAVED_FILES)


def _has_splits(path: str) -> bool:
    """Whether a folder is of `save_to_disk`, or a copy of a dataset of the Hub: with `data/*.parquet` or metadata."""
    folder, endings = Path(path), ("csv", "jsonl", "parquet")
    metadata = (folder / split / f"metadata.{ending}" for split in ("", *SPLITS) for ending in endings)
    return _is_saved(path) or any(folder.glob("data/*.parquet")) or any(map(Path.is_file, metadata))


def _load(where: str, split: str | None, shards: list[str]) -> Dataset:
    """The dataset with all its columns, or a split of it."""
    if shards or os.path.isfile(where):
        table = Dataset.from_parquet(shards or where)
    elif os.path.isdir(where):
        table = datasets.load_from_disk(where) if _is_saved(where) else datasets.load_dataset(where)
    else:
        try:
            table = datasets.load_dataset(where)
        except (OSError, datasets.exceptions.DatasetsError) as error:
            raise FileNotFoundError(
                f"there is neither a file nor a folder {where}, and no dataset of this name is available from the Hub "
                f"({error})"
            ) from error
    if isinstance(table, Dataset):
        if split is not None:
            raise ValueError(f"{where} has no splits, but {split!r} was asked for; leave :{split} out")
        return table
    split = next(iter(table)) if split is None and len(table) == 1 else split
    if split not in table:
        what = "one must be chosen" if split is None else f"none is {split!r}"
        raise ValueError(f"{where} has the splits {shorten(list(table))}, {what}; write {where}:{next(iter(table))}")
    return table[split]


def _with_videos(table: Dataset, where: str, folder: str | os.PathLike, allow_missing: bool) -> Dataset:
    """The table with its videos in the column `video`: paths, which must exist, or bytes."""
    name = _column(table, "video", Video, PATH_COLUMNS)
    if name is None:
        raise ValueError(f"{where} has no column of videos; call it 'video'. It has {shorten(list(table.features))}")
    table = table if name == "video" else table.rename_column(name, "video")
    no_video = "there is neither a path nor bytes"
    if getattr(table.features["video"], "dtype", None) not in ("string", "large_string"):
        try:
            table = table.cast_column("video", Video(decode=False))
        except (TypeError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ValueError(f"the column {name!r} of {where} has neither paths nor bytes ({error})") from error
        faults = []
        for batch in table.select_columns("video").with_format("arrow").iter(batch_size=256):  # bytes are not read
            is_null = [pc.is_null(pc.struct_field(batch["video"], part)) for part in ("bytes", "path")]
            faults += [no_video if empty else None for empty in pc.and_(*is_null).to_pylist()]
    else:
        paths = [path and absolute_path(path, folder) for path in table["video"][:]]
        faults = [no_video if not path else None if allow_missing else why_missing(path) for path in paths]
        # In this order: a table without columns would have no rows.
        table = table.add_column("path of video", paths).remove_columns("video")
        table = table.rename_column("path of video", "video")
    problems = [f"row {row}: {fault}" for row, fault in enumerate(faults) if fault is not None]
    raise_problems(f"{where} names {len(problems)} videos that cannot be used:", problems)
    return table


def _with_labels(table: Dataset, where: str, class_names: Sequence[str] | None, require_labels: bool) -> Dataset:
    """The table with labels as numbers of `class_names`, and only the columns of tables."""
    name = _column(table, "label", ClassLabel, LABEL_COLUMNS)
    if name is None and require_labels:
        raise ValueError(f"{where} has no column of labels; call it 'label'. It has {shorten(list(table.features))}")
    given, stored = [None] * len(table), None
    if name is not None:
        given, stored = table[name][:], getattr(table.features[name], "names", None)
    labels, names, problems = number_labels(where, given, class_names, stored)
    if require_labels:
        problems += [(row, "the video has no label") for row, label in enumerate(labels) if label == UNLABELLED]
    lines = [f"row {row}: {what}" for row, what in problems]
    raise_problems(f"{where} has {len(problems)} labels that cannot be used:", lines)
    kept = [name for name in KEPT_COLUMNS if name in table.features]
    # Concatenated, because casting the column would copy the videos.
    column = Dataset.from_dict({"label": labels}, features=Features({"label": ClassLabel(names=names)}))
    table = datasets.concatenate_datasets([table.select_columns(["video", *kept]), column], axis=1)
    return table.select_columns(["video", "label", *kept])


def _column(table: Dataset, name: str, kind: type, known: Sequence[str]) -> str | None:
    """The column of that name, or the only one of that kind, or the first known name."""
    found = [column for column, feature in table.features.items() if isinstance(feature, kind)]
    return name if name in table.features else found[0] if len(found) == 1 else find_column(table.features, known)


def _table_of_tars(shards: Shards) -> Dataset:
    logger.warning(
        f"{shards.folder}: {len(shards)} videos of tar files are copied to the cache of `datasets` for random access; "
        f"stream:{shards.folder} reads training videos without a copy"
    )
    windows = [name for name in WINDOW_COLUMNS if name in shards[0]]
    features = Features(shards.features | dict.fromkeys(windows, Value("float64")))
    return Dataset.from_generator(shards.__iter__, features=features)
