"""Frame selection: time steps are drawn by their number of important tokens, before tokens are selected."""

import itertools
import math

import pytest
import torch

from tests.conftest import randomize
from videoms_hf import VideoMSForPreTraining, VideoMSForVideoClassification, VideoMSModel
from videoms_hf.selection_videoms import VideoMSFrameSelector, informative_slices
from videoms_hf.tubelets_videoms import gather_slices


SELECTIONS = ["motion", "random", "tube", "none"]


def reference_order(scores):
    """Indices by falling score; of equal scores the lower index first."""
    return [sorted(range(len(row)), key=lambda i: (-float(row[i]), i)) for row in scores]


def reference_slice_weights(importance, num_candidates, share):
    places = importance.shape[1] // num_candidates
    weights = []
    for order in reference_order(importance):
        kept = order[: math.floor(share * importance.shape[1] + 1e-6)]
        weights.append([sum(k // places == i for k in kept) for i in range(num_candidates)])
    return weights


def test_evaluation_takes_the_slices_with_most_kept_tokens_ties_to_the_earlier():
    importance = torch.rand(4, 60)
    weights = reference_slice_weights(importance, 6, 0.3)
    expected = [sorted(sorted(range(6), key=lambda i: (-w[i], i))[:4]) for w in weights]
    assert informative_slices(importance, 6, 4, 0.3, None).tolist() == expected


def test_drawn_slices_have_the_frequencies_of_weighted_drawing_without_replacement():
    """A clip with a still half (weight 0 but for one step) and a busy half, against successive draws."""
    importance = torch.full((1, 60), 0.0)
    importance[0, 30:] = torch.tensor([5.0] * 10 + [4.0] * 6 + [0.1] * 4 + [3.0] * 2 + [0.1] * 8)
    importance[0, 20:22] = 6.0
    weights = reference_slice_weights(importance, 6, 20 / 60)[0]
    assert weights == [0, 0, 2, 10, 6, 2]

    def probability(drawn):  # of the ordered draw, by the definition
        left, result = list(weights), 1.0
        for i in drawn:
            result *= left[i] / sum(left)
            left[i] = 0
        return result

    pairs = {(i, j): 0.0 for i in range(6) for j in range(i + 1, 6)}
    for i in range(6):
        for j in range(6):
            if i != j and weights[i] and weights[j]:
                pairs[min(i, j), max(i, j)] += probability((i, j))
    draws = 20_000
    drawn = informative_slices(importance.expand(draws, -1), 6, 2, 20 / 60, torch.rand(draws, 6))
    for pair, expected in pairs.items():
        share = (drawn == torch.tensor(pair)).all(dim=1).float().mean().item()
        assert abs(share - expected) < 4.5 * math.sqrt(max(expected * (1 - expected), 1e-9) / draws) + 1e-9


def test_slices_without_important_tokens_are_drawn_only_if_nothing_else_is_left():
    importance = torch.zeros(1, 40)
    importance[0, 10:30] = 1.0  # steps 1 and 2 of 4
    drawn = informative_slices(importance.expand(500, -1), 4, 3, 0.5, torch.rand(500, 4))
    assert ((drawn == 1).any(dim=1) & (drawn == 2).any(dim=1)).all()
    assert {tuple(row) for row in drawn.tolist()} == {(0, 1, 2), (1, 2, 3)}


def set_probabilities(weights: list[float], num_drawn: int) -> dict[tuple, float]:
    """Probability of every set that draws one after the other, without replacement, can give: all orders added up."""
    found: dict[tuple, float] = {}
    for order in itertools.permutations(range(len(weights)), num_drawn):
        left, probability = list(weights), 1.0
        for i in order:
            probability *= left[i] / sum(left) if left[i] else 0.0
            left[i] = 0
        if probability:
            drawn = tuple(sorted(order))
            found[drawn] = found.get(drawn, 0.0) + probability
    return found


def half_busy_clip(config, first_busy: int) -> torch.Tensor:
    """A candidate clip (1, T, C, H, W) that stands still until step `first_busy`, then changes in ever more rows."""
    clip = torch.zeros(1, config.num_candidate_frames, 3, 32, 32)
    for step in range(first_busy, clip.shape[1] // config.tubelet_size):
        rows = min(16 + 8 * (step - first_busy), 32)
        clip[0, 2 * step : 2 * step + 2, :, :rows] = torch.randn(2, 3, rows, 32)
    return clip


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_training_model_draws_the_busy_half_at_the_frequencies_of_its_weights(selection, tiny_config):
    """Whatever chooses the tokens afterwards: 2 of 4 steps, by their shares of the 30 % most important tokens."""
    config = tiny_config(num_frames=4, candidate_ratio=2, token_selection=selection)
    model = randomize(VideoMSModel(config)).train()
    clip = half_busy_clip(config, first_busy=2)
    weights = reference_slice_weights(model.embeddings.importance(clip), 4, config.pretraining_keep_ratio)[0]
    assert weights[0] == weights[1] == 0 and weights[2] > 0 and weights[3] > 0
    draws = 200
    with torch.no_grad():
        ids = model(clip.expand(draws, -1, -1, -1, -1)).slice_ids
    assert (ids == torch.tensor([2, 3])).all()  # both are busy, so both are always drawn

    config = tiny_config(num_frames=4, candidate_ratio=3, token_selection=selection)
    model = randomize(VideoMSModel(config)).train()
    clip = half_busy_clip(config, first_busy=3)
    weights = reference_slice_weights(model.embeddings.importance(clip), 6, config.pretraining_keep_ratio)[0]
    expected = set_probabilities(weights, 2)
    assert len(expected) == 3 and len(set(weights)) >= 3
    draws = 3000
    with torch.no_grad():
        ids = model(clip.expand(draws, -1, -1, -1, -1), keep_ratio=0.1).slice_ids
    for drawn, probability in expected.items():
        share = (ids == torch.tensor(drawn)).all(dim=1).float().mean().item()
        assert abs(share - probability) < 4.5 * math.sqrt(probability * (1 - probability) / draws)


def test_noise_that_is_nought_one_or_tied_draws_every_step_at_most_once():
    importance = torch.rand(3, 60)
    for noise in (torch.zeros(3, 6), torch.full((3, 6), 1 - 2**-24), torch.full((3, 6), 0.5)):
        drawn = informative_slices(importance, 6, 4, 0.3, noise)
        assert (drawn[:, 1:] > drawn[:, :-1]).all() and drawn.min() >= 0 and drawn.max() < 6
    importance = torch.zeros(1, 40)
    importance[0, 30:] = 1.0  # the last step alone; the noise is as bad for it and as good for the others as can be
    noise = torch.tensor([[0.9, 0.9, 0.9, 0.0]])
    assert informative_slices(importance, 4, 1, 0.25, noise).tolist() == [[3]]


@pytest.mark.parametrize("selection", SELECTIONS)
def test_drawn_steps_give_what_a_clip_of_these_steps_gives(selection, tiny_config):
    """Tokens are scored between neighbours in the drawn clip; position embeddings follow the rank in time."""
    options = {"token_selection": selection, "mask_ratio": 0.8}
    selecting, plain = tiny_config(candidate_ratio=2, **options), tiny_config(**options)
    clips, slice_noise = torch.rand(2, 16, 3, 32, 32), torch.rand(2, 8)
    for kind in (VideoMSForPreTraining, VideoMSForVideoClassification):
        model, reference = randomize(kind(selecting)).eval(), randomize(kind(plain)).eval()
        found = model(clips, slice_noise=slice_noise)
        drawn = informative_slices(model.videoms.embeddings.importance(clips), 8, 4, 0.3, slice_noise)
        assert torch.equal(found.slice_ids, drawn) and drawn.tolist() != [[0, 1, 2, 3]] * 2
        wanted = reference(gather_slices(clips, found.slice_ids, 2))
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value)
        assert (found.importance is None) == (selection != "motion")


def test_a_classifier_ranks_time_steps_by_the_papers_share_whatever_it_keeps(tiny_config):
    """The paper's rho_pre, `pretraining_keep_ratio`, decides in fine-tuning too."""
    clips, drawn = torch.rand(8, 12, 3, 32, 32), {}
    for share, keep_ratio in ((0.05, 0.6), (0.05, 0.2), (0.5, 0.6)):
        config = tiny_config(candidate_ratio=1.5, pretraining_keep_ratio=share, keep_ratio=keep_ratio)
        drawn[share, keep_ratio] = randomize(VideoMSForVideoClassification(config)).eval()(clips).slice_ids
    assert drawn[0.05, 0.6].equal(drawn[0.05, 0.2]) and not drawn[0.05, 0.6].equal(drawn[0.5, 0.6])


def test_evaluation_is_deterministic_and_training_draws_from_torchs_generator(tiny_config):
    model = VideoMSModel(tiny_config(candidate_ratio=1.5))
    clips = torch.rand(4, 12, 3, 32, 32)
    model.eval()
    assert torch.equal(model(clips).slice_ids, model(clips).slice_ids)
    model.train()
    torch.manual_seed(1)
    first = model(clips).slice_ids
    assert not torch.equal(model(clips).slice_ids, first) or not torch.equal(model(clips).slice_ids, first)
    torch.manual_seed(1)
    assert torch.equal(model(clips).slice_ids, first)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_clip_is_drawn_alone_as_in_a_batch(selection, tiny_config):
    model = randomize(VideoMSForVideoClassification(tiny_config(candidate_ratio=1.5, token_selection=selection)))
    clips, slice_noise = torch.rand(3, 12, 3, 32, 32), torch.rand(3, 6)
    clips[2] = 0.25  # stands still: every score is a tie
    for noise in (None, slice_noise):
        whole = model.eval()(clips, slice_noise=noise)
        for i in range(3):
            alone = model(clips[i : i + 1], slice_noise=None if noise is None else noise[i : i + 1])
            assert torch.equal(alone.slice_ids, whole.slice_ids[i : i + 1])
            assert torch.equal(alone.kept_ids, whole.kept_ids[i : i + 1])
            torch.testing.assert_close(alone.logits, whole.logits[i : i + 1], rtol=1e-4, atol=1e-5)


def test_frame_selection_compiles_to_one_graph(tiny_config):
    # After clips of other lengths torch makes the length dynamic, which torch 2.11 cannot checkpoint.
    torch.compiler.reset()
    model = VideoMSForPreTraining(tiny_config(candidate_ratio=1.5, mask_ratio=0.8)).train()
    clips = torch.rand(2, 12, 3, 32, 32)
    noise = {"noise": torch.rand(2, 19), "slice_noise": torch.rand(2, 6)}
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    found, wanted = compiled(clips, **noise), model(clips, **noise)
    assert torch.equal(found.slice_ids, wanted.slice_ids) and torch.equal(found.visible_ids, wanted.visible_ids)
    torch.testing.assert_close(found.loss, wanted.loss)


def test_noise_of_another_shape_and_too_few_candidates_are_refused(tiny_config):
    selector = VideoMSFrameSelector(tiny_config(candidate_ratio=1.5))
    with pytest.raises(ValueError, match=r"slice_noise has shape \(2, 5\); it must be \(2, 6\)"):
        selector(torch.rand(2, 96), 6, torch.rand(2, 5))
    with pytest.raises(ValueError, match="1 candidate time steps leave none at candidate_ratio 1.5"):
        selector(torch.rand(2, 16), 1)
