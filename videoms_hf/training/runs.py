# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""A run and its folder: checked at the start, filled at the end."""

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
from .reporting import (
    TimeEstimate,
    describe_run,
    dry_run,
    warn_of_short_run,
    warn_of_vain_run,
    write_training_log,
)
from .trainer import VideoMSTrainer
from .training_arguments import TrainingArguments


logger = logging.get_logger(__name__)

RUN_FILE = "run.json"
LEAVING_TIME = timedelta(minutes=10)  # the first process writes, and may upload, while the others wait
# Options that may change when a run resumes: they do not affect what it learns, except by rounding. The batch of one
# process and the accumulated steps are among them because their product, the total batch, is compared.
FREE_OPTIONS = re.compile(
    r"output_dir|resume_from_checkpoint|per_device_.*|gradient_accumulation_steps|dataloader_num_workers|"
    r"dataloader_(pin|persistent|prefetch).*|logging_.*|log_.*|report_to|run_name|project|trackio_.*|disable_tqdm|"
    r"save_.*|eval_.*|push_to_hub|hub_.*|ddp_.*|fsdp.*|deepspeed|(gradient|activation)_checkpointing.*|"
    r"attn_implementation|cache_frames|torch_compile.*|use_cpu|tf32|max_bad_share|torch_empty_cache_steps|skip_memory_metrics|"
    r"restore_callback_states_from_checkpoint"
)


def plan_evaluation(args: TrainingArguments, eval_data: str | None, metrics: Sequence[str]) -> None:
    """Switch evaluation off if there is no `eval_data`.

    Raises:
        ValueError: The metric of the best checkpoint is unknown, or there are no data for it.
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
    """Claim `args.output_dir` for this run ([`claim_output_dir`]) and return whether the run resumes.

    The recipe of the whole run, including the command line, is written to its `recipe.yaml`.
    """
    begun = False
    if args.dry_run:
        return False
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
            private = (SECRET_OPTION, "resume_from_checkpoint")  # the latter is only for this start
            public = {name: value for name, value in options.items() if name not in private}
            text = yaml.safe_dump(public, sort_keys=False, allow_unicode=True)
            write_text(Path(args.output_dir) / RECIPE_FILE, text)
    return begun


def record_data(
    args: TrainingArguments, option: str, source: str, table: Table | Shards, class_names: Sequence[str] | None = None
) -> None:
    """Record the run's videos and classes in its folder; if the run resumes, log what has changed.

    `option` is the name of the data ("train_data"), and `source` where they come from.

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
                f"{args.output_dir} has a run with other classes: {len(names_before)}, where {source} has "
                f"{len(names)}, and class {number} was {old!r}, now {new!r}. Restore the classes or give another "
                f"--output_dir; --model_name_or_path {args.output_dir} starts a new run from the weights of this one"
            )
        if before["sha256"] != now["sha256"] and args.process_index == 0:
            kind = "" if before["videos"] != now["videos"] else " (others, or with other labels)"
            logger.warning(
                f"{option} {source} has changed since the run in {args.output_dir} began: {before['videos']} videos "
                f"then, {now['videos']} now{kind}. The run resumes with the new ones, so its result cannot be "
                "reproduced; to avoid that, restore the file or start again with another --output_dir"
            )
        if args.process_index == 0 and run["data"].get(option) != now:
            run["data"][option] = now
            write_json(run, path)


def carry_out(trainer: VideoMSTrainer, say: Callable[[str], None]) -> dict[str, float]:
    """Train (resuming from the newest complete checkpoint), evaluate and save; returns the evaluation's metrics.

    `say` gets the plan, the remaining time and the outcome. The output folder then has the model with its processor,
    and `training_log.json`. Without evaluation data the metrics are empty.
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
    say(f"{len(bad)} of {len(trainer.train_dataset)} training videos were corrupt and replaced by others")
    for video in bad:
        say(printable(f"  {video}"))
    for warning in warn_of_vain_run(trainer):
        say(f"Warning: {warning}")
    say(f"Model and log are in {trainer.args.output_dir}")
    leave_processes(trainer)
    trainer.accelerator.end_training()
    return metrics


def leave_processes(trainer: VideoMSTrainer | None = None) -> None:
    """Leave the process group, if there is one, once all processes have finished; `trainer` was the last one used.

    Gloo's threads live as long as anything holds the process group, as a trainer's wrapped model does, and can abort
    a process that shuts down with them. So the trainer drops its wrapper: it can no longer train or evaluate. A
    process that fails must not call this; the others then leave without it.
    """
    if not torch.distributed.is_initialized():
        return
    options = torch.distributed.BarrierOptions()
    options.timeout = LEAVING_TIME  # of the operation: a group with a pending one cannot be destroyed
    try:
        torch.distributed.group.WORLD.barrier(options).wait()
    except RuntimeError as error:
        logger.warning(f"Another process did not finish; this one does not wait for it: {error}")
    if trainer is not None:
        trainer.model_wrapped = trainer.model
        trainer.accelerator.free_memory()
    torch.distributed.destroy_process_group()
    # Trainers are in reference cycles. FSDP2's group stays in torch's caches, idle since the barrier.
    gc.collect()


def claim_output_dir(output_dir: str | os.PathLike, script: str, total_batch_size: int, options: dict) -> bool:
    """Claim `output_dir` for this run and return whether the run resumes.

    Args:
        script: its command ("pretrain", "finetune").
        options: every option that was set, by recipe or command line.

    Raises:
        FileExistsError: The folder has something else, or a run with other options; the message names them.
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
    found = {path.name for path in output_dir.glob("*") if not PARTIAL_NAME.fullmatch(path.name)}
    # Empty, or a start that failed or was killed before it trained.
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
    if not isinstance(before, dict):
        raise FileExistsError(f"{output_dir} has other files than a run; {advice}")
    before.pop("data", None)  # [`record_data`] compares them
    changed = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    if changed:
        changes = [f"{name} was {before.get(name, 'not set')!r}, now {now.get(name, 'not set')!r}" for name in changed]
        has_finished = (output_dir / "config.json").exists()
        is_longer = set(changed) <= {"num_train_epochs", "max_steps"}
        if is_longer and (weights := output_dir if has_finished else newest_complete_checkpoint(output_dir)):
            words = ["videoms", script, f"{output_dir / RECIPE_FILE}", "--output_dir", f"{output_dir}-longer"]
            words += ["--model_name_or_path", f"{weights}"]
            words += [word for name in changed if name in now for word in (f"--{name}", str(now[name]))]
            advice = (
                "the learning rate followed the planned length, so start another run from this one's weights: "
                f"{shlex.join(words)}"
            )
        raise FileExistsError(f"{output_dir} has a run with other options ({'; '.join(changes)}); {advice}")
    return True
