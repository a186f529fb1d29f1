# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Parts of a table of videos: held out for testing, or a few of each class."""

from collections import defaultdict

import numpy as np
from datasets import Dataset

from ..messages import shorten
from .tables import UNLABELLED


def hold_out(table: Dataset, share: float, seed: int = 0) -> tuple[Dataset, Dataset]:
    """The table without, and only with, a random `share` of each class's videos.

    A class of two or more videos has at least one in both. Unlabelled videos, and the only video of a class, stay in
    the first. Both keep the table's order and its classes.
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
        raise ValueError("no class has two labelled videos, so none can be held out; give a separate test list")
    rest = sorted(set(range(len(table))) - set(held))
    return table.select(rest), table.select(sorted(held))


def few_shot(table: Dataset, num_per_class: int, seed: int = 0) -> Dataset:
    """`num_per_class` random videos of each class, in the table's order; the classes stay those of the table.

    The draw depends on seed and table alone, and n + 1 videos include those for n.
    """
    if num_per_class < 1:
        raise ValueError(f"num_per_class is {num_per_class}; it must be at least 1")
    labels, names, rows = table["label"][:], table.features["label"].names, defaultdict(list)
    for row in np.random.default_rng(seed).permutation(len(table)).tolist():
        rows[labels[row]].append(row)
    few = [f"{name} ({len(rows[i])})" for i, name in enumerate(names) if len(rows[i]) < num_per_class]
    if few:
        raise ValueError(f"{num_per_class} videos of each class are required, but there are fewer of {shorten(few)}")
    return table.select(sorted(row for i in range(len(names)) for row in rows[i][:num_per_class]))
