# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Results of an evaluation: a table, a report for JSON, and answers to Ego4D's challenge."""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
import torch

from ..data.tables import UNLABELLED
from ..messages import printable
from .metrics import aggregate_views, class_accuracies, multiview_accuracies
from .prediction import ViewPredictions


def evaluation_report(predictions: ViewPredictions, videos: Sequence[str], class_names: Sequence[str]) -> dict:
    """Accuracies of the whole test, of each class and of chance, and every video's scores.

    `videos` are the paths of the table's rows, `class_names` are in the order of their numbers. Probabilities have 7
    digits, as many as a float32 logit. The accuracy of a class without videos is None.
    """
    ids, scores = aggregate_views(predictions.logits, predictions.video_ids)
    labels = dict(zip(predictions.video_ids.tolist(), predictions.labels.tolist(), strict=True))
    truth = np.array([labels[i] for i in ids.tolist()])
    by_class = [None if math.isnan(share) else share for share in class_accuracies(scores, truth).tolist()]
    return {
        "accuracies": multiview_accuracies(*predictions[:3]),
        "chance_top1": 1 / len(class_names),
        "chance_top5": min(5 / len(class_names), 1.0),
        "always_the_most_frequent_class": float(np.bincount(truth).max() / len(truth)),
        "num_broken_videos": len(predictions.broken),
        "class_accuracies": dict(zip(class_names, by_class, strict=True)),
        "class_names": list(class_names),
        "broken_videos": [{"video": bad.path, "line": bad.line, "reason": bad.reason} for bad in predictions.broken],
        "videos": [
            {
                "video": videos[i],
                "label": labels[i],
                "predicted": int(row.argmax()),
                "probabilities": [float(f"{probability:.7g}") for probability in row],
            }
            for i, row in zip(ids.tolist(), scores, strict=True)
        ],
    }


def confusion_matrix(report: dict) -> np.ndarray:
    """Number of videos by true class (row) and predicted class (column), int64 (L, L), of an `evaluation_report`."""
    counts = np.zeros((len(report["class_names"]),) * 2, dtype=np.int64)
    for video in report["videos"]:
        counts[video["label"], video["predicted"]] += 1
    return counts


def class_table(report: dict, num_examples: int = 3) -> list[dict]:
    """A row for each class that has videos, those most often taken for one other class first.

    "class", "videos" and "top1"; "taken_for" is the wrong class that was predicted most often (the first on a tie),
    "times" how often, and "examples" videos of it, the most confident first. They are None, 0 and empty without one.
    """
    names, counts, rows = report["class_names"], confusion_matrix(report), []
    for label, name in enumerate(names):
        num_videos, wrong = int(counts[label].sum()), counts[label].copy()
        wrong[label] = 0
        if num_videos:
            other, times = int(wrong.argmax()), int(wrong.max())
            examples = [video["video"] for video in mistakes(report, label, other)[:num_examples]]
            row = {"class": name, "videos": num_videos, "top1": float(counts[label, label] / num_videos)}
            rows.append(row | {"taken_for": names[other] if times else None, "times": times, "examples": examples})
    return sorted(rows, key=lambda row: (-row["times"], row["top1"]))


def mistakes(report: dict, label: int | None = None, predicted: int | None = None) -> list[dict]:
    """Videos with a wrong prediction, the most confident first: all, or those of one class taken for another."""
    wrong = [video for video in report["videos"] if video["predicted"] != video["label"]]
    wrong = [video for video in wrong if label is None or (video["label"], video["predicted"]) == (label, predicted)]
    return sorted(wrong, key=lambda video: -video["probabilities"][video["predicted"]])


def class_lines(table: Sequence[dict], limit: int = 10) -> str:
    """The first rows of a [`class_table`] as text, without classes that were never taken for another."""
    rows = [row for row in table if row["times"]]
    lines = [f"{'worst classes':28}{'videos':>7}{'top-1':>8}   most often taken for"]
    for row in rows[:limit]:
        taken = f"{row['taken_for']} ({row['times']}, for example {'/'.join(Path(row['examples'][0]).parts[-2:])})"
        lines.append(printable(f"{row['class'][:27]:28}{row['videos']:>7}{row['top1']:>8.1%}   {taken}"))
    lines += [f"and {len(rows) - limit} more classes"] if len(rows) > limit else []
    return "\n".join(lines) if rows else "no class was taken for another"


def ratio_lines(rows: Sequence[dict]) -> str:
    """Top-1 against the keep ratio as text, from the report's "keep_ratios"."""
    lines = [f"{'keep ratio':>12}{'GMACs':>9}{'top-1':>9}   95 % interval"]
    for row in rows:
        interval = f"{row['video_top1_low']:.2%} to {row['video_top1_high']:.2%}"
        lines.append(f"{row['keep_ratio']:>12g}{row['gflops_per_clip']:>9.3g}{row['video_top1']:>9.2%}   {interval}")
    return "\n".join(lines)


def check_not_of_another_model(path: Path, model: str) -> None:
    """Raise `FileExistsError` if the file `path` exists and is not a report of `model`."""
    try:
        other = json.loads(path.read_text(encoding="utf-8"))["arguments"]["model"]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError):
        other = "something else"
    if os.path.normpath(other) != os.path.normpath(model):
        own = path.parent / os.path.basename(os.path.normpath(model))
        raise FileExistsError(
            f"{path} has the results of {other}, not of {model}; give another --output_dir, for example {own}"
        )


def weights_digest(weights: Iterable[tuple[str, torch.Tensor]]) -> str:
    """SHA-256 of named weights, independent of their order, files, device and floating-point type."""
    lines = []
    for name, value in weights:
        content = value.detach().cpu().float().contiguous().numpy()
        lines.append(f"{name} {content.shape} {hashlib.sha256(content).hexdigest()}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def accuracy_table(report: dict) -> str:
    """The accuracies of an `evaluation_report` as an aligned table, and a line for each corrupt video."""
    accuracies, k = report["accuracies"], min(5, len(report["class_names"]))
    interval = f"  top-1 between {accuracies['video_top1_low']:.2%} and {accuracies['video_top1_high']:.2%} (95 %)"
    rows = [
        ("video", accuracies["video_top1"], accuracies["video_top5"], interval),
        ("clip", accuracies["clip_top1"], accuracies["clip_top5"], ""),
        ("chance", report["chance_top1"], report["chance_top5"], ""),
    ]
    lines = [f"{'':8}{'top-1':>9}{f'top-{k}':>9}"]
    lines += [f"{name:8}{top1:>9.2%}{top5:>9.2%}{remark}" for name, top1, top5, remark in rows]
    if report["broken_videos"]:
        lines.append(f"{report['num_broken_videos']} corrupt videos are NOT included:")
        lines += [printable(f"  {bad['video']}: {bad['reason']}") for bad in report["broken_videos"]]
    return "\n".join(lines)


def state_change_accuracy(predictions: Mapping[str, bool], references: Mapping[str, bool]) -> float:
    """Ego4D's official OSCC metric: the share of clips with a correct prediction, in [0, 1].

    Both map a clip's `unique_id` to whether the object's state changes; `ValueError` if the ids differ.
    """
    missing, unknown = references.keys() - predictions.keys(), predictions.keys() - references.keys()
    if missing or unknown or not references:
        raise ValueError(
            f"{len(references)} clips and {len(predictions)} predictions: {len(missing)} clips have no prediction "
            f"{sorted(missing)[:3]} and {len(unknown)} predictions have no clip {sorted(unknown)[:3]}; the unique_ids "
            "must be the same, and at least one"
        )
    return sum(bool(predictions[name]) == bool(references[name]) for name in references) / len(references)


def state_change_predictions(predictions: ViewPredictions, table: datasets.Dataset) -> list[dict]:
    """A submission: {"unique_id", "state_change"} for each window of a table, in its order; ties mean no change.

    `ValueError` if a window has no prediction (a corrupt recording); the challenge requires all.
    """
    ids, scores = aggregate_views(predictions.logits, predictions.video_ids)
    answers = {int(row): bool(score[1] > score[0]) for row, score in zip(ids, scores, strict=True)}
    unique_ids = table["unique_id"][:]
    if missing := [unique_ids[row] for row in range(len(table)) if row not in answers]:
        raise ValueError(
            f"{len(missing)} of {len(table)} windows have no prediction, {missing[:3]} ...: fix their recordings"
        )
    return [{"unique_id": name, "state_change": answers[row]} for row, name in enumerate(unique_ids)]


def submission_accuracy(submission: list[dict], table: datasets.Dataset) -> float | None:
    """The official accuracy of a submission in [0, 1]; `None` if the table's windows are unlabelled."""
    labels = table["label"][:]
    if UNLABELLED in labels:
        return None
    wanted = {name: label == 1 for name, label in zip(table["unique_id"][:], labels, strict=True)}
    return state_change_accuracy({answer["unique_id"]: answer["state_change"] for answer in submission}, wanted)
