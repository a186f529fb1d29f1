"""File in, `convert_checkpoint.py`, `from_pretrained`: what comes out computes what the original computes."""

import argparse
import json
import re

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
    VideoMAEConfig,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
    VideoMAEModel,
)

from scripts.convert_checkpoint import main
from videoms_hf import VideoMSForVideoClassification, VideoMSModel, VideoMSVideoProcessor, command_line

from .conftest import randomize
from .official_files import classify, embed, importance, most_moving, official_state, pretrain


CLIP = ["--num_frames", "8", "--image_size", "32", "--num_attention_heads", "2", "--decoder_num_attention_heads", "3"]


def convert(words) -> int:
    return command_line.run(main, words)


def run(checkpoint, output_dir, *options):
    assert convert(["--checkpoint", str(checkpoint), "--output_dir", str(output_dir), *options]) == 0
    return output_dir


def clips(number=2):
    return torch.randn(number, 8, 3, 32, 32)


def test_an_official_classifier_gives_the_same_scores_from_the_same_tokens(tmp_path):
    state, pixels = official_state("classification"), clips()
    torch.save({"model": state, "epoch": 99}, tmp_path / "checkpoint.pth")
    (tmp_path / "names.txt").write_text("walk\nrun\nsit down\njump\nwave\n")
    folder = run(tmp_path / "checkpoint.pth", tmp_path / "model", *CLIP, "--labels", str(tmp_path / "names.txt"))
    model = AutoModelForVideoClassification.from_pretrained(folder)
    assert type(model) is VideoMSForVideoClassification and not model.training
    for keep_ratio in (None, 0.6, 0.25, 1.0):
        outputs = model(pixels, keep_ratio=keep_ratio)
        for i, clip in enumerate(pixels):
            logits, kept = classify(state, clip, 2, keep_ratio or 0.6)
            assert outputs.kept_ids[i].tolist() == kept
            torch.testing.assert_close(outputs.logits[i], logits, rtol=1e-4, atol=1e-5)
    assert model.config.id2label == {0: "walk", 1: "run", 2: "sit down", 3: "jump", 4: "wave"}
    assert model.config.label2id["sit down"] == 2


@pytest.mark.parametrize("wrapper", ["", "module.", "backbone.", "module.backbone."])
def test_an_official_pretraining_checkpoint_gives_the_same_tokens_predictions_and_loss(tmp_path, wrapper):
    state, pixels = official_state("pretraining"), clips()
    torch.save({"model": {wrapper + name: value for name, value in state.items()}}, tmp_path / "checkpoint.pth")
    folder = run(tmp_path / "checkpoint.pth", tmp_path / "model", *CLIP)
    model = AutoModelForPreTraining.from_pretrained(folder)
    noise = torch.rand(2, 19)  # floor(0.3 * 64) tokens are kept, floor((1 - 0.9) * 64) of them visible
    outputs = model(pixels, noise=noise)
    losses = []
    for i, clip in enumerate(pixels):
        kept = most_moving(importance(embed(state, "encoder.", clip), 4), 19)
        order = noise[i].argsort().tolist()
        visible, targets = (sorted(kept[j] for j in part) for part in (order[:6], order[6:]))
        assert (outputs.visible_ids[i].tolist(), outputs.target_ids[i].tolist()) == (visible, targets)
        loss, predicted = pretrain(state, clip, 2, 3, visible, targets)
        torch.testing.assert_close(outputs.logits[i], predicted, rtol=1e-4, atol=1e-5)
        losses.append(loss)
    torch.testing.assert_close(outputs.loss, torch.stack(losses).mean(), rtol=1e-5, atol=1e-6)


def test_the_folder_is_complete_and_knows_a_known_dataset(tmp_path):
    torch.save(official_state("classification", labels=51), tmp_path / "hmdb.pth")
    options = (*CLIP, "--labels", "hmdb51", "--license", "cc-by-nc-4.0")
    folder = run(tmp_path / "hmdb.pth", tmp_path / "model", *options)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "video_preprocessor_config.json", "README.md"} <= names
    assert {"modeling_videoms.py", "loading_videoms.py", "video_processing_videoms.py"} <= names
    config = json.loads((folder / "config.json").read_text())
    assert (config["id2label"]["0"], config["id2label"]["50"]) == ("brush_hair", "wave")
    assert (config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]) == (16, 2, 24)
    assert (config["patch_size"], config["tubelet_size"], config["num_channels"]) == (8, 2, 3)
    processor = VideoMSVideoProcessor.from_pretrained(folder)
    assert (processor.num_frames, processor.frame_stride, processor.crop_size["height"]) == (8, 2, 32)
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "cc-by-nc-4.0" and "`hmdb.pth`" in card.text
    video = torch.randint(0, 256, (40, 3, 48, 36), dtype=torch.uint8)
    pixels = processor(video, do_sample_frames=True, return_tensors="pt")["pixel_values"]
    assert VideoMSForVideoClassification.from_pretrained(folder)(pixels).logits.shape == (1, 51)


def test_what_the_official_command_line_said_is_used_unless_an_option_says_otherwise(tmp_path):
    arguments = argparse.Namespace(
        num_frames=8, input_size=32, sampling_rate=3, mcm_ratio=0.7, motion_centric_masking_ratio=0.5, mask_ratio=0.75
    )
    torch.save({"model": official_state("classification"), "args": arguments}, tmp_path / "checkpoint.pth")
    folder = run(tmp_path / "checkpoint.pth", tmp_path / "a", "--num_attention_heads", "2")
    config = VideoMSForVideoClassification.from_pretrained(folder).config
    assert (config.num_frames, config.image_size, config.token_selection) == (8, 32, "motion")
    assert (config.keep_ratio, config.pretraining_keep_ratio, config.mask_ratio) == (0.3, 0.5, 0.75)
    assert VideoMSVideoProcessor.from_pretrained(folder).frame_stride == 3
    options = ("--keep_ratio", "0.5", "--num_frames", "4", "--frame_stride", "6", "--token_selection", "none")
    folder = run(tmp_path / "checkpoint.pth", tmp_path / "b", "--num_attention_heads", "2", *options)
    config = VideoMSForVideoClassification.from_pretrained(folder).config
    assert (config.keep_ratio, config.num_frames, config.token_selection) == (0.5, 4, "none")
    assert VideoMSVideoProcessor.from_pretrained(folder).frame_stride == 6
    options = ("--num_attention_heads", "2", "--num_kept_tokens", "9")
    folder = run(tmp_path / "checkpoint.pth", tmp_path / "c", *options)
    assert VideoMSForVideoClassification.from_pretrained(folder).config.budget == ("num_kept_tokens", 9)


@pytest.mark.parametrize("kind", ["pretraining", "classification"])
def test_back_in_the_official_layout_every_bit_is_the_same(tmp_path, kind):
    state = official_state(kind)
    torch.save({"model": state}, tmp_path / "checkpoint.pth")
    folder = run(tmp_path / "checkpoint.pth", tmp_path / "model", *CLIP)
    back = run(folder, tmp_path / "back", "--to", "official") / "checkpoint.pth"
    again = torch.load(back, weights_only=True)["model"]
    assert again.keys() == state.keys()
    for name, value in state.items():
        assert again[name].dtype == value.dtype and torch.equal(again[name], value), name
    assert convert(["--checkpoint", str(back), "--output_dir", str(tmp_path / "third"), *CLIP]) == 0
    ours, theirs = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "third"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_half_precision_of_deepspeed_stays_as_it_is(tmp_path):
    state = {name: value.half() for name, value in official_state("pretraining").items()}
    (tmp_path / "checkpoint-9").mkdir()
    torch.save({"module": state, "global_steps": 9}, tmp_path / "checkpoint-9" / "mp_rank_00_model_states.pt")
    folder = run(tmp_path / "checkpoint-9", tmp_path / "model", *CLIP)
    assert AutoModelForPreTraining.from_pretrained(folder).dtype == torch.float16
    back = run(folder, tmp_path / "back", "--to", "official") / "checkpoint.pth"
    again = torch.load(back, weights_only=True)["model"]
    assert again.keys() == state.keys() and all(torch.equal(again[name], state[name]) for name in state)


# --- transformers' VideoMAE ---------------------------------------------------------------------------------------


def videomae(cls, official_epsilon=True, **fields):
    """A tiny one with random weights; with the authors' epsilon, which transformers has not."""
    sizes = {"image_size": 32, "patch_size": 8, "num_frames": 8, "hidden_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "decoder_num_attention_heads": 3}
    decoder = {"decoder_hidden_size": 12, "decoder_num_hidden_layers": 2, "decoder_intermediate_size": 20}
    model = randomize(cls(VideoMAEConfig(intermediate_size=24, **sizes, **heads, **decoder, **fields))).eval()
    if official_epsilon:
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = 1e-6
    return model


def save_state(model, folder, state):
    model.save_pretrained(folder)
    state = {name: value.clone() for name, value in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def with_names(model, query, value):
    """Its weights with the biases of queries and values under these names."""
    state = {}
    for name, tensor in model.state_dict().items():
        name = re.sub(r"(query\.bias|q_bias)$", query, name)
        state[re.sub(r"(value\.bias|v_bias)$", value, name)] = tensor
    assert sum(name.endswith((query, value)) for name in state) in (4, 8)
    return state


def save_with_old_names(model, folder):
    """As transformers 4 and the Hub's checkpoints have it."""
    save_state(model, folder, with_names(model, "q_bias", "v_bias"))


def save_with_new_names(model, folder):
    save_state(model, folder, with_names(model, "query.bias", "value.bias"))


def save_as_pickles(model, folder):
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def save_in_shards(model, folder):
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 1


def save_with_biases_of_keys(model, folder):
    """As transformers 5.0 to 5.17 has it; they are without effect."""
    state = with_names(model, "query.bias", "value.bias")
    for name in [name for name in state if name.endswith("key.weight")]:
        state[name.replace("weight", "bias")] = torch.randn(len(state[name]))
    save_state(model, folder, state)


SAVED = [
    VideoMAEForVideoClassification.save_pretrained,
    save_with_new_names,
    save_with_old_names,
    save_as_pickles,
    save_in_shards,
    save_with_biases_of_keys,
]


@pytest.mark.parametrize("save", SAVED, ids=lambda save: save.__name__)
def test_a_videomae_classifier_gives_the_same_scores(tmp_path, save):
    labels = dict(enumerate("abcde"))
    theirs = videomae(VideoMAEForVideoClassification, id2label=labels, label2id={v: k for k, v in labels.items()})
    save(theirs, tmp_path / "videomae")
    ours = VideoMSForVideoClassification.from_pretrained(run(tmp_path / "videomae", tmp_path / "ours"))
    pixels = clips()
    torch.testing.assert_close(ours(pixels).logits, theirs(pixels).logits, rtol=1e-4, atol=1e-5)
    assert ours.config.id2label == labels and ours.config.token_selection == "none"
    ours = VideoMSForVideoClassification.from_pretrained(tmp_path / "ours", token_selection="motion")
    assert ours(pixels).kept_ids.shape == (2, 38)


@pytest.mark.parametrize("has_biases", [True, False])
@pytest.mark.parametrize("pools", [True, False])
@pytest.mark.parametrize(
    "cls, auto", [(VideoMAEForPreTraining, AutoModelForPreTraining), (VideoMAEModel, VideoMSModel)]
)
def test_every_layout_that_transformers_writes_computes_the_same(tmp_path, capsys, cls, auto, pools, has_biases):
    """A VideoMAE that pools, which is the default, has no final norm."""
    theirs = videomae(cls, use_mean_pooling=pools, qkv_bias=has_biases)
    theirs.save_pretrained(tmp_path / "videomae")
    ours = auto.from_pretrained(run(tmp_path / "videomae", tmp_path / "ours")).eval()
    mask = torch.stack([torch.randperm(16) < 12 for _ in range(2)]).repeat(1, 4)
    pixels, inputs = clips(), {"bool_masked_pos": mask}
    torch.testing.assert_close(ours(pixels, **inputs)[0], theirs(pixels, **inputs)[0], rtol=1e-4, atol=1e-5)
    assert ours.config.final_norm != pools
    if pools:  # the official networks all have one
        assert convert(
            ["--checkpoint", str(tmp_path / "ours"), "--output_dir", str(tmp_path / "o"), "--to", "official"]
        )
        assert "nor a network with a final norm" in capsys.readouterr().err


def test_a_final_norm_that_is_promised_must_be_there(tmp_path, capsys):
    theirs = videomae(VideoMAEForPreTraining, use_mean_pooling=False)
    state = {name: value for name, value in theirs.state_dict().items() if ".layernorm." not in name}
    save_state(theirs, tmp_path / "videomae", state)
    assert "videomae.layernorm.weight" in refusal(capsys, tmp_path, tmp_path / "videomae")
    state = {name: value for name, value in official_state("pretraining").items() if "encoder.norm" not in name}
    torch.save(state, tmp_path / "checkpoint.pth")
    assert "encoder.norm.weight" in refusal(capsys, tmp_path, tmp_path / "checkpoint.pth", *CLIP)


@pytest.mark.parametrize("prefix", ["model.", "net.", "module.model.", "model._orig_mod.", "backbone."])
@pytest.mark.parametrize("cls", [VideoMAEForVideoClassification, VideoMAEForPreTraining])
def test_a_lightning_checkpoint_is_converted(tmp_path, cls, prefix):
    theirs = videomae(cls)
    state = {prefix + name: value for name, value in theirs.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3, "hyper_parameters": {"lr": 0.1}}, tmp_path / "last.ckpt")
    heads = () if cls is VideoMAEForVideoClassification else ("--decoder_num_attention_heads", "3")
    folder = run(tmp_path / "last.ckpt", tmp_path / "ours", *CLIP[:6], "--token_selection", "none", *heads)
    ours, pixels = AutoModelForPreTraining if heads else VideoMSForVideoClassification, clips()
    ours = ours.from_pretrained(folder).eval()
    if heads:
        mask = torch.stack([torch.randperm(16) < 12 for _ in range(2)]).repeat(1, 4)
        torch.testing.assert_close(ours(pixels, mask).logits, theirs(pixels, mask).logits, rtol=1e-4, atol=1e-5)
    else:
        torch.testing.assert_close(ours(pixels).logits, theirs(pixels).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("save", SAVED, ids=lambda save: save.__name__)
def test_a_videomae_under_pretraining_gives_the_same_predictions_and_loss(tmp_path, save):
    theirs = videomae(VideoMAEForPreTraining, use_mean_pooling=False)
    save(theirs, tmp_path / "videomae")
    ours = AutoModelForPreTraining.from_pretrained(run(tmp_path / "videomae", tmp_path / "ours"))
    pixels = clips()
    mask = torch.stack([torch.randperm(16) < 12 for _ in range(2)]).repeat(1, 4)
    outputs, expected = ours(pixels, bool_masked_pos=mask), theirs(pixels, mask)
    torch.testing.assert_close(outputs.logits, expected.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs.loss, expected.loss, rtol=1e-5, atol=1e-6)
    assert ours.config.token_selection == "tube"


def test_the_authors_epsilon_changes_scores_of_transformers_by_next_to_nothing(tmp_path):
    theirs = videomae(VideoMAEForVideoClassification, official_epsilon=False)
    theirs.save_pretrained(tmp_path / "videomae")
    ours = VideoMSForVideoClassification.from_pretrained(run(tmp_path / "videomae", tmp_path / "ours"))
    pixels = clips()
    torch.testing.assert_close(ours(pixels).logits, theirs(pixels).logits, rtol=1e-3, atol=1e-4)
    assert ours.fc_norm.eps == ours.videoms.encoder.layer[0].layernorm_before.eps == 1e-6


def test_videomae_goes_to_the_official_layout_too_and_colours_go_along(tmp_path):
    theirs = videomae(VideoMAEForVideoClassification)
    theirs.save_pretrained(tmp_path / "videomae")
    colours = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1]}
    (tmp_path / "videomae" / "preprocessor_config.json").write_text(json.dumps(colours))
    official = torch.load(run(tmp_path / "videomae", tmp_path / "a", "--to", "official") / "checkpoint.pth")["model"]
    pixels = clips(1)
    logits, _ = classify(official, pixels[0], 2, 1.0)
    torch.testing.assert_close(logits, theirs(pixels).logits[0], rtol=1e-4, atol=1e-5)
    processor = VideoMSVideoProcessor.from_pretrained(run(tmp_path / "videomae", tmp_path / "b"))
    assert {"image_mean": list(processor.image_mean), "image_std": list(processor.image_std)} == colours


def test_a_bare_videomae_encoder_with_its_final_norm_gives_the_same_features(tmp_path):
    theirs = videomae(VideoMAEModel, use_mean_pooling=False)
    theirs.save_pretrained(tmp_path / "videomae")
    ours = VideoMSModel.from_pretrained(run(tmp_path / "videomae", tmp_path / "ours"))
    pixels = clips()
    torch.testing.assert_close(ours(pixels).last_hidden_state, theirs(pixels).last_hidden_state, rtol=1e-4, atol=1e-5)
    official, again = (
        run(tmp_path / name, tmp_path / f"{name}-official", "--to", "official") / "checkpoint.pth"
        for name in ("videomae", "ours")
    )
    official, again = torch.load(official)["model"], torch.load(again)["model"]
    assert official.keys() == again.keys() and "norm.weight" in official
    assert all(torch.equal(official[name], again[name]) for name in official)


# --- refusals -----------------------------------------------------------------------------------------------------


def refusal(capsys, tmp_path, checkpoint, *options):
    arguments = ["--checkpoint", str(checkpoint), "--output_dir", str(tmp_path / "refused"), *options]
    assert convert(arguments) == 2
    assert not (tmp_path / "refused").exists()
    return capsys.readouterr().err


def test_a_classifier_on_the_first_token_is_refused(tmp_path, capsys):
    theirs = videomae(VideoMAEForVideoClassification, use_mean_pooling=False)
    theirs.save_pretrained(tmp_path / "videomae")
    said = refusal(capsys, tmp_path, tmp_path / "videomae")
    assert "first token" in said and "videoms finetune" in said


def test_another_network_of_transformers_is_refused(tmp_path, capsys):
    videomae(VideoMAEForVideoClassification, layer_norm_eps=1e-3).save_pretrained(tmp_path / "videomae")
    assert "layer_norm_eps 0.001" in refusal(capsys, tmp_path, tmp_path / "videomae")


def test_a_configuration_that_contradicts_the_tensors_is_refused(tmp_path, capsys):
    videomae(VideoMAEForVideoClassification).save_pretrained(tmp_path / "videomae")
    path = tmp_path / "videomae" / "config.json"
    path.write_text(path.read_text().replace('"intermediate_size": 24', '"intermediate_size": 32'))
    assert "intermediate_size 32 in config.json, 24 in the tensors" in refusal(capsys, tmp_path, tmp_path / "videomae")


def test_class_names_of_another_number_or_from_nowhere_are_refused(tmp_path, capsys):
    torch.save(official_state("classification"), tmp_path / "checkpoint.pth")
    said = refusal(capsys, tmp_path, tmp_path / "checkpoint.pth", *CLIP, "--labels", "UCF101")
    assert "101 class names" in said and "5 classes" in said
    said = refusal(capsys, tmp_path, tmp_path / "checkpoint.pth", *CLIP, "--labels", "UCF102")
    assert "UCF102" in said and "Kinetics-400" in said
    torch.save(official_state("pretraining"), tmp_path / "pretraining.pth")
    assert "no classifier" in refusal(capsys, tmp_path, tmp_path / "pretraining.pth", *CLIP, "--labels", "OSCC")


def test_a_folder_with_something_in_it_is_not_written_into(tmp_path, capsys):
    torch.save(official_state("classification"), tmp_path / "checkpoint.pth")
    assert convert(["--checkpoint", str(tmp_path / "checkpoint.pth"), "--output_dir", str(tmp_path), *CLIP]) == 2
    assert "not empty" in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["checkpoint.pth"]
