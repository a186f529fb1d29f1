"""Scores without the camera's motion, on rendered scenes whose moving object is known."""

import math

import pytest
import torch
import torch.nn.functional as F

from videoms_hf import VideoMSConfig, VideoMSForVideoClassification, VideoMSModel
from videoms_hf.experiments.selectors import (
    compensated_changes,
    fit_camera,
    keep_with_reference,
    select_for_moving_camera,
)
from videoms_hf.selection_videoms import most_important


SIZE, PATCH, NUM_SCENES = 224, 16, 5
CONFIG = VideoMSConfig(
    num_frames=4, hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, keep_ratio=0.3
)


def texture(blur: float) -> torch.Tensor:
    """Random smooth colours, (1, 3, 448, 448), of mean 0 and deviation 1."""
    size = int(6 * blur) | 1
    kernel = torch.exp(-0.5 * ((torch.arange(size) - size // 2) / blur) ** 2)
    noise = torch.randn(3, 1, 448, 448)
    noise = F.conv2d(F.pad(noise, [size // 2] * 4, "circular"), kernel[None, None, None])
    noise = F.conv2d(noise, kernel[None, None, :, None]).transpose(0, 1)
    return noise / noise.std()


def scene(pan=0.0, zoom=0.0, roll=0.0, radius=(24, 44), noise=0.05, step=(2.0, 4.5)):
    """Four frames (1, 4, 3, 224, 224) and where the object is in any of the last three, (196,).

    The camera moves by up to `pan` pixels, the factor 1 + `zoom` and `roll` radians from a frame to the next.
    """
    background, thing = (
        texture(float(1.5 + 3.5 * torch.rand(()))) + texture(12.0),
        texture(float(1.5 + 2.5 * torch.rand(()))),
    )
    signs = 2 * torch.rand(4) - 1
    angle = 2 * math.pi * torch.rand(())
    motion = (step[0] + (step[1] - step[0]) * torch.rand(())) * torch.stack([angle.cos(), angle.sin()])
    size = radius[0] + (radius[1] - radius[0]) * torch.rand(())
    centre = 70 + 84 * torch.rand(2)
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    frames, covered = [], []
    for t in range(4):
        factor, turn = (1 + zoom * signs[2]) ** t, roll * signs[3] * t
        dx, dy = (x - SIZE / 2) * factor, (y - SIZE / 2) * factor
        bx = dx * turn.cos() - dy * turn.sin() + pan * signs[0] * t if roll else dx + pan * signs[0] * t
        by = dx * turn.sin() + dy * turn.cos() + pan * signs[1] * t if roll else dy + pan * signs[1] * t
        cx, cy = centre + motion * t
        inside = (x - cx) ** 2 + (y - cy) ** 2 < size**2
        places = [torch.stack([u, v], dim=-1)[None] / 224 for u, v in ((bx, by), (x - cx, y - cy))]
        seen, moved = (
            F.grid_sample(a, p, align_corners=False) for a, p in zip((background, thing), places, strict=True)
        )
        frames.append(torch.where(inside, moved, seen)[0] + noise * torch.randn(3, SIZE, SIZE))
        covered.append(inside.float())
    share = F.avg_pool2d(torch.stack(covered).amax(dim=0)[None, None], PATCH).flatten()
    return torch.stack(frames)[None], share > 0.3


def recall(model, clip, is_object) -> float:
    """Share of the object's patches among the 30 % that score highest of the second time step."""
    importance = model.embeddings.importance(clip)[:, -196:]
    top = most_important(importance, int(0.3 * 196))[0]
    return is_object[top].sum().item() / is_object.sum().item()


def models():
    plain = VideoMSModel(CONFIG).eval()
    compensated = VideoMSModel(CONFIG).eval()
    compensated.load_state_dict(plain.state_dict())
    return plain, select_for_moving_camera(compensated)


def motion_of(clip) -> torch.Tensor:
    luma = clip.mean(dim=2)
    return fit_camera(luma[:, :2], luma[:, 2:], (PATCH, PATCH))


@pytest.mark.parametrize(
    "camera", [{"pan": 3.0}, {"pan": 3.0, "zoom": 0.0075, "roll": math.radians(0.5)}], ids=["pan", "pan, zoom, roll"]
)
def test_an_object_is_found_in_spite_of_the_camera(camera):
    plain, compensated = models()
    found = [
        [recall(model, *case) for model in (plain, compensated)]
        for case in (scene(**camera) for _ in range(NUM_SCENES))
    ]
    before, after = torch.tensor(found).mean(dim=0).tolist()
    assert after >= 0.95 and before < 0.9


def test_the_motion_of_a_pan_is_the_one_that_was_rendered_and_shaking_has_its_own_at_each_step():
    background = texture(4.0)
    shifts = [(0, 0), (1, 0), (4, 3), (5, 3), (0, 0), (1, 0)]
    frames = torch.stack([background[0, :, 100 + dy : 324 + dy, 100 + dx : 324 + dx] for dx, dy in shifts])[None]
    luma = frames.mean(dim=2).unflatten(1, (-1, 2))[0]
    theta = fit_camera(luma[:-1], luma[1:], (PATCH, PATCH))
    torch.testing.assert_close(theta[:, [0, 3]], torch.tensor([[4.0, 3], [-4, -3]]), atol=0.1, rtol=0)
    assert theta[:, [1, 2, 4, 5]].abs().max() < 0.1
    changes = compensated_changes(frames, CONFIG)
    assert changes[..., 16:-16, 16:-16].abs().mean() < 0.2 * (frames[:, 2:] - frames[:, :-2]).abs().mean()


def still(**options):
    return scene(**options)[0]


def cut():
    return torch.cat([scene()[0][:, :2], scene()[0][:, :2]], dim=1)


def flicker():
    return still() * torch.tensor([1, 1, 1.3, 1.3])[:, None, None, None]


def plain_colour():
    return 0.05 * torch.randn(1, 4, 3, SIZE, SIZE) + 0.5


@pytest.mark.parametrize(
    "make",
    [still, cut, flicker, plain_colour, lambda: torch.zeros(1, 4, 3, SIZE, SIZE), lambda: still(radius=(97, 98))],
    ids=["still camera", "scene cut", "flicker", "noise without texture", "no texture", "object of 60 %"],
)
def test_without_a_camera_motion_the_score_is_the_papers_bit_by_bit(make):
    plain, compensated = models()
    for _ in range(2):
        clip = make()
        assert (motion_of(clip) == 0).all()
        assert compensated.embeddings.importance(clip).equal(plain.embeddings.importance(clip))


def test_new_parts_of_the_frame_keep_their_plain_change():
    background = texture(4.0)
    frames = torch.stack([background[0, :, 100:324, 100 + 6 * (t // 2) : 324 + 6 * (t // 2)] for t in range(4)])[None]
    changes, plain = compensated_changes(frames, CONFIG), frames[:, 2:] - frames[:, :-2]
    assert changes[..., -5:].equal(plain[..., -5:])
    assert changes[..., :-8].abs().mean() < 0.2 * plain[..., :-8].abs().mean()


def test_a_share_of_the_tokens_shows_the_background_evenly():
    importance = torch.rand(2, 100)
    kept = keep_with_reference(importance, 30, 6)
    assert kept.shape == (2, 30) and (kept.diff(dim=1) > 0).all()
    moving = most_important(importance, 24)
    for row, top in zip(kept, moving, strict=True):
        others = sorted(set(range(100)) - set(top.tolist()))
        assert sorted(set(row.tolist()) - set(top.tolist())) == [others[int((i + 0.5) * 76 / 6)] for i in range(6)]
    assert keep_with_reference(importance, 30, 0).equal(most_important(importance, 30).sort(dim=1).values)


@pytest.mark.parametrize("training", [True, False])
def test_a_model_selects_with_both_and_its_weights_stay_as_they_were(training):
    model = VideoMSForVideoClassification(CONFIG).train(training)
    names, (clip, _) = set(model.state_dict()), scene(pan=3.0)
    with torch.set_grad_enabled(training):
        plain = model(clip)
        select_for_moving_camera(model, reference_share=0.2)
        compensated = model(clip)
    assert set(model.state_dict()) == names
    assert compensated.kept_ids.shape == plain.kept_ids.shape and not compensated.kept_ids.equal(plain.kept_ids)
    assert compensated.logits.isfinite().all()
    expected = keep_with_reference(compensated.importance, 117, 23)
    assert compensated.kept_ids.equal(expected)
