"""The head that starts as a linear probe: exact, the same on every process, from any weights."""

import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from tests import test_training_scripts
from tests.processes import run_torchrun
from tests.test_training_scripts import SCRIPTS, TINY, script, words
from tests.tiny_run import tiny_model
from videoms_hf import VideoMSForVideoClassification
from videoms_hf.data.shards import Shards
from videoms_hf.evaluation.probing import PENALTIES, ridge_probe
from videoms_hf.training import head_init, init_head
from videoms_hf.training.head_init import set_head


videos, pretrained = test_training_scripts.videos, test_training_scripts.pretrained  # fixtures


@pytest.fixture
def lists(videos):
    # At this rate the weights stay as they are: what is saved at the end is the head of step 0.
    files = {"train_data": videos / "train.csv", "eval_data": videos / "val.csv"}
    return files | {"head_init": "linear_probe", "learning_rate": 1e-12, "num_train_epochs": 1}


def labelled(num_clips, num_classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_clips) % num_classes
    middles = torch.randn(num_classes, 12, generator=generator)
    return middles[labels] + torch.randn(num_clips, 12, generator=generator), labels


def ridge(features, targets, penalty):
    """Weights and bias of the ridge with a free bias, from the normal equations."""
    ones = torch.cat([features, torch.ones(len(features), 1, dtype=features.dtype)], dim=1)
    penalties = torch.full((ones.shape[1],), penalty * len(features), dtype=features.dtype)
    penalties[-1] = 0
    return torch.linalg.solve(ones.T @ ones + penalties.diag(), ones.T @ targets), ones


def test_the_head_is_the_ridge_and_its_left_out_scores_are_those_of_heads_without_the_clip():
    features, labels = labelled(20, 3)
    targets = F.one_hot(labels, 3).double()
    head = ridge_probe(features, targets, "regression")
    standard = (features.double() - head.mean) / head.deviation
    scores = head.logits(features)
    fits = {penalty: ridge(standard, targets, penalty) for penalty in PENALTIES}
    errors = {penalty: (ones @ solution - scores).abs().max() for penalty, (solution, ones) in fits.items()}
    penalty = min(errors, key=errors.get)
    assert errors[penalty] < 1e-9
    for i in range(20):
        others = torch.arange(20) != i
        ones = torch.cat([standard[others], torch.ones(19, 1, dtype=torch.float64)], dim=1)
        penalties = torch.tensor([penalty * 20] * 12 + [0], dtype=torch.float64).diag()  # the same as with all clips
        solution = torch.linalg.solve(ones.T @ ones + penalties, ones.T @ targets[others])
        shift = targets.mean(dim=0) - targets[others].mean(dim=0)  # left-out scores have the mean of all targets
        torch.testing.assert_close(standard[i] @ solution[:-1] + solution[-1] + shift, head.left_out[i])


def test_left_out_scores_are_at_chance_where_features_tell_nothing():
    """Whose class is rarer without it would be told from the others by less than chance."""
    features, labels = torch.randn(60, 200, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 10
    right = ridge_probe(features, F.one_hot(labels, 10)).left_out.argmax(dim=1) == labels
    assert 0.02 < right.double().mean() < 0.22


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression"])
def test_the_model_gives_the_probes_logits_to_rounding(problem):
    model = tiny_model("finetune", num_labels=5, problem_type=problem).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.fc_norm.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    clips = torch.randn(30, 8, 3, 16, 16, generator=generator)
    with torch.no_grad():
        features = model.fc_norm(model.videoms.get_clip_features(clips))
    targets = torch.rand(30, 5, generator=generator)
    targets = targets.round() if problem.startswith("multi") else targets
    head = ridge_probe(
        features, targets / targets.sum(1, keepdim=True) if problem.startswith("single") else targets, problem
    )
    set_head(model, head)
    expected = head.logits(features)
    with torch.no_grad():
        torch.testing.assert_close(model(clips).logits.double(), expected, atol=2e-5, rtol=2e-5)


def test_constant_features_classes_without_clips_and_more_classes_than_clips_do_no_harm():
    features, labels = labelled(40, 30)
    features[:, 3] = 7.0
    head = ridge_probe(features, F.one_hot(labels, 400))
    assert all(value.isfinite().all() for value in head)
    scores = head.logits(features)
    assert scores[:, 30:].max() < scores[:, :30].max() and head.weight.abs().max() < 1e3


def test_a_penalty_that_is_given_is_the_penalty():
    features, labels = labelled(20, 3)
    targets = F.one_hot(labels, 3).double()
    head = ridge_probe(features, targets, "regression", penalty=7.0)
    standard = (features.double() - head.mean) / head.deviation
    solution, _ = ridge(standard, targets, 7.0 / 20)
    torch.testing.assert_close(head.weight, solution[:-1].T)


def videomae(folder):
    sizes = {"image_size": 32, "patch_size": 8, "num_frames": 8, "tubelet_size": 2, "hidden_size": 16}
    encoder = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    decoder = {f"decoder_{name}": value for name, value in (encoder | {"hidden_size": 12}).items()}
    VideoMAEForPreTraining(VideoMAEConfig(**sizes, **encoder, **decoder, norm_pix_loss=True)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("weights", ["random", "videoms", "videomae"])
def test_fine_tuning_starts_from_the_probe(weights, lists, pretrained, tmp_path, capsys):
    source = {"random": "", "videoms": pretrained, "videomae": tmp_path / "videomae"}[weights]
    if weights == "videomae":
        videomae(source)
    script("finetune", **lists, model_name_or_path=source, mixup=0.8, output_dir=tmp_path / "run")
    said = capsys.readouterr().out
    assert "The head starts from a linear probe of 16 training clips. It gets " in said
    history = json.loads((tmp_path / "run" / "training_log.json").read_text())["log_history"]
    assert history[0]["step"] == 0 and {"eval_loss", "eval_top1"} <= history[0].keys()
    assert history[0]["eval_loss"] == pytest.approx(history[-1]["eval_loss"], rel=1e-4)
    model = VideoMSForVideoClassification.from_pretrained(tmp_path / "run")
    assert model.classifier.weight.abs().max() > 1e-3 and (model.fc_norm.weight == 1).all()


def test_a_large_data_set_gives_a_bounded_number_of_clips(lists, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(head_init, "MAX_CLIPS", 10)
    script("finetune", **lists, output_dir=tmp_path / "run")
    assert "a linear probe of 10 training clips" in capsys.readouterr().out


def test_a_resumed_run_keeps_its_head(lists, tmp_path, capsys, monkeypatch):
    options = lists | {"output_dir": tmp_path / "run", "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    script("finetune", **options)
    monkeypatch.setattr(head_init, "ridge_probe", lambda *_: pytest.fail("the head was fitted again"))
    script("finetune", **options)
    assert "linear probe" in capsys.readouterr().out


def test_every_process_starts_from_the_head_of_one(lists, tmp_path):
    found = {}
    for processes, batch in ((1, 4), (2, 2)):
        options = TINY | lists | {"per_device_train_batch_size": batch, "output_dir": tmp_path / str(processes)}
        done = run_torchrun([SCRIPTS / "finetune.py", *words(options)], processes)
        assert done.stdout.count("a linear probe of 16 training clips") == 1
        found[processes] = load_file(tmp_path / str(processes) / "model.safetensors")
    for name, value in found[1].items():
        torch.testing.assert_close(found[2][name], value, atol=1e-5, rtol=1e-4)


def test_one_clip_is_too_few():
    with pytest.raises(ValueError, match="fitted to 1 clips; there must be at least 2"):
        ridge_probe(torch.randn(1, 4), torch.ones(1, 1))


def test_streams_and_regression_are_refused(lists, tmp_path):
    trainer = SimpleNamespace(
        bare_model=lambda: tiny_model("finetune"),
        args=SimpleNamespace(resume_from_checkpoint=None, output_dir=tmp_path),
    )
    with pytest.raises(ValueError, match="a stream is read in its own order"):
        init_head(trainer, Shards.__new__(Shards), None, print)
    trainer.bare_model = lambda: tiny_model("finetune", problem_type="regression")
    with pytest.raises(ValueError, match="problem_type is regression and labels are class numbers"):
        init_head(trainer, None, None, print)
