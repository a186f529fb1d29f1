# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Few labelled videos of each class, drawn from many."""

from collections import Counter

import numpy as np
from datasets import Dataset

from ..messages import shorten
from .tables import UNLABELLED


def few_shot(table: Dataset, num_per_class: int, seed: int = 0) -> Dataset:
    """`num_per_class` random videos of each class, in the table's order; the classes stay those of the table.

    The draw depends on the seed and the table alone, and that of n videos is part of that of n + 1.

    Raises:
        ValueError: a class has fewer videos, or a number below 1 is asked for.
    """
    if num_per_class < 1:
        raise ValueError(f"num_per_class is {num_per_class}; it must be at least 1")
    labels = table["label"][:]
    counts = Counter(label for label in labels if label != UNLABELLED)
    names = table.features["label"].names
    few = [f"{names[label]} ({counts[label]})" for label in range(len(names)) if counts[label] < num_per_class]
    if few:
        raise ValueError(f"{num_per_class} videos of each class are wanted, but there are fewer of {shorten(few)}")
    order = np.random.default_rng(seed).permutation(len(table))
    rows, taken = [], Counter()
    for row in order.tolist():
        label = labels[row]
        if label != UNLABELLED and taken[label] < num_per_class:
            taken[label] += 1
            rows.append(row)
    return table.select(sorted(rows))
