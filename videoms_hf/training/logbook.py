# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""The file that a run leaves about itself: losses and speeds, broken videos, machine and library versions."""

from pathlib import Path

from accelerate.utils import gather_object

from ..data.dataset import BadVideo
from ..files import write_json
from ..hub.model_folder import LOG_FILE
from ..machine import describe_machine, library_versions


def write_training_log(trainer) -> list[BadVideo]:
    """Write `training_log.json` of a [`VideoMSTrainer`] and return the videos that turned out broken in any process.

    Every process must call it.
    """
    bad = _bad_videos_of_all_processes(trainer.train_dataset)
    if trainer.is_world_process_zero():
        state = trainer.state
        is_best = trainer.args.load_best_model_at_end and state.best_global_step and not trainer.is_in_train
        log = {
            "global_step": state.global_step,
            "epoch": state.epoch,
            "weights_step": state.best_global_step if is_best else state.global_step,
            "log_history": state.log_history,
            "bad_videos": [video._asdict() for video in bad],
            "machine": describe_machine(trainer.args.world_size),
            "versions": library_versions(),
        }
        write_json(log, Path(trainer.args.output_dir) / LOG_FILE)
    return bad


def _bad_videos_of_all_processes(dataset) -> list[BadVideo]:
    find_bad = getattr(dataset, "bad_videos", list)  # a data set of the caller's own may not know of any
    found: dict[int, BadVideo] = {}
    for video in gather_object(find_bad()):
        before = found.get(video.row)
        found[video.row] = video if before is None else video._replace(num_draws=before.num_draws + video.num_draws)
    return [found[row] for row in sorted(found)]
