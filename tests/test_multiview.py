"""Views to videos, against plain loops."""

import math

import numpy as np
import pytest

from videoms_hf.evaluation.metrics import aggregate_views, multiview_accuracies, softmax


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def uneven_views(rng):
    """40 views of 9 videos with 1 to 8 views each, shuffled, ids with gaps; 6 classes, one label a video."""
    video_ids = rng.permutation(np.repeat([3, 4, 8, 15, 16, 23, 42, 99, 100], [1, 8, 3, 5, 5, 2, 7, 6, 3]))
    return rng.standard_normal((40, 6)).astype(np.float32) * 3, video_ids, video_ids % 6


def reference_scores(logits, video_ids):
    """{video: mean of its views' softmax}, with exact sums."""
    scores = {}
    for video in set(video_ids.tolist()):
        views = []
        for row in logits[video_ids == video].tolist():
            exponentials = [math.exp(value) for value in row]
            views.append([value / math.fsum(exponentials) for value in exponentials])
        scores[video] = [math.fsum(column) / len(views) for column in zip(*views, strict=True)]
    return scores


def test_a_videos_score_is_the_mean_of_its_views_probabilities(uneven_views):
    logits, video_ids, _ = uneven_views
    expected = reference_scores(logits, video_ids)
    ids, scores = aggregate_views(logits, video_ids)
    assert ids.tolist() == sorted(expected)
    np.testing.assert_allclose(scores, [expected[i] for i in ids.tolist()], rtol=1e-13)
    assert scores.dtype == np.float64


def test_the_docstrings_example():
    ids, scores = aggregate_views(np.array([[0, 0], [0, math.log(3)]]), np.array([7, 7]))
    assert ids.tolist() == [7]
    np.testing.assert_allclose(scores, [[0.375, 0.625]])


def test_the_order_of_the_views_does_not_change_a_digit(uneven_views, rng):
    logits, video_ids, labels = uneven_views
    ids, scores = aggregate_views(logits, video_ids)
    for _ in range(5):
        order = rng.permutation(len(video_ids))
        other_ids, other_scores = aggregate_views(logits[order], video_ids[order])
        assert (other_ids == ids).all() and (other_scores == scores).all()


def test_many_views_of_large_logits_neither_overflow_nor_lose_their_sum(rng):
    logits = rng.standard_normal((300, 4)).astype(np.float32) * 1000
    _, scores = aggregate_views(logits, np.zeros(300, dtype=np.int64))
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-12)
    assert np.isfinite(softmax(logits)).all()


def test_accuracies_of_clips_and_videos_equal_plain_counts(uneven_views):
    logits, video_ids, labels = uneven_views
    scores = reference_scores(logits, video_ids)
    accuracies = multiview_accuracies(logits, video_ids, labels)

    def share(rows, truth, k):
        hits = [
            label in sorted(range(6), key=lambda i: (-row[i], i))[:k] for row, label in zip(rows, truth, strict=True)
        ]
        return sum(hits) / len(hits)

    videos = sorted(scores)
    rows = [scores[video] for video in videos]
    truth = [video % 6 for video in videos]
    assert accuracies["clip_top1"] == share(logits.tolist(), labels.tolist(), 1)
    assert accuracies["clip_top5"] == share(logits.tolist(), labels.tolist(), 5)
    assert accuracies["video_top1"] == share(rows, truth, 1)
    assert accuracies["video_top5"] == share(rows, truth, 5)
    assert accuracies["num_videos"] == 9 and accuracies["num_clips"] == 40
    assert accuracies["video_top1_low"] < accuracies["video_top1"] < accuracies["video_top1_high"]


def test_a_sure_view_outweighs_two_unsure_ones():
    """Probabilities are averaged, not votes and not logits."""
    logits = np.log(np.array([[0.05, 0.95], [0.55, 0.45], [0.55, 0.45]]))
    accuracies = multiview_accuracies(logits, np.zeros(3, dtype=int), np.ones(3, dtype=int))
    assert accuracies["clip_top1"] == 1 / 3 and accuracies["video_top1"] == 1


def test_views_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"logits have the shape \(2, 3\) and video_ids \(3,\)"):
        aggregate_views(np.zeros((2, 3)), np.zeros(3))
    with pytest.raises(ValueError, match="at least one view"):
        aggregate_views(np.zeros((0, 3)), np.zeros(0))
    with pytest.raises(ValueError, match="video 1 have different labels"):
        multiview_accuracies(np.zeros((3, 3)), np.array([0, 1, 1]), np.array([0, 1, 2]))
