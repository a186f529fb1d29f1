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


@pytest.mark.parametrize(
    ("num_right", "verdict"), [(75, "helps here: +25.0"), (25, "hurts here: -25.0"), (52, "makes no")]
)
def test_the_table_has_every_seed_and_says_honestly_whether_pretraining_helped(num_right, verdict):
    def trained(count):
        return {"hits": [True] * count + [False] * (100 - count), "gmacs": 0.0123, "seconds": 31.4}

    rows = {"linear probe": {"top1": 0.44}, "fine-tuned from scratch": trained(50)}
    results = [rows | {"fine-tuned after pre-training": trained(count)} for count in (num_right, num_right)]
    table = quickstart["summary"](results, 0.125)
    assert verdict in table and f"   {num_right}.0%, {num_right}.0%" in table
    assert all(text in table for text in ("12.5%", "44.0%", "50.0%", "0.012", "31 s"))


def test_few_labels_are_a_row_where_every_class_has_more():
    def few_shots(least):
        return [options.get("few_shot") for _, options in quickstart["finetunings"](Path("weights"), least).values()]

    assert few_shots(11) == [None, None, 10, 10, None, None] and few_shots(10) == [None] * 4


def test_commands_run_at_once_and_the_first_that_fails_stops_it_with_its_output(tmp_path, capsys):
    def words(code):
        return [sys.executable, "-c", f"import os; print('threads', os.environ['OMP_NUM_THREADS']); {code}"]

    quickstart["step"](words("pass"), words("pass"))
    assert capsys.readouterr().out.count("done in") == 2
    with pytest.raises(SystemExit) as stop:
        quickstart["step"](words("pass"), words("raise SystemExit(3)"))
    assert stop.value.code == 3 and "threads 1" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(1800)  # some fifty processes
@pytest.mark.parametrize("data", ["rendered", "own"])
def test_the_whole_of_it_runs_and_goes_on_from_where_it_was(data, own_list, tmp_path):
    words = [
        "--output_dir",
        str(tmp_path / "out"),
        "--pretrain_steps",
        "3",
        "--finetune_steps",
        "3",
        "--seeds",
        "0",
        "1",
    ]
    words += ["--num_segments", "2", *(["--data", str(own_list)] if data == "own" else [])]
    for _ in range(2):
        done = run_program([sys.executable, str(SCRIPT), *words], seconds=600)
        assert done.returncode == 0, done.stderr
        assert "fine-tuned after pre-training" in done.stdout and "Pre-training makes no sure" in done.stdout
    report = json.loads((tmp_path / "out" / "quickstart.json").read_text())
    row = report["results"][1]["fine-tuned after pre-training"]
    assert len(row["hits"]) == (240 if data == "rendered" else 2) and len(report["results"]) == 2
    with Image.open(tmp_path / "out" / "kept_tokens.png") as picture:
        assert picture.width > 200


@pytest.mark.slow
def test_a_step_that_fails_stops_it_with_the_steps_own_error(own_list, tmp_path):
    (tmp_path / "0.mp4").unlink()
    words = ["--data", str(own_list), "--output_dir", str(tmp_path / "out")]
    done = run_program([sys.executable, str(SCRIPT), *words])
    assert done.returncode != 0 and "line 1: there is no file" in done.stderr
