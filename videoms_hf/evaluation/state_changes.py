# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Answers for Ego4D's object state change classification, in the form that its challenge takes."""

import datasets

from ..data.tables import UNLABELLED
from .metrics import state_change_accuracy
from .multiview import aggregate_views
from .prediction import ViewPredictions


def state_change_predictions(predictions: ViewPredictions, table: datasets.Dataset) -> list[dict]:
    """A submission: {"unique_id", "state_change"} for each window of a table, in its order; ties say no change.

    Raises:
        ValueError: a window has no prediction (a broken recording): the challenge wants an answer to each.
    """
    ids, scores = aggregate_views(predictions.logits, predictions.video_ids)
    answers = {int(row): bool(score[1] > score[0]) for row, score in zip(ids, scores, strict=True)}
    unique_ids = table["unique_id"][:]
    if missing := [unique_ids[row] for row in range(len(table)) if row not in answers]:
        raise ValueError(
            f"{len(missing)} of {len(table)} windows have no prediction, {missing[:3]} ...: mend their recordings"
        )
    return [{"unique_id": name, "state_change": answers[row]} for row, name in enumerate(unique_ids)]


def submission_accuracy(submission: list[dict], table: datasets.Dataset) -> float | None:
    """The official accuracy of a submission in [0, 1]; `None` if the table's windows are unlabelled."""
    labels = table["label"][:]
    if UNLABELLED in labels:
        return None
    wanted = {name: label == 1 for name, label in zip(table["unique_id"][:], labels, strict=True)}
    return state_change_accuracy({answer["unique_id"]: answer["state_change"] for answer in submission}, wanted)
