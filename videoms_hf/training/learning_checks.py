# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Warnings about runs that cannot learn, or have not learned."""

import math
from collections import Counter

from datasets import Dataset as Table
from transformers import Trainer


# Steps below which fine-tuning of small networks from random weights was not seen to learn, by head_init.
MIN_STEPS = {"random": 800, "linear_probe": 400}
MAX_WARMUP_SHARE = 0.25  # of the steps
CHANCE_SHARE = 0.98  # a training loss above this share of a guess's is chance
MAX_UNEXPLAINED = 0.95  # share of the target's variance that pre-training leaves unexplained


def warn_of_short_run(trainer: Trainer) -> list[str]:
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
