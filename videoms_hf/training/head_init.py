# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""A classifier head that starts as a linear probe of its backbone: linear probing, then fine-tuning.

A random head sends the backbone gradients that mean nothing, and a small data set does not have the steps to recover
(Kumar et al. 2022, arXiv:2202.10054).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from accelerate.utils import broadcast
from datasets import Dataset as Table

from ..data.dataset import ViewDataset
from ..data.shards import Shards
from ..evaluation.features import extract_features
from ..evaluation.probing import LinearProbe, ridge_probe
from ..modeling_videoms import VideoMSForVideoClassification
from .arguments import DataArguments
from .checkpoints import newest_complete_checkpoint
from .trainer import VideoMSTrainer


MAX_CLIPS = 10_000  # of a larger data set as many videos are drawn at random
# Of the ridge. The head must not be so sharp that the first changes of the backbone undo it, nor close to 0, which the
# penalty of the least error is where few clips leave all open.
PENALTY = 30.0


@torch.no_grad()
def set_head(model: VideoMSForVideoClassification, head: LinearProbe) -> None:
    """Make a probe that was fitted to `fc_norm`'s output the classifier, the same on every process.

    The probe's standardisation goes into the classifier as well, so `fc_norm` stays as it is.
    """
    weight = head.weight / head.deviation
    values = {model.classifier.weight: weight, model.classifier.bias: head.bias - weight @ head.mean}
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
    reason = "problem_type is regression and labels are class numbers;" if problem == "regression" else None
    if isinstance(table, Shards):
        reason = "a stream is read in its own order, once an epoch; give a list of videos, or"
    if reason:
        raise ValueError(f"head_init is linear_probe, but {reason} set head_init to random")
    if len(table) > MAX_CLIPS:
        rows = torch.randperm(len(table), generator=torch.Generator().manual_seed(args.seed))[:MAX_CLIPS]
        table = table.select(rows.sort().values.tolist())
    num_frames, stride = model.config.num_candidate_frames, data_args.frame_stride
    views = ViewDataset(
        table, num_frames, stride, size=data_args.image_size, skip_broken=True, processor=trainer.processing_class
    )
    was_training = model.training
    batch, workers = args.per_device_eval_batch_size, args.dataloader_num_workers
    known = extract_features(model.videoms, views, trainer.accelerator, "clip", batch, workers)
    model.train(was_training)
    with torch.no_grad():
        features = model.fc_norm(known.features.to(args.device)).cpu()
    head = ridge_probe(features, F.one_hot(known.labels, model.config.num_labels), problem, PENALTY)
    set_head(model, head)
    top1 = (head.left_out.argmax(dim=1) == known.labels).double().mean().item()
    say(
        f"The head starts from a linear probe of {len(known.labels)} training clips. It gets {top1:.2%} of them right "
        f"when it is fitted to the others; chance is {1 / model.config.num_labels:.2%}"
    )
    args.eval_on_start = trainer.eval_dataset is not None
