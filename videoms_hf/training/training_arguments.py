# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' training arguments with this method's defaults.

transformers' documentation holds for every option that is not explained here.
"""

import os
from dataclasses import dataclass, field, fields

import torch
import transformers
from transformers.utils import is_torch_bf16_gpu_available


REFERENCE_BATCH = 256  # clips that the recipes' learning rates are given for
WRITES_NOTHING = {  # what a dry run changes
    "save_strategy": "no",
    "eval_strategy": "no",
    "eval_on_start": False,
    "load_best_model_at_end": False,
    "logging_strategy": "no",
    "report_to": "none",
    "push_to_hub": False,
}
WITHOUT_EFFECT = {  # transformers' options that would do nothing, and why
    "train_sampling_strategy": "the order of the clips is made from seed and epoch",
    "length_column_name": "clips have no length to group them by",
    "neftune_noise_alpha": "there are no embeddings of words that noise could be added to",
    "use_cache": "nothing is generated",
    "do_predict": "`videoms predict` and `videoms evaluate` predict",
}


def available_cores() -> int:
    """Processor cores for one process of this run: those it may use, shared with the others on the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


def default_num_workers() -> int:
    """DataLoader workers for one process: one a core beside a GPU, half the cores where the model needs some too."""
    return min(available_cores(), 16) if torch.cuda.is_available() else available_cores() // 2


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    """transformers' training arguments with this method's defaults, and what they lack.

    Learning rates are given for 256 clips and scale with the run's total batch (clips a step over all processes and
    accumulated steps). `learning_rate`, if given, is the peak rate itself; the two others keep their proportion to it.
    With `lr_scheduler_type` "cosine" the schedule is the official one; any other is transformers' own, without a
    minimum and with `warmup_steps` only, except that "warmup_stable_decay" takes `warmup_epochs` too.
    """

    base_learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate for 256 clips a step."})
    base_min_learning_rate: float = field(default=1e-6, metadata={"help": "Rate at the end, for 256 clips a step."})
    base_warmup_learning_rate: float = field(
        default=1e-6, metadata={"help": "Rate that the warm-up starts from, for 256 clips a step."}
    )
    warmup_epochs: float = field(
        default=5.0, metadata={"help": "Epochs of linear warm-up; warmup_steps, if given, replaces them."}
    )
    layer_decay: float = field(
        default=1.0, metadata={"help": "Factor on the learning rate from each layer to the one before, in (0, 1]."}
    )
    weight_decay_end: float | None = field(
        default=None, metadata={"help": "Weight decay at the end, reached by a cosine; null: constant."}
    )
    ema_decay: float | None = field(
        default=None,
        metadata={"help": "Keep an average of the weights, (0, 1); it is what is evaluated and saved at the end."},
    )

    learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate itself; by default base_learning_rate * batch / 256."}
    )
    lr_scheduler_type: str = field(
        default="cosine",
        metadata={
            "help": "cosine: the official schedule. warmup_stable_decay: the peak rate until the last quarter, for "
            "runs that begin to learn late."
        },
    )
    weight_decay: float = field(default=0.05, metadata={"help": "Not applied to biases and vectors."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Clip gradients to this norm; 0: do not."})
    bf16: bool | None = field(
        default=None, metadata={"help": "bfloat16 mixed precision; null: where an accelerator has it and fp16 is off."}
    )
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Drop the epoch's incomplete last batch."})
    dataloader_num_workers: int = field(
        default_factory=default_num_workers, metadata={"help": "Decoding processes; by default from the cores."}
    )
    dataloader_pin_memory: bool = field(
        default_factory=torch.accelerator.is_available, metadata={"help": "Pin batches; by default beside a GPU."}
    )
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "Every parameter is used."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must be false: datasets give model inputs."})
    # The trainer stops at the first non-finite loss, so there is nothing to filter.
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Leave non-finite losses out of the log."})
    logging_steps: float = field(default=50, metadata={"help": "Log every n steps; below 1: a share of the run."})
    logging_first_step: bool = field(default=True, metadata={"help": "Log the first step too."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch or best."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep beside the best one."})
    report_to: None | str | list[str] = field(default="none", metadata={"help": "tensorboard, trackio, wandb ..."})
    hub_strategy: str = field(
        default="end",
        metadata={"help": "With push_to_hub, when: end (all that belongs to the model), or as transformers has it."},
    )
    disable_tqdm: bool | None = field(default=False, metadata={"help": "Show no progress bars."})
    dry_run: bool = field(
        default=False, metadata={"help": "Build everything, time a step, estimate time and memory; write nothing."}
    )

    def __post_init__(self):
        if not self.output_dir:
            raise ValueError(
                "output_dir is not given; it is the folder that the run writes to: --output_dir runs/mine"
            )
        self._check()
        if self.dry_run:
            vars(self).update(WRITES_NOTHING)
        if self.bf16 is None:
            self.bf16 = not self.fp16 and not self.use_cpu and is_torch_bf16_gpu_available()
        if self.data_seed is None:
            # Else accelerate takes torch's seed of the moment, which differs between processes once they are seeded.
            self.data_seed = self.seed
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
        """Learning rate that the run ends at."""
        return self.base_min_learning_rate * self.learning_rate / self.base_learning_rate

    @property
    def warmup_learning_rate(self) -> float:
        """Learning rate that the run starts from."""
        return self.base_warmup_learning_rate * self.learning_rate / self.base_learning_rate

    def batch_warning(self, num_videos: int) -> str | None:
        """What is odd about a batch for so many training videos; `None` if nothing is."""
        batch, total = self.train_batch_size * self.world_size, self.total_batch_size
        num_dropped = num_videos % batch if self.dataloader_drop_last else 0
        if total > num_videos:
            return (
                f"A step is to take {total} clips (per_device_train_batch_size {self.per_device_train_batch_size} x "
                f"{self.world_size} processes x gradient_accumulation_steps {self.gradient_accumulation_steps}), more "
                f"than the {num_videos} training videos; lower them"
            )
        if num_dropped > num_videos / 10:
            return (
                f"Every epoch leaves out {num_dropped} of {num_videos} training videos, which do not fill a batch of "
                f"{batch}; choose another per_device_train_batch_size, or set dataloader_drop_last to false"
            )
        return None

    def _check(self) -> None:
        for part in fields(self):
            if part.name in WITHOUT_EFFECT and getattr(self, part.name) != part.default:
                reason = WITHOUT_EFFECT[part.name]
                raise ValueError(
                    f"{part.name} is {getattr(self, part.name)!r}, but has no effect: {reason}; leave it out"
                )
        if str(self.resume_from_checkpoint).lower() in ("true", "false"):  # as transformers' scripts are told
            self.resume_from_checkpoint = str(self.resume_from_checkpoint).lower() == "true"
        for name in ("base_learning_rate", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; it must be greater than 0")
        for name in ("base_min_learning_rate", "base_warmup_learning_rate", "warmup_epochs"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay is {self.layer_decay}; it must be greater than 0 and at most 1")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}; it must be greater than 0 and less than 1")
        if self.remove_unused_columns:
            raise ValueError(
                "remove_unused_columns is true; it must be false, for the clips have no columns to remove"
            )


@dataclass
class PreTrainingArguments(TrainingArguments):
    """Defaults of the official pre-training."""

    num_train_epochs: float = field(default=800.0, metadata={"help": "Times that every video is seen."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Decay of AdamW's second moment."})
    base_min_learning_rate: float = field(default=1e-5, metadata={"help": "Rate at the end, for 256 clips a step."})
    warmup_epochs: float = field(default=40.0, metadata={"help": "Epochs of linear warm-up."})
    save_strategy: str = field(default="steps", metadata={"help": "When to save: no, steps, epoch or best."})
    save_steps: float = field(default=0.02, metadata={"help": "Save every n steps; below 1: a share of the run."})

    def _check(self) -> None:
        super()._check()
        if self.label_smoothing_factor:
            raise ValueError(
                f"label_smoothing_factor is {self.label_smoothing_factor}, but pre-training has no labels; leave it "
                "out"
            )


@dataclass
class FineTuningArguments(TrainingArguments):
    """Defaults of the official fine-tuning."""

    num_train_epochs: float = field(default=100.0, metadata={"help": "Times that every video is seen."})
    layer_decay: float = field(default=0.75, metadata={"help": "Factor on the rate from a layer to the one before."})
    label_smoothing_factor: float = field(default=0.1, metadata={"help": "Share of a label given to all classes."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    head_init: str = field(
        default="random",
        metadata={
            "help": "What the head starts from: random (the official recipes), or linear_probe, a ridge classifier on "
            "the backbone's features, for small data sets.",
            "choices": ["random", "linear_probe"],
        },
    )
