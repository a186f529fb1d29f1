# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""The folder of a run: whose it is at the start, what lies in it at the end."""

import gc
import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import zip_longest
from pathlib import Path

import torch
import yaml
from datasets import Dataset as Table
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from ..data.dataset import ViewDataset
from ..data.shards import Shards
from ..data.tables import table_fingerprint
from ..files import PARTIAL_NAME, write_json, write_text
from ..hub.model_folder import RECIPE_FILE, SECRET_OPTION
from ..messages import printable
from .checkpoints import all_checkpoints, check_complete, newest_complete_checkpoint
from .dry_run import dry_run
from .learning_checks import warn_of_short_run, warn_of_vain_run
from .reporting import TimeEstimate, describe_run, write_training_log
from .trainer import VideoMSTrainer
from .training_arguments import TrainingArguments


logger = logging.get_logger(__name__)

RUN_FILE = "run.json"
LEAVING_TIME = timedelta(minutes=10)  # at the end the first process writes, and may upload, while the others wait
# Options that may change when a run goes on: they do not touch what it learns, but for rounding. The batch of one
# process and the number of accumulated steps are among them because their product, the total batch, is compared.
FREE_OPTIONS = re.compile(
    r"output_dir|resume_from_checkpoint|per_device_.*|gradient_accumulation_steps|dataloader_num_workers|"
    r"dataloader_(pin|persistent|prefetch).*|logging_.*|log_.*|report_to|run_name|project|trackio_.*|disable_tqdm|"
    r"save_.*|eval_.*|push_to_hub|hub_.*|ddp_.*|fsdp.*|deepspeed|(gradient|activation)_checkpointing.*|"
    r"attn_implementation|cache_frames|torch_compile.*|use_cpu|tf32|max_bad_share|torch_empty_cache_steps|skip_memory_metrics|"
    r"restore_callback_states_from_checkpoint"
)


def plan_evaluation(args: TrainingArguments, eval_data: str | None, metrics: Sequence[str]) -> None:
    """Switch evaluation off where there is nothing to evaluate on.

    Raises:
        ValueError: The best checkpoint is to be known by a metric that there is not, or without data.
    """
    metric = args.metric_for_best_model
    if metric is not None and metric.removeprefix("eval_") not in metrics:
        raise ValueError(f"metric_for_best_model is {metric!r}; it must be one of {', '.join(metrics)}")
    if eval_data is None:
        if args.load_best_model_at_end or args.eval_on_start or args.save_strategy == "best" or metric is not None:
            raise ValueError(
                "load_best_model_at_end, metric_for_best_model, eval_on_start and save_strategy best need eval_data, "
                "which is not given; give it, or leave them out"
            )
        args.eval_strategy = IntervalStrategy.NO


def begin_run(script: str, args: TrainingArguments, options: dict) -> bool:
    """Make `args.output_dir` this run's ([`claim_output_dir`]) and return whether the run was begun before.

    The recipe of the whole run, command line included, is written to `recipe.yaml` in it.
    """
    begun = False
    if args.dry_run:
        return begun
    if isinstance(args.resume_from_checkpoint, str):
        check_complete(args.resume_from_checkpoint)
    elif args.resume_from_checkpoint is False and all_checkpoints(args.output_dir):
        raise ValueError(
            f"resume_from_checkpoint is false, but {args.output_dir} has checkpoints; give another --output_dir, or "
            "remove this one yourself"
        )
    with args.main_process_first(local=False, desc="claiming the output folder"):
        if args.process_index == 0:
            begun = claim_output_dir(args.output_dir, script, args.total_batch_size, options)
            private = (SECRET_OPTION, "resume_from_checkpoint")  # the latter is no part of another run's recipe
            public = {name: value for name, value in options.items() if name not in private}
            text = yaml.safe_dump(public, sort_keys=False, allow_unicode=True)
            write_text(Path(args.output_dir) / RECIPE_FILE, text)
    return begun


def record_data(
    args: TrainingArguments, option: str, source: str, table: Table | Shards, class_names: Sequence[str] | None = None
) -> None:
    """Note in the run's folder which videos and classes it has; when the run goes on, say what has changed since.

    `option` is what the data are called ("train_data"), and `source` where they come from.

    Raises:
        FileExistsError: The run has other classes.
    """
    if args.dry_run:
        return
    if isinstance(table, Shards):
        text = repr([(os.path.basename(shard.path), shard.num_videos) for shard in table.shards])
        now = {"videos": len(table), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    else:
        now = {"videos": len(table), "sha256": table_fingerprint(table)}
    now |= {} if class_names is None else {"class_names": list(class_names)}
    path = Path(args.output_dir) / RUN_FILE
    with args.main_process_first(local=False, desc="comparing the data"):
        run = json.loads(path.read_text(encoding="utf-8"))
        before = run.setdefault("data", {}).get(option, now)
        names, names_before = now.get("class_names", []), before.get("class_names", [])
        if names != names_before:
            pairs = enumerate(zip_longest(names_before, names))
            number, (old, new) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
            raise FileExistsError(
                f"{args.output_dir} holds a run with other classes: it has {len(names_before)}, {source} has "
                f"{len(names)}, and class {number} was {old!r}, now {new!r}. A run keeps its classes: restore them, "
                f"or give another --output_dir; --model_name_or_path {args.output_dir} lets a new run begin with the "
                "weights of this one"
            )
        if before["sha256"] != now["sha256"] and args.process_index == 0:
            kind = "" if before["videos"] != now["videos"] else " (others, or with other labels)"
            logger.warning(
                f"{option} {source} has changed since the run in {args.output_dir} began: {before['videos']} videos "
                f"then, {now['videos']} now{kind}. The run goes on with the new ones and will not equal one that saw "
                "the same throughout; to avoid that, restore the file, or start over with another --output_dir"
            )
        if args.process_index == 0 and run["data"].get(option) != now:
            run["data"][option] = now
            write_json(run, path)


def carry_out(trainer: VideoMSTrainer, say: Callable[[str], None]) -> dict[str, float]:
    """Train, from the newest complete checkpoint on if there is one, evaluate, save; returns the evaluation's metrics.

    `say` is told what the run is going to do, how long it will take, and how it went. The output folder then has the
    model with its processor, and `training_log.json`. Without evaluation data the metrics are empty.
    """
    if trainer.args.dry_run:
        dry_run(trainer, say)
        leave_processes(trainer)
        return {}
    if isinstance(trainer.eval_dataset, ViewDataset) and (Path(trainer.args.output_dir) / RUN_FILE).exists():
        record_data(trainer.args, "eval_data", "of this run", trainer.eval_dataset.table)
    say(describe_run(trainer))
    for warning in warn_of_short_run(trainer):
        say(f"Warning: {warning}")
    trainer.add_callback(TimeEstimate(say))
    trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint or True)
    metrics = {} if trainer.eval_dataset is None else trainer.evaluate()
    bad = write_training_log(trainer)
    trainer.save_model()  # and publishes it, with push_to_hub
    say(f"{len(bad)} of {len(trainer.train_dataset)} training videos were broken and replaced by others")
    for video in bad:
        say(printable(f"  {video.path} ({video.place}): {video.reason}"))
    for warning in warn_of_vain_run(trainer):
        say(f"Warning: {warning}")
    say(f"The model and the log are in {trainer.args.output_dir}")
    leave_processes(trainer)
    trainer.accelerator.end_training()
    return metrics


def leave_processes(trainer: VideoMSTrainer | None = None) -> None:
    """Leave the other processes of a job, if there are any, when all have come to the end; `trainer` was the last one.

    Gloo's threads live as long as anything holds the process group, as a trainer's wrapped model does, and where they
    still run when Python shuts down, they abort the process now and then. So the trainer gives its wrapper up: it can
    neither train nor evaluate any more. A process that fails must not call this, and if one did, the others find it
    gone and leave without it.
    """
    if not torch.distributed.is_initialized():
        return
    options = torch.distributed.BarrierOptions()
    options.timeout = LEAVING_TIME  # of the operation itself: a group with one under way cannot be destroyed
    try:
        torch.distributed.group.WORLD.barrier(options).wait()
    except RuntimeError as error:
        logger.warning(f"Another process did not come to the end, this one does not wait for it: {error}")
    if trainer is not None:
        trainer.model_wrapped = trainer.model
        trainer.accelerator.free_memory()
    torch.distributed.destroy_process_group()
    # Trainers are parts of cycles. FSDP2's group stays, in caches of torch, with nothing under way since the barrier.
    gc.collect()


def claim_output_dir(output_dir: str | os.PathLike, script: str, total_batch_size: int, options: dict) -> bool:
    """Make `output_dir` this run's and return whether the run was begun before.

    Args:
        script: what runs ("pretrain", "finetune").
        options: every option that was set, by recipe or command line.

    Raises:
        FileExistsError: The folder holds something else, or a run with other options; the message names them.
        OSError: The folder cannot be written to.
    """
    output_dir = Path(output_dir)
    now = {
        "script": script,
        "total_batch_size": total_batch_size,
        **{name: value for name, value in options.items() if not FREE_OPTIONS.fullmatch(name)},
    }
    if output_dir.exists() and not output_dir.is_dir():
        raise FileExistsError(f"{output_dir} is a file; give another --output_dir")
    found = {path.name for path in output_dir.iterdir()} if output_dir.exists() else set()
    found = {name for name in found if not PARTIAL_NAME.fullmatch(name)}
    # Nothing, or a start that failed or was killed before it learned anything.
    if found <= {RUN_FILE, RECIPE_FILE}:
        try:
            write_json(now, output_dir / RUN_FILE)
        except OSError as error:
            raise OSError(
                f"{output_dir} cannot be written to ({error}); give another --output_dir, or change its permissions"
            ) from error
        return False
    advice = "give another --output_dir, or remove this one yourself"
    try:
        before = json.loads((output_dir / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    if isinstance(before, dict):
        before.pop("data", None)  # [`record_data`] compares them
    else:
        raise FileExistsError(f"{output_dir} holds something else than a run of this kind; {advice}")
    changed = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    if changed:
        changes = [f"{name} was {before.get(name, 'not set')!r}, now {now.get(name, 'not set')!r}" for name in changed]
        if set(changed) <= {"num_train_epochs", "max_steps"} and (weights := _weights_of(output_dir)):
            longer = f"{output_dir}-longer"
            words = ["videoms", script, f"{output_dir / RECIPE_FILE}", "--output_dir", longer]
            words += ["--model_name_or_path", f"{weights}"]
            words += [word for name in changed if name in now for word in (f"--{name}", str(now[name]))]
            advice = (
                "the learning rate has followed the planned length, so start another run from this one's weights: "
                f"{shlex.join(words)}"
            )
        raise FileExistsError(f"{output_dir} holds a run with other options ({'; '.join(changes)}); {advice}")
    return True


def _weights_of(output_dir: Path) -> Path | None:
    """Where a run's last weights lie: in its folder when it has ended, else in its newest complete checkpoint."""
    return output_dir if (output_dir / "config.json").exists() else newest_complete_checkpoint(output_dir)
