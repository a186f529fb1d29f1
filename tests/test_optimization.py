"""Groups and schedules against slow plain references, written from the recipe's definition."""

import math
from types import SimpleNamespace

import pytest
import torch

from tests.conftest import randomize
from videoms_hf import VideoMSForPreTraining, VideoMSForVideoClassification, VideoMSModel
from videoms_hf.training.optimization import WeightAverage, cosine_value, layer_of, parameter_groups
from videoms_hf.training.trainer import _TrainingCallback


def reference_schedule(num_steps, num_warmup, peak, final, start):
    """The official list of values, one a step."""
    warmup = [start + (peak - start) * i / (num_warmup - 1) if num_warmup > 1 else start for i in range(num_warmup)]
    rest = num_steps - num_warmup
    cosine = [final + 0.5 * (peak - final) * (1 + math.cos(math.pi * i / rest)) for i in range(rest)]
    return warmup + cosine


@pytest.mark.parametrize("num_steps, num_warmup", [(100, 10), (7, 0), (7, 1), (7, 2), (5, 5), (1, 0)])
def test_every_step_has_the_official_value(num_steps, num_warmup):
    values = [cosine_value(step, num_steps, 1.5e-3, 1e-5, num_warmup, 2e-6) for step in range(num_steps)]
    assert values == pytest.approx(reference_schedule(num_steps, num_warmup, 1.5e-3, 1e-5, 2e-6), rel=1e-12)


def test_the_docstring_example_of_the_schedule_is_true():
    values = [cosine_value(step, 6, 1, 0, 2, 0) for step in range(6)]
    assert values == pytest.approx([0, 1, 1, 0.85, 0.5, 0.15], abs=5e-3)


def test_the_value_stays_at_the_end_when_a_scheduler_asks_beyond_it():
    assert cosine_value(10, 10, 1.0, 0.1, 2) == cosine_value(50, 10, 1.0, 0.1, 2) == pytest.approx(0.1)


def reference_layer(name, depth):
    """Patch embedding 0, block i is i + 1, everything else is depth + 1."""
    if name.startswith(("videoms.embeddings.patch_embeddings", "embeddings.patch_embeddings")):
        return 0
    for i in range(depth):
        if name.startswith((f"videoms.encoder.layer.{i}.", f"encoder.layer.{i}.")):
            return i + 1
    return depth + 1


@pytest.mark.parametrize("kind", [VideoMSModel, VideoMSForPreTraining, VideoMSForVideoClassification])
def test_groups_hold_every_parameter_with_its_own_rate_and_decay(kind, tiny_config):
    depth = 11  # two digits: block 1 is no prefix of block 10
    model = kind(tiny_config(num_hidden_layers=depth))
    groups = parameter_groups(model, depth, learning_rate=2.0, weight_decay=0.05, layer_decay=0.75)
    found = {id(parameter): group for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        group = found[id(parameter)]
        assert group["lr"] == pytest.approx(2.0 * 0.75 ** (depth + 1 - reference_layer(name, depth))), name
        decayed = parameter.ndim > 1 and not name.endswith(".bias") and name != "mask_token"
        assert group["weight_decay"] == (0.05 if decayed else 0.0), name
    assert groups[0]["lr"] == 2.0  # the rate that a log shows


def test_without_layer_decay_all_rates_are_equal(tiny_config):
    groups = parameter_groups(VideoMSForPreTraining(tiny_config()), 2, 3.0, 0.05)
    assert {group["lr"] for group in groups} == {3.0}


def test_frozen_parameters_are_in_no_group(tiny_config):
    model = VideoMSForVideoClassification(tiny_config())
    model.videoms.requires_grad_(False)
    groups = parameter_groups(model, 2, 1.0, 0.05)
    assert sum(len(group["params"]) for group in groups) == 4  # fc_norm and classifier


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_fsdp_wrapped_module."])
def test_wrappers_do_not_change_the_layer(prefix):
    assert layer_of(f"{prefix}videoms.embeddings.patch_embeddings.projection.weight", 12) == 0
    assert layer_of(f"{prefix}videoms.encoder.layer.3.{prefix}output.dense.weight", 12) == 4
    assert layer_of(f"{prefix}classifier.weight", 12) == 13


def test_decoder_blocks_do_not_count_as_encoder_blocks():
    assert layer_of("decoder.decoder_layers.0.output.dense.weight", 12) == 13


def test_the_weight_decay_follows_its_cosine_and_leaves_undecayed_groups_alone():
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    optimizer = torch.optim.AdamW(
        [{"params": parameters[:1], "weight_decay": 0.05}, {"params": parameters[1:], "weight_decay": 0.0}]
    )
    callback, args, found = _TrainingCallback(None), SimpleNamespace(weight_decay=0.05, weight_decay_end=0.5), []
    for step in range(8):
        callback.on_step_begin(args, SimpleNamespace(global_step=step, max_steps=8), None, optimizer=optimizer)
        found.append([group["weight_decay"] for group in optimizer.param_groups])
    assert [first for first, _ in found] == pytest.approx(reference_schedule(8, 0, 0.05, 0.5, 0.0))
    assert {second for _, second in found} == {0.0}


def test_the_average_follows_its_definition_and_gives_the_weights_back(tiny_config, tmp_path):
    model = VideoMSForVideoClassification(tiny_config())
    average = WeightAverage(model, decay=0.9)
    expected = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for seed in range(3):
        randomize(model, seed)
        average.update()
        for name, weight in model.named_parameters():
            expected[name] = 0.9 * expected[name] + 0.1 * weight.detach()
    own = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    with average.in_place():
        for name, weight in model.named_parameters():
            torch.testing.assert_close(weight.detach(), expected[name])
    for name, weight in model.named_parameters():
        assert torch.equal(weight, own[name])

    average.save(tmp_path / "average.safetensors")
    other = WeightAverage(model, decay=0.9)
    other.load(tmp_path / "average.safetensors")
    assert all(torch.equal(other.average[name], average.average[name]) for name in expected)


def test_an_average_of_another_model_is_refused(tiny_config, tmp_path):
    WeightAverage(VideoMSForVideoClassification(tiny_config()), 0.9).save(tmp_path / "average.safetensors")
    other = WeightAverage(VideoMSForVideoClassification(tiny_config(num_labels=7)), 0.9)
    with pytest.raises(ValueError, match=r"has \(2, 16\) for classifier.weight, where the model has \(7, 16\)"):
        other.load(tmp_path / "average.safetensors")
