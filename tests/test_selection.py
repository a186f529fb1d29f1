"""Token selection against slow references written from the method's definition."""

import math

import pytest
import torch

from videoms_hf import VideoMSConfig, VideoMSForPreTraining, VideoMSForVideoClassification, VideoMSModel
from videoms_hf.configuration_videoms import token_counts
from videoms_hf.selection_videoms import (
    VideoMSTokenSelector,
    fixed_noise,
    most_important,
    motion_importance,
    split_kept,
    split_masked,
)


def reference_importance(embeddings, num_steps):
    """Distance of each token to the same place one step earlier, token by token; step 0 takes step 1's."""
    batch, num_tokens, _ = embeddings.shape
    places = num_tokens // num_steps
    scores = torch.zeros(batch, num_tokens)
    for b in range(batch):
        for t in range(1, num_steps):
            for j in range(places):
                change = embeddings[b, t * places + j] - embeddings[b, (t - 1) * places + j]
                scores[b, t * places + j] = math.sqrt(sum(float(c) ** 2 for c in change))
        scores[b, :places] = scores[b, places : 2 * places]
    return scores


def reference_order(scores):
    """Indices by falling score; of equal scores the lower index first."""
    return [sorted(range(len(row)), key=lambda i: (-float(row[i]), i)) for row in scores]


def changes_of(embeddings, num_steps):
    steps = embeddings.unflatten(1, (num_steps, -1))
    return steps[:, 1:] - steps[:, :-1]


@pytest.mark.parametrize("num_steps", [2, 3, 8])  # the official code is right for 8 only
def test_importance_matches_the_definition(num_steps):
    embeddings = torch.randn(2, num_steps * 9, 5)
    torch.testing.assert_close(
        motion_importance(changes_of(embeddings, num_steps)), reference_importance(embeddings, num_steps)
    )


@pytest.mark.parametrize("num_frames, size", [(4, (32, 32)), (8, (32, 32)), (8, (16, 48))])
@pytest.mark.parametrize("training", [True, False])
def test_model_importance_is_that_of_its_patch_embeddings(tiny_config, num_frames, size, training):
    model = VideoMSModel(tiny_config(num_frames=num_frames, image_size=list(size)))
    torch.nn.init.normal_(model.embeddings.patch_embeddings.projection.bias)
    clips = torch.randn(2, num_frames, 3, *size)
    conv = model.embeddings.patch_embeddings.projection
    convolved = torch.nn.functional.conv3d(clips.transpose(1, 2), conv.weight, conv.bias, conv.stride)
    expected = reference_importance(convolved.detach().flatten(2).transpose(1, 2), num_frames // 2)
    with torch.set_grad_enabled(training):
        importance = model(clips).importance
    torch.testing.assert_close(importance, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cls", [VideoMSForPreTraining, VideoMSForVideoClassification])
def test_scoring_leaves_nothing_of_all_tokens_for_the_backward_pass(tiny_config, cls):
    """Of 64 tokens, or the 48 changes of them, nothing is kept: only what was selected is."""
    model = cls(tiny_config(num_labels=3)).train()
    rows = []

    def note(tensor):
        rows.append(math.prod(tensor.shape[:-1]) if tensor.ndim > 1 else 0)
        rows.extend(tensor.shape[:-1])
        return tensor

    clips = torch.randn(1, 8, 3, 32, 32)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(clips)
    kept = 6 if cls is VideoMSForPreTraining else 38
    assert kept in rows  # the hooks do see what is kept
    assert not {64, 48} & set(rows)


def test_ties_go_to_the_lower_index():
    scores = torch.tensor([[1.0, 3.0, 1.0, 3.0, 1.0]])
    assert most_important(scores, 4).tolist() == [[1, 3, 0, 2]]
    scores = torch.randint(0, 4, (3, 200)).float()
    assert most_important(scores, 57).tolist() == [row[:57] for row in reference_order(scores)]


@pytest.mark.parametrize("num_visible", [1, 4, 9])
def test_kept_tokens_are_split_by_noise_in_order_of_importance(num_visible):
    scores, noise = torch.rand(3, 40), torch.rand(3, 10)
    selection = split_kept(most_important(scores, 10), num_visible, noise)
    for b, order in enumerate(reference_order(scores)):
        by_noise = sorted(range(10), key=lambda k: float(noise[b, k]))
        assert selection.visible_ids[b].tolist() == sorted(order[k] for k in by_noise[:num_visible])
        assert selection.target_ids[b].tolist() == sorted(order[k] for k in by_noise[num_visible:])


def test_a_mask_becomes_ascending_indices():
    mask = torch.tensor([[True, False, True, False], [False, False, True, True]])
    visible, target = split_masked(mask, 2, 4)
    assert visible.tolist() == [[1, 3], [0, 1]]
    assert target.tolist() == [[0, 2], [2, 3]]


@pytest.mark.parametrize(
    "mask, message",
    [
        ([[True, False, False, False], [True, True, False, False]], r"\[1, 2\]"),
        ([[True] * 4] * 2, "4 of 4"),
        ([[False] * 4] * 2, "0 of 4"),
        ([[True, False]], r"shape \(1, 2\); it must be \(2, 4\)"),
        ([[True, False, True, False]], r"shape \(1, 4\); it must be \(2, 4\)"),
    ],
)
def test_a_mask_that_cannot_be_used_is_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        split_masked(torch.tensor(mask), 2, 4)


@pytest.mark.parametrize(
    "selection, pretraining, kept",
    [("motion", (156, 314), 940), ("tube", (160, 1408), 936), ("none", (156, 1412), 1568)],
)
def test_counts_at_the_defaults_are_the_papers(selection, pretraining, kept):
    config = VideoMSConfig(token_selection=selection)
    assert token_counts(config, for_pretraining=True) == (1568, *pretraining)
    assert token_counts(config) == (1568, kept, 0)


@pytest.mark.parametrize("grid", [(4, 4, 4), (3, 5, 3)])
@pytest.mark.parametrize("selection", ["motion", "random", "tube", "none"])
def test_counts_are_those_of_the_tokens_that_are_chosen(tiny_config, selection, grid):
    config = tiny_config(token_selection=selection, mask_ratio=0.8)
    selector, importance = VideoMSTokenSelector(config), torch.rand(2, math.prod(grid))
    visible, target = selector.split(importance, 2, grid, None, "cpu")
    assert token_counts(config, grid, for_pretraining=True) == (math.prod(grid), visible.shape[1], target.shape[1])
    for ratio in (0.13, 0.5, 0.6, 0.95, 1):
        kept = selector.keep(importance, 2, grid, ratio, "cpu")
        assert token_counts(config, grid, keep_ratio=ratio) == (math.prod(grid), kept.shape[1], 0)


def test_a_tube_masks_the_same_places_in_every_step(tiny_config):
    selector = VideoMSTokenSelector(tiny_config(token_selection="tube"))
    noise = torch.rand(2, 196)
    visible, target = selector.split(None, 2, (8, 14, 14), noise, "cpu")
    assert visible.shape == (2, 8 * (196 - 176)) and target.shape == (2, 8 * 176)  # floor(0.9 * 196) = 176
    for b in range(2):
        places = sorted(sorted(range(196), key=lambda j: float(noise[b, j]))[:20])
        assert visible[b].tolist() == [t * 196 + j for t in range(8) for j in places]
        assert sorted(visible[b].tolist() + target[b].tolist()) == list(range(1568))


def test_random_selection_follows_the_noise_over_all_tokens(tiny_config):
    selector = VideoMSTokenSelector(tiny_config(token_selection="random"))
    noise = torch.rand(1, 1568)
    visible, target = selector.split(None, 1, (8, 14, 14), noise, "cpu")
    assert visible[0].tolist() == sorted(noise[0].argsort()[:156].tolist())
    assert sorted(visible[0].tolist() + target[0].tolist()) == list(range(1568))


@pytest.mark.parametrize("selection, shape", [("motion", (2, 470)), ("random", (2, 1568)), ("tube", (2, 196))])
def test_noise_of_another_shape_is_refused(tiny_config, selection, shape):
    selector = VideoMSTokenSelector(tiny_config(token_selection=selection))
    importance = torch.rand(2, 1568)
    selector.split(importance, 2, (8, 14, 14), torch.rand(shape), "cpu")
    with pytest.raises(ValueError, match=rf"\(2, 5\).*\(2, {shape[1]}\)"):
        selector.split(importance, 2, (8, 14, 14), torch.rand(2, 5), "cpu")


def test_training_noise_comes_from_torchs_generator(tiny_config):
    selector = VideoMSTokenSelector(tiny_config()).train()
    importance = torch.rand(2, 64)
    torch.manual_seed(3)
    first = selector.split(importance, 2, (4, 4, 4), None, "cpu").visible_ids
    second = selector.split(importance, 2, (4, 4, 4), None, "cpu").visible_ids
    torch.manual_seed(3)
    again = selector.split(importance, 2, (4, 4, 4), None, "cpu").visible_ids
    assert first.equal(again) and not first.equal(second)


def test_evaluation_noise_is_fixed_and_the_same_for_every_clip(tiny_config):
    selector = VideoMSTokenSelector(tiny_config()).eval()
    importance = torch.rand(1, 64).expand(3, -1)
    visible = selector.split(importance, 3, (4, 4, 4), None, "cpu").visible_ids
    assert visible[0].equal(visible[1]) and visible[0].equal(visible[2])
    assert visible.equal(selector.split(importance, 3, (4, 4, 4), None, "cpu").visible_ids)


def test_fixed_noise_looks_uniform():
    noise = fixed_noise(10_000, torch.device("cpu"))
    assert noise.min() >= 0 and noise.max() < 1
    counts = torch.histc(noise, bins=20, min=0, max=1)
    assert ((counts - 500) ** 2 / 500).sum() < 43.8  # chi-square, 19 degrees of freedom, 0.1 %
    neighbours = torch.corrcoef(torch.stack([noise[:-1], noise[1:]]))[0, 1]
    assert neighbours.abs() < 0.03


@pytest.mark.parametrize("selection", ["motion", "random", "tube"])
def test_keep_is_deterministic_in_evaluation_and_ascending(tiny_config, selection):
    selector = VideoMSTokenSelector(tiny_config(token_selection=selection)).eval()
    importance = torch.rand(2, 64)
    kept = selector.keep(importance, 2, (4, 4, 4), 0.5, "cpu")
    assert kept.shape == (2, 32)
    assert kept.equal(selector.keep(importance, 2, (4, 4, 4), 0.5, "cpu"))
    assert (kept[:, 1:] > kept[:, :-1]).all()
    if selection == "motion":
        assert kept.tolist() == [sorted(order[:32]) for order in reference_order(importance)]


@pytest.mark.parametrize("selection, kept", [("motion", 23), ("random", 23), ("tube", 20), ("none", 64)])
def test_a_number_of_tokens_is_kept_whatever_the_clip(tiny_config, selection, kept):
    selector = VideoMSTokenSelector(tiny_config(token_selection=selection, num_kept_tokens=23)).eval()
    importance = torch.rand(2, 96)
    assert selector.keep(importance[:, :64], 2, (4, 4, 4), None, "cpu").shape == (2, kept)
    if selection != "none":
        assert selector.keep(importance, 2, (4, 4, 6), None, "cpu").shape == (2, kept)  # a larger clip, the same cost
        assert selector.keep(importance, 2, (4, 4, 6), None, "cpu", num_kept_tokens=9).shape == (
            2,
            9 if kept == 23 else 8,
        )
    assert selector.keep(importance, 2, (4, 4, 6), 0.5, "cpu").shape == (2, 96 if selection == "none" else 48)


@pytest.mark.parametrize("selection, number, least", [("motion", 65, 1), ("tube", 3, 4)])
def test_a_number_of_tokens_that_a_clip_does_not_have_is_refused(tiny_config, selection, number, least):
    with pytest.raises(ValueError, match=f"num_kept_tokens is {number}; it must be from {least} to 64"):
        token_counts(tiny_config(token_selection=selection), num_kept_tokens=number)


def test_a_ratio_that_keeps_nothing_is_refused(tiny_config):
    for selection, least in (("motion", 0.0156), ("tube", 0.0625)):
        with pytest.raises(ValueError, match=f"keeps none of 64 tokens; it must be at least {least}"):
            token_counts(tiny_config(token_selection=selection), keep_ratio=0.01)
