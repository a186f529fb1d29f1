# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""From the logits of views to the scores of videos.

A view is one (segment, crop) of a video. Official code: softmax of every view, mean over a video's views, then top-1
and top-5. V views of M videos, L classes.
"""

import numpy as np

from .metrics import VideoClassificationAccuracy, wilson_interval


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits (..., L), float64."""
    logits = np.asarray(logits, dtype=np.float64)
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def aggregate_views(logits: np.ndarray, video_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Videos and their class probabilities: (V, L) and (V,) -> ids ascending (M,) and scores float64 (M, L).

    The views may come in any order and a video may have any number of them, at least one; the result does not depend
    on the order, to the last digit. Softmax and mean are taken in float64.

    Example: logits of two views [[0, 0], [0, log 3]] of video 7 give [7] and [[0.375, 0.625]].

    Raises:
        ValueError: The shapes do not fit, or there is no view.
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
        # Sums depend on the order of their terms, by a rounding error; sorted terms always have the same.
        scores[i] = np.sort(softmax(logits[rows]), axis=0).mean(axis=0)
    return ids, scores


def multiview_accuracies(logits: np.ndarray, video_ids: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracies of single views and of videos, shares in [0, 1], with the 95 % interval of the videos' top-1.

    `logits` (V, L) and `video_ids` (V,) as in [`aggregate_views`]; `labels` (V,) is the class of each view's video.

    Returns:
        "clip_top1", "clip_top5", "video_top1", "video_top5", "video_top1_low" and "video_top1_high" (Wilson's
        interval), "num_videos" and "num_clips".

    Raises:
        ValueError: The shapes do not fit, or views of one video have different labels.
    """
    ids, scores = aggregate_views(logits, video_ids)
    module = VideoClassificationAccuracy()
    clips = module.compute(predictions=logits, references=labels)
    _, first, video = np.unique(video_ids, return_index=True, return_inverse=True)
    video_labels = np.asarray(labels)[first]
    if (video_labels[video] != labels).any():
        odd = np.asarray(video_ids)[video_labels[video] != labels][0]
        raise ValueError(f"views of video {odd} have different labels; all views of a video must have its label")
    videos = module.compute(predictions=scores, references=video_labels)
    low, high = wilson_interval(round(videos["top1"] * len(ids)), len(ids))
    return {
        "clip_top1": clips["top1"],
        "clip_top5": clips["top5"],
        "video_top1": videos["top1"],
        "video_top5": videos["top5"],
        "video_top1_low": low,
        "video_top1_high": high,
        "num_videos": len(ids),
        "num_clips": len(video_ids),
    }
