"""Reports of training and evaluation: their numbers equal counts by hand, and a chart never stops a run."""

import base64
import json
import re
import runpy
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from tests.evaluation_files import save_classifier, write_labelled_videos
from tests.tiny_run import tiny_trainer
from videoms_hf import VideoMSForPreTraining, VideoMSForVideoClassification
from videoms_hf.evaluation.results import class_lines, class_table, confusion_matrix, mistakes
from videoms_hf.hub import write_card
from videoms_hf.training.reporting import StepMeter, write_training_log
from videoms_hf.visualization.charts import draw_confusions, draw_ratios, draw_training, save_chart


SCRIPT = Path(__file__).parents[1] / "scripts" / "evaluate_model.py"


def report_of(pairs, class_names) -> dict:
    """What tables need of an evaluation; `pairs` of true and predicted classes, each less certain than the last."""
    videos = []
    for i, (label, predicted) in enumerate(pairs):
        probabilities = [0.0] * len(class_names)
        probabilities[predicted] = 0.9 - 0.1 * i
        videos.append({"video": f"{i}.mp4", "label": label, "predicted": predicted, "probabilities": probabilities})
    return {"class_names": list(class_names), "videos": videos}


REPORT = report_of([(0, 0), (0, 1), (2, 1), (0, 1), (2, 2), (1, 1)], ["hop", "spin", "wave", "never seen"])


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [VideoMSForVideoClassification, VideoMSForPreTraining])
def test_the_share_of_motion_in_kept_tokens_is_counted(tiny_config, cls):
    model = cls(tiny_config(pretraining_keep_ratio=0.5, mask_ratio=0.8)).eval()
    meter, shares = StepMeter(), []
    for _ in range(3):
        outputs = model(torch.randn(2, 8, 3, 32, 32))
        meter.count(outputs, 2)
        kept = 0.0
        for i in range(2):
            ids = [
                ids[i].tolist()
                for ids in (outputs.kept_ids, outputs.visible_ids, outputs.target_ids)
                if ids is not None
            ]
            kept += sum(outputs.importance[i, token].item() for part in ids for token in part)
        shares.append(kept / outputs.importance.sum().item())
    assert meter.read(1, lambda value: value)["kept_motion_share"] == pytest.approx(np.mean(shares), abs=1e-4)


def test_the_training_log_has_curves_next_to_it_and_in_the_card(tmp_path):
    trainer = tiny_trainer("finetune", tmp_path, num_train_epochs=1, save_strategy="no")
    trainer.train()
    write_training_log(trainer)
    log = json.loads((tmp_path / "training_log.json").read_text())["log_history"]
    entry = log[0]
    assert entry["lowest_learning_rate"] == pytest.approx(entry["learning_rate"] * 0.75**3)  # of 2 blocks
    with Image.open(tmp_path / "training_log.png") as picture:
        assert picture.width > 800
    figure = Figure()
    draw_training(figure, log)
    panels = {axis.get_title(loc="left") or axis.get_title(): axis for axis in figure.axes}
    assert list(panels) == [
        "Loss",
        "Accuracy, %",
        "Learning rate",
        "Gradient norm",
        "Motion in the 38 kept tokens, %",
        "Mean motion importance",
    ]
    training, validation = (line.get_xydata().tolist() for line in panels["Loss"].lines)
    assert training == [[entry["step"], entry["loss"]] for entry in log if "loss" in entry]
    assert validation == [[entry["step"], entry["eval_loss"]] for entry in log if "eval_loss" in entry]
    top1 = panels["Accuracy, %"].lines[0].get_ydata().tolist()
    assert top1 == [100 * entry["eval_top1"] for entry in log if "eval_top1" in entry]

    trainer.save_model()
    card = write_card(tmp_path).read_text()
    assert card.count("](training_log.png)") == 1
    (tmp_path / "training_log.png").unlink()
    assert "training_log.png" not in write_card(tmp_path).read_text()


def test_without_matplotlib_a_run_says_how_to_get_it_and_goes_on(tmp_path, monkeypatch, caplog):
    trainer = tiny_trainer("pretrain", tmp_path, max_steps=1, save_strategy="no", eval_strategy="no")
    trainer.train()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write_training_log(trainer)
    assert (tmp_path / "training_log.json").exists() and not (tmp_path / "training_log.png").exists()
    (said,) = [record.message for record in caplog.records if "matplotlib" in record.message]
    assert said.endswith("matplotlib is not installed: pip install matplotlib") and "\n" not in said


# --- evaluation ------------------------------------------------------------------------------------------------------


def test_confusions_and_the_class_table_equal_counts_by_hand():
    assert confusion_matrix(REPORT).tolist() == [[1, 2, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    table = class_table(REPORT)
    assert [row["class"] for row in table] == ["hop", "wave", "spin"]  # the worst confusion first
    assert table[0] == {
        "class": "hop",
        "videos": 3,
        "top1": pytest.approx(1 / 3),
        "taken_for": "spin",
        "times": 2,
        "examples": ["1.mp4", "3.mp4"],  # the more confident first
    }
    assert (table[2]["taken_for"], table[2]["times"], table[2]["examples"]) == (None, 0, [])
    assert [video["video"] for video in mistakes(REPORT)] == ["1.mp4", "2.mp4", "3.mp4"]
    lines = class_lines(table, limit=1).splitlines()
    assert len(lines) == 3 and re.search(r"hop +3 +33\.3% +spin \(2, for example 1\.mp4\)", lines[1])
    assert lines[2] == "and 1 more classes"
    assert class_lines(class_table(report_of([(0, 0)], ["a"]))) == "no class was taken for another"


@pytest.mark.parametrize("num_classes", [2, 40, 400])
def test_a_confusion_matrix_of_any_size_is_drawn(num_classes, tmp_path):
    counts = np.random.default_rng(0).integers(0, 3, (num_classes, num_classes))
    names = [f"class $ {i} of a long name {'x' * 30}" for i in range(num_classes)]
    assert save_chart(draw_confusions, tmp_path / "a.png", counts, names) is None
    with Image.open(tmp_path / "a.png") as picture:
        assert 300 < picture.width < 2200


def test_the_chart_of_keep_ratios_is_in_their_order():
    rows = [
        {
            "keep_ratio": ratio,
            "video_top1": top1,
            "video_top1_low": 0.1,
            "video_top1_high": 0.9,
            "gflops_per_clip": 1.0,
        }
        for ratio, top1 in ((0.6, 0.5), (0.2, 0.4), (1.0, 0.6))
    ]
    figure = Figure()
    draw_ratios(figure, rows, chance=0.25)
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[20, 40], [60, 50], [100, 60]]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> tuple[Path, Path, Path]:
    """Model, list, and the folder of an evaluation at three keep ratios; classes have names that HTML would read."""
    folder = tmp_path_factory.mktemp("evaluation")
    model = save_classifier(folder / "model", names=["<b>wave", "hop & jump", "spin"])
    videos = write_labelled_videos(folder)
    evaluate(model, videos, folder / "out", keep_ratio=["0.25", "0.6", "1.0"])
    return model, videos, folder / "out"


def evaluate(model, videos, folder, keep_ratio=(), **options) -> dict:
    options = {"model": model, "data": videos, "output_dir": folder, "num_segments": 2, "num_crops": 1} | options
    words = [f"--{name}={value}" for name, value in ({"num_workers": 0, "batch_size": 4} | options).items()]
    runpy.run_path(str(SCRIPT))["main"]([*words, *(["--keep_ratio", *keep_ratio] if keep_ratio else [])])
    return json.loads((folder / "evaluation.json").read_text())


def test_several_keep_ratios_in_one_run_give_what_single_runs_give(evaluated, tmp_path):
    model, videos, folder = evaluated
    report = json.loads((folder / "evaluation.json").read_text())
    assert [row["keep_ratio"] for row in report["keep_ratios"]] == [0.25, 0.6, 1.0] and report["keep_ratio"] == 0.25
    for row in report["keep_ratios"]:
        alone = evaluate(model, videos, tmp_path / f"{row['keep_ratio']}", [str(row["keep_ratio"])], num_mistakes=0)
        assert {name: row[name] for name in alone["accuracies"]} == alone["accuracies"]
        assert row["gflops_per_clip"] == alone["gflops_per_clip"] and "keep_ratios" not in alone
        if row["keep_ratio"] == 0.25:
            assert report["videos"] == alone["videos"] and report["class_table"] == alone["class_table"]
        assert not (tmp_path / f"{row['keep_ratio']}" / "mistakes.html").exists()


def test_videos_are_decoded_once_for_all_keep_ratios(evaluated, tmp_path, monkeypatch):
    from videoms_hf.data.dataset import ViewDataset

    model, videos, _ = evaluated
    decoded, decode = [], ViewDataset._decode
    monkeypatch.setattr(
        ViewDataset, "_decode", lambda self, video, parts: decoded.append(video.name) or decode(self, video, parts)
    )
    evaluate(model, videos, tmp_path, ["0.3", "0.6", "1.0"], num_mistakes=0, batch_size=2)
    assert len(decoded) == len(set(decoded)) == 5


def test_the_page_of_mistakes_holds_everything_in_itself(evaluated):
    *_, folder = evaluated
    report = json.loads((folder / "evaluation.json").read_text())
    page = (folder / "mistakes.html").read_text()
    wrong = mistakes(report)
    assert wrong and page.count('<div class="card">') == len(wrong)
    assert not re.search(r"(src|href)=\"(?!data:)", page) and "<script" not in page and "<b>wave" not in page
    assert "&lt;b&gt;wave" in page and page.count("<tr>") == 1 + len(report["class_table"])
    images = [base64.b64decode(data) for data in re.findall(r"data:image/webp;base64,([^\"]+)", page)]
    assert len(images) == len(wrong)
    frames = [Image.open(BytesIO(image)).n_frames for image in images]
    assert max(frames) == 8 and min(frames) > 1  # equal frames are one: short videos repeat their last
    names = [Path(video["video"]).name for video in wrong]
    assert re.findall(r'<div class="name">.*?(clip \d\.mp4)</div>', page) == names
    for name in ("confusion.png", "keep_ratios.png"):
        with Image.open(folder / name) as picture:
            assert picture.width > 300
