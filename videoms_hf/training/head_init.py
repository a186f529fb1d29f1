# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""A classifier head that starts as a linear probe of its backbone: linear probing, then fine-tuning.

A random head sends the backbone gradients that mean nothing, and a small data set does not have the steps to recover
(Kumar et al. 2022, arXiv:2202.10054). N clips, D width, C classes.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from accelerate.utils import broadcast
from datasets import Dataset as Table
from torch import Tensor

from ..data.dataset import ViewDataset
from ..data.shards import Shards
from ..evaluation.features import extract_features
from ..modeling_videoms import VideoMSForVideoClassification
from .arguments import DataArguments
from .checkpoints import newest_complete_checkpoint
from .trainer import VideoMSTrainer


MAX_CLIPS = 10_000  # of a larger data set as many videos are drawn at random
PENALTIES = tuple(10.0 ** (power / 2) for power in range(-6, 9))  # times N
TEMPERATURES = tuple(2.0 ** (power / 4) for power in range(0, 33))


class LinearHead(NamedTuple):
    """Logits are `weight @ (features - mean) / deviation + bias`."""

    mean: Tensor  # (D,)
    deviation: Tensor  # (D,)
    weight: Tensor  # (C, D)
    bias: Tensor  # (C,)
    left_out: Tensor  # (N, C), the logits of each clip by the head that was fitted to all the others


def fit_head(features: Tensor, targets: Tensor, problem_type: str = "single_label_classification") -> LinearHead:
    """Ridge regression of the targets (N, C) on the standardised features (N, D), in closed form and float64.

    Targets are probabilities, with "multi_label_classification" 0 or 1, with "regression" any values. The penalty is
    the one with the least leave-one-out error. A ridge's scores are no logits yet: their scale is that of the least
    leave-one-out cross-entropy.

    Raises:
        ValueError: There are fewer than two clips.
    """
    if len(features) < 2:
        raise ValueError(f"the head is fitted to {len(features)} clips; there must be at least 2")
    features, targets = features.double(), targets.double()
    deviation, mean = torch.std_mean(features, dim=0, correction=0)
    deviation = deviation.clamp_min(1e-3 * deviation.mean()).clamp_min(1e-6)  # a constant feature must not explode
    offset = targets.mean(dim=0)
    left, size, right = torch.linalg.svd((features - mean) / deviation, full_matrices=False)
    centred = left.T @ (targets - offset)
    trials = []
    for penalty in PENALTIES:
        shrink = size.square() / (size.square() + penalty * len(features))
        leverage = (left.square() @ shrink + 1 / len(features))[:, None]
        residual = (targets - offset - left @ (shrink[:, None] * centred)) / (1 - leverage).clamp_min(1e-9)
        trials.append((residual.square().mean(), penalty, targets - residual))
    _, penalty, left_out = min(trials, key=lambda trial: trial[0])
    weight = (right.T @ ((size / (size.square() + penalty * len(features)))[:, None] * centred)).T
    if problem_type == "regression":
        return LinearHead(mean, deviation, weight, offset, left_out)
    if problem_type == "multi_label_classification":
        loss, middle = F.binary_cross_entropy_with_logits, 0.5
    else:
        loss, middle = F.cross_entropy, 0.0
    scale = min(TEMPERATURES, key=lambda value: loss(value * (left_out - middle), targets))
    return LinearHead(mean, deviation, scale * weight, scale * (offset - middle), scale * (left_out - middle))


@torch.no_grad()
def set_head(model: VideoMSForVideoClassification, head: LinearHead) -> None:
    """Fold a head that was fitted to `fc_norm`'s output into `fc_norm` and `classifier`, the same on every process."""
    norm = model.fc_norm
    values = {
        norm.weight: norm.weight.double().cpu() / head.deviation,
        norm.bias: (norm.bias.double().cpu() - head.mean) / head.deviation,
        model.classifier.weight: head.weight,
        model.classifier.bias: head.bias,
    }
    for parameter, value in values.items():
        parameter.copy_(broadcast(value.to(parameter.device, parameter.dtype).contiguous()))


def init_head(
    trainer: VideoMSTrainer, table: Table | Shards, data_args: DataArguments, say: Callable[[str], None]
) -> None:
    """Set the head of the trainer's classifier to a linear probe of one clip of each training video; `say` it.

    The clips are the middle ones, not augmented, of at most [`MAX_CLIPS`] videos; broken videos are left out. What the
    head gets right before the first step is logged too: training begins with an evaluation, if there are data for it.
    A run that resumes from a checkpoint has its head already, and is left alone.
    """
    model, args = trainer.bare_model(), trainer.args
    if args.resume_from_checkpoint or newest_complete_checkpoint(args.output_dir):
        return
    problem = model.config.problem_type or "single_label_classification"
    if problem == "regression":
        raise ValueError(
            "head_init is linear_probe, but problem_type is regression and labels are class numbers; set head_init to "
            "random"
        )
    if isinstance(table, Shards):
        raise ValueError(
            "head_init is linear_probe, but a stream is read in its own order, once an epoch; give a list of videos, "
            "or set head_init to random"
        )
    if len(table) > MAX_CLIPS:
        rows = torch.randperm(len(table), generator=torch.Generator().manual_seed(args.seed))[:MAX_CLIPS]
        table = table.select(rows.sort().values.tolist())
    num_frames, stride = model.config.num_candidate_frames, data_args.frame_stride
    views = ViewDataset(table, num_frames, stride, size=data_args.image_size, skip_broken=True)
    was_training = model.training
    batch, workers = args.per_device_eval_batch_size, args.dataloader_num_workers
    known = extract_features(model.videoms, views, trainer.accelerator, "clip", batch, workers)
    model.train(was_training)
    with torch.no_grad():
        features = model.fc_norm(known.features.to(args.device)).cpu()
    head = fit_head(features, F.one_hot(known.labels, model.config.num_labels), problem)
    set_head(model, head)
    top1 = (head.left_out.argmax(dim=1) == known.labels).double().mean().item()
    say(
        f"The head starts from a linear probe of {len(known.labels)} training clips. It gets {top1:.2%} of them right "
        f"when it is fitted to the others; chance is {1 / model.config.num_labels:.2%}"
    )
    args.eval_on_start = trainer.eval_dataset is not None
