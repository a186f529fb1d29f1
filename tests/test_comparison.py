"""How selections are compared: intervals over seeds and videos, the table, and the script on a rendered data set."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.test_training_scripts import videos, words  # noqa: F401
from videoms_hf.data.annotations import read_videos
from videoms_hf.data.in_memory import ClipsInMemory
from videoms_hf.decoding_videoms import decode_frames
from videoms_hf.evaluation.comparison import comparison_table, mean_and_interval


COMPARE = Path(__file__).parents[1] / "scripts" / "compare_selections.py"


def test_the_interval_has_the_width_of_a_mean_of_independent_hits():
    hits = np.random.default_rng(0).random((1, 400)) < 0.3
    mean, low, high = mean_and_interval(hits)
    deviation = np.sqrt(mean * (1 - mean) / 400)
    assert mean == hits.mean()
    assert (low, high) == pytest.approx((mean - 1.96 * deviation, mean + 1.96 * deviation), abs=0.004)


def test_seeds_that_differ_widen_the_interval():
    same = np.tile(np.arange(100) % 2, (3, 1))
    seeds = np.array([[0.0] * 100, [0.5] * 100, [1.0] * 100])
    assert same.mean() == seeds.mean() == 0.5
    _, low, high = mean_and_interval(seeds)
    assert (low, high) == (0.0, 1.0) and mean_and_interval(same)[2] < 0.65
    with pytest.raises(ValueError, match=r"values have the shape \(3,\); it must be \(seeds, videos\)"):
        mean_and_interval(np.zeros(3))


def test_the_table_says_whether_a_lead_is_sure():
    good, bad = np.ones((2, 40)), np.zeros((2, 40))
    even = np.tile(np.arange(40) % 2, (2, 1)).astype(float)
    table = comparison_table({"motion": good, "tube": bad, "random": good}, chance=0.1)
    assert "motion - tube: +100.0 points (+100.0 to +100.0 at 95 %; sure)" in table
    assert "motion - random: +0.0 points (+0.0 to +0.0 at 95 %; not sure: the interval holds 0)" in table
    assert "motion        100.0%" in table and "chance         10.0%" in table
    assert "each of 2 seeds, 40 test videos" in comparison_table({"a": even, "b": 1 - even}, chance=0.5)


def test_clips_in_memory_are_those_of_the_file_made_smaller(videos):  # noqa: F811
    table = read_videos(videos / "train.csv")
    clips = ClipsInMemory(table, True, 20, lambda length, rng: np.array([0, length - 1]), lambda frames: frames)
    item = clips[3]
    whole = decode_frames(table[3]["video"], [0, 11]).float()
    assert item["pixel_values"].shape == (2, 3, 20, 20) and item["labels"] == table[3]["label"]
    small = torch.nn.functional.interpolate(whole, (20, 20), mode="bilinear", antialias=True)
    assert (item["pixel_values"].float() - small).abs().max() <= 1
    assert "labels" not in ClipsInMemory(table, False, 64, clips.choose_frames, clips.transform)[0]


def test_the_script_compares_and_goes_on_where_it_was_stopped(videos, tmp_path, capsys):  # noqa: F811
    options = {
        "pretrain_data": videos / "pretrain.csv",
        "train_data": videos / "train.csv",
        "test_data": videos / "val.csv",
        "output_dir": tmp_path,
        "pretrain_epochs": 4,
        "finetune_epochs": 4,
        "batch_size": 16,
    }
    main = runpy.run_path(str(COMPARE))["main"]
    arguments = [*words(options), "--selections", "motion", "random", "--seeds", "4"]
    main(arguments)
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "comparison.json").read_text())
    assert {name: np.shape(rows) for name, rows in found["hits"].items()} == {"motion": (1, 8), "random": (1, 8)}
    assert found["table"] in said and "each of 1 seeds, 8 test videos" in said
    selection = json.loads((tmp_path / "random-4" / "pretrain" / "config.json").read_text())["token_selection"]
    assert selection == "random"
    assert json.loads((tmp_path / "random-4" / "finetune" / "config.json").read_text())["token_selection"] == "motion"

    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    (tmp_path / "motion-4" / "finetune" / "evaluation.json").unlink()
    main(arguments)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == times
    assert json.loads((tmp_path / "comparison.json").read_text())["hits"] == found["hits"]
