# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""What a training run reports: plan and remaining time, speed and selection while it runs, and a log at its end."""

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import Trainer, TrainerCallback
from transformers.modeling_outputs import ModelOutput
from transformers.utils import logging

from ..configuration_videoms import VideoMSConfig, token_counts
from ..data.dataset import BadVideo
from ..files import write_json
from ..hub.model_folder import LOG_FILE, LOG_PICTURE
from ..machine import describe_machine, library_versions
from ..visualization.charts import draw_training, save_chart


logger = logging.get_logger(__name__)


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
    def waiting(self) -> Iterator[None]:
        """Time within this context is waiting for data."""
        begin = time.perf_counter()
        yield
        self.waited_seconds += time.perf_counter() - begin

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time within this context (evaluating, saving) is not training."""
        begin = time.perf_counter()
        yield
        self.begin += time.perf_counter() - begin

    def count(self, outputs: ModelOutput, num_clips: int) -> None:
        """Count the model's outputs for one batch."""
        self.num_clips += num_clips
        self.num_batches += 1
        chosen = {name: outputs.get(f"{name}_ids") for name in ("kept", "visible", "target")}
        chosen = {name: ids for name, ids in chosen.items() if ids is not None}
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
            **{name: _mean(total, self.num_batches) for name, total in self.token_counts.items()},
        }
        if torch.is_tensor(self.motion):
            mean, share = (gather(self.motion[None]).mean(dim=0) / self.num_batches).tolist()
            logs |= {"mean_importance": round(mean, 4), "kept_motion_share": round(share, 4)}
        self.restart()
        return logs


def lowest_rate(optimizer: torch.optim.Optimizer, rate: float) -> dict[str, float]:
    """The rate of the group with the lowest one, where the first group's is `rate`; empty if all have the same."""
    rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    return {"lowest_learning_rate": rate * min(rates) / rates[0]} if min(rates) < rates[0] else {}


def _mean(total: int, count: int) -> float:
    mean = round(total / count, 1)
    return int(mean) if mean.is_integer() else mean


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
        folder = Path(trainer.args.output_dir)
        write_json(log, folder / LOG_FILE)
        has_curves = any("loss" in entry for entry in state.log_history)
        if has_curves and (problem := save_chart(draw_training, folder / LOG_PICTURE, state.log_history)):
            logger.warning(problem)
    return bad


def _bad_videos_of_all_processes(dataset) -> list[BadVideo]:
    find_bad = getattr(dataset, "bad_videos", list)  # not every dataset has it
    found: dict[int, BadVideo] = {}
    for video in gather_object(find_bad()):
        before = found.get(video.row)
        found[video.row] = video if before is None else video._replace(num_draws=before.num_draws + video.num_draws)
    return [found[row] for row in sorted(found)]
