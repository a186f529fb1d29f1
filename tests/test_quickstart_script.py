"""scripts/quickstart.py: its lists and its words here, the whole of it on tiny budgets in the slow suite."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.processes import run_program
from tests.video_files import write_ramp
from videoms_hf.data.annotations import read_videos


ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "quickstart.py"
quickstart = runpy.run_path(str(SCRIPT))


def lists_of(tmp_path, *words: str) -> list:
    args = quickstart["parse"]([*words, "--output_dir", str(tmp_path / "out")])
    return [read_videos(path) for path in quickstart["data_lists"](args)]


@pytest.fixture
def own_list(tmp_path) -> Path:
    lines = [f"{write_ramp(tmp_path / f'{i}.mp4')} {label}\n" for i, label in enumerate([0] * 5 + [1] * 5 + [-1])]
    (tmp_path / "classes.txt").write_text("still life\nramp\n")
    (tmp_path / "train.csv").write_text("".join(lines))
    return tmp_path / "train.csv"


def test_a_fifth_of_each_class_of_an_own_list_is_for_testing(own_list, tmp_path):
    pretraining, training, testing = lists_of(tmp_path, "--data", str(own_list))
    assert (len(pretraining), len(training), sorted(testing["label"])) == (9, 8, [0, 1])
    assert not set(pretraining["video"]) & set(testing["video"])
    assert training.features["label"].names == testing.features["label"].names == ["still life", "ramp"]


def test_an_own_test_list_leaves_all_of_the_data_for_training(own_list, tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "list.csv").write_text(f"{tmp_path / '0.mp4'} 1\n")
    pretraining, training, testing = lists_of(
        tmp_path, "--data", str(own_list), "--test", str(tmp_path / "test" / "list.csv")
    )
    assert (len(pretraining), len(training), testing["label"][:]) == (11, 10, [1])


@pytest.mark.parametrize("num_videos, size", [(1, 1), (7, 7), (40, 13), (47, 15), (63, 15), (64, 16), (960, 16)])
def test_a_batch_leaves_out_at_most_a_tenth_of_the_videos(num_videos, size):
    assert quickstart["batch_size"](num_videos) == size and num_videos % size <= num_videos / 10


@pytest.mark.parametrize(("top1", "verdict"), [(0.75, "helped here: +25.0"), (0.25, "did not help here: -25.0")])
def test_the_table_says_honestly_whether_pretraining_helped(top1, verdict):
    def score(value):
        accuracies = {"video_top1": value, "video_top1_low": 0.1, "video_top1_high": 0.9, "num_videos": 40}
        return {"accuracies": accuracies, "chance_top1": 0.125}

    table = quickstart["summary"](score(top1), score(0.5), {0.6: 0.41, 1.0: 0.77})
    assert verdict in table
    assert all(text in table for text in (f"{top1:.1%}", "50.0%", "12.5%", "0.410", "0.770", "40 videos"))


@pytest.mark.slow
@pytest.mark.parametrize("data", ["rendered", "own"])
def test_the_whole_of_it_runs_and_goes_on_from_where_it_was(data, own_list, tmp_path):
    words = ["--output_dir", str(tmp_path / "out"), "--pretrain_clips", "40", "--finetune_clips", "40"]
    words += ["--num_segments", "2", *(["--data", str(own_list)] if data == "own" else [])]
    for _ in range(2):
        done = run_program([sys.executable, str(SCRIPT), *words])
        assert done.returncode == 0, done.stderr
        assert "fine-tuned after pre-training" in done.stdout and "from scratch, same budget" in done.stdout
    report = json.loads((tmp_path / "out" / "quickstart.json").read_text())
    assert report["finetune"]["num_videos"] == (120 if data == "rendered" else 2)
    with Image.open(tmp_path / "out" / "kept_tokens.png") as picture:
        assert picture.width > 400


@pytest.mark.slow
def test_a_step_that_fails_stops_it_with_the_steps_own_error(own_list, tmp_path):
    (tmp_path / "0.mp4").unlink()
    words = ["--data", str(own_list), "--output_dir", str(tmp_path / "out")]
    done = run_program([sys.executable, str(SCRIPT), *words])
    assert done.returncode != 0 and "line 1: there is no file" in done.stderr
