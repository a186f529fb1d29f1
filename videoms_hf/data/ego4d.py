# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Ego4D's object state change classification (OSCC): windows of about 8 seconds in recordings of up to hours.

Source: the annotation files of the dataset, fho_oscc-pnr_{train, val, test_unannotated}.json.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset

from ..files import read_text
from ..messages import count, raise_problems
from .labels import OSCC_CLASSES
from .tables import UNLABELLED, make_table


NEEDED = ("unique_id", "video_uid", "parent_start_sec", "parent_end_sec")


def read_oscc(
    annotations: str | os.PathLike,
    videos: str | os.PathLike,
    class_names: Sequence[str] | None = None,
    require_labels: bool = False,
) -> Dataset:
    """The table of an OSCC file's windows: recordings, labels, `start_seconds`, `end_seconds` and `unique_id`.

    The recording of a window is `<video_uid>.mp4` in the folder `videos`; decoding seeks into it. Class 1 is a state
    change; `state_change` false, null or absent is class 0. If no window has `state_change` (the test set), all are
    unlabelled. `line` counts the windows. [`read_videos`] describes the other arguments.
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
    recordings = {uid: folder / f"{uid}.mp4" for uid in dict.fromkeys(clip.get("video_uid") for clip in clips)}
    missing = [uid for uid, file in recordings.items() if uid is not None and not file.is_file()]
    problems += [f"there is no recording {recordings[uid]}" for uid in missing]
    for number, clip in enumerate(clips, 1):
        if lacking := [name for name in NEEDED if clip.get(name) is None]:
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
        windows={
            "start_seconds": [float(clip["parent_start_sec"]) for clip in clips],
            "end_seconds": [float(clip["parent_end_sec"]) for clip in clips],
        },
    )
    return table.add_column("unique_id", [clip["unique_id"] for clip in clips])
