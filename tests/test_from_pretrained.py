"""`from_pretrained` and fine-tuning on what other programs saved: whole, or refused with what to do."""

import json
import os
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForVideoClassification,
    VideoMAEConfig,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
    VideoMAEModel,
    ViTConfig,
)

from tests.processes import run_program
from videoms_hf import VideoMSForPreTraining, VideoMSForVideoClassification, VideoMSModel
from videoms_hf.experiments.synthetic import render_motion_dataset
from videoms_hf.training import DataArguments, ModelArguments
from videoms_hf.training.starting_weights import classification_model, pretraining_model

from .conftest import randomize
from .hub_server import Repository, Stored, running_hub
from .official_files import official_state


OURS = [VideoMSModel, VideoMSForPreTraining, VideoMSForVideoClassification]
CLIPS = DataArguments(train_data="unused", num_frames=8, image_size=16)


def videomae(cls, **fields):
    sizes = {"image_size": 32, "patch_size": 8, "num_frames": 8, "hidden_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "decoder_num_attention_heads": 3}
    decoder = {"decoder_hidden_size": 12, "decoder_num_hidden_layers": 2, "decoder_intermediate_size": 20}
    return randomize(cls(VideoMAEConfig(intermediate_size=24, **sizes, **heads, **decoder, **fields))).eval()


# --- from_pretrained ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ours", OURS)
@pytest.mark.parametrize("theirs", [VideoMAEModel, VideoMAEForPreTraining, VideoMAEForVideoClassification])
def test_videomae_is_refused_with_the_command_that_converts_it(tmp_path, ours, theirs):
    videomae(theirs).save_pretrained(tmp_path)
    command = f"pip install videoms_hf, then videoms convert --checkpoint {tmp_path} --output_dir"
    with pytest.raises(ValueError, match=command):
        ours.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=command):  # whatever the configuration
        ours.from_pretrained(tmp_path, config=ours.config_class(), ignore_mismatched_sizes=True)


def test_weights_of_videomae_under_our_configuration_are_refused_too(tmp_path, tiny_config):
    state = videomae(VideoMAEForVideoClassification).state_dict()
    VideoMSForVideoClassification(tiny_config()).save_pretrained(tmp_path)
    for names in (
        state,
        {
            name.replace("videomae.", "videoms.").replace("query.bias", "q_bias"): value
            for name, value in state.items()
        },
        official_state("classification"),
        official_state("pretraining"),
    ):
        save_file(
            {name: value.clone() for name, value in names.items()}, tmp_path / "model.safetensors", {"format": "pt"}
        )
        with pytest.raises(ValueError, match=r"parameters with other names.*videoms convert --checkpoint"):
            VideoMSForVideoClassification.from_pretrained(tmp_path, ignore_mismatched_sizes=True)


def test_transformers_own_class_still_takes_videomae(tmp_path):
    videomae(VideoMAEForVideoClassification).save_pretrained(tmp_path)
    assert type(AutoModelForVideoClassification.from_pretrained(tmp_path)) is VideoMAEForVideoClassification


def test_another_kind_of_model_is_refused(tmp_path):
    ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a 'vit' model; it must be a 'videoms' one"):
        VideoMSModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("ours", OURS)
def test_a_name_finds_the_local_folder_of_that_name(tmp_path, monkeypatch, tiny_config, ours):
    monkeypatch.chdir(tmp_path)
    saved = randomize(ours(tiny_config()))
    saved.save_pretrained("videoms-vit-b-ucf101")
    loaded, report = ours.from_pretrained("videoms-vit-b-ucf101", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in saved.state_dict().items())


@pytest.mark.parametrize("ours", OURS)
def test_a_name_without_folder_says_what_the_hub_needs_and_how_to_make_the_folder(tmp_path, monkeypatch, ours):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError) as error:
        ours.from_pretrained("videoms-vit-b-hmdb51")
    said = str(error.value)
    assert "no folder 'videoms-vit-b-hmdb51'" in said and "owner/videoms-vit-b-hmdb51" in said
    assert "videoms convert --checkpoint checkpoint.pth --output_dir videoms-vit-b-hmdb51 --labels" in said


def test_a_classifier_still_starts_from_a_pretraining_folder(tmp_path, tiny_config):
    VideoMSForPreTraining(tiny_config()).save_pretrained(tmp_path)
    _, report = VideoMSForVideoClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert sorted(report["missing_keys"]) == ["classifier.bias", "classifier.weight", "fc_norm.bias", "fc_norm.weight"]


@pytest.mark.parametrize("has_field", [True, False])
def test_a_classifiers_folder_gives_its_own_features(tmp_path, tiny_config, has_field):
    classifier = randomize(VideoMSForVideoClassification(tiny_config())).eval()
    classifier.save_pretrained(tmp_path / "classifier")
    if not has_field:  # as it was written before `final_norm`
        path = tmp_path / "classifier" / "config.json"
        fields = json.loads(path.read_text())
        assert fields.pop("final_norm") is False
        path.write_text(json.dumps(fields))
    pixels = torch.randn(2, 8, 3, 32, 32)
    wanted = classifier.videoms(pixels).last_hidden_state
    for source in ("classifier", "encoder"):
        encoder, report = VideoMSModel.from_pretrained(tmp_path / source, output_loading_info=True)
        assert not report["missing_keys"] and encoder.layernorm is None
        torch.testing.assert_close(encoder.eval()(pixels).last_hidden_state, wanted)
        encoder.save_pretrained(tmp_path / "encoder")


# --- fine-tuning ----------------------------------------------------------------------------------------------------


def encoder_of(theirs):
    """Its encoder's weights by our names, without using the conversion.

    Biases of keys, which transformers has up to 5.17, are without effect and left out.
    """
    prefix = "" if isinstance(theirs, VideoMAEModel) else "videomae."
    state = theirs.state_dict()
    parts = ("embeddings.", "encoder.")
    return {
        f"videoms.{name.removeprefix(prefix)}": value
        for name, value in state.items()
        if name.startswith(prefix) and name.removeprefix(prefix).startswith(parts) and not name.endswith("key.bias")
    }


@pytest.mark.parametrize(
    "theirs, fields, num_classes, new, num_dropped",
    [
        (VideoMAEForPreTraining, {"use_mean_pooling": False}, 3, 4, 38),
        (VideoMAEForPreTraining, {"use_mean_pooling": True}, 3, 4, 36),
        (VideoMAEForPreTraining, {"qkv_bias": False}, 3, 4, 36),
        (VideoMAEForVideoClassification, {"num_labels": 3}, 3, 0, 0),
        (VideoMAEForVideoClassification, {"num_labels": 5}, 3, 2, 2),
        (VideoMAEForVideoClassification, {"num_labels": 3, "use_mean_pooling": False}, 3, 4, 4),
        (VideoMAEModel, {"use_mean_pooling": True}, 3, 4, 0),
        (VideoMAEModel, {"use_mean_pooling": False}, 3, 4, 2),
    ],
)
def test_fine_tuning_starts_from_any_videomae_with_selection_on(
    tmp_path, theirs, fields, num_classes, new, num_dropped
):
    source = videomae(theirs, **fields)
    source.save_pretrained(tmp_path)
    model_args = ModelArguments(model_name_or_path=str(tmp_path), drop_path_rate=0.1)
    model, report = classification_model(model_args, CLIPS, list("abc")[:num_classes])
    assert model.config.token_selection == "motion" and model.config.keep_ratio == 0.6
    assert (model.config.num_frames, model.config.image_size, model.config.num_attention_heads) == (8, 16, 2)
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"} and model.config.drop_path_rate == 0.1
    state, encoder = model.state_dict(), encoder_of(source)
    assert len(encoder) == 2 + 2 * (13 if "qkv_bias" in fields else 15) and all(
        torch.equal(state[name], value) for name, value in encoder.items()
    )
    dropped = [name for name in report.dropped if not name.endswith("key.bias")]
    assert len(report.new) == new and len(dropped) == num_dropped
    assert {*report.loaded} | {*report.new} == {*state} and not {*report.loaded} & {*report.new}
    assert report.source == str(tmp_path)
    outputs = model(torch.randn(1, 8, 3, 16, 16))
    assert outputs.kept_ids.shape == (1, 9) and outputs.logits.isfinite().all()  # floor(0.6 * 16)


def test_fine_tuning_starts_from_an_official_file(tmp_path):
    state = official_state("pretraining")
    torch.save({"model": state}, tmp_path / "checkpoint.pth")
    arguments = {"model_name_or_path": str(tmp_path / "checkpoint.pth"), "num_attention_heads": 2}
    model, report = classification_model(ModelArguments(**arguments, decoder_num_attention_heads=3), CLIPS, ["a", "b"])
    weight = model.videoms.encoder.layer[1].output.dense.weight
    assert torch.equal(weight, state["encoder.blocks.1.mlp.fc2.weight"])
    assert report.new == ["classifier.bias", "classifier.weight", "fc_norm.bias", "fc_norm.weight"]
    kept = {name for name in state if name.startswith(("encoder.blocks", "encoder.patch_embed"))}
    assert {*report.dropped} == state.keys() - kept


@pytest.mark.parametrize("pools", [True, False])
def test_pretraining_goes_on_from_a_whole_videomae_only(tmp_path, pools):
    source = videomae(VideoMAEForPreTraining, use_mean_pooling=pools)
    source.save_pretrained(tmp_path / "whole")
    model, report = pretraining_model(ModelArguments(model_name_or_path=str(tmp_path / "whole")), CLIPS)
    assert report.new == [] and all(name.endswith("key.bias") for name in report.dropped)
    assert model.config.token_selection == "motion"
    assert torch.equal(model.mask_token, source.mask_token)
    videomae(VideoMAEForVideoClassification).save_pretrained(tmp_path / "classifier")
    with pytest.raises(ValueError, match=r"cannot start a VideoMSForPreTraining: (.|\n)*mask_token"):
        pretraining_model(ModelArguments(model_name_or_path=str(tmp_path / "classifier")), CLIPS)


def test_a_videomae_that_lacks_encoder_weights_is_no_start(tmp_path):
    videomae(VideoMAEForPreTraining).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in state if re.search(r"encoder.layer.1.attention.attention.(query.bias|q_bias)", name))
    del state[lost]
    state["videomae.encoder.layer.1.gamma"] = torch.zeros(16)
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError) as error:
        classification_model(ModelArguments(model_name_or_path=str(tmp_path)), CLIPS, ["a", "b"])
    assert "videomae.encoder.layer.1.attention.attention.query.bias" in str(error.value)
    assert "videomae.encoder.layer.1.gamma" in str(error.value)
    videomae(VideoMAEForVideoClassification, num_labels=2).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["fc_norm.bias"]  # an incomplete head
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"missing \(1\): fc_norm.bias$"):
        classification_model(ModelArguments(model_name_or_path=str(tmp_path)), CLIPS, ["a", "b"])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vivit"}))
    with pytest.raises(ValueError, match="is a 'vivit' model"):
        classification_model(ModelArguments(model_name_or_path=str(tmp_path)), CLIPS, ["a", "b"])


def test_the_fine_tuning_script_takes_a_videomae_in_one_line(tmp_path, capsys):
    data = render_motion_dataset(tmp_path / "data", num_train=8, num_val=8, num_test=1, image_size=40, num_frames=12)
    source = videomae(VideoMAEForPreTraining, use_mean_pooling=False)
    source.save_pretrained(tmp_path / "videomae")
    options = {"num_train_epochs": 1, "per_device_train_batch_size": 4, "base_learning_rate": 1e-9, "warmup_epochs": 0}
    options |= {"num_frames": 8, "frame_stride": 1, "image_size": 32, "use_cpu": True, "dataloader_num_workers": 0}
    options |= {"train_data": data / "train.csv", "output_dir": tmp_path / "run"}
    words = [f"--{name}={value}" for name, value in options.items()]
    finetune = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "finetune.py"))["main"]
    finetune([f"--model_name_or_path={tmp_path / 'videomae'}", *words])
    said = capsys.readouterr().out
    assert f"Weights of {tmp_path / 'videomae'}: 32 loaded, 4 newly initialised, " in said
    model = VideoMSForVideoClassification.from_pretrained(tmp_path / "run")
    assert model.config.token_selection == "motion" and model.config.num_labels == 8
    for name, value in encoder_of(source).items():  # at that rate next to nothing changes
        torch.testing.assert_close(model.state_dict()[name], value, atol=1e-6, rtol=0)


HUB_JOB = """
import contextlib, io, json, runpy, sys
import torch
from videoms_hf import VideoMSForVideoClassification
from videoms_hf.experiments.synthetic import render_motion_dataset
from videoms_hf.command_line import run
from videoms_hf.training import DataArguments, ModelArguments
from videoms_hf.training.starting_weights import classification_model

scripts, folder, result = sys.argv[1:]
main = runpy.run_path(scripts + "/convert_checkpoint.py")["main"]
convert = lambda words: run(main, words)
words = ["--checkpoint", "someone/videomae-tiny", "--output_dir", folder]
with contextlib.redirect_stderr(io.StringIO()) as lost:
    found = {"code": convert(words), "lost": convert([words[0], "someone/nothing", words[2], folder + "-none"])}
found["said"] = lost.getvalue()
try:
    VideoMSForVideoClassification.from_pretrained("someone/videomae-tiny")
except ValueError as error:
    found["refusal"] = str(error)
clips = DataArguments(train_data="unused", num_frames=8, image_size=32)
model_args = ModelArguments(model_name_or_path="someone/videomae-tiny")
found["weight"] = classification_model(model_args, clips, ["a", "b"])[0].videoms.encoder.layer[1].output.dense.weight
torch.save(found, result)
"""


@pytest.mark.slow
def test_a_videomae_on_the_hub_is_converted_refused_and_fine_tuned_by_its_name(tmp_path):
    source = videomae(VideoMAEForVideoClassification)
    source.save_pretrained(tmp_path / "videomae", max_shard_size="20KB")
    files = {
        path.name: Stored(path.read_bytes(), path.suffix == ".safetensors") for path in tmp_path.glob("videomae/*")
    }
    with running_hub() as hub:
        hub.repositories["someone/videomae-tiny"] = Repository()
        hub.repositories["someone/videomae-tiny"].add(files)
        settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
        root = Path(__file__).parents[1]
        words = [str(root / "scripts"), str(tmp_path / "ours"), str(tmp_path / "result")]
        done = run_program([sys.executable, "-c", HUB_JOB, *words], env=os.environ | settings, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / "result")
    assert (found["code"], found["lost"]) == (0, 2)
    assert "there is no checkpoint someone/nothing" in found["said"]
    assert "--checkpoint someone/videomae-tiny" in found["refusal"]
    assert torch.equal(found["weight"], source.videomae.encoder.layer[1].output.dense.weight)
    model, pixels = VideoMSForVideoClassification.from_pretrained(tmp_path / "ours"), torch.randn(1, 8, 3, 32, 32)
    torch.testing.assert_close(model(pixels).logits, source(pixels).logits, rtol=1e-3, atol=1e-4)
    card = ModelCard.load(tmp_path / "ours" / "README.md")
    assert card.data.base_model == "someone/videomae-tiny" and "`someone/videomae-tiny`" in card.text
