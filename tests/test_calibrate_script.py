"""`videoms calibrate`: the share that was asked for, on average, and models that then keep it."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.evaluation_files import save_classifier, write_labelled_videos
from tests.test_training_scripts import words
from videoms_hf import VideoMSForVideoClassification
from videoms_hf.evaluation.classifier import load_encoder


SCRIPTS = Path(__file__).parents[1] / "scripts"


def run(script: str, **options) -> None:
    runpy.run_path(str(SCRIPTS / f"{script}.py"))["main"](words(options))


def test_clips_keep_what_they_need_and_the_mean_is_what_was_asked_for(tmp_path, capsys):
    model, videos = save_classifier(tmp_path / "model"), write_labelled_videos(tmp_path)
    common = {"data": videos, "num_workers": 0, "num_segments": 3}
    limits = {"min_keep_ratio": 0.2, "max_keep_ratio": 0.9}
    run("calibrate", model=model, output_dir=tmp_path / "adaptive", keep_ratio=0.5, batch_size=2, **common, **limits)
    assert "of the tokens\nof 15 clips" in capsys.readouterr().out
    config = VideoMSForVideoClassification.from_pretrained(tmp_path / "adaptive").config
    assert (config.keep_ratio, config.min_keep_ratio, config.max_keep_ratio) == (0.5, 0.2, 0.9)
    reports = {}
    for batch in (1, 4):
        folder = tmp_path / f"evaluation{batch}"
        run("evaluate_model", model=tmp_path / "adaptive", output_dir=folder, num_crops=1, batch_size=batch, **common)
        reports[batch] = json.loads((folder / "evaluation.json").read_text())
    report = reports[4]
    assert 0.45 * 64 < report["mean_kept_tokens"] <= 0.5 * 64
    assert "tokens per clip on average, from" in capsys.readouterr().out
    plain = VideoMSForVideoClassification.from_pretrained(model)
    assert report["gflops_per_clip"] == pytest.approx(plain.flops(keep_ratio=0.5) / 1e9, rel=0.2)
    for one, four in zip(reports[1]["videos"], report["videos"], strict=True):
        np.testing.assert_allclose(one["probabilities"], four["probabilities"], rtol=1e-4)
    with pytest.raises(ValueError, match="give a keep_ratio"):
        run("extract_features", model=tmp_path / "adaptive", output_dir=tmp_path / "features", **common)
    fixed = load_encoder(str(tmp_path / "adaptive"), keep_ratio=0.5)
    assert fixed(torch.randn(1, 8, 3, 32, 32)).num_kept is None


def test_shares_and_folders_that_cannot_be_are_refused(tmp_path):
    (tmp_path / "file").touch()
    for options, message in (
        ({"keep_ratio": 0.05}, "keep_ratio is 0.05; it must lie between min_keep_ratio 0.1"),
        ({"keep_ratio": 0.3, "output_dir": tmp_path}, "which is not empty"),
    ):
        with pytest.raises(ValueError, match=message):
            run("calibrate", model="any", data="any", **options)
