"""Probes of frozen features against slow references; few-shot draws; the script from videos to accuracies."""

import json
import math
import runpy
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.evaluation_files import save_classifier
from tests.test_training_scripts import videos, words  # noqa: F401
from videoms_hf.data.annotations import read_videos
from videoms_hf.data.tables import few_shot, make_table
from videoms_hf.evaluation.probing import (
    attentive_probe,
    frame_differences,
    linear_probe,
    nearest_neighbours,
    standardize,
)
from videoms_hf.training import DataArguments
from videoms_hf.training.clip_datasets import training_table


PROBE = Path(__file__).parents[1] / "scripts" / "probe.py"


def blobs(num: int, spread: float = 1.0):
    """Features (num, 6) of 3 classes around 3 centres, very differently scaled, and their labels."""
    centres = 3 * torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(num) % 3
    return (centres[labels] + spread * torch.randn(num, 6)) * torch.tensor([1e3, 1, 1e-3, 1, 1, 10]), labels


def test_features_are_standardised_by_the_training_set():
    train, test = torch.randn(50, 4) * 7 + 3, torch.randn(20, 4)
    train[:, 2] = 5.0
    found, other = standardize(train, test)
    for d in (0, 1, 3):
        mean = sum(train[:, d].tolist()) / 50
        deviation = math.sqrt(sum((x - mean) ** 2 for x in train[:, d].tolist()) / 50)
        torch.testing.assert_close(other[:, d], (test[:, d] - mean) / deviation, rtol=1e-4, atol=1e-4)
    assert (found[:, 2] == 0).all()


def test_the_linear_probe_is_at_the_minimum_of_its_loss():
    train, labels = blobs(60, spread=3.0)
    logits = linear_probe(train, labels, train, 3, weight_decay=0.1).double()
    x = standardize(train.double(), train.double())[0]
    # At the minimum the weights are minus the gradient over the decay, and the bias has no gradient; so both follow
    # from the probabilities, and must give these again.
    probabilities = logits.softmax(dim=1)
    error = probabilities - torch.nn.functional.one_hot(labels, 3)
    assert error.mean(dim=0).abs().max() < 1e-5
    weight = -(error.T @ x) / 60 / 0.1
    again = x @ weight.T
    again = again - again.mean(dim=1, keepdim=True)
    wanted = logits - logits.mean(dim=1, keepdim=True)
    bias = (wanted - again).mean(dim=0)
    torch.testing.assert_close(again + bias, wanted, rtol=1e-3, atol=1e-3)
    assert (linear_probe(train, labels, train, 3) == linear_probe(train, labels, train, 3)).all()


def test_probes_tell_classes_apart_that_lie_apart_and_no_others():
    train, labels = blobs(90)
    test, wanted = blobs(60)
    assert (linear_probe(train, labels, test, 3).argmax(dim=1) == wanted).float().mean() > 0.95
    assert (nearest_neighbours(train, labels, test, 3).argmax(dim=1) == wanted).float().mean() > 0.95
    tokens = torch.randn(90, 5, 6) * 0.1  # one token of five tells the class, and which one differs
    place = torch.arange(90) % 5
    tokens[torch.arange(90), place] = standardize(train, train)[0]
    found = attentive_probe(tokens[:60], labels[:60], tokens[60:], 3, num_heads=2, num_epochs=100, learning_rate=0.01)
    assert (found.argmax(dim=1) == labels[60:]).float().mean() > 0.9
    noise = attentive_probe(torch.randn(60, 5, 6), labels[:60], torch.randn(300, 5, 6), 3, num_heads=2, num_epochs=20)
    assert 0.2 < (noise.argmax(dim=1) == torch.arange(300) % 3).float().mean() < 0.47


def test_the_attentive_probe_depends_on_its_seed_alone():
    tokens, labels = torch.randn(20, 4, 8), torch.arange(20) % 2
    options = {"num_heads": 2, "num_epochs": 3}
    first = attentive_probe(tokens, labels, tokens, 2, **options)
    before = torch.get_rng_state()
    assert torch.equal(attentive_probe(tokens, labels, tokens, 2, **options), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(attentive_probe(tokens, labels, tokens, 2, seed=1, **options), first)


@pytest.mark.parametrize("k", [1, 5, 100])
def test_neighbours_vote_as_defined(k):
    train, labels = blobs(30, spread=4.0)
    test, _ = blobs(10, spread=4.0)
    found = nearest_neighbours(train, labels, test, 3, k=k, temperature=0.2)
    x, y = standardize(train, test)
    for row in range(10):
        similar = [float(y[row] @ x[i] / (y[row].norm() * x[i].norm())) for i in range(30)]
        scores = [0.0] * 3
        for i in sorted(range(30), key=lambda i: -similar[i])[: min(k, 30)]:
            scores[labels[i]] += math.exp(similar[i] / 0.2)
        torch.testing.assert_close(found[row], torch.tensor(scores), rtol=1e-4, atol=1e-4)


def test_frame_differences_say_where_a_picture_changes_and_how_much():
    clips = torch.zeros(3, 9, 3, 16, 24, dtype=torch.uint8)
    clips[1, 1::2, :, 2:4, 3:6] = 60  # one cell of 2 x 3 pixels, on and off in all eight steps
    clips[2, 2:, :, 14:, 21:23] = 60  # two thirds of the last cell, in the second step
    changes = frame_differences([{"pixel_values": clip} for clip in clips], batch_size=2)
    expected = torch.zeros(3, 64, 4)
    expected[1, 9], expected[2, 63, 0] = 60.0, 20.0
    torch.testing.assert_close(changes, expected.flatten(1))
    assert frame_differences([{"pixel_values": clip[:3]} for clip in clips]).shape == (3, 64 * 2)


def test_few_shots_are_as_many_of_each_class_seeded_and_nested():
    labels = [0, 1, 2, 0, 1, 2, 0, 1, -1, 0, 2, 2]
    table = make_table([f"/{i}.mp4" for i in range(12)], labels, ["a", "b", "c"])
    one, two = few_shot(table, 1, seed=3), few_shot(table, 2, seed=3)
    assert Counter(one["label"]) == {0: 1, 1: 1, 2: 1} and Counter(two["label"]) == {0: 2, 1: 2, 2: 2}
    assert set(one["video"]) < set(two["video"]) and two.features == table.features
    assert two["video"][:] == sorted(two["video"], key=table["video"][:].index)
    assert few_shot(table, 2, seed=3)["video"][:] == two["video"][:]
    assert len({tuple(few_shot(table, 1, seed=seed)["video"]) for seed in range(20)}) > 5
    with pytest.raises(ValueError, match=r"4 videos of each class are required, but there are fewer of 'b \(3\)'$"):
        few_shot(table, 4)
    with pytest.raises(ValueError, match="num_per_class is 0; it must be at least 1"):
        few_shot(table, 0)


def test_a_run_trains_on_few_shots(videos):  # noqa: F811
    whole = training_table(DataArguments(train_data=str(videos / "train.csv")), require_labels=True)
    few = training_table(DataArguments(train_data=str(videos / "train.csv"), few_shot=1), require_labels=True)
    assert len(whole) == 16 and sorted(few["label"]) == list(range(8)) and few.features == whole.features
    with pytest.raises(ValueError, match="few_shot is 1, but streams are read whole"):
        training_table(DataArguments(train_data=f"stream:{videos}", few_shot=1), require_labels=True)


def test_the_script_probes_an_encoder_and_writes_what_it_found(videos, tmp_path, capsys):  # noqa: F811
    names = read_videos(videos / "train.csv").features["label"].names
    data = {"train_data": videos / "train.csv", "test_data": videos / "val.csv", "num_workers": 0}
    model = save_classifier(tmp_path / "model", names, hidden_size=16, frame_stride=1)
    options = {**data, "model": model, "output_dir": tmp_path, "few_shot": 2, "num_segments": 2}
    runpy.run_path(str(PROBE))["main"](words(options))
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "probing.json").read_text())
    assert (
        set(found["probes"]) == {"frame_differences", "linear", "attentive", "knn"}
        and found["num_training_videos"] == 16
    )
    for name, result in found["probes"].items():
        assert result["num_videos"] == 8 and result["num_clips"] == 16
        assert f"{name:18} top-1 {result['video_top1']:.2%}" in said
    # The training videos themselves are found again, but for what the clips of a video differ in.
    again = words(options | {"test_data": videos / "train.csv", "num_neighbours": 1}) + ["--probes", "linear", "knn"]
    runpy.run_path(str(PROBE))["main"](again)
    found = json.loads((tmp_path / "probing.json").read_text())["probes"]
    assert found["knn"]["video_top1"] == 1.0 and set(found) == {"linear", "knn"}
