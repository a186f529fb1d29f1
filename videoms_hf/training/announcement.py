# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""What a run says about itself: at its start what it is going to do, a little later how long that takes."""

import time
from collections.abc import Callable

from transformers import TrainerCallback

from ..configuration_videoms import VideoMSConfig, token_counts
from .trainer import VideoMSTrainer


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
