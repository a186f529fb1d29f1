# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""`--dry_run`: build everything, time a step, estimate time and memory of the run, write nothing."""

import time
from collections.abc import Callable

from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from .reporting import describe_run, format_duration, peak_memory_gib
from .trainer import VideoMSTrainer


class _OneStep(TrainerCallback):
    """Times one step, after a first one that warms up, and stops training."""

    def __init__(self, trainer: VideoMSTrainer):
        self.meter = trainer.meter

    def on_step_begin(self, args, state, control, **kwargs):
        self.reading_seconds = self.meter.waited_seconds
        self.meter.restart()  # a log restarts it too
        self.begin = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.step_seconds = time.perf_counter() - self.begin
        control.should_training_stop = state.global_step >= 2


def dry_run(trainer: VideoMSTrainer, say: Callable[[str], None]) -> None:
    """Describe the run, train for two steps, and tell `say` the estimated time of the whole run and the peak memory.

    The batch is read in this process, so that reading and computing are timed separately.
    """
    args = trainer.args
    say(describe_run(trainer))
    num_workers, args.dataloader_num_workers = args.dataloader_num_workers, 0
    args.dataloader_persistent_workers = False
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    timer = _OneStep(trainer)
    trainer.add_callback(timer)
    trainer.train()
    reading, computing, num_steps = timer.reading_seconds, timer.step_seconds, trainer.state.max_steps
    step = max(computing, reading / num_workers) if num_workers else computing + reading
    processes = f"{num_workers} workers" if num_workers else "the main process"
    say(f"one step: {computing:.3g} s of computation; reading one batch: {reading:.3g} s, by {processes}")
    say(f"estimated time: {format_duration(step * num_steps)} for {num_steps} steps, without evaluation and saving")
    say(f"peak memory: {peak_memory_gib():.2f} GiB per process")
    say(f"Nothing was written to {args.output_dir}")
