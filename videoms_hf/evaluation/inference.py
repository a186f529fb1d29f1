# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Classification of any number of videos: what people name, in batches across files, to rows of a table on disk."""

import codecs
import csv
import glob
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader

from ..data.annotations import read_videos
from ..data.stored_tables import is_stored_table
from ..data.tables import VIDEO_NAME, WINDOW_COLUMNS, is_address, video_name
from ..decoding_videoms import VideoDecodeError
from ..files import atomic_path
from ..modeling_videoms import VideoMSForVideoClassification
from ..readers import is_frame_folder
from ..video_processing_videoms import VideoMSVideoProcessor
from .prediction import video_views


OUTPUT_FORMATS = (".json", ".jsonl", ".csv")


class Prediction(NamedTuple):
    """The class probabilities of a video, or the reason why there are none."""

    path: str
    probabilities: list[float] | None
    duration_seconds: float | None
    reason: str | None


def find_videos(names: Iterable[str], standard_input: Iterable[str] = ()) -> list[str | Mapping]:
    """The videos that `names` stand for, in order: paths and addresses, or rows with a video's bytes.

    A name is a video file, an address, a folder of pictures (one video), a folder of videos (searched with all its
    subfolders), a pattern such as `videos/*.mp4`, a list or table of videos, or "-" for one name per line of
    `standard_input`. A name that is none of these is returned as it is; reading it will give the reason. `ValueError`
    if a list cannot be read, or its rows are parts of longer recordings.
    """
    videos = []
    for name in names:
        if name == "-":
            videos += find_videos(line.rstrip("\r\n") for line in standard_input if line.strip())
        elif is_address(name) or is_frame_folder(name):
            videos.append(name)
        elif (os.path.isdir(name) and is_stored_table(name)) or (_is_list(name) and not VIDEO_NAME.fullmatch(name)):
            table = read_videos(name, allow_missing=True)
            if WINDOW_COLUMNS[0] in table.column_names:
                raise ValueError(f"{name} lists parts of longer recordings; `videoms evaluate` takes such lists")
            videos += [row if isinstance(row["video"], Mapping) else row["video"] for row in table]
        elif os.path.isdir(name):
            videos += _videos_below(name) or [name]
        elif not os.path.exists(name) and (found := sorted(glob.glob(name, recursive=True))):
            videos += find_videos(found)
        else:
            videos.append(name)
    return videos


def _is_list(path: str) -> bool:
    """Whether a file is UTF-8 text or parquet, judged by how it begins."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        head = file.read(4096)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # which allows a character that is cut
    except UnicodeDecodeError:
        return head.startswith(b"PAR1")
    return bool(head) and (head.startswith(b"PAR1") or b"\0" not in head)


def _videos_below(folder: str) -> list[str]:
    videos = []
    for parent, folders, files in os.walk(folder):
        pictures = [name for name in folders if is_frame_folder(os.path.join(parent, name))]
        folders[:] = sorted(name for name in folders if name not in pictures and not name.startswith("."))
        names = [name for name in files if VIDEO_NAME.fullmatch(name) and not name.startswith(".")]
        videos += sorted(os.path.join(parent, name) for name in names + pictures)
    return videos


def name_of(video: str | Mapping) -> str:
    """What a video of [`find_videos`] is called."""
    return video if isinstance(video, str) else video_name(video)


def _read(videos: Sequence[str | Mapping], processor, **options) -> list[tuple]:
    """Of each video: name, views (1, V, T, C, H, W) or `None`, seconds, and the reason why there are no views."""
    items = []
    for video in videos:
        try:
            items.append((name_of(video), *video_views(processor, video, **options), None))
        except (VideoDecodeError, OSError, ValueError) as error:
            items.append((name_of(video), None, None, getattr(error, "reason", str(error))))
    return items


def predict_videos(
    model: VideoMSForVideoClassification,
    processor: VideoMSVideoProcessor,
    videos: Sequence[str | Mapping],
    num_segments: int = 1,
    num_crops: int = 1,
    batch_size: int = 8,
    num_workers: int = 0,
) -> Iterator[Prediction]:
    """A prediction for each of the videos, in their order; `batch_size` videos go through the network at once."""
    read = partial(_read, processor=processor, num_segments=num_segments, num_crops=num_crops)
    for items in DataLoader(videos, batch_size, num_workers=num_workers, collate_fn=read):
        views = [views for _, views, _, _ in items if views is not None]
        # A processor that does not crop leaves videos in different sizes.
        batches = [torch.cat(views)] if len({clips.shape for clips in views}) == 1 else views
        with torch.inference_mode():
            scores = [model(batch.to(model.device)).logits.float().softmax(dim=-1).tolist() for batch in batches]
        rows = iter([row for batch in scores for row in batch])
        for name, clips, seconds, reason in items:
            yield Prediction(name, None if clips is None else next(rows), seconds, reason)


class PredictionFile:
    """A `.json`, `.jsonl` or `.csv` file with a row for each video; the last two are complete after every row.

    A row has `path`, the `facts`, `duration_seconds`, `error` (the reason why a video has no classes), `top` (the best
    classes, of [{"label", "probability"}]) and `probabilities` (of all classes, by name). In CSV the best classes are
    `label_1`, `probability_1` ..., and the probability of each class is `p_<class>`.

    Args:
        facts: what all rows have in common: the model and its keep ratio.
        resume: keep the rows that are in the file; `ValueError` if they have other facts or cannot be read.
    """

    def __init__(
        self, path: str | os.PathLike, class_names: Sequence[str], top_k: int, facts: Mapping, resume: bool = False
    ):
        self.path, self.class_names, self.facts = Path(path), class_names, facts
        self.top_k = min(top_k, len(class_names))
        if self.path.suffix not in OUTPUT_FORMATS:
            raise ValueError(f"output is {path}; its name must end in one of {', '.join(OUTPUT_FORMATS)}")
        self.rows = self._read() if resume and self.path.exists() else []
        for name, value in facts.items():
            if others := {str(row.get(name)) for row in self.rows} - {str(value)}:
                raise ValueError(
                    f"{path} has rows whose {name} is {others.pop()}, not {value}; give another --output, or leave "
                    "--resume out to overwrite it"
                )
        self.paths = {row["path"] for row in self.rows}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.save()

    def add(self, found: Prediction) -> None:
        """Add the row of a prediction."""
        row = {"path": found.path, **self.facts, "duration_seconds": found.duration_seconds, "error": found.reason}
        values = [float(f"{value:.7g}") for value in found.probabilities or ()]
        by_name = dict(zip(self.class_names, values, strict=True)) if values else {}
        best = sorted(by_name.items(), key=lambda item: -item[1])[: self.top_k]
        if self.path.suffix == ".csv":
            for i, (name, value) in enumerate(best, 1):
                row |= {f"label_{i}": name, f"probability_{i}": value}
            row |= {f"p_{name}": value for name, value in by_name.items()}
        else:
            row["top"] = [{"label": name, "probability": value} for name, value in best]
            row["probabilities"] = by_name or None
        self.rows.append(row)
        if self.path.suffix != ".json":
            with open(self.path, "a", encoding="utf-8", errors="surrogateescape", newline="") as file:
                file.write(self._text([row]))

    def save(self) -> None:
        """Write all rows."""
        with atomic_path(self.path) as partial:
            partial.write_text(self._text(self.rows, True), encoding="utf-8", errors="surrogateescape", newline="")

    def _text(self, rows: list[dict], with_header: bool = False) -> str:
        if self.path.suffix != ".csv":
            parts = [json.dumps(rows, indent=1)] if self.path.suffix == ".json" else map(json.dumps, rows)
            return "".join(f"{part}\n" for part in parts)
        columns = ["path", *self.facts, "duration_seconds", "error"]
        columns += [f"{name}_{i}" for i in range(1, self.top_k + 1) for name in ("label", "probability")]
        columns += [f"p_{name}" for name in self.class_names]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        writer.writerows([dict(zip(columns, columns, strict=True)), *rows] if with_header else rows)
        return text.getvalue()

    def _read(self) -> list[dict]:
        text = self.path.read_text(encoding="utf-8", errors="surrogateescape")
        whole = text[: text.rfind("\n") + 1]  # a killed process may leave half a line
        try:
            if self.path.suffix == ".json":
                rows = json.loads(text)
            elif self.path.suffix == ".jsonl":
                rows = [json.loads(line) for line in whole.splitlines()]
            else:
                rows = list(csv.DictReader(io.StringIO(whole)))
            if not all(isinstance(row["path"], str) for row in rows):
                raise ValueError("a row has no path")
        except (ValueError, TypeError, KeyError, csv.Error) as error:
            raise ValueError(f"{self.path} is not an output of `videoms predict` ({error})") from error
        return rows
