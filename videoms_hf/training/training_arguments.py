# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' training arguments with this method's defaults; see its documentation for the others."""

import os
from dataclasses import dataclass, fields

import numpy as np
import torch
import transformers
from transformers.utils import is_torch_bf16_gpu_available

from ..command_line import check_ranges
from .arguments import option


REFERENCE_BATCH = 256  # clips; the learning rates of recipes are for this batch
WRITES_NOTHING = {  # what a dry run changes
    "save_strategy": "no",
    "eval_strategy": "no",
    "eval_on_start": False,
    "load_best_model_at_end": False,
    "logging_strategy": "no",
    "report_to": "none",
    "push_to_hub": False,
}
WITHOUT_EFFECT = {  # options of transformers that would do nothing, and why
    "train_sampling_strategy": "seed and epoch determine the order of the clips",
    "length_column_name": "clips have no length to group by",
    "neftune_noise_alpha": "there are no word embeddings to add noise to",
    "use_cache": "nothing is generated",
    "do_predict": "`videoms evaluate` and `videoms predict` do that",
    "remove_unused_columns": "clips have no columns to remove",
}


def available_cores() -> int:
    """Processor cores for one process: those this run may use, shared among its processes on the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


def default_num_workers() -> int:
    """DataLoader workers for one process: one per core with a GPU, else half the cores; the model needs the rest."""
    return min(available_cores(), 16) if torch.cuda.is_available() else available_cores() // 2


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    """transformers' training arguments with this method's defaults and additional options.

    Learning rates are for 256 clips and scale with the total batch (clips per step over all processes and accumulated
    steps). `learning_rate`, if given, is the peak rate itself; the two others keep their proportion to it. The
    `lr_scheduler_type` "cosine" is the official schedule; others are transformers' own, without a minimum and with
    `warmup_steps` only, except that "warmup_stable_decay" also takes `warmup_epochs`.
    """

    base_learning_rate: float = option(1e-3, "Peak learning rate for 256 clips per step.")
    base_min_learning_rate: float = option(1e-6, "Final learning rate for 256 clips per step.")
    base_warmup_learning_rate: float = option(1e-6, "Initial learning rate of the warm-up for 256 clips per step.")
    warmup_epochs: float = option(5.0, "Epochs of linear warm-up, unless warmup_steps is given.")
    layer_decay: float = option(1.0, "Factor on the learning rate from a layer to the one below, in (0, 1].")
    weight_decay_end: float | None = option(None, "Final weight decay of a cosine schedule; null: constant.")
    ema_decay: float | None = option(
        None, "Decay of an average of the weights, in (0, 1), which is evaluated and saved at the end."
    )

    learning_rate: float | None = option(None, "Peak learning rate; by default base_learning_rate * batch / 256.")
    lr_scheduler_type: str = option(
        "cosine",
        "cosine: the official schedule. warmup_stable_decay: the peak rate until the last quarter, if a run learns "
        "late.",
    )
    weight_decay: float = option(0.05, "Not applied to biases and vectors.")
    max_grad_norm: float = option(0.0, "Clip gradients to this norm; 0: do not.")
    bf16: bool | None = option(None, "bfloat16 mixed precision; null: if the accelerator supports it and fp16 is off.")
    dataloader_drop_last: bool = option(True, "Drop the epoch's incomplete last batch.")
    dataloader_num_workers: int = option(default_num_workers, "Decoding processes; by default from the cores.")
    dataloader_pin_memory: bool = option(torch.accelerator.is_available, "Pin batches; by default with a GPU.")
    ddp_find_unused_parameters: bool | None = option(False, "Every parameter is used.")
    remove_unused_columns: bool = option(False, "Must be false: datasets return model inputs.")
    # The trainer stops at the first non-finite loss, so there is nothing to filter.
    logging_nan_inf_filter: bool = option(False, "Omit non-finite losses from the log.")
    logging_steps: float = option(50, "Log every n steps; below 1: a share of the run.")
    logging_first_step: bool = option(True, "Log the first step too.")
    save_strategy: str = option("epoch", "When to save: no, steps, epoch or best.")
    save_total_limit: int | None = option(2, "Checkpoints to keep in addition to the best one.")
    report_to: None | str | list[str] = option("none", "tensorboard, trackio, wandb ...")
    hub_strategy: str = option(
        "end", "When to push with push_to_hub: end (all files of the model), or a strategy of transformers."
    )
    disable_tqdm: bool | None = option(False, "Show no progress bars.")
    keep_ratios, head_init = None, "random"  # options of fine-tuning
    freeze_patch_embeddings = False  # an option of pre-training
    without_effect = WITHOUT_EFFECT
    dry_run: bool = option(False, "Build everything, time a step, estimate time and memory; write nothing.")

    def __post_init__(self):
        if not self.output_dir:
            raise ValueError("output_dir is not given; the run writes to this folder: --output_dir runs/mine")
        for part in fields(self):
            value, reason = getattr(self, part.name), self.without_effect.get(part.name)
            if reason and value != part.default:
                raise ValueError(f"{part.name} is {value!r}, but has no effect: {reason}; leave it out")
        check_ranges(vars(self))
        if str(self.resume_from_checkpoint).lower() in ("true", "false"):  # as in transformers' scripts
            self.resume_from_checkpoint = str(self.resume_from_checkpoint).lower() == "true"
        if self.dry_run:
            vars(self).update(WRITES_NOTHING)
        if self.bf16 is None:
            self.bf16 = not self.fp16 and not self.use_cpu and is_torch_bf16_gpu_available()
        if self.data_seed is None:
            # Otherwise accelerate takes torch's current seed, which differs between processes once they are seeded.
            self.data_seed = self.seed
        self.dataloader_persistent_workers &= self.dataloader_num_workers > 0  # torch refuses it without workers
        super().__post_init__()
        if self.learning_rate is None:
            self.learning_rate = self.base_learning_rate * self.total_batch_size / REFERENCE_BATCH

    @property
    def should_save(self) -> bool:
        """Whether this process writes files; transformers makes the output folder only then."""
        return super().should_save and not self.dry_run

    @property
    def total_batch_size(self) -> int:
        """Clips of one optimiser step, over all processes and accumulated steps."""
        return self.train_batch_size * self.gradient_accumulation_steps * self.world_size

    @property
    def min_learning_rate(self) -> float:
        """Final learning rate."""
        return self.base_min_learning_rate * self.learning_rate / self.base_learning_rate

    @property
    def warmup_learning_rate(self) -> float:
        """Initial learning rate."""
        return self.base_warmup_learning_rate * self.learning_rate / self.base_learning_rate

    def step_keep_ratio(self, step: int) -> float | None:
        """Share of tokens of a step, drawn from `keep_ratios` by seed and step alone; `None`: the model's own."""
        if not self.keep_ratios:
            return None
        return self.keep_ratios[np.random.default_rng([self.seed, step]).integers(len(self.keep_ratios))]

    def batch_warning(self, num_videos: int) -> str | None:
        """A warning if the batch does not suit the number of training videos; else `None`."""
        batch, total = self.train_batch_size * self.world_size, self.total_batch_size
        num_dropped = num_videos % batch if self.dataloader_drop_last else 0
        if total > num_videos:
            return (
                f"A step takes {total} clips (per_device_train_batch_size {self.per_device_train_batch_size} x "
                f"{self.world_size} processes x gradient_accumulation_steps {self.gradient_accumulation_steps}), more "
                f"than the {num_videos} training videos; lower them"
            )
        if num_dropped > num_videos / 10:
            return (
                f"Every epoch omits {num_dropped} of {num_videos} training videos, which do not fill a batch of "
                f"{batch}; choose another per_device_train_batch_size, or set dataloader_drop_last to false"
            )
        return None


@dataclass
class PreTrainingArguments(TrainingArguments):
    """Defaults of the official pre-training."""

    num_train_epochs: float = option(800.0, "Number of passes over the videos.")
    adam_beta2: float = option(0.95, "Decay of AdamW's second moment.")
    base_min_learning_rate: float = option(1e-5, "Final learning rate for 256 clips per step.")
    warmup_epochs: float = option(40.0, "Epochs of linear warm-up.")
    save_strategy: str = option("steps", "When to save: no, steps, epoch or best.")
    save_steps: float = option(0.02, "Save every n steps; below 1: a share of the run.")
    freeze_patch_embeddings: bool = option(
        False,
        "Keep the initial patch embeddings (Chen et al. 2021, arXiv 2104.02057): trained ones outgrow the fixed "
        "positions, which small data needs.",
    )
    without_effect = WITHOUT_EFFECT | {"label_smoothing_factor": "pre-training has no labels"}


@dataclass
class FineTuningArguments(TrainingArguments):
    """Defaults of the official fine-tuning."""

    num_train_epochs: float = option(100.0, "Number of passes over the videos.")
    layer_decay: float = option(0.75, "Factor on the learning rate from a layer to the one below.")
    label_smoothing_factor: float = option(0.1, "Share of a label given to all classes.")
    eval_strategy: str = option("epoch", "When to evaluate: no, steps or epoch.")
    keep_ratios: list[float] | None = option(
        None,
        "Draw the share of tokens of each step from these (0.15 0.3 0.6 1.0), for one checkpoint that fits every "
        "budget; null: keep_ratio. Evaluation uses keep_ratio.",
    )
    head_init: str = option(
        "random",
        "Start of the head: random (the official recipes), or linear_probe, a ridge classifier on the backbone's "
        "features, for small datasets.",
        choices=["random", "linear_probe"],
    )
