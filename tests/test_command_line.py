"""What all scripts share: mistakes in a line or two with status 2, bugs with their traceback, quiet libraries."""

import importlib.util
import runpy
import sys
import warnings
from pathlib import Path

import pytest
import torch
from transformers.utils import logging

from tests.evaluation_files import save_classifier, write_labelled_videos
from tests.processes import run_program
from videoms_hf.command_line import run
from videoms_hf.decoding_videoms import VideoDecodeError
from videoms_hf.messages import printable


SCRIPTS = Path(__file__).parents[1] / "scripts"
MODEL = ["--model", "runs/nope", "--data", "absent.csv"]
# What each script needs, and an option whose value is out of range.
OUT_OF_RANGE = {
    "compare_selections": (["--pretrain_data=a", "--train_data=a", "--test_data=a"], "keep_ratios", 60),
    "convert_checkpoint": (["--checkpoint", "absent.pth", "--output_dir", "new"], "keep_ratio", 60),
    "evaluate_model": (MODEL, "keep_ratio", 60),
    "export": (["--model=runs/nope", "--output_dir=new"], "keep_ratio", 60),
    "extract_features": (MODEL, "num_crops", 0),
    "finetune": (["--train_data=absent.csv", "--output_dir=new"], "keep_ratio", 60),
    "predict": (["video.mp4", "--model", "runs/nope"], "keep_ratio", 60),
    "predict_state_changes": (["--model=runs/nope", "--annotations=a", "--videos=b"], "num_segments", -1),
    "prepare_dataset": (["ucf101", "--annotations", "absent", "--output_dir", "new"], "short_side", 0),
    "pretrain": (["--train_data=absent.csv", "--output_dir=new"], "mask_ratio", 1),
    "probe": (["--model=runs/nope", "--train_data=a", "--test_data=b"], "few_shot", 0),
    "quickstart": (["--data=absent.csv", "--output_dir=new"], "pretrain_steps", 0),
    "scan_dataset": (["--data", "absent.csv"], "min_frames", 0),
    "visualize": (["video.mp4", "--model=runs/nope", "--output=a.png"], "keep_ratio", 60),
}


def script(name: str, *words: object) -> int:
    return run(runpy.run_path(str(SCRIPTS / f"{name}.py"))["main"], list(map(str, words)))


@pytest.fixture(autouse=True)
def offline_in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub._is_offline_mode", True, raising=False)


def test_every_script_is_listed_here():
    assert {path.stem for path in SCRIPTS.glob("*.py")} == {*OUT_OF_RANGE, "push_to_hub", "doctor", "list_recipes"}


def test_no_script_has_the_name_of_a_library():
    """Python looks for modules next to a script first, so `import evaluate` would find scripts/evaluate.py."""
    assert not [path.name for path in SCRIPTS.glob("*.py") if importlib.util.find_spec(path.stem)]
    assert not [path.name for path in SCRIPTS.glob("*.py") if "sys.path" in path.read_text()]


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_a_number_out_of_range_fails_before_anything_is_loaded(name, capsys, tmp_path):
    needed, option, value = OUT_OF_RANGE[name]
    assert script(name, *needed, f"--{option}={value}") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {option} is {value}") and "must be" in said and len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [*OUT_OF_RANGE, "push_to_hub"])
def test_a_missing_file_is_told_in_three_lines_at_most(name, capsys):
    needed = ["runs/nope", "me/model"] if name == "push_to_hub" else OUT_OF_RANGE[name][0]
    assert script(name, *needed) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and len(said.splitlines()) <= 3 and "Traceback" not in said
    if "runs/nope" in str(needed):
        assert "runs/nope" in said


@pytest.mark.parametrize("name", [*OUT_OF_RANGE, "push_to_hub"])
def test_an_unknown_or_missing_option_is_told_without_the_usage(name, capsys):
    needed = ["a", "b"] if name == "push_to_hub" else OUT_OF_RANGE[name][0]
    assert script(name, *needed, "--num_segment=3x") == 2
    if name != "quickstart":  # which needs nothing
        assert script(name) == 2
    said = capsys.readouterr().err
    assert "usage:" not in said and len(said.splitlines()) <= 2 and "--help lists" in said


def test_debug_shows_the_traceback_and_leaves_transformers_option_alone():
    def main(words):
        seen.append(words)
        raise ValueError("told")

    seen = []
    with pytest.raises(ValueError, match="told"):
        run(main, ["--debug", "a"])
    assert run(main, ["--debug", "underflow_overflow", "--verbose"]) == 2
    assert seen == [["a"], ["--debug", "underflow_overflow"]]


def test_a_bug_keeps_its_traceback():
    def main(words):
        return {}["absent"]

    with pytest.raises(KeyError):
        run(main, [])
    with pytest.raises(RuntimeError, match="size of tensor"):
        run(lambda words: torch.ones(2) + torch.ones(3), [])


class Broken(torch.utils.data.Dataset):
    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, i):
        raise self.error


@pytest.mark.parametrize("error", [VideoDecodeError("a.mp4", "cut off"), ValueError("a.mp4: cut off")])
def test_a_mistake_that_a_worker_found_is_told_without_the_workers_traceback(error, capsys):
    loader = torch.utils.data.DataLoader(Broken(error), num_workers=1)
    assert run(lambda words: list(loader), []) == 2
    said = capsys.readouterr().err
    assert "a.mp4: cut off" in said and "Traceback" not in said and len(said.splitlines()) <= 3


def test_many_lines_are_cut_unless_all_are_asked_for(capsys):
    def main(words):
        raise ValueError("\n".join(f"line {i}" for i in range(9)))

    run(main, [])
    assert capsys.readouterr().err == "error: line 0\nline 1\n  and 7 more lines; --verbose shows them\n"
    run(main, ["--verbose"])
    assert "line 8" in capsys.readouterr().err


def test_an_interruption_has_its_own_status(capsys):
    def main(words):
        raise KeyboardInterrupt

    assert run(main, []) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_names_of_others_do_not_steer_a_terminal(capsys):
    assert printable("wave \x1b[2J\u202e\n\udcff é") == r"wave \x1b[2J\u202e\n\udcff é"

    def main(words):
        raise ValueError("class \x1b[2J")

    run(main, [])
    assert "\x1b" not in capsys.readouterr().err


def test_scripts_print_no_load_tables_unless_asked(tmp_path):
    model = save_classifier(tmp_path / "model")
    videos = write_labelled_videos(tmp_path)
    words = ["--model", model, "--data", videos, "--output_dir", tmp_path / "out", "--num_workers", "0"]
    command = [sys.executable, str(SCRIPTS / "extract_features.py"), *map(str, words)]
    quiet = run_program(command)
    assert quiet.returncode == 0, quiet.stderr
    for chatter in ("LOAD REPORT", "UNEXPECTED", "Loading weights", "Warning"):
        assert chatter not in quiet.stderr + quiet.stdout
    assert "Encoding" in quiet.stderr  # progress stays
    assert "LOAD REPORT" in run_program([*command, "--verbose"]).stderr


def test_libraries_are_quiet_during_a_script_and_speak_as_before_afterwards(caplog):
    def main(words):
        logger.warning_once("save_steps: 0.25 (from args) != 7 (from trainer_state.json)")
        warnings.warn_explicit("chatter", UserWarning, "file", 1, module="torch.nn")
        logger.error("an error")

    logger, before = logging.get_logger("transformers.trainer"), logging.get_verbosity()
    with warnings.catch_warnings(record=True) as warned:
        run(main, [])
    assert not warned and caplog.messages == ["an error"]
    assert logging.get_verbosity() == before and logging.is_progress_bar_enabled()
