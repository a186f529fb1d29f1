"""`model.flops()` (MACs) against a count by hand and against torch's counter on a real step."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from videoms_hf import VideoMSConfig, VideoMSForPreTraining, VideoMSForVideoClassification


HEADS = [VideoMSForPreTraining, VideoMSForVideoClassification]
SHAPES = [None, (4, 3, 32, 32), (12, 3, 16, 48)]


def block(num_tokens, width, mlp_width, num_outputs=None):
    """MACs of a block that computes the outputs of its last `num_outputs` tokens only."""
    n, m = num_tokens, num_tokens if num_outputs is None else num_outputs
    projections = 2 * m * width**2 + 2 * n * width**2  # query and output; key and value
    return projections + 2 * m * n * width + 2 * m * width * mlp_width


def expected_flops(cls, config, clip_shape, keep_ratio):
    """MACs of a forward pass without gradient, counted by hand."""
    frames, channels, height, width = clip_shape
    num_tokens = frames // 2 * (height // 8) * (width // 8)
    values = channels * 2 * 8 * 8
    total = num_tokens * values * config.hidden_size  # each token is embedded once, for its score and its features
    if cls is VideoMSForVideoClassification:
        num_kept = int(keep_ratio * num_tokens + 1e-6)
        total += config.num_hidden_layers * block(num_kept, config.hidden_size, config.intermediate_size)
        return total + config.hidden_size * config.num_labels
    num_kept, num_visible = int(0.3 * num_tokens + 1e-6), int(0.1 * num_tokens + 1e-6)
    total += config.num_hidden_layers * block(num_visible, config.hidden_size, config.intermediate_size)
    inner, targets = config.decoder_hidden_size, num_kept - num_visible
    total += num_visible * config.hidden_size * inner
    total += (config.decoder_num_hidden_layers - 1) * block(num_kept, inner, config.decoder_intermediate_size)
    total += block(num_kept, inner, config.decoder_intermediate_size, targets)
    return total + targets * inner * values


@pytest.mark.parametrize("cls", HEADS)
@pytest.mark.parametrize("clip_shape", SHAPES)
def test_flops_are_those_counted_by_hand(tiny_config, cls, clip_shape):
    config = tiny_config(num_labels=5, hidden_size=32)
    shape = clip_shape or (8, 3, 32, 32)
    assert cls(config).flops(clip_shape) == expected_flops(cls, config, shape, 0.6)
    if cls is VideoMSForVideoClassification:
        assert cls(config).flops(clip_shape, keep_ratio=0.25) == expected_flops(cls, config, shape, 0.25)


@pytest.mark.parametrize("cls", HEADS)
@pytest.mark.parametrize("clip_shape", [None, (12, 3, 16, 48)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("selection", ["motion", "tube"])
def test_flops_agree_with_torchs_counter_on_a_real_step(tiny_config, cls, clip_shape, training, selection):
    model = cls(tiny_config(num_labels=5, token_selection=selection, mask_ratio=0.75, pretraining_keep_ratio=0.5))
    clip = torch.randn(1, *(clip_shape or (8, 3, 32, 32)))
    model.train(training).set_attn_implementation("eager")  # the counter does not know the CPU's fused kernel
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(training):
        logits = model(clip).logits
        if training:
            logits.sum().backward()
    assert model.flops(clip_shape, training=training) == counter.get_total_flops() // 2


def test_flops_do_not_depend_on_the_attention_implementation(tiny_config):
    """Flex attention does not run on the meta device."""
    model = VideoMSForVideoClassification(tiny_config())
    expected = model.flops()
    model.set_attn_implementation("flex_attention")
    assert model.flops() == expected and model.config._attn_implementation == "flex_attention"


def test_the_papers_limits_hold_for_the_base_size():
    config = VideoMSConfig.from_size("base", num_labels=101)
    with torch.device("meta"):
        pretraining, classification = VideoMSForPreTraining(config), VideoMSForVideoClassification(config)
    assert pretraining.flops() <= 19.8e9  # the paper: 20 G
    assert 2 * pretraining.flops(training=True) <= 112e9
    assert classification.flops() <= 98.0e9  # the paper: 98 G
    assert 180.2e9 < classification.flops(keep_ratio=1.0) < 180.5e9  # the paper's VideoMAE: 180.5 G
