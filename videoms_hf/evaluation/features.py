# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Features of frozen encoders for every view of every video, on one process or many, in memory or in files.

Each process takes a contiguous range of views, so the concatenated parts are the views in order.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm

from ..data.collate import collate_clips
from ..data.dataset import ViewDataset
from ..data.tables import video_names
from ..files import atomic_path
from ..modeling_videoms import VideoMSModel
from ..tubelets_videoms import check_clip, mean_per_time_step


LEVELS = ("clip", "time_step", "token")


class Features(NamedTuple):
    """Features of V views and their origin."""

    features: Tensor  # (V, D) of clips, (V, T, D) of time steps, (V, K, D) of kept tokens
    kept_ids: Tensor  # int64 (V, K), ids of the kept tokens, ascending
    video_ids: Tensor  # int64 (V,), the video's row in the table
    labels: Tensor  # int64 (V,), -1: unlabelled


def pool_features(hidden_states: Tensor, kept_ids: Tensor, grid: tuple[int, int, int], level: str) -> Tensor:
    """Features at a level of [`LEVELS`]: those of the kept tokens, (B, K, D), or their means.

    `grid` is the number of tokens along time, height and width. A time step without kept tokens has zeros.
    """
    if level not in LEVELS:
        raise ValueError(f"level is {level!r}; it must be one of {', '.join(LEVELS)}")
    if level == "token":
        return hidden_states
    if level == "clip":
        return hidden_states.mean(dim=1)
    return mean_per_time_step(hidden_states, kept_ids, grid[0], grid[1] * grid[2])


def encode_views(
    encoder: VideoMSModel,
    views: ViewDataset,
    accelerator: Accelerator,
    level: str = "clip",
    batch_size: int = 8,
    num_workers: int = 0,
) -> Iterator[Features]:
    """Batches of this process's share of the features, on the CPU in float32."""
    share = range(*(_first_view(views, accelerator, i) for i in (0, 1)))
    loader = DataLoader(Subset(views, share), batch_size, num_workers=num_workers, collate_fn=collate_clips)
    encoder = encoder.to(accelerator.device).eval()
    for batch in tqdm(loader, desc="Encoding", unit="batch", disable=not accelerator.is_main_process):
        clips = views.normalize(batch["pixel_values"].to(accelerator.device, non_blocking=True))
        with torch.inference_mode(), accelerator.autocast():
            outputs, config = encoder(clips), encoder.config
            grid = (config.num_frames // config.tubelet_size, *check_clip(clips, config)[1:])
            features = pool_features(outputs.last_hidden_state, outputs.kept_ids, grid, level)
        yield Features(features.float().cpu(), outputs.kept_ids.cpu(), batch["video_id"], batch["labels"])


def _first_view(views: ViewDataset, accelerator: Accelerator, offset: int = 0) -> int:
    """Where the share of this process, or of the one `offset` after it, begins."""
    return len(views) * (accelerator.process_index + offset) // accelerator.num_processes


def extract_features(encoder: VideoMSModel, views: ViewDataset, accelerator: Accelerator, *options) -> Features:
    """Features of all views in order, on every process; `options` as for [`encode_views`]."""
    parts = list(encode_views(encoder, views, accelerator, *options))
    parts = gather_object([tuple(torch.cat(values) for values in zip(*parts, strict=True))] if parts else [])
    return Features(*(torch.cat(values) for values in zip(*parts, strict=True)))


def write_features(
    batches: Iterator[Features],
    views: ViewDataset,
    folder: str | os.PathLike,
    file_format: str,
    accelerator: Accelerator,
    facts: dict,
) -> Path:
    """Write this process's batches to `features-<process>-of-<processes>` in `folder` and return the file's path.

    A parquet file has a row for each view: `video`, `label`, `video_id`, `view` (segment by segment, crop by crop),
    `kept_ids` and `feature`, as lists; it is written batch by batch. A safetensors file has the tensors `features`,
    `kept_ids`, `video_ids` and `labels`, written at the end. `facts` become the file's metadata.
    """
    name = f"features-{accelerator.process_index:05}-of-{accelerator.num_processes:05}.{file_format}"
    path = Path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    with atomic_path(path) as partial:
        if file_format == "parquet":
            _write_parquet(batches, views, partial, accelerator, metadata)
        else:
            parts = list(batches)
            fields = Features._fields if parts else ()
            save_file({key: torch.cat([getattr(part, key) for part in parts]) for key in fields}, partial, metadata)
    return path


def _write_parquet(batches, views: ViewDataset, path: Path, accelerator: Accelerator, metadata: dict) -> None:
    names, view, writer = video_names(views.table), _first_view(views, accelerator), None
    for batch in batches:
        columns = {
            "video": [names[row] for row in batch.video_ids.tolist()],
            "label": batch.labels.numpy(),
            "video_id": batch.video_ids.numpy(),
            "view": np.arange(view, view + len(batch.labels)) % views.views_per_video,
            "kept_ids": pa.array(batch.kept_ids.tolist(), pa.list_(pa.int32())),
            "feature": _nested(batch.features),
        }
        view += len(batch.labels)
        table = pa.table(columns, metadata=metadata)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is None:
        raise ValueError(
            f"process {accelerator.process_index} has no views; start no more processes than there are views"
        )
    writer.close()


def _nested(features: Tensor) -> pa.Array:
    """(V, ..., D) as an array of nested lists of float32, without Python numbers."""
    array = pa.array(features.contiguous().numpy().ravel(), pa.float32())
    for size in reversed(features.shape[1:]):
        array = pa.ListArray.from_arrays(pa.array(range(0, len(array) + 1, size), pa.int32()), array)
    return array
