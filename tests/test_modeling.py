"""What the networks do: shapes, selection, gradients, precision, features, errors, first weights."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError

from videoms_hf import VideoMSConfig, VideoMSForPreTraining, VideoMSForVideoClassification, VideoMSModel
from videoms_hf.tubelets_videoms import split_tubelets

from .conftest import randomize


def clips(batch=2, frames=8, size=32, channels=3):
    return torch.randn(batch, frames, channels, size, size)


def moving_square(frames=8, size=32):
    """A textured square of 8 x 8 pixels that moves by 2 pixels a frame over a still background."""
    clip = torch.rand(1, 1, 3, size, size).repeat(1, frames, 1, 1, 1)
    texture = torch.randn(3, 8, 8) * 3
    for t in range(frames):
        clip[0, t, :, 8:16, 2 * t : 2 * t + 8] = texture
    return clip


# --- behaviour ----------------------------------------------------------------------------------------------------


def test_outputs_have_the_documented_shapes():
    config = VideoMSConfig.from_size("small", num_hidden_layers=1, decoder_num_hidden_layers=1, num_labels=3)
    pixels = clips(1, 16, 224)
    with torch.no_grad():
        pretraining = VideoMSForPreTraining(config)(pixels)
        classification = VideoMSForVideoClassification(config)(pixels, labels=torch.tensor([2]))
    assert pretraining.logits.shape == (1, 314, 1536) and pretraining.loss.shape == ()
    assert pretraining.visible_ids.shape == (1, 156) and pretraining.target_ids.shape == (1, 314)
    assert pretraining.importance.shape == (1, 1568)
    assert classification.kept_ids.shape == (1, 940) and classification.logits.shape == (1, 3)
    assert classification.importance.shape == (1, 1568)


@pytest.mark.parametrize("frames, size", [(4, (32, 32)), (12, (32, 32)), (8, (16, 40)), (6, (64, 8))])
@pytest.mark.parametrize("selection", ["motion", "random", "tube", "none"])
def test_a_checkpoint_works_at_any_length_and_resolution(tiny_config, frames, size, selection):
    config = tiny_config(token_selection=selection, mask_ratio=0.75, pretraining_keep_ratio=0.5)
    pixels = torch.randn(2, frames, 3, *size)
    outputs = VideoMSForPreTraining(config)(pixels)
    own = VideoMSForPreTraining(tiny_config(**{**config.to_dict(), "num_frames": frames, "image_size": list(size)}))
    own.load_state_dict(VideoMSForPreTraining(config).state_dict())
    model = VideoMSForPreTraining(config)
    model.load_state_dict(own.state_dict())
    torch.testing.assert_close(model.eval()(pixels).logits, own.eval()(pixels).logits)
    assert outputs.loss.isfinite()


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_any_number_of_channels_works(tiny_config, channels):
    outputs = VideoMSForPreTraining(tiny_config(num_channels=channels))(clips(channels=channels))
    assert outputs.logits.shape[-1] == 2 * 8 * 8 * channels


def test_a_moving_square_keeps_its_tokens(tiny_config):
    clip = moving_square()
    outputs = VideoMSForPreTraining(tiny_config()).eval()(clip)
    kept = torch.cat([outputs.visible_ids, outputs.target_ids], dim=1)[0].sort().values
    touched = set()
    for t in range(4):  # the square touches row 1 of the patches, and changes between the steps t - 1 and t
        before = max(t - 1, 0) if t else 1
        for frame in (2 * t, 2 * t + 1, 2 * before, 2 * before + 1):
            touched |= {t * 16 + 4 + column for column in range(2 * frame // 8, (2 * frame + 7) // 8 + 1)}
    moving = {i for i in range(64) if outputs.importance[0, i] > 1e-4}
    assert moving and moving <= touched
    assert moving <= set(kept.tolist())  # fewer than 19 tokens move


def test_a_static_clip_works_and_keeps_the_first_tokens(tiny_config):
    clip = torch.randn(1, 1, 3, 32, 32).expand(-1, 8, -1, -1, -1)
    outputs = VideoMSForVideoClassification(tiny_config()).eval()(clip)
    assert (outputs.importance == 0).all()
    assert outputs.kept_ids.tolist() == [list(range(38))]
    assert VideoMSForPreTraining(tiny_config()).eval()(clip).loss.isfinite()


def test_the_loss_falls_when_one_batch_is_repeated(tiny_config):
    model = VideoMSForPreTraining(tiny_config(hidden_size=32, decoder_hidden_size=24))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    pixels, noise = F.interpolate(clips().flatten(0, 1), scale_factor=2)[:, :, 16:48, 16:48], torch.rand(2, 19)
    pixels = pixels.unflatten(0, (2, 8))
    losses = []
    for _ in range(250):
        loss = model(pixels, noise=noise).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("cls", [VideoMSForPreTraining, VideoMSForVideoClassification])
def test_gradients_reach_every_parameter(tiny_config, cls):
    model = randomize(cls(tiny_config(num_labels=3))).train()
    inputs = {"labels": torch.tensor([0, 2])} if cls is VideoMSForVideoClassification else {}
    model(clips(), **inputs).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_scoring_leaves_no_gradient(tiny_config):
    model = VideoMSModel(tiny_config())
    pixels = clips().requires_grad_()
    assert not model(pixels).importance.requires_grad


@pytest.mark.parametrize("cls", [VideoMSForPreTraining, VideoMSForVideoClassification])
@pytest.mark.parametrize("selection", ["motion", "random", "tube", "none"])
def test_a_batch_gives_each_clip_the_same_result_as_alone(tiny_config, cls, selection):
    model = randomize(cls(tiny_config(token_selection=selection))).eval()
    pixels = clips(5)
    pixels[3] = pixels[3, :1]  # a static clip among them: all ties
    with torch.no_grad():
        together = model(pixels)
        for b in range(5):
            alone = model(pixels[b : b + 1])
            torch.testing.assert_close(alone.logits[0], together.logits[b], rtol=1e-4, atol=1e-5)
            for name in ("kept_ids", "visible_ids", "target_ids"):
                if getattr(together, name, None) is not None:
                    assert getattr(alone, name)[0].equal(getattr(together, name)[b])


def natural_looking(batch=2):
    """Smooth textures that drift at different speeds, with a little sensor noise: motion of all sizes."""
    base = F.interpolate(torch.randn(batch, 3, 12, 12), size=96, mode="bicubic")
    frames = [torch.roll(base, (t, 2 * t), (2, 3))[..., :64, :64] for t in range(8)]
    still = F.interpolate(torch.randn(batch, 3, 10, 10), size=64, mode="bicubic")
    blend = torch.linspace(0, 1, 64)[None, None, None]
    clip = torch.stack([blend * frame + (1 - blend) * still for frame in frames], dim=1)
    return clip + 0.01 * torch.randn_like(clip)


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("half", ["autocast", "weights"])
def test_bfloat16_keeps_the_tokens_of_float32(tiny_config, gradient, half):
    config = tiny_config(image_size=64, patch_size=4, hidden_size=64, num_attention_heads=2)
    model = VideoMSModel(config).eval()
    pixels = natural_looking()
    with torch.set_grad_enabled(gradient):
        exact = model(pixels).kept_ids
        if half == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                rounded = model(pixels).kept_ids
        else:
            rounded = copy.deepcopy(model).bfloat16()(pixels).kept_ids
    same = [len(set(a.tolist()) & set(b.tolist())) / len(a) for a, b in zip(exact, rounded, strict=True)]
    assert min(same) >= 0.98


@pytest.mark.parametrize("cls", [VideoMSForPreTraining, VideoMSForVideoClassification])
@pytest.mark.parametrize("candidate_ratio", [1, 1.5])
def test_a_model_in_float64_computes_in_float64(tiny_config, cls, candidate_ratio):
    fields = {"num_labels": 2, "problem_type": "single_label_classification"}
    single = randomize(cls(tiny_config(candidate_ratio=candidate_ratio, **fields))).eval()
    model = copy.deepcopy(single).double()
    pixels = clips(frames=12 if candidate_ratio > 1 else 8).double()
    inputs = {} if cls is VideoMSForPreTraining else {"labels": torch.tensor([[0.3, 0.7], [1, 0]]).double()}
    outputs = model(pixels, **inputs)
    with torch.no_grad():  # another order of sums
        again = model(pixels, **inputs)
    assert {outputs[name].dtype for name in ("loss", "logits", "importance")} == {torch.float64}
    torch.testing.assert_close(again.logits, outputs.logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(single(pixels, **inputs).loss.double(), outputs.loss, rtol=1e-4, atol=1e-5)
    assert single(pixels, **inputs).loss.dtype == single(pixels).importance.dtype == torch.float32
    bias = next(parameter for name, parameter in model.named_parameters() if name.endswith("query.bias"))
    outputs.loss.backward()
    with torch.no_grad():
        slope = []
        for step in (1e-6, -2e-6):
            bias[0] += step
            slope.append(model(pixels, **inputs).loss)
    torch.testing.assert_close((slope[0] - slope[1]) / 2e-6, bias.grad[0], rtol=1e-5, atol=1e-9)


def test_eager_and_sdpa_choose_the_same_tokens_and_agree(tiny_config):
    model = randomize(VideoMSForVideoClassification(tiny_config())).eval()
    pixels = clips()
    results = {}
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        results[implementation] = model(pixels)
    assert results["eager"].kept_ids.equal(results["sdpa"].kept_ids)
    torch.testing.assert_close(results["eager"].logits, results["sdpa"].logits, rtol=1e-5, atol=1e-6)


def test_evaluation_loss_can_be_repeated_and_training_loss_differs(tiny_config):
    model = VideoMSForPreTraining(tiny_config())
    pixels = clips()
    assert model.eval()(pixels).loss == model(pixels).loss
    model.train()
    assert not model(pixels).visible_ids.equal(model(pixels).visible_ids)


@pytest.mark.parametrize("selection", ["motion", "random", "tube"])
def test_fewer_tokens_cost_fewer_operations_and_flops_tells(tiny_config, selection):
    model = VideoMSForVideoClassification(tiny_config(token_selection=selection))
    assert model.flops(keep_ratio=0.25) < model.flops(keep_ratio=0.5) < model.flops(keep_ratio=1.0)
    assert model.flops(num_kept_tokens=16) == model.flops(keep_ratio=0.25)


@pytest.mark.parametrize(
    "problem_type, labels, reference",
    [
        ("single_label_classification", torch.tensor([1, 3]), F.cross_entropy),
        ("single_label_classification", torch.tensor([[0.7, 0.1, 0.1, 0.1], [0, 0, 0.5, 0.5]]), F.cross_entropy),
        (
            "multi_label_classification",
            torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 1]]),
            F.binary_cross_entropy_with_logits,
        ),
        ("regression", torch.randn(2, 4), F.mse_loss),
    ],
)
def test_the_classification_loss_follows_the_problem_type(tiny_config, problem_type, labels, reference):
    model = randomize(VideoMSForVideoClassification(tiny_config(num_labels=4, problem_type=problem_type))).eval()
    outputs = model(clips(), labels=labels)
    torch.testing.assert_close(outputs.loss, reference(outputs.logits, labels))


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification", "regression"])
def test_views_of_a_video_are_averaged_as_probabilities(tiny_config, problem_type):
    model = randomize(VideoMSForVideoClassification(tiny_config(num_labels=4, problem_type=problem_type))).eval()
    views = torch.randn(2, 3, 8, 3, 32, 32)
    logits = model(views).logits
    single = torch.stack([model(views[:, i]).logits for i in range(3)], dim=1)
    if problem_type == "single_label_classification":
        torch.testing.assert_close(logits.softmax(-1), single.softmax(-1).mean(1))
    elif problem_type == "multi_label_classification":
        torch.testing.assert_close(logits.sigmoid(), single.sigmoid().mean(1))
    else:
        torch.testing.assert_close(logits, single.mean(1))


def test_views_of_a_model_with_one_output_are_averaged_as_in_regression(tiny_config):
    """Its problem type is set by the first loss only; one score has no softmax."""
    model = randomize(VideoMSForVideoClassification(tiny_config(num_labels=1))).eval()
    views = torch.randn(2, 3, 8, 3, 32, 32)
    single = torch.stack([model(views[:, i]).logits for i in range(3)], dim=1)
    torch.testing.assert_close(model(views).logits, single.mean(1))


def test_views_that_are_certain_of_a_label_have_finite_scores(tiny_config):
    fields = {"num_labels": 4, "problem_type": "multi_label_classification"}
    model = VideoMSForVideoClassification(tiny_config(**fields)).eval()
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([80.0, 0, 20, -80]))
    logits = model(torch.randn(1, 2, 8, 3, 32, 32)).logits
    torch.testing.assert_close(logits, model.classifier.bias[None], rtol=1e-2, atol=1e-2)


def test_clip_and_time_step_features_are_means_of_their_tokens(tiny_config):
    model = randomize(VideoMSModel(tiny_config(keep_ratio=0.2))).eval()
    pixels = clips()
    pixels[0, 2:6] = pixels[0, :1]  # time steps without any kept token
    outputs = model(pixels)
    torch.testing.assert_close(model.get_clip_features(pixels), outputs.last_hidden_state.mean(1))
    features = model.get_time_step_features(pixels)
    for b in range(2):
        for t in range(4):
            own = [k for k, token in enumerate(outputs.kept_ids[b].tolist()) if token // 16 == t]
            expected = outputs.last_hidden_state[b, own].mean(0) if own else torch.zeros(16)
            torch.testing.assert_close(features[b, t], expected, rtol=1e-4, atol=1e-5)
    model.config.return_dict = False
    assert model.get_clip_features(pixels).shape == (2, 16) and model.get_time_step_features(pixels).equal(features)


def test_time_step_features_with_a_mask_are_those_of_the_visible_tokens(tiny_config):
    model = randomize(VideoMSModel(tiny_config())).eval()
    pixels, mask = clips(), torch.ones(2, 4, 16, dtype=torch.bool)
    mask[:, 1:, :2] = False  # two tokens in all steps but the first
    features = model.get_time_step_features(pixels, bool_masked_pos=mask.flatten(1))
    tokens = model(pixels, bool_masked_pos=mask.flatten(1)).last_hidden_state.unflatten(1, (3, 2))
    assert (features[:, 0] == 0).all()
    torch.testing.assert_close(features[:, 1:], tokens.mean(2))


def test_a_mask_for_another_number_of_clips_is_refused(tiny_config):
    mask = (torch.arange(64) % 4 > 0).expand(3, -1)
    for rows in (1, 3):
        with pytest.raises(ValueError, match=rf"bool_masked_pos has shape \({rows}, 64\); it must be \(2, 64\)"):
            VideoMSForPreTraining(tiny_config())(clips(2), mask[:rows])


def test_frame_selection_can_be_turned_on_after_the_model_is_built(tiny_config):
    model = VideoMSForVideoClassification(tiny_config()).eval()
    model.config.candidate_ratio = 1.5
    assert model(clips(frames=12)).slice_ids.shape == (2, 4)


@pytest.mark.parametrize(
    "shape, message",
    [
        ((8, 3, 32, 32), "five dimensions"),
        ((1, 3, 8, 32, 32), "8 channels"),
        ((1, 7, 3, 32, 32), "7.*tubelet_size 2"),
        ((1, 8, 3, 30, 32), "height is 30.*patch_size 8"),
        ((1, 8, 3, 32, 36), "width is 36.*patch_size 8"),
        ((1, 2, 3, 32, 32), "one tubelet"),
    ],
)
@pytest.mark.parametrize("cls", [VideoMSModel, VideoMSForPreTraining, VideoMSForVideoClassification])
def test_inputs_of_a_wrong_shape_are_refused(tiny_config, cls, shape, message):
    with pytest.raises(ValueError, match=message):
        cls(tiny_config())(torch.randn(shape))


def test_frames_that_were_not_normalised_are_refused(tiny_config):
    with pytest.raises(ValueError, match=r"torch\.uint8.*VideoMSVideoProcessor"):
        VideoMSModel(tiny_config())(torch.zeros(1, 8, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize("training", [True, False])
def test_a_number_of_tokens_computes_the_same_as_its_share(tiny_config, training):
    model, pixels = VideoMSForVideoClassification(tiny_config(num_labels=4)).train(training), clips()
    saved = VideoMSForVideoClassification(tiny_config(num_labels=4, num_kept_tokens=16)).train(training)
    saved.load_state_dict(model.state_dict())
    with torch.set_grad_enabled(training):
        expected = model(pixels, keep_ratio=0.25)
        assert expected.kept_ids.shape[1] == 16
        for output in (model(pixels, num_kept_tokens=16), saved(pixels)):
            assert output.kept_ids.equal(expected.kept_ids) and output.logits.equal(expected.logits)
    assert saved(pixels, keep_ratio=0.5).kept_ids.shape[1] == 32
    assert model.videoms.get_clip_features(pixels, num_kept_tokens=5).shape == (len(pixels), 16)


def test_a_keep_ratio_out_of_range_is_refused(tiny_config):
    with pytest.raises(ValueError, match=r"keep_ratio is 1\.5"):
        VideoMSForVideoClassification(tiny_config())(clips(), keep_ratio=1.5)


# --- initialisation -----------------------------------------------------------------------------------------------


def test_pretraining_starts_from_xavier_uniform():
    model = VideoMSForPreTraining(VideoMSConfig.from_size("small", num_hidden_layers=1, decoder_num_hidden_layers=1))
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            bound = math.sqrt(6 / sum(module.weight.shape))
            assert module.weight.abs().max() <= bound, name
            assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03), name
            assert module.bias is None or (module.bias == 0).all(), name
        if isinstance(module, torch.nn.LayerNorm):
            assert (module.weight == 1).all() and (module.bias == 0).all() and module.eps == 1e-6, name
    assert model.mask_token.abs().max() <= 0.02 and model.mask_token.std().item() == pytest.approx(0.0108, rel=0.2)


def test_classification_starts_from_a_normal_and_a_small_head():
    model = VideoMSForVideoClassification(VideoMSConfig.from_size("small", num_hidden_layers=1, num_labels=101))
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            std = 0.02 * (0.001 if name == "classifier" else 1)
            assert module.weight.std().item() == pytest.approx(std, rel=0.03), name
            assert module.bias is None or (module.bias == 0).all(), name


@pytest.mark.parametrize("cls", [VideoMSForPreTraining, VideoMSForVideoClassification])
def test_the_patch_embedding_starts_as_pytorchs_convolution_does(cls):
    projection = cls(
        VideoMSConfig.from_size("small", num_hidden_layers=1)
    ).videoms.embeddings.patch_embeddings.projection
    bound = 1 / math.sqrt(projection.weight[0].numel())
    for parameter in (projection.weight, projection.bias):
        assert parameter.abs().max() <= bound
        assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


# --- motion of pixels ------------------------------------------------------------------------------------------------


def test_the_pixel_score_is_the_distance_of_tubelets_and_changes_nothing_else(tiny_config):
    config = tiny_config(motion_score="pixel", keep_ratio=0.3)
    model = randomize(VideoMSModel(config)).eval()
    clip = torch.rand(2, config.num_frames, config.num_channels, *config.image_shape)
    with torch.no_grad():
        out = model(clip)
    tubelets = split_tubelets(clip, config).flatten(4).flatten(2, 3)
    distance = torch.stack([(tubelets[:, t] - tubelets[:, t - 1]).square().sum(dim=-1).sqrt() for t in (1, 1, 2, 3)])
    torch.testing.assert_close(out.importance, distance.transpose(0, 1).flatten(1))
    trained = model(clip)  # with a gradient
    assert trained.kept_ids.equal(out.kept_ids) and trained.last_hidden_state.equal(out.last_hidden_state)
    mask = torch.ones(2, config.num_tokens, dtype=torch.bool).scatter(1, out.kept_ids, False)
    assert model(clip, bool_masked_pos=mask).last_hidden_state.equal(out.last_hidden_state)
    by_embedding = VideoMSModel(tiny_config(keep_ratio=0.3))
    num_dropped = config.num_tokens - out.kept_ids.shape[1]
    values = config.tubelet_size * config.num_channels * config.patch_shape[0] * config.patch_shape[1]
    assert by_embedding.flops() - model.flops() == num_dropped * values * config.hidden_size
    with pytest.raises(StrictDataclassError, match="motion_score"):
        tiny_config(motion_score="colour")
