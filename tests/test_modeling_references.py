"""The networks against transformers' VideoMAE and against slow references written from the method's definition."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel

from videoms_hf import VideoMSForPreTraining, VideoMSForVideoClassification, VideoMSModel
from videoms_hf.configuration_videoms import IMAGENET_MEAN, IMAGENET_STD
from videoms_hf.layers_videoms import drop_path, sinusoid_table
from videoms_hf.tubelets_videoms import gather_tubelets, pixel_targets, split_tubelets

from .conftest import randomize


def clips(batch=2, frames=8, size=32, channels=3):
    return torch.randn(batch, frames, channels, size, size)


# --- pieces -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_positions, width", [(7, 6), (50, 16), (1568, 5)])
def test_position_table_matches_its_formula(num_positions, width):
    table = sinusoid_table(num_positions, width)
    for p in range(0, num_positions, max(num_positions // 7, 1)):
        for j in range(width):
            angle = p / 10000 ** (2 * (j // 2) / width)
            expected = math.sin(angle) if j % 2 == 0 else math.cos(angle)
            assert table[p, j].item() == pytest.approx(expected, abs=1e-7)


def reference_targets(clip, ids, patch, tubelet, normalize):
    """Pixels of the target tubelets by loops: (frame, row, column, channel), channel fastest."""
    frames, channels, height, width = clip.shape
    columns, rows = width // patch, height // patch
    targets = []
    for token in ids.tolist():
        t, r, c = token // (rows * columns), token // columns % rows, token % columns
        block = clip[t * tubelet : (t + 1) * tubelet, :, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch]
        if channels == 3:
            block = block * torch.tensor(IMAGENET_STD)[:, None, None] + torch.tensor(IMAGENET_MEAN)[:, None, None]
        values = {}
        for channel in range(channels):
            pixels = block[:, channel].double()
            if normalize:
                mean = pixels.sum() / pixels.numel()
                variance = ((pixels - mean) ** 2).sum() / (pixels.numel() - 1)
                pixels = (pixels - mean) / (variance.sqrt() + 1e-6)
            values[channel] = pixels
        targets.append(
            [
                values[channel][f, y, x].item()
                for f in range(tubelet)
                for y in range(patch)
                for x in range(patch)
                for channel in range(channels)
            ]
        )
    return torch.tensor(targets)


@pytest.mark.parametrize("channels, normalize", [(3, True), (3, False), (1, True), (4, True)])
def test_loss_targets_match_the_definition(tiny_config, channels, normalize):
    config = tiny_config(num_channels=channels)
    pixels = clips(channels=channels)
    ids = torch.stack([torch.randperm(64)[:5], torch.randperm(64)[:5]])
    targets = pixel_targets(gather_tubelets(split_tubelets(pixels, config), ids), normalize)
    for b in range(2):
        expected = reference_targets(pixels[b], ids[b], 8, 2, normalize)
        torch.testing.assert_close(targets[b], expected, rtol=1e-4, atol=1e-4)


def test_a_flat_tubelet_has_targets_of_zero_not_nan(tiny_config):
    model = VideoMSForPreTraining(tiny_config())
    outputs = model(torch.zeros(1, 8, 3, 32, 32))
    assert outputs.loss.isfinite()


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean():
    x = torch.ones(20_000, 3, 2)
    dropped = drop_path(x, 0.3, training=True)
    samples = dropped.flatten(1)
    assert (samples == samples[:, :1]).all()
    assert samples[:, 0].unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert samples[:, 0].mean().item() == pytest.approx(1, abs=0.02)
    assert drop_path(x, 0.3, training=False) is x


def test_stochastic_depth_rises_linearly_in_the_encoder_only(tiny_config):
    model = VideoMSForPreTraining(tiny_config(num_hidden_layers=3, drop_path_rate=0.2))
    assert [layer.drop_path_rate for layer in model.videoms.encoder.layer] == [0.0, 0.1, 0.2]
    assert [layer.drop_path_rate for layer in model.decoder.decoder_layers] == [0.0, 0.0]


# --- parity with transformers' VideoMAE ---------------------------------------------------------------------------


def videomae_of(config, cls, **fields):
    """transformers' VideoMAE of the same shape with our epsilon everywhere and all parameters randomised."""
    names = VideoMAEConfig().to_dict().keys() & config.to_dict().keys() - {"model_type", "architectures"}
    values = {name: getattr(config, name) for name in names if name not in ("transformers_version", "dtype")}
    model = randomize(cls(VideoMAEConfig(**values | fields)))
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = config.layer_norm_eps
    return model.eval()


def copy_weights(theirs, ours):
    """Copy by name, with no missing or unexpected key, from any supported version of transformers.

    Up to 5.17 its keys have biases: each adds a constant to all scores of a query, which softmax ignores.
    """
    state = {}
    for name, value in theirs.state_dict().items():
        if name.endswith("key.bias"):
            continue
        name = name.replace("videomae.", "videoms.").replace("q_bias", "query.bias").replace("v_bias", "value.bias")
        state[name] = value
    ours.load_state_dict(state, strict=True)
    return ours.eval()


def test_without_selection_features_equal_videomae(tiny_config):
    config = tiny_config(token_selection="none")
    theirs = videomae_of(config, VideoMAEModel, use_mean_pooling=False)
    ours = copy_weights(theirs, VideoMSModel(config))
    pixels = clips()
    torch.testing.assert_close(ours(pixels).last_hidden_state, theirs(pixels).last_hidden_state, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gradient", [True, False])
def test_keep_ratio_one_equals_videomae(tiny_config, gradient):
    config = tiny_config(num_labels=5)
    theirs = videomae_of(config, VideoMAEForVideoClassification, num_labels=5)
    ours = copy_weights(theirs, VideoMSForVideoClassification(config))
    pixels = clips()
    with torch.set_grad_enabled(gradient):
        outputs = ours(pixels, keep_ratio=1.0)
    torch.testing.assert_close(outputs.logits, theirs(pixels).logits, rtol=1e-4, atol=1e-5)
    assert outputs.kept_ids.tolist() == [list(range(64))] * 2


def test_a_tube_mask_gives_videomaes_predictions_and_loss(tiny_config):
    config = tiny_config()
    theirs = videomae_of(config, VideoMAEForPreTraining, use_mean_pooling=False)
    ours = copy_weights(theirs, VideoMSForPreTraining(config))
    pixels = clips() * 0.5
    places = torch.stack([torch.randperm(16) < 12 for _ in range(2)])
    mask = places.repeat(1, 4)
    outputs, expected = ours(pixels, bool_masked_pos=mask), theirs(pixels, mask)
    torch.testing.assert_close(outputs.logits, expected.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs.loss, expected.loss, rtol=1e-4, atol=1e-5)
    assert outputs.target_ids.tolist() == [row.nonzero().flatten().tolist() for row in mask]
    assert outputs.visible_ids.tolist() == [(~row).nonzero().flatten().tolist() for row in mask]
    assert outputs.importance is None


def test_selected_tokens_are_encoded_as_if_the_others_were_masked(tiny_config):
    model = randomize(VideoMSModel(tiny_config())).eval()
    pixels = clips()
    outputs = model(pixels)
    mask = torch.ones(2, 64, dtype=torch.bool).scatter(1, outputs.kept_ids, False)
    torch.testing.assert_close(outputs.last_hidden_state, model(pixels, bool_masked_pos=mask).last_hidden_state)
    assert outputs.kept_ids.shape == (2, 38)  # floor(0.6 * 64)


def reference_loss(model, pixels, noise):
    """The whole pre-training step by the definition, from the public weights, one clip at a time."""
    config = model.config
    losses, all_logits = [], []
    for b in range(len(pixels)):
        conv = model.videoms.embeddings.patch_embeddings.projection
        embedded = F.conv3d(pixels[b : b + 1].transpose(1, 2), conv.weight, conv.bias, conv.stride)
        embedded = embedded.flatten(2).transpose(1, 2)  # (1, N, D)
        steps = embedded.detach().unflatten(1, (4, 16))
        scores = (steps[:, 1:] - steps[:, :-1]).norm(dim=-1)
        scores = torch.cat([scores[:, :1], scores], dim=1).flatten()
        kept = sorted(range(64), key=lambda i: (-scores[i].item(), i))[:19]  # floor(0.3 * 64)
        order = sorted(range(19), key=lambda k: noise[b, k].item())
        visible, target = sorted(kept[k] for k in order[:6]), sorted(kept[k] for k in order[6:])
        x = embedded[:, visible] + sinusoid_table(64, config.hidden_size)[visible]
        for layer in model.videoms.encoder.layer:
            x = reference_block(layer, x, config.num_attention_heads)
        x = model.encoder_to_decoder(model.videoms.layernorm(x))
        table = sinusoid_table(64, config.decoder_hidden_size)
        x = torch.cat([x + table[visible], model.mask_token + table[target]], dim=1)
        for layer in model.decoder.decoder_layers:
            x = reference_block(layer, x, config.decoder_num_attention_heads)
        logits = model.decoder.head(model.decoder.norm(x))[0, 6:]
        targets = reference_targets(pixels[b], torch.tensor(target), 8, 2, normalize=True)
        losses.append(((logits - targets) ** 2).mean())
        all_logits.append(logits)
    return torch.stack(losses).mean(), torch.stack(all_logits)


def reference_block(layer, x, num_heads):
    attention = layer.attention.attention
    h = layer.layernorm_before(x)
    q, k, v = (part(h).unflatten(-1, (num_heads, -1)) for part in (attention.query, attention.key, attention.value))
    assert attention.key.bias is None
    weights = torch.einsum("bnhd,bmhd->bhnm", q, k) / math.sqrt(q.shape[-1])
    attended = torch.einsum("bhnm,bmhd->bnhd", weights.softmax(-1), v).flatten(2)
    x = x + layer.attention.output.dense(attended)
    h = layer.intermediate.dense(layer.layernorm_after(x))
    h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
    return x + layer.output.dense(h)


@pytest.mark.parametrize(
    "path",
    [
        "training",
        "evaluation",
        "no gradient",
        "gradient checkpointing",
        pytest.param("compiled", marks=pytest.mark.slow),
        pytest.param("compiled, no gradient", marks=pytest.mark.slow),
    ],
)
def test_a_pretraining_step_matches_the_definition_on_every_path(tiny_config, path):
    model = randomize(VideoMSForPreTraining(tiny_config())).train("gradient" not in path and path != "evaluation")
    step = model
    if path == "gradient checkpointing":
        model.train().gradient_checkpointing_enable()
    if path.startswith("compiled"):  # one graph for all batch sizes
        graphs = CompileCounterWithBackend("aot_eager")
        step = torch.compile(model, fullgraph=True, backend=graphs)
    for batch in (2, 3):
        pixels, noise = clips(batch), torch.rand(batch, 19)
        for tensor in (pixels, noise):
            torch._dynamo.mark_dynamic(tensor, 0)
        with torch.set_grad_enabled("no gradient" not in path):
            outputs = step(pixels, noise=noise)
        loss, logits = reference_loss(model, pixels, noise)
        torch.testing.assert_close(outputs.logits, logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(outputs.loss, loss.float(), rtol=1e-4, atol=1e-5)
        if outputs.loss.requires_grad:
            gradients = torch.autograd.grad(outputs.loss, list(model.parameters()))
            expected = torch.autograd.grad(loss, list(model.parameters()))
            for name, gradient, wanted in zip(dict(model.named_parameters()), gradients, expected, strict=True):
                torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    if path.startswith("compiled"):
        assert graphs.frame_count == 1


@pytest.mark.slow
def test_code_made_by_the_compiler_matches_the_definition(tiny_config):
    model = randomize(VideoMSForPreTraining(tiny_config())).train()
    compiled = torch.compile(model, fullgraph=True)
    for batch in (2, 5):
        pixels, noise = clips(batch), torch.rand(batch, 19)
        for tensor in (pixels, noise):
            torch._dynamo.mark_dynamic(tensor, 0)
        outputs, (loss, logits) = compiled(pixels, noise=noise), reference_loss(model, pixels, noise)
        torch.testing.assert_close(outputs.logits, logits, rtol=1e-4, atol=1e-5)
        gradients = [torch.autograd.grad(each, list(model.parameters())) for each in (outputs.loss, loss)]
        for gradient, wanted in zip(*gradients, strict=True):
            torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mode, times", [("training", 2), ("gradient checkpointing", 2), ("evaluation", 1)])
def test_an_encoder_activation_is_computed_again_once_where_that_saves_memory(tiny_config, mode, times):
    model = randomize(VideoMSForPreTraining(tiny_config(decoder_num_hidden_layers=1))).train(mode != "evaluation")
    if mode == "gradient checkpointing":
        model.gradient_checkpointing_enable()
    calls = []
    for layer in model.videoms.encoder.layer:
        layer.intermediate.activation.register_forward_hook(lambda *_: calls.append("encoder"))
    model.decoder.decoder_layers[0].intermediate.activation.register_forward_hook(lambda *_: calls.append("decoder"))
    model(clips()).loss.backward()
    assert calls.count("encoder") == times * 2
    assert calls.count("decoder") == (2 if mode == "gradient checkpointing" else 1)
