# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""From the logits of views to the accuracies of videos, as functions and as a module of `evaluate`.

A view is one (segment, crop) of a video. Official code: softmax of each view, mean over a video's views, then top-1
and top-5. V views (or videos), M videos, L classes. Scores are logits or probabilities: higher is more certain.
"""

import math
from statistics import NormalDist

import evaluate
import numpy as np
from datasets import Features, Sequence, Value
from transformers import EvalPrediction


def true_class_ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Number of classes ranked before the true one, (V, L) and (V,) -> int64 (V,): 0 is a top-1 hit.

    Of classes with equal scores the lower number comes first, as in `argmax`; so equal scores for all classes count as
    class 0. `ValueError` if the shapes do not match, a label is not in [0, L), or a score is NaN.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not scores.size:
        raise ValueError(
            f"scores have the shape {scores.shape} and labels {labels.shape}; they must be (videos, classes) and "
            "(videos,), with at least one video"
        )
    if len(outside := np.flatnonzero((labels < 0) | (labels >= scores.shape[1]))):
        raise ValueError(
            f"label {labels[outside[0]]} of row {outside[0]} is outside [0, {scores.shape[1]}); every video needs "
            "the number of a class (-1, unlabelled, cannot be evaluated)"
        )
    if len(odd := np.flatnonzero(np.isnan(scores).any(axis=1))):
        raise ValueError(
            f"{len(odd)} of {len(scores)} rows have scores that are not numbers (the first is row {odd[0]}); the "
            "model has diverged, or overflows in half precision: evaluate it in float32"
        )
    true_scores = np.take_along_axis(scores, labels[:, None], axis=1)
    lower_number = np.arange(scores.shape[1]) < labels[:, None]
    return ((scores > true_scores) | ((scores == true_scores) & lower_number)).sum(axis=1)


def classification_accuracies(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Shares "top1" and "top5" in [0, 1]. With fewer than 5 classes, "top5" is 1."""
    ranks = true_class_ranks(scores, labels)
    return {"top1": float((ranks < 1).mean()), "top5": float((ranks < 5).mean())}


def class_accuracies(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Top-1 accuracy of each class's videos, float64 (L,); NaN if a class has no video."""
    hits = true_class_ranks(scores, labels) == 0
    num_classes = np.shape(scores)[1]
    num_videos = np.bincount(labels, minlength=num_classes)
    num_hits = np.bincount(labels, weights=hits, minlength=num_classes)
    return np.divide(num_hits, num_videos, out=np.full(num_classes, np.nan), where=num_videos > 0)


def wilson_interval(num_hits: int, num_videos: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of an accuracy; source: E. B. Wilson, JASA 22 (1927), page 209.

    Unlike mean +- 1.96 deviations it stays in [0, 1] and has a width at 0 % and 100 %.
    """
    if not 0 <= num_hits <= num_videos or num_videos < 1:
        raise ValueError(f"{num_hits} hits of {num_videos} videos; there must be a video and no more hits than videos")
    z = NormalDist().inv_cdf(0.975)
    share = num_hits / num_videos
    centre = share + z**2 / (2 * num_videos)
    margin = z * math.sqrt(share * (1 - share) / num_videos + z**2 / (4 * num_videos**2))
    scale = 1 + z**2 / num_videos
    # Exactly 0 without a hit and 1 without a miss, whatever the rounding.
    low = (centre - margin) / scale if num_hits else 0.0
    high = (centre + margin) / scale if num_hits < num_videos else 1.0
    return low, high


class VideoClassificationAccuracy(evaluate.Metric):
    """Top-1 and top-5 accuracy as a module of `evaluate`, without network access and in memory.

    `compute(predictions=scores (V, L), references=labels (V,))` returns `classification_accuracies`.
    """

    def __init__(self, **options):
        super().__init__(**{"keep_in_memory": options.get("num_process", 1) == 1, **options})

    def _build_data_dir(self) -> str:
        # The library makes a folder in its cache, which may be read-only, even if nothing is written.
        return self._data_dir_root if self.keep_in_memory else super()._build_data_dir()

    def compute(self, *, predictions=None, references=None, **options) -> dict[str, float] | None:
        """The accuracies of the given scores and labels, or of those added before."""
        if predictions is not None and references is not None and self.num_process == 1 and self.writer is None:
            # The library takes 40 bytes for a score: 5 GB for 15 views of each Kinetics video.
            return classification_accuracies(np.asarray(predictions), np.asarray(references))
        return super().compute(predictions=predictions, references=references, **options)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Shares of videos whose true class has the best score (top1) or is among the best 5 (top5).",
            citation="",
            inputs_description="predictions: scores (videos, classes); references: class numbers (videos,).",
            # float64 represents every float32 and bfloat16 score exactly, so ties stay ties.
            features=Features({"predictions": Sequence(Value("float64")), "references": Value("int64")}),
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        return classification_accuracies(np.asarray(predictions), np.asarray(references))


def compute_accuracies(prediction: EvalPrediction) -> dict[str, float]:
    """Top-1 and top-5 accuracy for Trainer's `compute_metrics`; logits come first."""
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    return VideoClassificationAccuracy().compute(predictions=logits, references=prediction.label_ids)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits (..., L), float64."""
    logits = np.asarray(logits, dtype=np.float64)
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def aggregate_views(logits: np.ndarray, video_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Videos and their class probabilities: (V, L) and (V,) -> ids ascending (M,) and scores float64 (M, L).

    Views may come in any order and in any number per video; the result does not depend on the order, to the last
    digit. Softmax and mean are in float64.

    Example: logits of two views [[0, 0], [0, log 3]] of video 7 give [7] and [[0.375, 0.625]]. `ValueError` if the
    shapes do not match, or there is no view.
    """
    logits, video_ids = np.asarray(logits), np.asarray(video_ids)
    if logits.ndim != 2 or video_ids.shape != logits.shape[:1] or not logits.size:
        raise ValueError(
            f"logits have the shape {logits.shape} and video_ids {video_ids.shape}; they must be (views, classes) and "
            "(views,), with at least one view"
        )
    order = video_ids.argsort(kind="stable")
    ids, starts = np.unique(video_ids[order], return_index=True)
    scores = np.empty((len(ids), logits.shape[1]))
    for i, rows in enumerate(np.split(order, starts[1:])):
        # The rounding error of a sum depends on the order of its terms, so they are sorted.
        scores[i] = np.sort(softmax(logits[rows]), axis=0).mean(axis=0)
    return ids, scores


def multiview_accuracies(logits: np.ndarray, video_ids: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracies of single views and of videos, shares in [0, 1], with the 95 % interval of the videos' top-1.

    `logits` (V, L) and `video_ids` (V,) as in [`aggregate_views`]; `labels` (V,) is the class of each view's video.
    The keys are "clip_top1", "clip_top5", "video_top1", "video_top5", "video_top1_low" and "video_top1_high" (Wilson's
    interval), "num_videos" and "num_clips". `ValueError` if views of one video have different labels.
    """
    ids, scores = aggregate_views(logits, video_ids)
    shares = {"clip": classification_accuracies(logits, labels)}
    _, first, video = np.unique(video_ids, return_index=True, return_inverse=True)
    video_labels = np.asarray(labels)[first]
    if (video_labels[video] != labels).any():
        odd = np.asarray(video_ids)[video_labels[video] != labels][0]
        raise ValueError(f"views of video {odd} have different labels; all views of a video must have its label")
    shares["video"] = classification_accuracies(scores, video_labels)
    low, high = wilson_interval(round(shares["video"]["top1"] * len(ids)), len(ids))
    accuracies = {f"{what}_{name}": share for what, found in shares.items() for name, share in found.items()}
    interval = {"video_top1_low": low, "video_top1_high": high}
    return {**accuracies, **interval, "num_videos": len(ids), "num_clips": len(video_ids)}
