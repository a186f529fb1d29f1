# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Parts of a table of videos: held out for testing, or a few of each class."""

from collections import Counter

import numpy as np
from datasets import Dataset

from ..messages import shorten
from .tables import UNLABELLED


def hold_out(table: Dataset, share: float, seed: int = 0) -> tuple[Dataset, Dataset]:
    """The table without, and only with, a random `share` of each class's videos.

    A class of two or more videos has at least one in both. Unlabelled videos, and the only video of a class, stay in
    the first. Both keep the table's order and its classes.

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
        raise ValueError("no class has two labelled videos, so none can be held out; give a separate test list")
    rest = sorted(set(range(len(table))) - set(held))
    return table.select(rest), table.select(sorted(held))


def few_shot(table: Dataset, num_per_class: int, seed: int = 0) -> Dataset:
    """`num_per_class` random videos of each class, in the table's order; the classes stay those of the table.

    The draw depends on seed and table alone, and n + 1 videos include those for n.

    Raises:
        ValueError: a class has fewer videos, or the number is below 1.
    """
    if num_per_class < 1:
        raise ValueError(f"num_per_class is {num_per_class}; it must be at least 1")
    labels = table["label"][:]
    counts = Counter(label for label in labels if label != UNLABELLED)
    names = table.features["label"].names
    few = [f"{names[label]} ({counts[label]})" for label in range(len(names)) if counts[label] < num_per_class]
    if few:
        raise ValueError(f"{num_per_class} videos of each class are required, but there are fewer of {shorten(few)}")
    order = np.random.default_rng(seed).permutation(len(table))
    rows, taken = [], Counter()
    for row in order.tolist():
        label = labels[row]
        if label != UNLABELLED and taken[label] < num_per_class:
            taken[label] += 1
            rows.append(row)
    return table.select(sorted(rows))
