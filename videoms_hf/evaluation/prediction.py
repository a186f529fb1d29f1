# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Logits of every view of every labelled video, on one process or many.

The batches are distributed among the processes without padding and every row of the result has a number, so the result
does not depend on the number of processes.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.annotations import read_videos
from ..data.dataset import BadVideo, ViewDataset
from ..data.tables import CLASS_NAMES_FILE, open_row, read_class_names, video_name
from ..decoding_videoms import VideoDecodeError
from ..modeling_videoms import VideoMSForVideoClassification
from ..readers import open_video
from ..video_processing_videoms import VideoMSVideoProcessor


GENERIC_NAME = re.compile(r"(LABEL|class)_[0-9]+")  # names that transformers and our reader give to unnamed classes


class ViewPredictions(NamedTuple):
    """Logits of V views, in the order of the dataset, and the corrupt videos."""

    logits: np.ndarray  # float32 (V, L)
    video_ids: np.ndarray  # int64 (V,), the video's row in the table
    labels: np.ndarray  # int64 (V,)
    broken: list[BadVideo]  # by row; none of their views is used


def start_accelerator(mixed_precision: str = "no") -> Accelerator:
    """Accelerate's state of this process: its device and rank. Precision is "no" (float32), "bf16" or "fp16"."""
    # Without `cpu`, Accelerate does not join CPU processes, and each would do all the work.
    return Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision=mixed_precision)


def labelled_videos(data: str, class_names: Sequence[str], data_root: str | None = None) -> datasets.Dataset:
    """The table of a list or folder of videos, every one labelled by one of a model's `class_names`.

    Numbers in a list are those of the model's classes, and names must be among theirs. A `classes.txt` next to the
    list must name the model's classes in order; if the model has generic names, only the number of classes must agree.
    `ValueError` if the labels are not the model's, or the list has errors, see `read_videos`.
    """
    names_file = Path(data).parent / CLASS_NAMES_FILE
    class_names = list(class_names)
    if not Path(data).is_dir() and names_file.is_file():
        listed = read_class_names(names_file)
        if len(listed) != len(class_names):
            raise ValueError(
                f"{names_file} names {len(listed)} classes, the model knows {len(class_names)} ({class_names[0]!r} to "
                f"{class_names[-1]!r}); evaluate it on its own dataset"
            )
        if all(GENERIC_NAME.fullmatch(name) for name in class_names):
            class_names = listed
        elif listed != class_names:
            number = next(i for i, name in enumerate(listed) if name != class_names[i])
            raise ValueError(
                f"{names_file} calls class {number} {listed[number]!r}, the model {class_names[number]!r}; the names "
                "must be those of the training list, in the same order"
            )
    return read_videos(data, data_root, class_names, require_labels=True)


def evaluation_views(
    table: datasets.Dataset,
    model: VideoMSForVideoClassification,
    processor: VideoMSVideoProcessor,
    num_segments: int,
    num_crops: int,
    skip_broken: bool = False,
) -> ViewDataset:
    """The views of a table's videos, with the model's number of frames and the processor's stride and size.

    All videos are scanned first. `ValueError` if some are corrupt (all are named) and `skip_broken` is not set, or the
    processor has no stride, or crops to another size than it resizes to.
    """
    if processor.frame_stride is None:
        raise ValueError(
            "the saved processor has no frame_stride; give the one of training, for example --frame_stride 4"
        )
    size = processor.crop_size["height"]
    if not size == processor.crop_size["width"] == processor.size["shortest_edge"]:
        raise ValueError(
            f"the processor's size is {dict(processor.size)} and its crop_size {dict(processor.crop_size)}; the crop "
            "must be a square whose side is the shortest_edge"
        )
    clip = model.config.num_candidate_frames, processor.frame_stride
    views = ViewDataset(table, *clip, num_segments, num_crops, size, skip_broken=True, processor=processor)
    if (bad := views.bad_videos()) and not skip_broken:
        lines = "\n".join(f"  {video}" for video in bad)
        raise ValueError(
            f"{len(bad)} of {len(table)} videos are corrupt, and a score without them is not that of this test set; "
            f"replace them, or give --skip_broken to evaluate the others:\n{lines}"
        )
    return views


def video_views(
    processor: VideoMSVideoProcessor, video: str | Mapping, num_segments: int = 1, num_crops: int = 1
) -> tuple[Tensor, float | None]:
    """Views (1, views, T, C, H, W), normalised, and duration in seconds (`None` for images) of a video.

    The video is a file, an address, a folder of images, or a row of a table. `VideoDecodeError` or `OSError` if it
    cannot be read or has a single frame.
    """
    with open_video(video) if isinstance(video, str) else open_row(video) as reader:
        batch = processor(reader, num_segments=num_segments, num_crops=num_crops, return_tensors="pt")
        seconds = reader.info.duration_seconds or None
    views = batch["pixel_values"]
    return views if views.ndim == 6 else views[:, None], seconds


def _decode(numbers: list[int], views: ViewDataset, skip_broken: bool) -> tuple[list, Tensor | None, dict[int, str]]:
    """(view, row) of each decoded view, their clips uint8 (B, T, C, H, W), and reasons by corrupt row."""
    decoded, clips, reasons = [], [], {}
    for video, views_of_video in groupby(numbers, lambda view: view // views.views_per_video):
        group, row = list(views_of_video), views.rows[video]  # decoded together
        try:
            clips += [item["pixel_values"] for item in views.__getitems__(group)]
            decoded += [(view, row) for view in group]
        except (VideoDecodeError, OSError) as error:
            if not skip_broken:
                raise
            reasons[row] = getattr(error, "reason", str(error))
    return decoded, torch.stack(clips) if clips else None, reasons


def predict_views(
    model: VideoMSForVideoClassification,
    views: ViewDataset,
    accelerator: Accelerator,
    batch_size: int = 8,
    num_workers: int = 0,
    skip_broken: bool = False,
    keep_ratios: Sequence[float | None] = (None,),
) -> list[ViewPredictions]:
    """Logits of every view at each keep ratio (`None`: the model's), the same on every process.

    The videos are decoded once. One that fails to decode raises `VideoDecodeError` or `OSError`, or with `skip_broken`
    is omitted with all its views; `ValueError` if no view is left.
    """
    batches = torch.arange(len(views)).split(batch_size)[accelerator.process_index :: accelerator.num_processes]
    loader = DataLoader(
        [batch.tolist() for batch in batches],
        batch_size=None,
        num_workers=num_workers,
        collate_fn=partial(_decode, views=views, skip_broken=skip_broken),
        pin_memory=accelerator.device.type == "cuda",
    )
    model = model.to(accelerator.device).eval()
    numbers, logits, reasons = [], [], {}
    for batch, clips, broken in tqdm(loader, desc="Evaluating", unit="batch", disable=not accelerator.is_main_process):
        reasons |= broken
        if clips is not None:
            with torch.inference_mode(), accelerator.autocast():
                clips = views.normalize(clips.to(accelerator.device, non_blocking=True))
                scores = [model(clips, keep_ratio=ratio).logits.float().cpu() for ratio in keep_ratios]
            numbers += batch
            logits.append(torch.stack(scores, dim=1))
    logits = torch.cat(logits or [torch.empty(0, len(keep_ratios), model.num_labels)]).numpy()
    found = _in_order(gather_object([(numbers, logits, reasons)]), views)
    return [found._replace(logits=np.ascontiguousarray(found.logits[:, i])) for i in range(len(keep_ratios))]


def _in_order(parts: list[tuple], views: ViewDataset) -> ViewPredictions:
    """The results of all processes, view by view."""
    reasons = {row: reason for _, _, broken in parts for row, reason in broken.items()}
    numbers, rows = np.concatenate([np.array(part[0], dtype=np.int64).reshape(-1, 2) for part in parts]).T
    logits, used = np.concatenate([part[1] for part in parts]), numbers.argsort()
    used = used[~np.isin(rows[used], list(reasons))]
    if not used.size:
        raise ValueError(f"none of {len(views.table)} videos can be used; there must be at least one")
    broken = views.bad_videos()
    for row, reason in reasons.items():
        video = views.table[row]
        broken.append(BadVideo(row, video_name(video), reason, 1, video.get("line")))
    labels = np.asarray(views.table["label"][:])[rows[used]]
    return ViewPredictions(logits[used], rows[used], labels, sorted(broken))
