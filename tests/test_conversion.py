"""State dicts of other programs: every name accounted for, every size inferred, whatever is wrong named in full."""

import argparse
import json
import os
import pickle
import re

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models.video import Swin3D_T_Weights
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from videoms_hf import VideoMSConfig, VideoMSForPreTraining, VideoMSForVideoClassification
from videoms_hf.conversion import Checkpoint, convert_checkpoint, read_checkpoint
from videoms_hf.conversion.models import build_config, wanted_shapes
from videoms_hf.conversion.state_dict import (
    checkpoint_kind,
    convert,
    infer_heads,
    infer_sizes,
    our_names,
    to_official,
)
from videoms_hf.data.tables import known_dataset, read_labels

from .conftest import randomize
from .official_files import official_state


OPTIONS = {"num_frames": 8, "image_size": 32, "num_attention_heads": 2, "decoder_num_attention_heads": 3}
KINDS = {"pretraining": VideoMSForPreTraining, "classification": VideoMSForVideoClassification}


def convert_official(state):
    return convert_checkpoint(Checkpoint("the file", state), **OPTIONS)


# --- names and sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_official_name_has_its_place_and_every_place_its_name(tiny_config, kind):
    state = official_state(kind)
    named = [ours for name in state for ours in our_names(name)]
    wanted = wanted_shapes(KINDS[kind], tiny_config())
    assert sorted(named) == sorted(wanted)
    assert checkpoint_kind(state) == kind


@pytest.mark.parametrize("kind", KINDS)
def test_our_own_weights_survive_the_official_layout_bit_by_bit(tiny_config, kind):
    state = randomize(KINDS[kind](tiny_config())).state_dict()
    official = to_official(state)
    assert official.keys() == official_state(kind).keys()
    again = convert(official, {name: value.shape for name, value in state.items()})
    assert again.new == again.dropped == []
    assert list(again.state) == list(state) and all(torch.equal(again.state[name], state[name]) for name in state)


def test_query_key_and_value_are_the_rows_in_that_order():
    state = official_state("classification")
    rows = state["blocks.1.attn.qkv.weight"]
    model, _ = convert_official(state)
    attention = model.videoms.encoder.layer[1].attention.attention
    for i, part in enumerate(("query", "key", "value")):
        assert torch.equal(getattr(attention, part).weight, rows[16 * i : 16 * (i + 1)])
    assert torch.equal(attention.query.bias, state["blocks.1.attn.q_bias"])
    assert torch.equal(attention.value.bias, state["blocks.1.attn.v_bias"])


def test_sizes_are_those_of_the_tensors():
    sizes = {"width": 128, "depth": 3, "mlp": 40, "patch": 4, "tubelet": 4, "channels": 2}
    state = official_state("pretraining", **sizes, decoder=(192, 2, 36))
    config = build_config(Checkpoint("the file", state))
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (128, 3, 40)
    assert (config.patch_size, config.tubelet_size, config.num_channels) == (4, 4, 2)
    assert (config.decoder_hidden_size, config.decoder_num_hidden_layers) == (192, 2)
    assert config.decoder_intermediate_size == 36
    assert (config.num_attention_heads, config.decoder_num_attention_heads) == (2, 3)  # 64 channels each
    assert (config.num_frames, config.image_size) == (16, 224)  # in no tensor
    assert infer_sizes(official_state("classification", labels=7))["num_labels"] == 7


@pytest.mark.parametrize("size", ["small", "base", "large", "huge"])
def test_published_sizes_have_their_published_heads(size):
    config = VideoMSConfig.from_size(size)
    assert infer_heads("num_attention_heads", config.hidden_size) == config.num_attention_heads
    decoder_heads = infer_heads("decoder_num_attention_heads", config.decoder_hidden_size)
    assert decoder_heads == config.decoder_num_attention_heads


def test_heads_that_follow_from_nothing_are_asked_for():
    with pytest.raises(ValueError, match="num_attention_heads follows from no tensor, and a width of 16"):
        build_config(Checkpoint("the file", official_state("classification")))


# --- what is wrong ------------------------------------------------------------------------------------------------


def test_all_that_is_wrong_is_named_at_once():
    state = official_state("pretraining")
    del state["encoder.blocks.1.attn.q_bias"], state["decoder.norm.weight"], state["encoder.blocks.0.attn.qkv.weight"]
    state["encoder.pos_embed"] = torch.zeros(1, 64, 16)
    state["encoder.blocks.0.gamma_1"] = torch.zeros(16)
    state["step"] = 7
    state["encoder.blocks.1.attn.qkv.weight"] = torch.zeros(47, 16)
    state["decoder.blocks.0.mlp.fc1.weight"] = torch.zeros(12, 21)
    with pytest.raises(ValueError) as error:
        convert_official(state)
    lines = [line.strip() for line in str(error.value).splitlines()]
    assert lines[1:] == [
        "missing (3): encoder.blocks.0.attn.qkv.weight; encoder.blocks.1.attn.q_bias; decoder.norm.weight",
        "unexpected (3): encoder.pos_embed; encoder.blocks.0.gamma_1; step",
        "of another shape (2): encoder.blocks.1.attn.qkv.weight is [47, 16], it must be [48, 16]; "
        "decoder.blocks.0.mlp.fc1.weight is [12, 21], it must be [20, 12]",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_no_single_tensor_can_be_missing_or_of_another_shape(kind):
    state = official_state(kind, decoder=(12, 1, 20))
    for name, value in state.items():
        without = {other: tensor for other, tensor in state.items() if other != name}
        with pytest.raises(ValueError, match=rf"missing \(1\): {re.escape(name)}(\n|$)"):
            convert_official(without)
        with pytest.raises(ValueError, match=r"of another shape \(\d\): "):
            convert_official(state | {name: torch.cat([value, value[:1]])})


def test_a_tensor_that_comes_twice_is_refused():
    state = official_state("classification")
    state["module.head.bias"] = state["head.bias"]
    with pytest.raises(ValueError, match=r"unexpected \(1\): module.head.bias \(a second one\)"):
        convert_official(state)


def test_what_is_missing_in_transformers_names_is_named_so():
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 24}
    theirs = VideoMAEForVideoClassification(VideoMAEConfig(**sizes, image_size=32))
    state = theirs.state_dict()
    del state["videomae.encoder.layer.0.attention.attention.value.bias"]
    with pytest.raises(ValueError, match=r"missing \(1\): videomae.encoder.layer.0.attention.attention.value.bias"):
        convert_checkpoint(Checkpoint("the folder", state, theirs.config.to_dict()))


def test_back_conversion_names_what_is_not_ours_and_what_a_block_lacks(tiny_config):
    state = VideoMSForVideoClassification(tiny_config()).state_dict()
    del state["videoms.encoder.layer.0.attention.attention.key.weight"]
    state["extra.weight"] = torch.zeros(1)
    with pytest.raises(ValueError) as error:
        to_official(state)
    assert "videoms.encoder.layer.0.attention.attention.key.weight" in str(error.value)
    assert "extra.weight" in str(error.value)


# --- files ----------------------------------------------------------------------------------------------------------


class Malicious:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_file_that_carries_code_is_refused_and_never_run(tmp_path, as_zip):
    content = {"model": official_state("classification"), "args": Malicious(tmp_path / "made")}
    torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=as_zip)
    with pytest.raises(ValueError) as error:
        read_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "made").exists()
    said = str(error.value)
    assert "evil.pth was not loaded" in said and "mkdir" in said and "only its state dict with torch.save" in said
    torch.load(tmp_path / "evil.pth", weights_only=False)  # so it would have run
    assert (tmp_path / "made").is_dir()


def test_a_plain_pickle_that_carries_code_is_refused_and_never_run(tmp_path):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Malicious(tmp_path / "made")))
    with pytest.raises(ValueError, match="evil.pth was not loaded, and nothing in it was run"):
        read_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "made").exists()


def test_a_namespace_of_arguments_is_the_one_class_that_is_read(tmp_path):
    state = official_state("classification")
    content = {"model": state, "epoch": 3, "args": argparse.Namespace(num_frames=8, opt="adamw", betas=[0.9, 0.999])}
    torch.save(content, tmp_path / "checkpoint.pth")
    checkpoint = read_checkpoint(tmp_path / "checkpoint.pth")
    assert checkpoint.arguments == {"num_frames": 8, "opt": "adamw", "betas": [0.9, 0.999]}
    assert checkpoint.state.keys() == state.keys() and checkpoint.config is None
    assert all(torch.equal(checkpoint.state[name], state[name]) for name in state)
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize(
    "pack", [lambda state: state, lambda state: {"model": state}, lambda state: {"module": state}]
)
def test_weights_lie_under_model_or_module_or_alone(tmp_path, pack):
    state = official_state("pretraining")
    torch.save(pack(state), tmp_path / "checkpoint.pt")
    assert read_checkpoint(tmp_path / "checkpoint.pt").state.keys() == state.keys()


def test_safetensors_with_official_names_are_read(tmp_path):
    state = official_state("pretraining")
    save_file(state, tmp_path / "checkpoint.safetensors")
    assert read_checkpoint(tmp_path / "checkpoint.safetensors").state.keys() == state.keys()


def test_files_that_are_no_checkpoint_say_so(tmp_path):
    torch.save({"model": official_state("classification")}, tmp_path / "cut.pth")
    content = (tmp_path / "cut.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.pth").touch()
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    (tmp_path / "text.pth").write_text("<html>404</html>")
    for name in ("cut.pth", "empty.pth", "cut.safetensors", "text.pth"):
        with pytest.raises(ValueError, match=name):
            read_checkpoint(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list"):
        read_checkpoint(tmp_path / "list.pth")
    torch.save({"optimizer": {}, "epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="its keys are optimizer, epoch"):
        read_checkpoint(tmp_path / "other.pth")


def test_where_there_is_no_checkpoint_the_forms_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for source in (tmp_path / "nothing.pth", tmp_path, "someone/that-is-not-there", "a/b/c"):
        with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .* must be a .pth or safetensors file"):
            read_checkpoint(source)


def test_a_lost_shard_is_named(tmp_path):
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 24}
    model = VideoMAEForVideoClassification(VideoMAEConfig(**sizes, image_size=32))
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    lost = sorted(tmp_path.glob("*.safetensors"))[0]
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=lost.name):
        read_checkpoint(tmp_path)


def test_a_model_on_the_hub_is_read_from_its_repository(tmp_path, monkeypatch):
    """By the real client from its cache, where a download would have put it."""
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 24}
    model = randomize(VideoMAEForVideoClassification(VideoMAEConfig(**sizes, image_size=32)))
    repository = tmp_path / "models--someone--videomae-tiny"
    model.save_pretrained(repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    checkpoint = read_checkpoint("someone/videomae-tiny")
    assert checkpoint.is_on_hub and checkpoint.config["model_type"] == "videomae"
    converted, _ = convert_checkpoint(checkpoint)
    weight = converted.videoms.encoder.layer[0].output.dense.weight
    assert torch.equal(weight, model.videomae.encoder.layer[0].output.dense.weight)


# --- class names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, number, some",
    [
        ("UCF101", 101, {0: "ApplyEyeMakeup", 36: "HandstandPushups", 35: "HammerThrow", 100: "YoYo"}),
        ("ucf-101", 101, {46: "JumpingJack", 47: "JumpRope"}),  # the file's order, not the alphabet's
        ("HMDB51", 51, {0: "brush_hair", 13: "fencing", 50: "wave"}),
        ("Kinetics-400", 400, {0: "abseiling", 399: "zumba"}),
        ("k400", 400, {8: "assembling computer"}),
        ("SSv2", 174, {0: "Approaching something with your camera", 173: "Wiping something off of something"}),
        ("Something-Something V2", 174, {27: "Lifting something up completely without letting it drop down"}),
        ("OSCC", 2, {0: "no state change", 1: "state change"}),
    ],
)
def test_known_data_sets_have_their_classes_in_the_official_order(name, number, some):
    names = read_labels(name)
    assert len(names) == len(set(names)) == number
    assert {i: names[i] for i in some} == some


def test_class_names_are_sorted_where_the_alphabet_gives_the_numbers():
    for name in ("HMDB51", "Kinetics-400", "SSv2"):
        assert read_labels(name) == sorted(read_labels(name))
    assert read_labels("UCF101") == sorted(read_labels("UCF101"), key=str.lower) != sorted(read_labels("UCF101"))
    assert read_labels("Kinetics-400") == Swin3D_T_Weights.KINETICS400_V1.meta["categories"]
    assert known_dataset("kinetics-700") is None and known_dataset("") is None


def test_class_names_come_from_files_of_three_forms(tmp_path):
    (tmp_path / "plain.txt").write_text("walk\nsit down\n")
    (tmp_path / "classInd.txt").write_text("1 Walk\r\n2 SitDown\r\n")
    (tmp_path / "from_0.txt").write_text("0 walk\n1 sit down\n")
    (tmp_path / "labels.json").write_text(json.dumps({"sit down": "1", "walk": "0"}))
    assert read_labels(tmp_path / "plain.txt") == read_labels(tmp_path / "from_0.txt") == ["walk", "sit down"]
    assert read_labels(tmp_path / "classInd.txt") == ["Walk", "SitDown"]
    assert read_labels(tmp_path / "labels.json") == ["walk", "sit down"]


@pytest.mark.parametrize("content", ['{"a": "0", "b": "2"}', '{"a": "0", "b": "0"}', '["a"]', '{"a": "x"}', "no json"])
def test_json_labels_with_gaps_or_of_another_form_are_refused(tmp_path, content):
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(ValueError, match="labels.json must"):
        read_labels(tmp_path / "labels.json")
