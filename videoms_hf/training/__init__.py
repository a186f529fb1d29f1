# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Training runs: what they can be told, the trainer, the checkpoints they go on from."""

from .arguments import AugmentationArguments, DataArguments, ModelArguments
from .clip_datasets import evaluation_clips, finetuning_clips, pretraining_clips, training_table
from .head_init import init_head
from .runs import begin_run, carry_out, leave_processes, plan_evaluation, record_data
from .starting_weights import classification_model, pretraining_model
from .trainer import VideoMSTrainer
from .training_arguments import FineTuningArguments, PreTrainingArguments, TrainingArguments
