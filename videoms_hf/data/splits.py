# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Parting a table of videos for training and testing."""

import numpy as np
from datasets import Dataset

from .tables import UNLABELLED


def hold_out(table: Dataset, share: float, seed: int = 0) -> tuple[Dataset, Dataset]:
    """The table without, and only with, a random `share` of each class's videos.

    A class of two or more videos has at least one on either side. Unlabelled videos, and the only video of a class,
    stay in the first. Both keep the table's order and its classes.

    Raises:
        ValueError: `share` is not in (0, 1), or no class has two videos.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; it must be greater than 0 and less than 1")
    rng = np.random.default_rng(seed)
    labels = np.array(table["label"][:])
    held = []
    for label in sorted(set(labels.tolist()) - {UNLABELLED}):
        rows = rng.permutation(np.flatnonzero(labels == label))
        if len(rows) > 1:
            held += rows[: min(max(round(share * len(rows)), 1), len(rows) - 1)].tolist()
    if not held:
        raise ValueError("no class has two labelled videos, so none can be held out; give a test list of its own")
    rest = sorted(set(range(len(table))) - set(held))
    return table.select(rest), table.select(sorted(held))
