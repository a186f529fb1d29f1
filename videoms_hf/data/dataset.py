# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Clips of the videos in a table (`tables.py`): random ones to train on, fixed views to evaluate.

Items are dictionaries with `pixel_values` uint8 (T, C, H, W), which [`normalize`] turns into the network's input.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, groupby
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
from .seeding import clip_generators, seed_torch
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

    def __str__(self) -> str:
        place = f"row {self.row}" if self.line is None else f"line {self.line}"
        return f"{self.path} ({place}): {self.reason}"


class ClipDataset(Dataset):
    """One random clip of each video of a table, with `labels` unless `with_labels` is false.

    A clip depends on (seed, epoch, index) alone. A video that cannot be decoded, or has a single frame or frames one
    pixel high or wide, is logged once, listed in [`~ClipDataset.bad_videos`], and replaced by another random one.

    Args:
        choose_frames: maps a video's number of frames and `rng`, a numpy Generator, to frame indices.
        transform: maps frames uint8 (T, 3, H, W) to `pixel_values`; it draws from torch's global generator. With
            `draw_crop` and `finish`, as [`PretrainingTransform`] has them, frames are cropped while decoding.
        seed: of all draws, at least 0. `None`: torch's global generator, which callers seed for each item.
        max_bad_share: share of the table's videos that may turn out bad, in [0, 1].
        num_samples: clips of a video in one item, from one decoding; with more than one, `pixel_values` is
            (num_samples, T, C, H, W), which [`collate_clips`] flattens into the batch.
        cache_bytes: memory for the decoded frames of the first videos, which forked workers share.
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

    def clip(self, index: int, row: Mapping | None = None) -> dict:
        """Item `index`; `row` is its row in the table, if already read."""
        if not 0 <= index < len(self):
            raise IndexError(f"index is {index}; it must be at least 0 and less than {len(self)}")
        number = index
        for attempt, rng in enumerate(clip_generators(self.seed, int(self._epoch), index, MAX_ATTEMPTS)):
            if attempt > 0:
                number, row = (number + int(rng.integers(1, max(len(self), 2)))) % len(self), None  # another video
            if self._num_bad_draws[number] > 0:
                self._num_bad_draws[number] += 1
                continue
            row, frames = self.table[number] if row is None else row, self._frames.get(number)
            try:
                with open_row(row) if frames is None else ArrayReader(frames) as video:
                    pixels = self._draw(video, rng)
                return {"pixel_values": pixels, **({"labels": row["label"]} if self.with_labels else {})}
            except (VideoDecodeError, OSError) as error:
                bad = BadVideo(number, video_name(row), reason_of(error), 1, row.get("line"))
            self._num_bad_draws[number] += 1
            logger.warning(f"{bad}. Another video takes its place.")
            num_bad = int(self._num_bad_draws.count_nonzero())
            if num_bad > self.max_bad_share * len(self):
                raise ValueError(
                    f"{num_bad} of {len(self)} videos are bad, more than max_bad_share {self.max_bad_share} allows; "
                    f"fix them, leave them out, or raise it:\n{self._named_bad_videos()}"
                )
        raise ValueError(f"{MAX_ATTEMPTS} videos were tried for one clip and all are bad:\n{self._named_bad_videos()}")

    __getitem__ = clip

    @redraws
    def _draw(self, video: VideoReader, rng: np.random.Generator) -> Tensor:
        rng = copy.deepcopy(rng)
        indices = [self.choose_frames(len(video), rng=rng) for _ in range(self.num_samples)]
        check_usable(video, np.concatenate(indices))
        crops, finish = None, self.transform
        with torch.random.fork_rng(devices=[]):
            if hasattr(self.transform, "draw_crop"):
                finish = self.transform.finish
                seed_torch(rng)
                crops = [self.transform.draw_crop(*video.size) for _ in indices]
            clips = video.clips(indices, crops)
            seed_torch(rng)
            clips = [finish(clip) for clip in clips]
        return clips[0] if self.num_samples == 1 else torch.stack(clips)

    def bad_videos(self, limit: int | None = None) -> list[BadVideo]:
        """The (first) videos that turned out bad in any worker, by row; each is opened again for the reason."""
        found = []
        for number in self._num_bad_draws.nonzero().flatten().tolist()[:limit]:
            row, num_draws = self.table[number], int(self._num_bad_draws[number])
            reason = _read(row, only_ends=True)[1] or "could not be read when it was drawn, but can be read now"
            found.append(BadVideo(number, video_name(row), reason, num_draws, row.get("line")))
        return found

    def _named_bad_videos(self) -> str:
        rest = int(self._num_bad_draws.count_nonzero()) - MAX_NAMED
        return "\n".join([f"  {bad}" for bad in self.bad_videos(MAX_NAMED)] + [f"  and {rest} more"] * (rest > 0))


class ViewDataset(Dataset):
    """Every view of every video of a table: segment by segment, and crop by crop within a segment.

    Items have `pixel_values`, `labels` and `video_id`, the video's row. A single segment is the validation clip, a
    single crop the centre. Views are cheapest in order: those of a video in a batch come from one decoding.

    Args:
        num_frames, stride: frames of a view, and the distance between them.
        num_segments, num_crops: temporal positions, and crops of each along the longer side.
        skip_broken: check every video on construction, by all processes of a distributed job, and leave broken ones
            out, which are logged and listed in [`~ViewDataset.bad_videos`]; otherwise they are errors when they are
            read, because a score without them is that of another test set.
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
        self._last: dict[int, dict[int, Tensor]] = {}  # the crops of the row and segments that were decoded last

    def __len__(self) -> int:
        return len(self.rows) * self.views_per_video

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        """The items of a batch; loaders ask for it as a whole."""
        if outside := [index for index in indices if not 0 <= index < len(self)]:
            raise IndexError(f"index is {outside[0]}; it must be at least 0 and less than {len(self)}")
        items = []
        for video, views in groupby(indices, lambda index: index // self.views_per_video):
            places = [divmod(view % self.views_per_video, self.num_crops) for view in views]
            number, row = self.rows[video], self.table[self.rows[video]]
            known = self._last.get(number, {})
            if needed := sorted({segment for segment, _ in places} - known.keys()):
                with open_row(row) as reader:
                    clips = map(self.transform, self._decode(reader, needed))
                crops = (clip.view(self.num_crops, self.num_frames, *clip.shape[-3:]) for clip in clips)
                known = known | dict(zip(needed, crops, strict=True))
                self._last = {number: {segment: known[segment] for segment, _ in places}}
            about = {"labels": row["label"], "video_id": number}
            items += [{"pixel_values": known[segment][crop].clone(), **about} for segment, crop in places]
        return items

    def normalize(self, frames: Tensor) -> Tensor:
        """Clips, on any device, normalised as the processor does: see [`normalize`]."""
        return normalize(frames, *pixel_statistics(self.transform.processor))

    def bad_videos(self) -> list[BadVideo]:
        """The videos that were left out as broken, by row."""
        return list(self._bad)

    @redraws
    def _decode(self, video: VideoReader, segments: list[int]) -> list[Tensor]:
        clip, count = (len(video), self.num_frames, self.stride), self.num_segments
        indices = [segment_clip(*clip, i, count) if count > 1 else validation_clip(*clip) for i in segments]
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


def _read(row: Mapping, only_ends: bool) -> tuple[Tensor | None, str | None]:
    """Frames (T, 3, H, W) of a row's video, its first and last or all; or why it gives no clip."""
    try:
        with open_row(row) as video:
            return _usable_frames(video, only_ends), None
    except (VideoDecodeError, OSError) as error:
        return None, reason_of(error)


@redraws
def _usable_frames(video: VideoReader, only_ends: bool) -> Tensor:
    indices = [0, len(video) - 1] if only_ends else range(len(video))
    check_usable(video, indices)
    return video.frames(indices)


def _all_frames(table: datasets.Dataset, limit: int) -> dict[int, Tensor]:
    """Frames (T, 3, H, W) of the table's first videos, by row, up to `limit` bytes; broken videos are left out."""
    kept, free, rows = {}, limit, range(len(table))
    parts = (rows[first : first + 2 * SCAN_THREADS] for first in rows[:: 2 * SCAN_THREADS])
    with ThreadPoolExecutor(SCAN_THREADS) as pool:
        # In parts: those behind the limit are not decoded. Broken ones are reported when they are drawn.
        read = chain.from_iterable(pool.map(lambda row: _read(table[row], only_ends=False)[0], part) for part in parts)
        for row, frames in enumerate(tqdm(read, "Decoding", len(table), unit="video")):
            if frames is None:
                continue
            if (free := free - frames.nbytes) < 0:
                logger.warning(
                    f"The frames of {len(kept)} of {len(table)} videos fit into {limit / 2**30:.3g} GiB and are kept; "
                    "the others are decoded again for every clip (cache_frames sets the limit)"
                )
                break
            kept[row] = frames
    return kept


def _scan(table: datasets.Dataset) -> list[BadVideo]:
    """The broken videos of a table, each logged; those of the first process, lest a passing error shift views."""
    is_distributed, found = torch.distributed.is_available() and torch.distributed.is_initialized(), [[]]
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
            reasons = pool.map(lambda number: _read(table[number], only_ends=True)[1], range(len(table)))
            bad = [(number, table[number], reason) for number, reason in enumerate(reasons) if reason is not None]
        found = [[BadVideo(number, video_name(row), reason, 0, row.get("line")) for number, row, reason in bad]]
        for video in found[0]:
            logger.warning(f"{video}. It is left out of the evaluation.")
    if is_distributed:
        torch.distributed.broadcast_object_list(found)
    return found[0]
