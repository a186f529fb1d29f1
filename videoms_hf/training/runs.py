# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""The folder of a run: whose it is at the start, what lies in it at the end."""

import gc
import json
import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import yaml
from transformers.utils import logging

from ..evaluation.report import write_json
from ..hub.model_folder import RECIPE_FILE, SECRET_OPTION
from .announcement import TimeEstimate, describe_run
from .logbook import write_training_log
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
    r"attn_implementation|torch_compile.*|use_cpu|tf32|max_bad_share|torch_empty_cache_steps|skip_memory_metrics|"
    r"restore_callback_states_from_checkpoint"
)


def begin_run(script: str, args: TrainingArguments, options: dict) -> bool:
    """Make `args.output_dir` this run's ([`claim_output_dir`]) and return whether the run was begun before.

    The recipe of the whole run, command line included, is written to `recipe.yaml` in it.
    """
    begun = False
    with args.main_process_first(local=False, desc="claiming the output folder"):
        if args.process_index == 0:
            begun = claim_output_dir(args.output_dir, script, args.total_batch_size, options)
            public = {name: value for name, value in options.items() if name != SECRET_OPTION}
            text = yaml.safe_dump(public, sort_keys=False, allow_unicode=True)
            (Path(args.output_dir) / RECIPE_FILE).write_text(text, encoding="utf-8")
    return begun


def carry_out(trainer: VideoMSTrainer, say: Callable[[str], None]) -> dict[str, float]:
    """Train, from the newest complete checkpoint on if there is one, evaluate, save; returns the evaluation's metrics.

    `say` is told what the run is going to do, how long it will take, and how it went. The output folder then has the
    model with its processor, and `training_log.json`. Without evaluation data the metrics are empty.
    """
    say(describe_run(trainer))
    trainer.add_callback(TimeEstimate(say))
    trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint or True)
    metrics = {} if trainer.eval_dataset is None else trainer.evaluate()
    bad = write_training_log(trainer)
    trainer.save_model()  # and publishes it, with push_to_hub
    say(f"{len(bad)} of {len(trainer.train_dataset)} training videos were broken and replaced by others")
    for video in bad:
        say(f"  {video.path} ({video.place}): {video.reason}")
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
    # Nothing, or a start that failed or was killed before it learned anything.
    if found <= {RUN_FILE, RECIPE_FILE, f".{RUN_FILE}.partial"}:
        try:
            write_json(now, output_dir / RUN_FILE)
        except OSError as error:
            raise OSError(
                f"{output_dir} cannot be written to ({error}); give another --output_dir, or mend its permissions"
            ) from error
        return False
    advice = "give another --output_dir, or remove this one yourself"
    try:
        before = json.loads((output_dir / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    if not isinstance(before, dict):
        raise FileExistsError(f"{output_dir} holds something else than a run of this kind; {advice}")
    changes = [
        f"{name} was {before.get(name, 'not set')!r}, now {now.get(name, 'not set')!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changes:
        raise FileExistsError(f"{output_dir} holds a run with other options ({'; '.join(changes)}); {advice}")
    return True
