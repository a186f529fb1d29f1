"""Accuracies and intervals against plain loops and known values."""

import math
import sys

import evaluate
import numpy as np
import pytest
from transformers import EvalPrediction

from tests.processes import run_program
from videoms_hf.evaluation.metrics import (
    VideoClassificationAccuracy,
    class_accuracies,
    classification_accuracies,
    compute_accuracies,
    true_class_ranks,
    wilson_interval,
)
from videoms_hf.evaluation.results import state_change_accuracy


def reference_top_k(scores, labels, k):
    """Sort each row's classes by descending score, equal ones by number, and look for the label among the first k."""
    hits = 0
    for row, label in zip(scores, labels, strict=True):
        best = sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]
        hits += label in best
    return hits / len(labels)


@pytest.fixture
def tied_scores(rng):
    """Scores of 200 rows and 7 classes out of four values, so that most rows have ties at every cut."""
    return rng.integers(0, 4, (200, 7)).astype(np.float32), rng.integers(0, 7, 200)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("k", [1, 2, 5, 7, 9])
def test_top_k_equals_a_sort_of_every_row_ties_included(tied_scores, k):
    scores, labels = tied_scores
    assert (true_class_ranks(scores, labels) < k).mean() == reference_top_k(scores.tolist(), labels.tolist(), k)


def test_top_1_is_the_accuracy_of_argmax(tied_scores):
    scores, labels = tied_scores
    assert classification_accuracies(scores, labels)["top1"] == (scores.argmax(axis=1) == labels).mean()


def test_equal_scores_answer_the_first_class():
    assert true_class_ranks(np.zeros((3, 4)), np.array([0, 1, 3])).tolist() == [0, 1, 3]


def test_top_5_of_few_classes_is_over_all_of_them(rng):
    scores, labels = rng.standard_normal((50, 3)), rng.integers(0, 3, 50)
    accuracies = classification_accuracies(scores, labels)
    assert accuracies["top5"] == 1
    assert accuracies["top1"] == reference_top_k(scores, labels, 1) < 1


def test_scores_may_be_infinite():
    assert classification_accuracies(np.array([[-np.inf, 0.0], [np.inf, 0.0]]), np.array([1, 0]))["top1"] == 1


def test_class_accuracies_count_each_class_by_itself(rng):
    scores, labels = rng.standard_normal((60, 4)), rng.integers(0, 3, 60)  # class 3 has no video
    accuracies = class_accuracies(scores, labels)
    for i in range(3):
        assert accuracies[i] == reference_top_k(scores[labels == i], labels[labels == i], 1)
    assert np.isnan(accuracies[3])


@pytest.mark.parametrize(
    ("scores", "labels", "problem"),
    [
        (np.zeros((2, 3)), [0], "shape"),
        (np.zeros(3), [0, 1, 2], "shape"),
        (np.zeros((0, 3)), [], "at least one video"),
        (np.zeros((2, 3)), [0, 3], r"label 3 of row 1 is outside \[0, 3\)"),
        (np.zeros((2, 3)), [-1, 2], "label -1 of row 0"),
        (np.array([[0.0, 1.0], [np.nan, 1.0]]), [0, 1], "1 of 2 rows .* row 1"),
    ],
)
def test_scores_and_labels_that_cannot_be_compared_are_refused(scores, labels, problem):
    with pytest.raises(ValueError, match=problem):
        classification_accuracies(scores, np.array(labels, dtype=np.int64))


def test_wilson_interval_is_where_the_true_accuracy_would_just_be_doubted():
    """By definition each end p satisfies |share - p| = z * sqrt(p (1 - p) / n)."""
    z = 1.959963984540054
    for hits, videos in [(1, 20), (10, 20), (37, 48), (19, 20)]:
        for end in wilson_interval(hits, videos):
            assert math.isclose(abs(hits / videos - end), z * math.sqrt(end * (1 - end) / videos), rel_tol=1e-9)
    low, high = wilson_interval(37, 48)
    assert low < 37 / 48 < high


def test_wilson_interval_of_no_hit_and_of_all_hits_has_a_width():
    low, high = wilson_interval(0, 10)
    assert low == 0 and math.isclose(high, 0.2775327998628892, rel_tol=1e-9)
    mirrored = wilson_interval(10, 10)
    assert math.isclose(mirrored[0], 1 - high, rel_tol=1e-9) and mirrored[1] == 1


def test_wilson_interval_refuses_impossible_counts():
    for hits, videos in [(1, 0), (3, 2), (-1, 5)]:
        with pytest.raises(ValueError, match=f"{hits} hits of {videos} videos"):
            wilson_interval(hits, videos)


def test_state_change_accuracy_matches_clips_by_name():
    truth = {"a": True, "b": False, "c": False, "d": True}
    assert state_change_accuracy({"d": True, "c": True, "b": False, "a": True}, truth) == 0.75


def test_state_change_accuracy_wants_one_prediction_for_every_clip():
    with pytest.raises(ValueError, match=r"1 clips have no prediction \['b'\] and 1 predictions have no clip \['x'\]"):
        state_change_accuracy({"a": True, "x": True}, {"a": True, "b": False})
    with pytest.raises(ValueError, match="at least one"):
        state_change_accuracy({}, {})


def test_the_module_gives_the_same_in_one_call_in_batches_and_combined(tied_scores):
    scores, labels = tied_scores
    expected = {"top1": reference_top_k(scores, labels, 1), "top5": reference_top_k(scores, labels, 5)}
    module = VideoClassificationAccuracy()
    assert isinstance(module, evaluate.EvaluationModule)
    assert module.compute(predictions=scores, references=labels) == expected
    for start in range(0, len(labels), 64):
        module.add_batch(predictions=scores[start : start + 64], references=labels[start : start + 64])
    assert module.compute() == expected
    module.add_batch(predictions=scores[:100], references=labels[:100])
    assert module.compute(predictions=scores[100:], references=labels[100:]) == expected
    assert evaluate.combine([module]).compute(predictions=scores, references=labels) == expected


def test_the_module_does_not_lose_ties_or_differences_of_float32_scores():
    close = np.array([[1.0, np.nextafter(np.float32(1), np.float32(2))]], dtype=np.float32)
    module = VideoClassificationAccuracy()
    module.add_batch(predictions=close, references=np.array([1]))
    assert module.compute()["top1"] == 1


def test_trainer_gets_its_metrics_from_logits_alone_or_first_of_several(tied_scores):
    scores, labels = tied_scores
    expected = classification_accuracies(scores, labels)
    assert compute_accuracies(EvalPrediction(scores, labels)) == expected
    assert compute_accuracies(EvalPrediction((scores, np.zeros(1)), labels)) == expected


def test_the_module_works_without_a_network_and_without_a_home_to_write_to(tmp_path):
    (tmp_path / "home").write_text("a file, so that no folder can be made in it")
    code = (
        "import socket\n"
        "def refuse(*args, **kwargs): raise AssertionError('a connection was tried')\n"
        "socket.socket.connect = socket.create_connection = refuse\n"
        "from videoms_hf.evaluation.metrics import VideoClassificationAccuracy\n"
        "module = VideoClassificationAccuracy()\n"
        "module.add_batch(predictions=[[0.0, 1.0]], references=[1])\n"
        "print(module.compute())\n"
    )
    environment = {"PATH": "", "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "home")}
    done = run_program([sys.executable, "-c", code], env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "{'top1': 1.0, 'top5': 1.0}"
