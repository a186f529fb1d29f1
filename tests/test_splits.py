"""Held-out videos."""

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from videoms_hf.data.tables import hold_out


def table_of(labels: list[int], names: list[str]) -> Dataset:
    features = Features({"video": Value("string"), "label": ClassLabel(names=names)})
    videos = [f"/videos/{i}.mp4" for i in range(len(labels))]
    return Dataset.from_dict({"video": videos, "label": labels}, features=features)


def test_every_class_gives_its_share_and_keeps_the_rest():
    table = table_of([0] * 10 + [1] * 20 + [-1] * 5 + [2], ["a", "b", "c"])
    train, held = hold_out(table, 0.2)
    assert [held["label"][:].count(label) for label in (0, 1, 2, -1)] == [2, 4, 0, 0]
    assert sorted(train["video"][:] + held["video"][:]) == sorted(table["video"][:])
    assert train.features["label"].names == held.features["label"].names == ["a", "b", "c"]
    assert train["label"][:].count(-1) == 5 and train["label"][:].count(2) == 1


def test_the_seed_decides_which():
    table = table_of([0] * 30, ["a"])
    first, again, other = (hold_out(table, 0.5, seed)[1]["video"][:] for seed in (0, 0, 1))
    assert first == again != other


def test_a_class_of_two_is_on_both_sides():
    for share in (0.01, 0.99):
        train, held = hold_out(table_of([0, 0], ["a"]), share)
        assert len(train) == len(held) == 1


@pytest.mark.parametrize(("labels", "share", "message"), [([0, 0], 1.0, "share is 1.0"), ([0, -1], 0.5, "no class")])
def test_what_cannot_be_parted_is_refused(labels, share, message):
    with pytest.raises(ValueError, match=message):
        hold_out(table_of(labels, ["a"]), share)
