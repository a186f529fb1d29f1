# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Which checkpoints of a run are complete.

Trainer writes a checkpoint file by file into its final place, so a killed run leaves a partial one, which Trainer
would resume from. Here a list of its files with their sizes is written last: a checkpoint without that list, or that
differs from it, is incomplete.
"""

import json
import os
import re
import shutil
from pathlib import Path

from transformers.utils import logging

from ..files import write_json


logger = logging.get_logger(__name__)

MANIFEST = "complete.json"


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(files)}


def mark_complete(checkpoint: Path) -> None:
    """Write the list of its files into a checkpoint: the last step of saving it."""
    write_json(_sizes(checkpoint), checkpoint / MANIFEST)


def mark_incomplete(checkpoint: Path) -> None:
    """Remove the list: the first step of writing into a checkpoint or of removing it."""
    (checkpoint / MANIFEST).unlink(missing_ok=True)


def what_is_missing(checkpoint: str | os.PathLike) -> str | None:
    """Why a checkpoint is incomplete, in words; `None` if it is complete."""
    checkpoint = Path(checkpoint)
    if not checkpoint.is_dir():
        return "there is no such folder"
    try:
        wanted = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "saving it was not finished"
    except (OSError, ValueError) as error:
        return f"its {MANIFEST} cannot be read: {error}"
    found = _sizes(checkpoint)
    for name, size in wanted.items():
        if found.get(name) != size:
            return f"{name} has {found.get(name, 'no')} bytes instead of {size}"
    return None


def check_complete(checkpoint: str | os.PathLike) -> None:
    """Raise `ValueError` if a checkpoint is incomplete or there is none."""
    if missing := what_is_missing(checkpoint):
        raise ValueError(f"{checkpoint} is not a complete checkpoint of this trainer: {missing}")


def all_checkpoints(output_dir: str | os.PathLike) -> list[Path]:
    """Checkpoint folders of a run, complete or not, in the order of their steps."""
    found = [path for path in Path(output_dir).glob("checkpoint-*") if re.fullmatch(r"\w+-\d+", path.name)]
    return sorted(filter(Path.is_dir, found), key=lambda path: int(path.name.removeprefix("checkpoint-")))


def newest_complete_checkpoint(output_dir: str | os.PathLike) -> Path | None:
    """The complete checkpoint with the most steps, or `None`; logs why newer ones are skipped."""
    for checkpoint in reversed(all_checkpoints(output_dir)):
        if not (missing := what_is_missing(checkpoint)):
            return checkpoint
        logger.warning(f"{checkpoint} is incomplete ({missing}) and skipped")
    return None


def set_incomplete_aside(output_dir: str | os.PathLike) -> list[Path]:
    """Rename incomplete checkpoints to `incomplete-checkpoint-<step>`, replacing older ones; returns the new names."""
    moved = []
    for checkpoint in all_checkpoints(output_dir):
        if what_is_missing(checkpoint):
            aside = checkpoint.with_name(f"incomplete-{checkpoint.name}")
            shutil.rmtree(aside, ignore_errors=True)
            checkpoint.rename(aside)
            moved.append(aside)
    return moved


def remove_old_checkpoints(output_dir: str | os.PathLike, keep: int | None, best: str | os.PathLike | None) -> None:
    """Remove all but the newest `keep` complete checkpoints and the best one; `None` keeps all."""
    if keep is None:
        return
    complete = [path for path in all_checkpoints(output_dir) if not what_is_missing(path)]
    for checkpoint in complete[: max(len(complete) - keep, 0)]:
        if best is None or checkpoint != Path(best):
            mark_incomplete(checkpoint)
            shutil.rmtree(checkpoint, ignore_errors=True)
