"""The benchmarks run on a tiny network and report in their common form."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from videoms_hf import VideoMSConfig, VideoMSModel, configuration_videoms

from .video_files import write_video


FOLDER = Path(__file__).parents[1] / "scripts" / "benchmarks"
NAMES = [path.stem for path in FOLDER.glob("*.py")]


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a benchmark, adds the model size "tiny", and measures in this process."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setitem(configuration_videoms.MODEL_SIZES, "tiny", (32, 1, 2, 24, 2))
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)

    def load(name):
        module = importlib.import_module(name)
        if hasattr(module, "measure_apart"):
            monkeypatch.setattr(module, "measure_apart", importlib.import_module("memory").measure)
        return module

    yield load
    for name in NAMES:
        sys.modules.pop(name, None)


def run(module, folder, *arguments):
    """The report that `module.main` writes."""
    module.main([*arguments, "--output", str(folder / "report.json")])
    report = json.loads((folder / "report.json").read_text())
    assert {"title", "command", "date", "machine", "rows"} <= report.keys() and report["rows"]
    assert report["machine"]["torch"] == torch.__version__
    return report


def test_step_reports_the_speed_up_and_the_gemm_bound_fraction(benchmark, tmp_path, monkeypatch):
    step = benchmark("step")
    monkeypatch.setattr(step, "peak_rate", lambda *_: 1e9)
    report = run(step, tmp_path, "--sizes", "tiny", "--batch", "1", "--repeats", "1", "--device", "cpu")
    assert [row["task"] for row in report["rows"]] == ["pretraining", "classification", "inference"]
    for row in report["rows"]:
        assert row["speed-up"] == pytest.approx(row["videomae s"] / row["videoms s"])
        assert row["GEMM-bound"] > 0
    table = benchmark("tables").section(report)
    assert report["date"] in table and report["command"] in table and "| pretraining | tiny | 1 |" in table


def test_step_finds_all_products_of_a_training_step(benchmark):
    """Compared with torch's own counter, which does not depend on our list of operators."""
    step, contestants = benchmark("step"), benchmark("contestants")
    model = contestants.build("videoms", "pretraining", "tiny", 16, 32)
    clips = torch.randn(1, 16, 3, 32, 32)
    one = contestants.make_step(model, "videoms", "pretraining", clips)
    products = step.Products(one, torch.device("cpu"), torch.float32)
    # 3 visible tokens in one encoder block; 9 kept, of which 6 are queries in the last of four decoder blocks. The
    # CPU's fused attention recomputes its scores in the backward pass.
    recomputed = 3 * 3 * 32 + 3 * 9 * 9 * 24 + 6 * 9 * 24
    assert products.flops == 2 * (model.flops((16, 3, 32, 32), training=True) + recomputed)


def test_memory_grows_with_the_batch(benchmark):
    memory = benchmark("memory")
    one, eight = (
        memory.measure_apart("videoms", "classification", "tiny", batch, 16, 112)["bytes"] for batch in (1, 8)
    )
    assert eight > one + 7 * 16 * 3 * 112 * 112  # more than the clips' change of one byte a value


def test_flops_scaling_and_their_plot(benchmark, tmp_path):
    rows = run(benchmark("flops"), tmp_path, "--sizes", "tiny", "--image_size", "32")["rows"]
    assert all(row["saving"] > 1 for row in rows if row["task"] != "pretraining")
    report = run(
        benchmark("scaling"), tmp_path, "--size", "tiny", "--axes", "keep_ratio", "batch", "--keep_ratio", "0.5",
        "1.0", "--batch", "1", "2", "--image_size", "64", "--device", "cpu", "--plot", str(tmp_path / "plot.png"),
    )  # fmt: skip
    half, whole = report["rows"][:2]
    assert half["videoms GMACs"] < whole["videoms GMACs"]
    assert half["videomae GMACs"] == whole["videomae GMACs"]
    assert report["rows"][3]["videomae GMACs"] == 2 * report["rows"][2]["videomae GMACs"]
    assert len(Image.open(tmp_path / "plot.png").convert("L").getcolors()) > 2  # not an empty picture


def test_end_to_end_trains_on_rendered_videos(benchmark, tmp_path):
    report = run(
        benchmark("end_to_end"), tmp_path, "--size", "tiny", "--workers", "0", "--batch", "2", "--steps", "2",
        "--num_videos", "4", "--video_size", "64", "--image_size", "32", "--device", "cpu",
    )  # fmt: skip
    (row,) = report["rows"]
    assert row["clips/s"] > 0 and 0 < row["waiting"] < 1


def test_selector_compares_the_kept_sets_of_real_files(benchmark, tmp_path):
    fields = {"image_size": 32, "patch_size": 8, "num_frames": 4, "hidden_size": 16, "num_hidden_layers": 1}
    VideoMSModel(VideoMSConfig(**fields, num_attention_heads=2)).save_pretrained(tmp_path / "model")
    for i in range(2):
        write_video(tmp_path / f"{i}.mp4", torch.randint(0, 255, (6, 48, 48, 3), dtype=torch.uint8).numpy())
    selector = benchmark("selector")
    rows = run(selector, tmp_path, str(tmp_path), "--model", str(tmp_path / "model"), "--width", "16")["rows"]
    exact, pixels, _, principal = rows
    assert exact["pre-training mean"] == exact["classification min"] == 1 and exact["clips"] == 2
    assert 0 < pixels["pre-training min"] < 1  # noise: another score must choose other tokens
    assert principal["pre-training min"] == 1  # all 16 directions of a width of 16 are the score itself
    options = ["--frames", "4", "8", "--num_kept_tokens", "8", "--repeats", "1"]
    rows = run(selector, tmp_path, "--model", str(tmp_path / "model"), *options)["rows"]
    assert [(row["frames"], row["tokens"], row["kept"]) for row in rows] == [(4, 32, 8), (8, 64, 8)]
    assert selector.overlap(torch.tensor([3.0, 2, 1, 0]), torch.tensor([3.0, 1, 2, 0]), 0.5) == pytest.approx(1 / 3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_startup_is_measured_in_fresh_processes(benchmark, tmp_path):
    rows = run(benchmark("startup"), tmp_path, "--repeats", "1")["rows"]
    assert all(row["s"] > 0 for row in rows) and rows[-1]["what"] == "speed-up of building"
