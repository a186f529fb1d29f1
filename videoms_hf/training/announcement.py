# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""What a run says about itself: what it is going to do, how long that takes, and whether it can learn and did."""

import math
import time
from collections import Counter
from collections.abc import Callable

from datasets import Dataset as Table
from transformers import TrainerCallback

from ..configuration_videoms import VideoMSConfig, token_counts
from .trainer import VideoMSTrainer


# Steps below which fine-tuning of small networks from random weights was not seen to learn, by head_init.
MIN_STEPS = {"random": 800, "linear_probe": 400}
MAX_WARMUP_SHARE = 0.25  # of the steps
CHANCE_SHARE = 0.98  # a training loss above this share of a guess's is chance
MAX_UNEXPLAINED = 0.95  # share of the target's variance that pre-training leaves unexplained


def describe_run(trainer: VideoMSTrainer) -> str:
    """What the run is going to do, in lines: model, selection, batch, learning rates, length."""
    args, model = trainer.args, trainer.bare_model()
    config = model.config
    epochs, steps_per_epoch, num_videos, *_, num_steps = trainer.set_initial_training_values(
        args, trainer.get_train_dataloader()
    )
    precision = "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"
    batch = f"{args.per_device_train_batch_size} x {args.world_size} processes x {args.gradient_accumulation_steps}"
    rates = [f"{rate:.3g}" for rate in (args.warmup_learning_rate, args.learning_rate, args.min_learning_rate)]
    lines = {
        "model": f"{model.num_parameters() / 1e6:.1f} M parameters, {model.flops() / 1e9:.3g} GFLOPs a clip, forward",
        "clips": f"{config.num_frames} frames of {'x'.join(map(str, config.image_shape))}"
        + (f", drawn from {config.num_candidate_frames}" if config.candidate_ratio > 1 else ""),
        "tokens": _selection(config, trainer.is_pretraining),
        "batch": f"{args.total_batch_size} clips = {batch} accumulated, {precision} on {args.device}",
        "learning rate": f"from {rates[0]} up to {rates[1]}, down to {rates[2]}",
        "length": f"{num_steps} steps, {epochs} epochs of {steps_per_epoch} steps and "
        f"{min(steps_per_epoch * args.total_batch_size, num_videos)} clips",
    }
    return "\n".join(f"{name + ':':15}{text}" for name, text in lines.items())


def _selection(config: VideoMSConfig, is_pretraining: bool) -> str:
    total, encoded, predicted = token_counts(config, for_pretraining=is_pretraining)
    chosen = (
        ("all" if encoded == total else f"{encoded}") + " encoded" + (f", {predicted} predicted" if predicted else "")
    )
    grid = "x".join(map(str, config.token_grid))
    return f"{total} = {grid}, {chosen} (selection: {config.token_selection})"


def warn_of_short_run(trainer: VideoMSTrainer) -> list[str]:
    """Why a run is unlikely to learn, each with a suggestion: too few steps of fine-tuning, too long a warm-up.

    Call it after [`describe_run`], which counts the steps.
    """
    args = trainer.args
    *_, num_steps = trainer.set_initial_training_values(args, trainer.get_train_dataloader())
    warnings = []
    least = 0 if trainer.is_pretraining else MIN_STEPS[getattr(args, "head_init", "random")]
    if num_steps < least:
        batch = max(args.total_batch_size * num_steps // least, 1)
        shorter = f"a total batch of {batch} clips instead of {args.total_batch_size}, " if args.max_steps < 1 else ""
        longer = (
            f"{math.ceil(args.num_train_epochs * least / num_steps)} epochs" if args.max_steps < 1 else "more steps"
        )
        head = ", or head_init linear_probe" if least == MIN_STEPS["random"] else ""
        warnings.append(
            f"{num_steps} optimiser steps are few: fine-tuning a small network took at least {least} to learn. Take "
            f"{shorter}{longer}{head}"
        )
    num_warmup_steps = trainer.num_warmup_steps(num_steps)
    if num_warmup_steps > num_steps * MAX_WARMUP_SHARE:
        warnings.append(
            f"the warm-up takes {num_warmup_steps} of {num_steps} steps, so the peak rate hardly acts; a tenth is "
            "usual: lower warmup_epochs or warmup_steps, or train longer"
        )
    return warnings


def warn_of_vain_run(trainer: VideoMSTrainer) -> list[str]:
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


def chance_loss(trainer: VideoMSTrainer) -> float | None:
    """Cross-entropy of the best guess that is the same for all clips; `None` where labels are not single classes."""
    config, table = trainer.bare_model().config, getattr(trainer.train_dataset, "table", None)
    if config.problem_type not in (None, "single_label_classification"):
        return None
    counts = Counter(table["label"][:]) if isinstance(table, Table) else dict.fromkeys(range(config.num_labels), 1)
    smoothing, total = trainer.args.label_smoothing_factor, sum(counts.values())
    shares = [(1 - smoothing) * count / total + smoothing / config.num_labels for count in counts.values()]
    shares += [smoothing / config.num_labels] * (config.num_labels - len(counts))
    return -sum(share * math.log(share) for share in shares if share)


class TimeEstimate(TrainerCallback):
    """Tells `write` once how long the rest of the run will take, after `num_steps` steps that were timed."""

    def __init__(self, write: Callable[[str], None], num_steps: int = 10):
        self.write, self.num_steps = write, num_steps

    def on_train_begin(self, args, state, control, **kwargs):
        self.first_step = state.global_step + 2  # the first two start the workers, compile and warm up

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.first_step:
            self.begin = time.perf_counter()
        elif state.global_step == self.first_step + self.num_steps:
            seconds = (time.perf_counter() - self.begin) / self.num_steps
            left = seconds * (state.max_steps - state.global_step)
            minutes = round(left / 60)
            if left < 120:
                text = f"{left:.0f} s"
            else:
                text = f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"
            self.write(f"{seconds:.3g} s a step: about {text} left, beside evaluation")
