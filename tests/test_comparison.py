"""How selections are compared: intervals over seeds and videos, the table, and the script on a rendered data set."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests import test_training_scripts
from tests.test_training_scripts import words
from videoms_hf.command_line import read_recipe
from videoms_hf.data.annotations import read_videos
from videoms_hf.decoding_videoms import decode_frames
from videoms_hf.experiments import single_run as comparison
from videoms_hf.experiments.comparison import Panel, comparison_table, draw_panels, mean_and_interval
from videoms_hf.experiments.selectors import SELECTORS
from videoms_hf.experiments.single_run import ClipsInMemory
from videoms_hf.visualization.charts import save_chart


videos = test_training_scripts.videos  # a fixture
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
    seconds = dict.fromkeys(("motion", "tube", "random"), 61.0)
    table = comparison_table({"motion": good, "tube": bad, "random": good}, 0.1, seconds)
    assert "motion - tube: +100.0 points (+100.0 to +100.0 at 95 %; sure)" in table
    assert "motion - random: +0.0 points (+0.0 to +0.0 at 95 %; not sure: the interval holds 0)" in table
    assert "motion        100.0%   100.0% to 100.0%     61 s" in table and "chance         10.0%" in table
    assert "each of 2 seeds, 40 test videos" in comparison_table({"a": even, "b": 1 - even}, 0.5, {"a": 1, "b": 2})


def test_clips_in_memory_are_those_of_the_file_made_smaller(videos):
    table = read_videos(videos / "train.csv")
    clips = ClipsInMemory(table, True, 20, lambda length, rng: np.array([0, length - 1]), lambda frames: frames)
    item = clips[3]
    whole = decode_frames(table[3]["video"], [0, 11]).float()
    assert item["pixel_values"].shape == (2, 3, 20, 20) and item["labels"] == table[3]["label"]
    small = torch.nn.functional.interpolate(whole, (20, 20), mode="bilinear", antialias=True)
    assert (item["pixel_values"].float() - small).abs().max() <= 1
    assert "labels" not in ClipsInMemory(table, False, 64, clips.choose_frames, clips.transform)[0]


@pytest.fixture
def compare(tmp_path):
    """The script with recipes of a network that trains in no time."""
    for stage in ("pretrain", "finetune"):
        recipe = read_recipe(COMPARE.parent / "recipes" / "small" / f"{stage}.yaml")
        recipe |= {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "use_cpu": True}
        (tmp_path / f"{stage}.yaml").write_text(yaml.safe_dump(recipe))
    return runpy.run_path(str(COMPARE))["main"]


def test_cells_share_weights_and_clips_and_finished_ones_stay(
    videos,
    compare,
    tmp_path,
    capsys,
    monkeypatch,
):
    options = {
        "pretrain_data": videos / "pretrain.csv", "train_data": videos / "train.csv", "test_data": videos / "val.csv",
        "output_dir": tmp_path / "out", "pretrain_steps": 2, "finetune_steps": 2, "num_frames": 8, "frame_stride": 1,
        "image_size": 32, "stage": "both", "recipes": tmp_path, "chart": tmp_path / "chart.png",
    }  # fmt: skip
    arguments = [*words(options), *["--selections", "motion", "random", "--seeds", "4", "--keep_ratios", "0.25", "1"]]
    seen, training_step = {}, comparison.VideoMSTrainer.training_step

    def watch(trainer, model, inputs, *others):
        cell = Path(trainer.args.output_dir).name
        state = trainer.bare_model().state_dict()
        first = {name: value.clone() for name, value in state.items() if "patch_embeddings" in name}
        seen.setdefault(cell, []).append((first, inputs["pixel_values"]))
        return training_step(trainer, model, inputs, *others)

    monkeypatch.setattr(comparison.VideoMSTrainer, "training_step", watch)
    compare(arguments)
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    (cells,) = found["equal_steps"]
    names = {"motion", "random", "scratch"}
    assert cells.keys() == {"0.25", "1.0"} and all(cells[ratio].keys() == names for ratio in cells)
    assert all(len(cell["hits"]) == 8 and cell["seconds"] > 0 for row in cells.values() for cell in row.values())
    assert cells["1.0"]["scratch"]["pretrain_seconds"] == 0 < cells["1.0"]["random"]["pretrain_seconds"]
    assert found["table"] in said and said.count("each of 1 seeds, 8 test videos") == 2
    assert cells["0.25"]["motion"]["gmacs"] < cells["1.0"]["motion"]["gmacs"]
    assert set(seen) == {"pretrain-motion-4", "pretrain-random-4"} | {
        f"finetune-{name}-{ratio}-4" for name in names for ratio in (0.25, 1.0)
    }
    for step in (0, 1):
        assert torch.equal(seen["pretrain-motion-4"][step][1], seen["pretrain-random-4"][step][1])
        clips = [batches[step][1] for cell, batches in seen.items() if cell.startswith("finetune")]
        assert all(torch.equal(clip, clips[0]) for clip in clips)
    before = [seen[f"pretrain-{name}-4"][0][0] for name in ("motion", "random")]
    assert all(torch.equal(before[0][name], before[1][name]) for name in before[0])
    chosen = {
        cell: json.loads((tmp_path / "out" / cell / "config.json").read_text())["token_selection"] for cell in seen
    }
    assert chosen["pretrain-random-4"] == chosen["finetune-random-0.25-4"] == "random"
    assert chosen["finetune-random-1.0-4"] == "none" and chosen["finetune-scratch-0.25-4"] == "motion"

    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    (tmp_path / "out" / "finetune-motion-1.0-4" / "evaluation.json").unlink()
    compare(arguments)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == times
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["equal_steps"] == [cells]
    for other in (["--num_frames", "4"], ["--few_shot", "1"], ["--num_segments", "2"]):
        with pytest.raises(FileExistsError, match="was made by other options, another recipe or other videos"):
            compare([*arguments, *other])


def test_selections_of_the_laboratory_select_in_training_and_in_evaluation(videos, compare, tmp_path, monkeypatch):
    changed = []
    monkeypatch.setitem(SELECTORS, "static", changed.append)
    options = {
        "pretrain_data": videos / "pretrain.csv", "train_data": videos / "train.csv", "test_data": videos / "val.csv",
        "output_dir": tmp_path / "out", "pretrain_steps": 1, "finetune_steps": 1, "num_frames": 8, "frame_stride": 1,
        "image_size": 32, "stage": "pretrain", "recipes": tmp_path,
    }  # fmt: skip
    few = ["--seeds", "4", "--keep_ratios", "0.25"]
    compare([*words(options), *few, "--selections", "pixel", "static"])
    assert [type(model).__name__ for model in changed] == ["VideoMSForPreTraining"]
    scores = {
        cell: json.loads((tmp_path / "out" / cell / "config.json").read_text())["motion_score"]
        for cell in ("pretrain-pixel-4", "finetune-pixel-0.25-4")  # the latter was fine-tuned by motion
    }
    assert list(scores.values()) == ["pixel", "embedding"]
    changed.clear()
    compare([*words(options | {"stage": "finetune", "output_dir": tmp_path / "2"}), *few, "--selections", "static"])
    assert len(changed) == 2, "in training and in evaluation"


def test_stages_differ_in_what_selects(videos, compare, tmp_path, monkeypatch):
    runs = []

    def seconds(options):
        if options["max_steps"] == 6000:
            return 30.0
        return options["max_steps"] * (0.2 if options.get("keep_ratio") == 1 else 0.1)

    globals_ = compare.__globals__
    monkeypatch.setitem(
        globals_,
        "train_once",
        lambda recipe, clips, folder, **options: runs.append(options | {"videos": len(clips)}) or seconds(options),
    )
    report = {"gmacs_per_clip": 1.0, "chance_top1": 0.1, "videos": [{"predicted": 0, "label": 0}] * 2}
    monkeypatch.setitem(globals_, "evaluate_once", lambda *_: report)
    data = {"train_data": videos / "train.csv", "test_data": videos / "val.csv", "output_dir": tmp_path / "out"}
    base = [*words(data), *["--selections", "motion", "tube", "--seeds", "0", "--keep_ratios", "0.3", "1"]]
    compare(base)
    assert [run["selection"] for run in runs] == ["motion", "tube", "none"]
    runs.clear()
    compare([*base, "--stage", "pretrain", f"--pretrain_data={videos / 'pretrain.csv'}"])
    assert [run["selection"] for run in runs] == ["motion", "motion", "tube", "motion", "motion"] + [
        "motion", "none", "tube", "none", "none",
    ]  # fmt: skip
    runs.clear()
    compare([*base, "--stage", "pretrain", f"--pretrain_data={videos / 'pretrain.csv'}", "--equal_time", "true"])
    # Pre-training takes 30 s, 800 steps take 80 s, or 160 s on all tokens; so the slowest cell takes 190 s.
    assert [run["max_steps"] for run in runs if run["max_steps"] not in (800, 6000)] == [1600, 1600, 1900, 950]
    runs.clear()
    compare([*base, "--num_kept_tokens", "13"])
    assert [run["num_kept_tokens"] for run in runs] == [13, 13] and "keep_ratio" not in runs[0]
    runs.clear()
    compare(base[: base.index("--keep_ratios")])
    assert [(run["num_kept_tokens"], run.get("keep_ratio")) for run in runs] == [(76, None)] * 2, "as in the recipe"
    for line, ratio in (("keep_ratio: 1\n", 1), ("", 0.6)):  # all tokens, not one of them; the models' own
        (tmp_path / "recipes").mkdir(exist_ok=True)
        (tmp_path / "recipes" / "finetune.yaml").write_text(f"image_size: 32\n{line}")
        runs.clear()
        compare([*base[: base.index("--keep_ratios")], f"--recipes={tmp_path / 'recipes'}"])
        assert {run["keep_ratio"] for run in runs} == {ratio} and "num_kept_tokens" not in runs[0]
    runs.clear()
    compare([*base, "--few_shot", "1"])
    num_classes = len(read_videos(videos / "train.csv").features["label"].names)
    assert [run["videos"] for run in runs] == [num_classes] * 3
    with pytest.raises(ValueError, match="stage is both, but pretrain_data is not given"):
        compare([*base, "--stage", "both"])


def test_results_of_several_comparisons_become_a_chart_and_tables(tmp_path, monkeypatch, capsys):
    cells = [
        {ratio: {name: {"hits": [True, hit], "gmacs": float(ratio) / 10, "chance": 0.1} for name in names}}
        for hit in (True, False)
        for ratio, names in {"0.3": ["motion", "random"]}.items()
    ]
    for seed, row in enumerate(cells):
        row["1.0"] = {"none": {"hits": [seed == 0, False], "gmacs": 0.1, "chance": 0.1}}
    (tmp_path / "a.json").write_text(json.dumps({"equal_steps": cells}))
    words = [f"One={tmp_path / 'a.json'}", "--plot", str(tmp_path / "a.png")]
    monkeypatch.setattr("sys.argv", ["compared.py", *words])
    runpy.run_path(str(COMPARE.parent / "benchmarks" / "compared.py"))["main"]()
    said = capsys.readouterr().out
    assert "| tokens | GMACs | motion | random | none |" in said and "| 30% | 0.030 | 75.0 (" in said
    assert "| 100% | 0.100 |  |  | 25.0 (" in said and (tmp_path / "a.png").is_file()


def test_the_chart_has_a_curve_for_each_selection(tmp_path):
    pytest.importorskip("matplotlib")
    hits = {ratio: {"motion": np.eye(4)[:2], "random": np.eye(4)[2:]} for ratio in (0.1, 0.3)}
    hits[1.0] = {"none": np.ones((2, 4))}
    panel = Panel("EgoGestAR", hits, {0.1: 0.01, 0.3: 0.03, 1.0: 0.1}, 0.25)
    assert save_chart(draw_panels, tmp_path / "chart.png", [panel, panel]) is None
    with Image.open(tmp_path / "chart.png") as picture:
        assert picture.width > 400
