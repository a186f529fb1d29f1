# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Clips of the videos in a table (`tables.py`): random ones to train on, fixed views to evaluate.

Items are dictionaries with `pixel_values` uint8 (T, C, H, W), which [`normalize`] turns into the network's input.
"""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import groupby
from typing import NamedTuple

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers.utils import logging

from ..decoding_videoms import VideoDecodeError
from ..inputs_videoms import ONE_FRAME
from ..reader_videoms import VideoReader, redraws
from ..readers import ArrayReader
from ..sampling_videoms import segment_clip, validation_clip
from ..video_processing_videoms import VideoMSVideoProcessor
from .seeding import clip_generators, draws
from .tables import UNLABELLED, open_row, reason_of, table_fingerprint, video_name
from .transforms import EvaluationTransform, normalize, pixel_statistics


logger = logging.get_logger(__name__)

MAX_ATTEMPTS = 10  # videos tried for one clip; with 5 % of them bad, 10 fail once in 10^13 times
MAX_NAMED = 100  # videos listed in an error
SCAN_THREADS = 8


class BadVideo(NamedTuple):
    """A video that gives no clip, and why."""

    row: int  # in the table
    path: str
    reason: str
    num_draws: int  # how often it was drawn
    line: int | None = None  # of the list, counted from 1; `None` if the table does not come from a list

    @property
    def place(self) -> str:
        """ "line 8" of the list, or "row 7" of the table."""
        return f"row {self.row}" if self.line is None else f"line {self.line}"

    def __str__(self) -> str:
        return f"{self.path} ({self.place}): {self.reason}"


class ClipDataset(Dataset):
    """One random clip of each video of a table, with `labels` unless `with_labels` is false.

    A clip depends on (seed, epoch, index) alone, not on the workers. A video that cannot be decoded, has a single
    frame, or frames one pixel high or wide is logged once and never tried again; another replaces it, drawn from the
    same generator. [`~ClipDataset.bad_videos`] reports such videos and how often they were drawn.

    Args:
        choose_frames: maps a video's number of frames and `rng`, a numpy Generator, to frame indices.
        transform: maps frames uint8 (T, 3, H, W) to `pixel_values`; it draws from torch's global generator. With
            `draw_crop` and `finish`, as [`PretrainingTransform`] has them, frames are cropped while decoding.
        seed: of all draws, at least 0. `None`: torch's global generator, which callers seed for each item.
        max_bad_share: share of the table's videos that may turn out bad, in [0, 1].
        num_samples: clips of a video in one item, from one decoding; with more than one, `pixel_values` is
            (num_samples, T, C, H, W), which [`collate_clips`] flattens into the batch.
        cache_bytes: keep the decoded frames of the first videos that fit into this many bytes; clips are identical.
            Forked workers share the memory.
    """

    def __init__(
        self,
        table: datasets.Dataset,
        choose_frames: Callable[..., np.ndarray],
        transform: Callable[[Tensor], Tensor],
        with_labels: bool = True,
        seed: int | None = 0,
        max_bad_share: float = 0.05,
        num_samples: int = 1,
        cache_bytes: int = 0,
    ):
        if num_samples < 1:
            raise ValueError(f"num_samples is {num_samples}; it must be at least 1")
        if not len(table):
            raise ValueError("the table has no videos; it must have at least one")
        if not 0 <= max_bad_share <= 1:
            raise ValueError(f"max_bad_share is {max_bad_share}; it must be in [0, 1]")
        is_table = isinstance(table, datasets.Dataset)  # shards look at a label when they read it
        if with_labels and is_table and UNLABELLED in (labels := table["label"][:]):
            row = labels.index(UNLABELLED)
            raise ValueError(
                f"{labels.count(UNLABELLED)} of {len(table)} videos are unlabelled, first {video_name(table[row])} in "
                f"row {row}; label them, leave them out, or train without labels"
            )
        self.table, self.choose_frames, self.transform, self.with_labels = table, choose_frames, transform, with_labels
        self.seed, self.max_bad_share, self.num_samples = seed, max_bad_share, num_samples
        # Shared with the workers: the epoch has to reach them, and what they find bad has to come back.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._num_bad_draws = torch.zeros(len(table), dtype=torch.int32).share_memory_()
        self._frames = _all_frames(table, cache_bytes) if cache_bytes else {}

    def __len__(self) -> int:
        return len(self.table)

    def set_epoch(self, epoch: int) -> None:
        """Draw other clips from now on, also in running workers. Call it before iterating a loader again."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"index is {index}; it must be at least 0 and less than {len(self)}")
        return self.clip(index, self.table[index])

    def clip(self, index: int, row: dict) -> dict:
        """Item `index`, whose row the caller has already read."""
        number = index
        for attempt, rng in enumerate(clip_generators(self.seed, int(self._epoch), index, MAX_ATTEMPTS)):
            if attempt > 0:
                number = (number + int(rng.integers(1, max(len(self), 2)))) % len(self)  # never the same video
                row = self.table[number]
            if self._num_bad_draws[number] > 0:
                self._num_bad_draws[number] += 1
                continue
            try:
                with self._open(number, row) as video:
                    pixels = self._draw(video, rng)
                return {"pixel_values": pixels, **({"labels": row["label"]} if self.with_labels else {})}
            except (VideoDecodeError, OSError) as error:
                self._report(BadVideo(number, video_name(row), reason_of(error), 1, row.get("line")))
        raise ValueError(f"{MAX_ATTEMPTS} videos were tried for one clip and all are bad:\n{self._named_bad_videos()}")

    def _report(self, bad: BadVideo) -> None:
        """Log and count a video; raises `ValueError` if too many are bad."""
        self._num_bad_draws[bad.row] += 1
        logger.warning(f"{bad}. Another video takes its place.")
        num_bad = int(self._num_bad_draws.count_nonzero())
        if num_bad > self.max_bad_share * len(self):
            raise ValueError(
                f"{num_bad} of {len(self)} videos are bad, more than max_bad_share {self.max_bad_share} allows; "
                f"fix them, leave them out, or raise it:\n{self._named_bad_videos()}"
            )

    def _open(self, number: int, row: dict) -> VideoReader:
        frames = self._frames.get(number)
        return open_row(row) if frames is None else ArrayReader(frames.numpy())

    @redraws
    def _draw(self, video: VideoReader, rng: np.random.Generator) -> Tensor:
        rng = copy.deepcopy(rng)
        indices = [self.choose_frames(len(video), rng=rng) for _ in range(self.num_samples)]
        check_usable(video, np.concatenate(indices))
        crops, finish = None, self.transform
        if hasattr(self.transform, "draw_crop"):
            finish = self.transform.finish
            with draws(rng):
                crops = [self.transform.draw_crop(*video.size) for _ in indices]
        clips = video.clips(indices, crops)
        with draws(rng):
            clips = [finish(clip) for clip in clips]
        return clips[0] if self.num_samples == 1 else torch.stack(clips)

    def bad_videos(self, limit: int | None = None) -> list[BadVideo]:
        """The (first) videos that turned out bad in any worker, by row; each is opened again for the reason."""
        found = []
        for row in self._num_bad_draws.nonzero().flatten().tolist()[:limit]:
            video = self.table[row]
            reason = _fault(video) or "could not be read when it was drawn, but can be read now"
            found.append(BadVideo(row, video_name(video), reason, int(self._num_bad_draws[row]), video.get("line")))
        return found

    def _named_bad_videos(self) -> str:
        rest = int(self._num_bad_draws.count_nonzero()) - MAX_NAMED
        return "\n".join([f"  {bad}" for bad in self.bad_videos(MAX_NAMED)] + [f"  and {rest} more"] * (rest > 0))


class ViewDataset(Dataset):
    """Every view of every video of a table: segment by segment, and crop by crop within a segment.

    Items have `pixel_values`, `labels` and `video_id`, the video's row. A single segment is the validation clip, a
    single crop the centre. Views are cheapest in order: those of a video in one batch are decoded together, and those
    of a segment share its resized frames.

    Args:
        num_frames, stride: frames of a view, and the distance between them.
        num_segments, num_crops: temporal positions, and crops of each along the longer side.
        skip_broken: check every video on construction and leave broken ones out, which are logged and listed in
            [`~ViewDataset.bad_videos`]; otherwise they are errors when they are read, because a score without them is
            that of another test set. In a distributed job all processes must construct the dataset: the first checks.
        processor: resizes and normalises the frames; by default ours.
    """

    def __init__(
        self,
        table: datasets.Dataset,
        num_frames: int,
        stride: int,
        num_segments: int = 1,
        num_crops: int = 1,
        size: int = 224,
        skip_broken: bool = False,
        processor: VideoMSVideoProcessor | None = None,
    ):
        self.table, self.num_frames, self.stride = table, num_frames, stride
        self.num_segments, self.num_crops, self.views_per_video = num_segments, num_crops, num_segments * num_crops
        for name in ("num_frames", "stride", "num_segments", "num_crops"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        self.transform = EvaluationTransform(size, num_crops, processor)
        self._bad = _scan(table) if skip_broken else []
        self.rows = sorted(set(range(len(table))) - {bad.row for bad in self._bad})
        if not self.rows:
            raise ValueError(f"none of {len(table)} videos can be used; there must be at least one")
        self._last: tuple[int, dict[int, Tensor]] = -1, {}  # the row and segments decoded last

    def __len__(self) -> int:
        return len(self.rows) * self.views_per_video

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        """The items of a batch; loaders ask for it as a whole."""
        for index in indices:
            if not 0 <= index < len(self):
                raise IndexError(f"index is {index}; it must be at least 0 and less than {len(self)}")
        items = []
        for video, views in groupby(indices, lambda index: index // self.views_per_video):
            row = self.rows[video]
            places = [divmod(view % self.views_per_video, self.num_crops) for view in views]
            crops = self._crops(row, sorted({segment for segment, _ in places}))
            label = self.table[row]["label"]
            for segment, crop in places:
                items.append({"pixel_values": crops[segment][crop].clone(), "labels": label, "video_id": row})
        return items

    def normalize(self, frames: Tensor) -> Tensor:
        """Clips, on any device, normalised as the processor does: see [`normalize`]."""
        return normalize(frames, *pixel_statistics(self.transform.processor))

    def bad_videos(self) -> list[BadVideo]:
        """The videos that were left out as broken, by row."""
        return list(self._bad)

    def _crops(self, row: int, segments: list[int]) -> dict[int, Tensor]:
        """The crops (num_crops, T, 3, size, size) of some segments of a row's video, from one decoding."""
        known = self._last[1] if self._last[0] == row else {}
        needed = [segment for segment in segments if segment not in known]
        if needed:
            with open_row(self.table[row]) as video:
                clips = map(self.transform, self._decode(video, needed))
            decoded = (clip.view(self.num_crops, self.num_frames, *clip.shape[-3:]) for clip in clips)
            known = known | dict(zip(needed, decoded, strict=True))
            self._last = row, {segment: known[segment] for segment in segments}
        return self._last[1]

    @redraws
    def _decode(self, video: VideoReader, segments: list[int]) -> list[Tensor]:
        clip = len(video), self.num_frames, self.stride
        if self.num_segments == 1:
            indices = [validation_clip(*clip)]
        else:
            indices = [segment_clip(*clip, segment, self.num_segments) for segment in segments]
        check_usable(video, np.concatenate(indices))
        return video.clips(indices)


def check_usable(video: VideoReader, indices: Sequence[int]) -> None:
    """Seek these frames; raises `VideoDecodeError` if there is a single one, or they are one pixel high or wide."""
    video.seek(indices)
    if len(video) < 2:
        raise VideoDecodeError(video.name, ONE_FRAME)
    if min(video.size) < 2:
        height, width = video.size
        raise VideoDecodeError(video.name, f"has frames of {width} x {height}; they need at least 2 x 2 pixels")


@redraws
def _usable_frames(video: VideoReader, only_ends: bool) -> Tensor:
    indices = [0, len(video) - 1] if only_ends else range(len(video))
    check_usable(video, indices)
    return video.frames(indices)


def _all_frames(table: datasets.Dataset, limit: int) -> dict[int, Tensor]:
    """Frames (T, H, W, 3) of the table's first videos, by row, up to `limit` bytes; broken videos are left out."""

    def decode(number: int) -> Tensor | None:
        with suppress(VideoDecodeError, OSError), open_row(table[number]) as video:  # reported when it is drawn
            return _usable_frames(video, only_ends=False).permute(0, 2, 3, 1)

    kept, used = {}, 0
    with ThreadPoolExecutor(SCAN_THREADS) as pool, tqdm(total=len(table), desc="Decoding", unit="video") as progress:
        for first in range(0, len(table), 2 * SCAN_THREADS):  # in parts: those behind the limit are not decoded
            part = range(len(table))[first : first + 2 * SCAN_THREADS]
            for number, frames in zip(part, pool.map(decode, part), strict=True):
                progress.update()
                if frames is None:
                    continue
                if used + frames.nbytes > limit:
                    logger.warning(
                        f"The frames of {len(kept)} of {len(table)} videos fit into {limit / 2**30:.3g} GiB and are "
                        "kept; the others are decoded again for every clip (cache_frames sets the limit)"
                    )
                    return kept
                kept[number], used = frames, used + frames.nbytes
    return kept


def _fault(row: dict) -> str | None:
    """Why a row's video gives no clip; `None` if its first and last frames can be decoded."""
    try:
        with open_row(row) as video:
            _usable_frames(video, only_ends=True)
    except (VideoDecodeError, OSError) as error:
        return reason_of(error)
    return None


def _scan(table: datasets.Dataset) -> list[BadVideo]:
    """The broken videos of a table, each logged; all processes get the list of the first.

    Otherwise a transient read error would shift the views of one of them.
    """
    is_distributed, found = torch.distributed.is_available() and torch.distributed.is_initialized(), [None]
    if is_distributed:
        tables = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(tables, (len(table), table_fingerprint(table)))
        if len(set(tables)) > 1:
            raise ValueError(
                f"the processes read different lists of {', '.join(str(count) for count, _ in tables)} videos; all "
                "must see the same files, unchanged while the job starts"
            )
    if not is_distributed or torch.distributed.get_rank() == 0:
        with ThreadPoolExecutor(SCAN_THREADS) as pool:
            # By number, so that a table of embedded videos is not read into memory as a whole.
            faults = enumerate(pool.map(lambda number: _fault(table[number]), range(len(table))))
            bad = [(number, table[number], fault) for number, fault in faults if fault is not None]
        found = [[BadVideo(number, video_name(row), fault, 0, row.get("line")) for number, row, fault in bad]]
        for video in found[0]:
            logger.warning(f"{video}. It is left out of the evaluation.")
    if is_distributed:
        torch.distributed.broadcast_object_list(found)
    return found[0]
