# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""What a training run tells: plan, time, speed, selection, a log at its end, and that it cannot or did not learn."""

import contextlib
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from accelerate.utils import gather_object
from datasets import Dataset as Table
from torch import Tensor
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from transformers.modeling_outputs import ModelOutput
from transformers.utils import logging

from ..configuration_videoms import VideoMSConfig, token_counts
from ..data.dataset import BadVideo
from ..files import write_json
from ..hub.model_folder import LOG_FILE, LOG_PICTURE
from ..machine import describe_machine, library_versions
from ..visualization.charts import draw_training, save_chart


logger = logging.get_logger(__name__)

# Steps below which fine-tuning of small networks from random weights was not seen to learn, by head_init.
MIN_STEPS = {"random": 800, "linear_probe": 400}
MAX_WARMUP_SHARE = 0.25  # of the steps
CHANCE_SHARE = 0.98  # a training loss above this share of a guess's is chance
MAX_UNEXPLAINED = 0.95  # share of the target's variance that pre-training leaves unexplained


def describe_run(trainer: Trainer) -> str:
    """The plan of the run, in lines: model, selection, batch, learning rates, length."""
    args, model = trainer.args, trainer.bare_model()
    config = model.config
    epochs, steps_per_epoch, num_videos, *_, num_steps = trainer.set_initial_training_values(
        args, trainer.get_train_dataloader()
    )
    precision = "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"
    batch = f"{args.per_device_train_batch_size} x {args.world_size} processes x {args.gradient_accumulation_steps}"
    rates = [f"{rate:.3g}" for rate in (args.warmup_learning_rate, args.learning_rate, args.min_learning_rate)]
    lines = {
        "model": f"{model.num_parameters() / 1e6:.1f} M parameters, {model.flops() / 1e9:.3g} GMACs a clip, forward",
        "clips": f"{config.num_frames} frames of {'x'.join(map(str, config.image_shape))}"
        + (f", drawn from {config.num_candidate_frames}" if config.candidate_ratio > 1 else ""),
        "tokens": _selection(config, trainer.is_pretraining)
        + (f", in training {ratios} of them by step" if (ratios := args.keep_ratios) else ""),
        "batch": f"{args.total_batch_size} clips = {batch} accumulated, {precision} on {args.device}",
        "learning rate": f"from {rates[0]} up to {rates[1]}, down to {rates[2]}",
        "length": f"{num_steps} steps, {epochs} epochs of {steps_per_epoch} steps and "
        f"{min(steps_per_epoch * args.total_batch_size, num_videos)} clips",
    }
    return "\n".join(f"{name + ':':15}{text}" for name, text in lines.items())


def _selection(config: VideoMSConfig, is_pretraining: bool) -> str:
    total, encoded, predicted = token_counts(config, for_pretraining=is_pretraining)
    chosen = f"{'all' if encoded == total else encoded} encoded" + (f", {predicted} predicted" if predicted else "")
    grid = "x".join(map(str, config.token_grid))
    return f"{total} = {grid}, {chosen} (selection: {config.token_selection})"


def format_duration(seconds: float) -> str:
    """42 -> "42 s", 1800 -> "30 min", 9000 -> "2 h 30 min"."""
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


class TimeEstimate(TrainerCallback):
    """Tells `write` once how long the rest of the run will take, after `num_steps` timed steps."""

    def __init__(self, write: Callable[[str], None], num_steps: int = 10):
        self.write, self.num_steps = write, num_steps

    def on_train_begin(self, args, state, control, **kwargs):
        self.first_step = state.global_step + 2  # the first two start workers and compile

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.first_step:
            self.begin = time.perf_counter()
        elif state.global_step == self.first_step + self.num_steps:
            seconds = (time.perf_counter() - self.begin) / self.num_steps
            left = seconds * (state.max_steps - state.global_step)
            self.write(f"{seconds:.3g} s per step: about {format_duration(left)} left, without evaluation")


class _OneStep(TrainerCallback):
    """Times one step, after a first one that warms up, and stops training."""

    def __init__(self, meter: "StepMeter"):
        self.meter = meter

    def on_step_begin(self, args, state, control, **kwargs):
        self.reading_seconds = self.meter.waited_seconds
        self.meter.restart()

    def on_step_end(self, args, state, control, **kwargs):
        self.step_seconds = time.perf_counter() - self.meter.begin
        control.should_training_stop = state.global_step >= 2


def dry_run(trainer: Trainer, say: Callable[[str], None]) -> None:
    """`--dry_run`: describe the run, train for two steps, tell the estimated time of the whole run and peak memory.

    The batch is read in this process, so that reading and computing are timed separately.
    """
    args = trainer.args
    say(describe_run(trainer))
    num_workers, args.dataloader_num_workers = args.dataloader_num_workers, 0
    args.dataloader_persistent_workers = False
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    timer = _OneStep(trainer.meter)
    trainer.add_callback(timer)
    trainer.train()
    reading, computing, num_steps = timer.reading_seconds, timer.step_seconds, trainer.state.max_steps
    step = max(computing, reading / num_workers) if num_workers else computing + reading
    processes = f"{num_workers} workers" if num_workers else "the main process"
    say(f"one step: {computing:.3g} s of computation; reading one batch: {reading:.3g} s, by {processes}")
    say(f"estimated time: {format_duration(step * num_steps)} for {num_steps} steps, without evaluation and saving")
    say(f"peak memory: {peak_memory_gib():.2f} GiB per process")
    say(f"Nothing was written to {args.output_dir}")


class StepMeter:
    """Counts between two logs. Values stay on their device until they are read, so counting never synchronises."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        self.begin = time.perf_counter()
        self.waited_seconds = 0.0
        self.num_clips = self.num_batches = self.flops = 0
        self.token_counts = Counter()  # summed over batches
        self.motion = 0.0  # sums of the mean importance, and of the share of it that the kept tokens have

    @contextlib.contextmanager
    def timed(self, clock: str) -> Iterator[None]:
        """Adds the time within this context to "waited_seconds" (for data), or to "begin" if it is not training."""
        begin = time.perf_counter()
        yield
        setattr(self, clock, getattr(self, clock) + (time.perf_counter() - begin))

    def count(self, outputs: ModelOutput, num_clips: int) -> None:
        """Count the model's outputs for one batch."""
        self.num_clips += num_clips
        self.num_batches += 1
        names = ("kept", "visible", "target")
        chosen = {name: ids for name in names if (ids := outputs.get(f"{name}_ids")) is not None}
        for name, ids in chosen.items():
            self.token_counts[f"{name}_tokens"] += ids.shape[1]
        if (importance := outputs.get("importance")) is not None:
            importance = importance.detach()
            kept, total = importance.gather(1, torch.cat(list(chosen.values()), dim=1)).sum(), importance.sum()
            share = kept / total.clamp_min(torch.finfo(total.dtype).tiny)
            self.motion = self.motion + torch.stack([total / importance.numel(), share])

    def read(self, num_processes: int, gather: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Numbers since the last call; `gather` collects a value of all processes.

        "clips_per_second" of all processes; "data_wait_share" in [0, 1] and "peak_memory_gib" of this one; means over
        clips: "gmacs_per_clip", forward and backward; tokens that are "kept_tokens", or "visible_tokens" and
        "target_tokens"; "mean_importance" over all tokens, and the share of all importance that kept tokens have,
        "kept_motion_share".
        """
        seconds = max(time.perf_counter() - self.begin, 1e-9)
        logs = {
            "clips_per_second": round(self.num_clips * num_processes / seconds, 2),
            "data_wait_share": round(min(self.waited_seconds / seconds, 1.0), 3),
            "peak_memory_gib": round(peak_memory_gib(), 2),
            "gmacs_per_clip": float(f"{self.flops / 2e9 / max(self.num_clips, 1):.4g}"),
        }
        for name, total in self.token_counts.items():
            mean = round(total / self.num_batches, 1)
            logs[name] = int(mean) if mean.is_integer() else mean
        if torch.is_tensor(self.motion):
            mean, share = (gather(self.motion[None]).mean(dim=0) / self.num_batches).tolist()
            logs |= {"mean_importance": round(mean, 4), "kept_motion_share": round(share, 4)}
        self.restart()
        return logs


def lowest_rate(optimizer: torch.optim.Optimizer, rate: float) -> dict[str, float]:
    """The rate of the group with the lowest one, where the first group's is `rate`; empty if all have the same."""
    rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    return {"lowest_learning_rate": rate * min(rates) / rates[0]} if min(rates) < rates[0] else {}


def peak_memory_gib() -> float:
    """Peak memory so far in GiB: of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    if sys.platform == "win32":  # not in the standard library
        return float("nan")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def write_training_log(trainer) -> list[BadVideo]:
    """Write `training_log.json` and its curves of a [`VideoMSTrainer`]; returns the videos found corrupt.

    Every process must call it.
    """
    found: dict[int, BadVideo] = {}
    for video in gather_object(getattr(trainer.train_dataset, "bad_videos", list)()):  # not every dataset has it
        before = found.get(video.row)
        found[video.row] = video if before is None else video._replace(num_draws=before.num_draws + video.num_draws)
    bad = [found[row] for row in sorted(found)]
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
        folder = Path(trainer.args.output_dir)
        write_json(log, folder / LOG_FILE)
        has_curves = any("loss" in entry for entry in state.log_history)
        if has_curves and (problem := save_chart(draw_training, folder / LOG_PICTURE, state.log_history)):
            logger.warning(problem)
    return bad


def warn_of_short_run(trainer: Trainer) -> list[str]:
    """Why a run is unlikely to learn, each with a suggestion: too few steps of fine-tuning, too long a warm-up.

    Call it after [`describe_run`], which counts the steps.
    """
    args = trainer.args
    *_, num_steps = trainer.set_initial_training_values(args, trainer.get_train_dataloader())
    warnings = []
    least = 0 if trainer.is_pretraining else MIN_STEPS[args.head_init]
    if num_steps < least:
        advice = "more steps"
        if args.max_steps < 1:
            batch = max(args.total_batch_size * num_steps // least, 1)
            advice = f"a total batch of {batch} clips instead of {args.total_batch_size}, "
            advice += f"{math.ceil(args.num_train_epochs * least / num_steps)} epochs"
        advice += ", or head_init linear_probe" if args.head_init == "random" else ""
        warnings.append(
            f"{num_steps} optimiser steps are few: fine-tuning a small network took at least {least} to learn. Take "
            f"{advice}"
        )
    num_warmup_steps = trainer.num_warmup_steps(num_steps)
    if num_warmup_steps > num_steps * MAX_WARMUP_SHARE:
        warnings.append(
            f"the warm-up takes {num_warmup_steps} of {num_steps} steps, so the peak rate hardly acts; a tenth is "
            "usual: lower warmup_epochs or warmup_steps, or train longer"
        )
    return warnings


def warn_of_vain_run(trainer: Trainer) -> list[str]:
    """That a finished run has learned next to nothing, if the training loss of its last quarter says so."""
    history = [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    last = [loss for step, loss in history if step > 0.75 * trainer.state.max_steps]
    if not last:
        return []
    loss, config = sum(last) / len(last), trainer.bare_model().config
    if trainer.is_pretraining:
        if not config.norm_pix_loss or loss <= MAX_UNEXPLAINED:
            return []
        return [
            f"the loss ends at {loss:.3f}, so the model explains {max(1 - loss, 0):.1%} of the variance of what it "
            "predicts; until the loss falls below 0.95, its features can be worse than random ones. Train longer "
            "(more epochs, smaller batches, lr_scheduler_type warmup_stable_decay), with fewer tokens a clip, or a "
            "shallower network"
        ]
    chance = chance_loss(trainer)
    if chance is None or loss < CHANCE_SHARE * chance:
        return []
    return [
        f"the training loss ends at {loss:.3f}, and guessing by the classes' frequencies gives {chance:.3f}: the "
        "model has learned next to nothing. Take more steps (smaller batches, more epochs), a higher rate, or "
        "head_init linear_probe"
    ]


def chance_loss(trainer: Trainer) -> float | None:
    """Cross-entropy of the best guess that is the same for all clips; `None` where labels are not single classes."""
    config, table = trainer.bare_model().config, getattr(trainer.train_dataset, "table", None)
    if config.problem_type not in (None, "single_label_classification"):
        return None
    counts = Counter(table["label"][:]) if isinstance(table, Table) else dict.fromkeys(range(config.num_labels), 1)
    smoothing, total = trainer.args.label_smoothing_factor, sum(counts.values())
    shares = [(1 - smoothing) * count / total + smoothing / config.num_labels for count in counts.values()]
    shares += [smoothing / config.num_labels] * (config.num_labels - len(counts))
    return -sum(share * math.log(share) for share in shares if share)
