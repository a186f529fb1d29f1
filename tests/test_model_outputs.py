"""Outputs as transformers' common tests expect them: tuples in declared order, with and without gradients."""

import dataclasses

import pytest
import torch
from transformers import BatchFeature
from transformers.testing_utils import CaptureLogger

from videoms_hf import VideoMSForPreTraining, VideoMSForVideoClassification, VideoMSModel
from videoms_hf.modeling_videoms import logger


# How the tokens are chosen: fields of the configuration, arguments of forward, frames of the clip.
MASK = (torch.arange(64) % 4 > 0).expand(2, -1)
MODES = {
    "motion": ({}, {}, 8),
    "random": ({"token_selection": "random"}, {}, 8),
    "tube": ({"token_selection": "tube"}, {}, 8),
    "none": ({"token_selection": "none"}, {}, 8),
    "mask": ({}, {"bool_masked_pos": MASK}, 8),
    "frames": ({"candidate_ratio": 1.5}, {}, 12),
    "frames and mask": ({"candidate_ratio": 1.5, "token_selection": "random"}, {"bool_masked_pos": MASK}, 12),
}
CASES = [
    (cls, mode)
    for cls in (VideoMSModel, VideoMSForPreTraining, VideoMSForVideoClassification)
    for mode in MODES
    if not (cls is VideoMSForVideoClassification and "mask" in mode)
]
EVERYTHING = {"output_hidden_states": True, "output_attentions": True}
in_every_mode = pytest.mark.parametrize("cls, mode", CASES, ids=lambda value: getattr(value, "__name__", value))


def model_and_inputs(cls, mode, tiny_config):
    fields, inputs, num_frames = MODES[mode]
    fields = {"num_labels": 3, "mask_ratio": 0.8, "attn_implementation": "eager"} | fields
    if cls is VideoMSForVideoClassification:
        inputs = inputs | {"labels": torch.tensor([0, 2])}
    return cls(tiny_config(**fields)), {"pixel_values": torch.randn(2, num_frames, 3, 32, 32)} | inputs


@in_every_mode
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("gradient", [True, False])
def test_the_tuple_follows_the_declared_order(cls, mode, training, gradient, tiny_config):
    model, inputs = model_and_inputs(cls, mode, tiny_config)
    model.train(training)
    with torch.set_grad_enabled(gradient):
        torch.manual_seed(1)
        named = model(**inputs, **EVERYTHING)
        torch.manual_seed(1)
        values = model(**inputs, **EVERYTHING, return_dict=False)
    declared = [field.name for field in dataclasses.fields(named)]
    present = [name for name in declared if getattr(named, name) is not None]
    assert list(named) == present and present[-2:] == ["hidden_states", "attentions"]
    assert present[0] == ("last_hidden_state" if cls is VideoMSModel else "loss")
    assert len(values) == len(present) and named[0] is getattr(named, present[0])
    for name, value in zip(present, values, strict=True):
        torch.testing.assert_close(value, getattr(named, name))


@in_every_mode
def test_the_first_output_gives_gradients_to_recorded_states(cls, mode, tiny_config):
    """transformers: test_retain_grad_hidden_states_attentions."""
    model, inputs = model_and_inputs(cls, mode, tiny_config)
    outputs = model(**inputs, **EVERYTHING)
    outputs.hidden_states[0].retain_grad(), outputs.attentions[0].retain_grad()
    outputs[0].flatten()[0].backward(retain_graph=True)
    assert outputs.hidden_states[0].grad is not None and outputs.attentions[0].grad is not None


@pytest.mark.parametrize("cls", [VideoMSModel, VideoMSForPreTraining, VideoMSForVideoClassification])
@pytest.mark.parametrize("kind", [BatchFeature, dict])
def test_inputs_passed_as_one_object_are_refused_with_the_right_call(cls, kind, tiny_config):
    model, inputs = model_and_inputs(cls, "motion", tiny_config)
    with pytest.raises(TypeError, match=rf"pixel_values is a {kind.__name__}; .* model\(\*\*inputs\)"):
        model(kind(inputs))


@pytest.mark.parametrize("cls", [VideoMSModel, VideoMSForPreTraining, VideoMSForVideoClassification])
def test_attentions_that_sdpa_does_not_give_are_explained(cls, tiny_config):
    """No error: transformers' test_eager_matches_sdpa_inference requests attentions with sdpa too."""
    model, inputs = model_and_inputs(cls, "motion", tiny_config)
    for implementation, is_warned in (("sdpa", True), ("eager", False)):
        model.set_attn_implementation(implementation)
        logger.warning_once.__func__.cache_clear()
        with CaptureLogger(logger) as captured:
            outputs = model(**inputs, output_attentions=True)
        assert ('set_attn_implementation("eager")' in captured.out) == is_warned
        assert len(outputs.attentions) == (0 if is_warned else 2)
