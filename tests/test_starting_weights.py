"""Weights to start from: what a checkpoint gives, what is newly initialised, and which checkpoints are refused."""

import dataclasses
from itertools import pairwise

import pytest
import torch

from tests.tiny_run import tiny_model
from videoms_hf import VideoMSForPreTraining, VideoMSForVideoClassification, VideoMSModel
from videoms_hf.training import DataArguments, ModelArguments
from videoms_hf.training.starting_weights import classification_model, fold_numbers, pretraining_model


CLIPS = DataArguments(train_data="unused", num_frames=8, image_size=16)


def test_a_classifier_takes_the_encoder_of_a_pretraining_checkpoint_and_says_so(tmp_path):
    source = tiny_model("pretrain")
    source.save_pretrained(tmp_path)
    model_args = ModelArguments(model_name_or_path=str(tmp_path), drop_path_rate=0.1, keep_ratio=0.5)
    model, report = classification_model(model_args, CLIPS, ["walk", "run", "sit down"])
    assert (model.config.id2label[2], model.config.label2id["run"]) == ("sit down", 1)
    assert (model.config.problem_type, model.config.num_labels) == ("single_label_classification", 3)
    assert (model.config.drop_path_rate, model.config.keep_ratio, model.config.mask_ratio) == (0.1, 0.5, 0.8)
    state, origin = model.state_dict(), source.state_dict()
    assert report.new == ["classifier.bias", "classifier.weight", "fc_norm.bias", "fc_norm.weight"]
    assert sorted(report.loaded) == sorted(state.keys() - set(report.new))
    assert all(torch.equal(state[name], origin[name]) for name in report.loaded)
    assert sorted(report.dropped) == sorted(origin.keys() - state.keys())
    assert "videoms.layernorm.weight" in report.dropped and "mask_token" in report.dropped
    assert str(report) == f"Weights of {tmp_path}: {len(report.loaded)} loaded, 4 newly initialised, 23 unexpected"
    assert "videoms.encoder.layer.{0, 1}.output.dense.bias" in report.details()


def test_a_head_is_taken_over_only_if_it_has_as_many_classes(tmp_path):
    source = tiny_model("finetune")
    source.save_pretrained(tmp_path)
    model_args = ModelArguments(model_name_or_path=str(tmp_path))
    model, report = classification_model(model_args, CLIPS, ["a", "b", "c"])
    assert report.new == [] and torch.equal(model.classifier.weight, source.classifier.weight)
    model, report = classification_model(model_args, CLIPS, ["a", "b", "c", "d", "e"])
    assert report.new == ["classifier.bias", "classifier.weight"] and model.classifier.weight.shape == (5, 16)
    assert model.classifier.weight.isfinite().all() and model.config.id2label[4] == "e"
    assert torch.equal(model.fc_norm.weight, source.fc_norm.weight)


def test_weights_without_a_head_come_from_the_bare_model_too(tmp_path):
    VideoMSModel(tiny_model("pretrain").config).save_pretrained(tmp_path)
    _, report = classification_model(ModelArguments(model_name_or_path=str(tmp_path)), CLIPS, ["a", "b"])
    assert report.dropped == ["layernorm.bias", "layernorm.weight"]


def test_a_checkpoint_that_lacks_encoder_weights_is_refused(tmp_path):
    source = tiny_model("pretrain")
    state = source.state_dict()
    del state["videoms.encoder.layer.1.attention.attention.query.bias"]
    source.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match=r"lacks 1 weights .*encoder.layer.1.attention.attention.query.bias"):
        classification_model(ModelArguments(model_name_or_path=str(tmp_path)), CLIPS, ["a", "b"])


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    tiny_model("pretrain").save_pretrained(tmp_path)
    model_args = ModelArguments(model_name_or_path=str(tmp_path), hidden_size=24)
    with pytest.raises(ValueError, match="or has them in another shape: .videoms.embeddings"):
        classification_model(model_args, CLIPS, ["a", "b"])


def test_pretraining_goes_on_from_a_pretraining_checkpoint_only(tmp_path):
    source = tiny_model("pretrain")
    source.save_pretrained(tmp_path / "pretrain")
    model, report = pretraining_model(ModelArguments(model_name_or_path=str(tmp_path / "pretrain")), CLIPS)
    assert isinstance(model, VideoMSForPreTraining) and report.new == report.dropped == []
    tiny_model("finetune").save_pretrained(tmp_path / "finetune")
    with pytest.raises(ValueError, match="lacks .* weights of VideoMSForPreTraining"):
        pretraining_model(ModelArguments(model_name_or_path=str(tmp_path / "finetune")), CLIPS)


def test_from_scratch_there_is_no_report():
    sizes = {"model_size": "small", "num_hidden_layers": 1, "patch_size": 8}
    model_args = ModelArguments(model_name_or_path="", attn_implementation="eager", **sizes)  # as on a command line
    model, report = classification_model(model_args, CLIPS, ["a", "b"])
    assert report is None and isinstance(model, VideoMSForVideoClassification)
    assert (model.config.hidden_size, model.config.num_hidden_layers, model.config.image_size) == (384, 1, 16)
    assert model.config._attn_implementation == "eager"


def test_more_tokens_than_a_clip_has_are_refused_before_the_run():
    model_args = ModelArguments(model_size="small", num_hidden_layers=1, patch_size=8, num_kept_tokens=17)
    with pytest.raises(
        ValueError, match="is 17; it must be from 1 to 16, the tokens of such a clip: give another, or"
    ):
        classification_model(model_args, CLIPS, ["a", "b"])
    assert classification_model(dataclasses.replace(model_args, num_kept_tokens=16), CLIPS, ["a", "b"])


def test_numbers_are_folded_one_at_a_time():
    names = ["a.10.b.1.c", "a.9.b.1.c", "x", "a.2.b"]
    assert fold_numbers(names) == ["a.2.b", "a.{9, 10}.b.1.c", "x"]
    assert all(one < other for one, other in pairwise(fold_numbers(names)))
