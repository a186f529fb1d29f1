"""The command `videoms`: one style of help and options, recipes by name, and an installed wheel that is alone."""

import json
import os
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from tests.evaluation_files import save_classifier, write_noise
from tests.processes import run_program
from videoms_hf.__main__ import COMMANDS, main, overview
from videoms_hf.command_line import read_recipe, recipe_file, recipe_names, run
from videoms_hf.doctor import (
    Findings,
    Library,
    clips_per_second,
    decoding_speed,
    report,
    required_libraries,
    suggestions,
    training_speed,
)


ROOT = Path(__file__).parents[1]
REQUIRED = ["--train_data=a.csv", "--output_dir=runs/a"]


def said(capsys, *words: object, status: int = 0) -> str:
    """What a command prints."""
    name, *words = map(str, words)
    command = runpy.run_path(str(ROOT / "scripts" / f"{COMMANDS[name]}.py"))["main"]
    try:
        code = run(command, words)
    except SystemExit as end:
        code = end.code or 0
    out, err = capsys.readouterr()
    assert code == status, err
    return out + err


def test_the_overview_describes_every_command():
    lines = {line.split()[0]: line for line in overview().splitlines() if line.startswith("  ")}
    assert list(lines) == list(COMMANDS)
    assert all(len(line) > 30 for line in lines.values())
    assert {"pretrain", "finetune", "evaluate", "predict", "probe", "features", "convert", "prepare"} <= lines.keys()
    assert {"scan", "compare", "publish", "quickstart", "doctor", "recipes"} <= lines.keys()


def test_an_unknown_command_is_an_error_with_a_suggestion(capsys):
    with pytest.raises(SystemExit) as end:
        main(["pretrian"])
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: there is no command 'pretrian'; did you mean 'pretrain'?\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_starts_with_a_description_and_two_examples(name, capsys):
    description, examples, *groups = said(capsys, name, "--help").split("\n\n")
    assert len(description.splitlines()) == 1 and description.endswith(".")
    lines = [line for line in examples.splitlines() if re.search(rf"(videoms|-m videoms_hf) {name}\b", line)]
    assert len(lines) >= 2
    titles = [group.splitlines()[0] for group in groups if group.splitlines()[0].endswith(":")]
    order = ["essentials:", "method:", "data:", "other options:"]
    assert titles == [title for title in order if title in titles]
    assert all(word in groups[-1] for word in ("--print_config", "--verbose", "--debug"))


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_options_of_trainer_are_listed_by_help_all_only(name, capsys):
    short, long = said(capsys, name, "--help"), said(capsys, name, "--help_all")
    options = {text: set(re.findall(r"^  --(\w+)", text, re.M)) for text in (short, long)}
    assert {"train_data", "output_dir", "dry_run", "mask_ratio", "num_frames", "weight_decay"} <= options[short]
    hidden = {"adam_beta2", "gradient_accumulation_steps", "save_total_limit", "fsdp"}
    assert hidden <= options[long] and not hidden & options[short] and options[short] < options[long]
    assert len(short.splitlines()) < 200 < len(long.splitlines())
    assert re.search(r"--help_all also lists [0-9]+ options of transformers' Trainer", short)


def test_print_config_prints_a_recipe_of_what_was_set(capsys, tmp_path):
    text = said(capsys, "finetune", "ucf101/finetune", "--train_data", "my.csv", "--num_frames=8", "--print_config")
    options = yaml.safe_load(text)
    assert options == read_recipe("ucf101/finetune") | {"train_data": "my.csv", "num_frames": 8} | {
        name: options[name] for name in ("base_learning_rate", "base_min_learning_rate", "base_warmup_learning_rate")
    }  # which YAML takes for strings in the recipe
    (tmp_path / "mine.yaml").write_text(text)
    assert yaml.safe_load(said(capsys, "finetune", tmp_path / "mine.yaml", "--print_config")) == options
    required = ("evaluate", "--model", "m", "--data", "a.csv", "--print_config")
    assert yaml.safe_load(said(capsys, *required)) == {"model": "m", "data": "a.csv"}
    assert yaml.safe_load(said(capsys, "predict", "a.mp4", "--model", "m", "--print_config")) == {
        "videos": ["a.mp4"],
        "model": "m",
    }


def test_a_recipe_is_known_by_its_name(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipe_file("ucf101/finetune") == ROOT / "scripts/recipes/ucf101/finetune.yaml"
    lines = said(capsys, "recipes").splitlines()
    assert [line.split()[0] for line in lines] == recipe_names() and all(len(line) > 40 for line in lines)
    assert said(capsys, "recipes", "ucf101/finetune") == recipe_file("ucf101/finetune").read_text()
    unknown = said(capsys, "finetune", "ucf101/finetun", *REQUIRED, status=2)
    assert "neither a file nor the name of a recipe; did you mean" in unknown and "ucf101/finetune" in unknown
    assert "did you mean ucf101/evaluate or ucf101/finetune" in said(capsys, "finetune", "ucf101", status=2)
    assert "`videoms recipes` lists" in said(capsys, "finetune", "absent.yaml", status=2)
    (tmp_path / "ucf101").mkdir()
    (tmp_path / "ucf101" / "finetune").write_text("num_frames: 4\n")  # a file of that name wins
    assert read_recipe("ucf101/finetune") == {"num_frames": 4}


# --- doctor ---------------------------------------------------------------------------------------------------------


GOOD = Findings([Library("torch", "2.14", ">=2.11", True)], "H100", 16, 16, 16, 50.0, 400.0, 500.0)


def test_the_bottleneck_is_what_gives_fewer_clips():
    assert GOOD.total_decoding_speed == 800 and GOOD.bottleneck == "the model" and suggestions(GOOD) == []
    slow = GOOD._replace(decoding_speed=20.0, num_workers=8)
    assert slow.bottleneck == "decoding"
    assert "--fastdecode" in "\n".join(suggestions(slow)) and "--dataloader_num_workers 16" in suggestions(slow)[-1]
    assert GOOD._replace(decoding_speed=500.0, num_workers=0).bottleneck == "the model"  # no workers: this process


def test_what_is_missing_or_old_is_marked_and_has_advice():
    libraries = [Library("av", "16.0.0", ">=17.1", False), Library("evaluate", None, ">=0.4", False)]
    found = GOOD._replace(libraries=libraries, device="CPU", threads=1, free_gib=2.0)
    text = report(found)
    assert "16.0.0   <-- >=17.1 is required" in text and "not installed   <-- >=0.4 is required" in text
    assert "pip install --upgrade 'av>=17.1' 'evaluate>=0.4'" in text
    assert "Only 2.0 GiB are free" in text and "videoms quickstart" in text and "1 of 16 cores" in text
    assert "None: this machine is ready" in report(GOOD)


def test_this_environment_meets_the_requirements():
    libraries = required_libraries()
    assert {"torch", "transformers", "av"} <= {library.name for library in libraries}
    assert all(library.is_met for library in libraries)
    assert "onnx" not in {library.name for library in libraries}  # an extra


def test_speeds_are_measured(tiny_config):
    calls = []
    assert clips_per_second(lambda i: calls.append(i) or 3, seconds=0) > 0 and calls == [0, 1]
    assert decoding_speed(seconds=0) > 0
    assert training_speed(seconds=0, config=tiny_config(mask_ratio=0.8)) > 0


# --- the wheel ------------------------------------------------------------------------------------------------------

INSTALLED = """
import sys
from videoms_hf.__main__ import main

for words in (
    ["--help"],
    ["finetune", "ucf101/finetune", "--train_data", "a.csv", "--print_config"],
    ["predict", "videos", "--model", "model", "--output", "out.json", "--num_workers", "0"],
):
    try:
        main(words)
    except SystemExit as end:
        assert not end.code, words
files = [str(module.__file__) for name, module in sys.modules.items() if name.startswith("videoms_hf")]
assert files and all(file.startswith(TARGET) for file in files), files
"""


def test_a_wheel_that_is_installed_alone_has_the_command_the_scripts_and_the_recipes(tmp_path):
    source, target, work = (tmp_path / name for name in ("source", "target", "work"))
    for name in ("videoms_hf", "scripts", "model_cards"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-index"]
    built = run_program([*pip, "wheel", *options, "--no-build-isolation", "-w", str(tmp_path), str(source)])
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("videoms_hf-*.whl")
    done = run_program([*pip, "install", *options, "--target", str(target), str(wheel)])
    assert done.returncode == 0, done.stderr
    shutil.rmtree(source)
    (work / "videos").mkdir(parents=True)
    save_classifier(work / "model")
    write_noise(work / "videos" / "a.mp4", 20, seed=0)
    place = {"cwd": work, "env": {**os.environ, "PYTHONPATH": str(target)}}
    recipes = run_program([str(target / "bin" / "videoms"), "recipes"], **place)
    assert [line.split()[0] for line in recipes.stdout.splitlines()] == recipe_names(), recipes.stderr
    done = run_program([sys.executable, "-c", f"TARGET = {str(target)!r}\n{INSTALLED}"], **place)
    assert done.returncode == 0, done.stderr
    assert overview() in done.stdout and "train_data: a.csv\n" in done.stdout
    assert json.loads((work / "out.json").read_text())[0]["error"] is None
    assert {path.name for path in work.iterdir()} == {"videos", "model", "out.json"}
