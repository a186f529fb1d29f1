"""Pictures: predicted patches land where they came from, and every token looks like what it is."""

import numpy as np
import pytest
import torch

from videoms_hf import VideoMSForPreTraining, VideoMSForVideoClassification
from videoms_hf.configuration_videoms import IMAGENET_MEAN, IMAGENET_STD
from videoms_hf.visualization.drawings import (
    draw_kept_tokens,
    draw_pretraining_tokens,
    draw_reconstruction,
    frames_from_pixel_values,
    patches_to_frames,
)
from videoms_hf.visualization.picture import DROPPED_COLOR, TARGET_COLOR, VISIBLE_COLOR, ClipLayout


def reference_targets(frames, target_ids, tubelet_size, patch_shape, normalize):
    """The pixels to predict, written out value by value: (frame, row, column, channel), channel fastest."""
    num_channels, height, width = frames.shape[1:]
    ph, pw = patch_shape
    rows, columns = height // ph, width // pw
    targets = []
    for i in target_ids.tolist():
        t, h, w = i // (rows * columns), i // columns % rows, i % columns
        values = torch.empty(tubelet_size, ph, pw, num_channels)
        for c in range(num_channels):
            block = frames[t * tubelet_size : (t + 1) * tubelet_size, c, h * ph : (h + 1) * ph, w * pw : (w + 1) * pw]
            block = block.float() / 255
            if normalize:
                block = (block - block.mean()) / (block.var(unbiased=True).sqrt() + 1e-6)
            values[..., c] = block
        targets.append(torch.tensor([values[f, y, x, c] for f, y, x, c in np.ndindex(*values.shape)]))
    return torch.stack(targets)


def random_frames(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.mark.parametrize("norm_pix_loss", [True, False])
@pytest.mark.parametrize(
    "shape, tubelet_size, patch_size", [((4, 3, 8, 12), 2, 4), ((6, 1, 8, 8), 3, (2, 4)), ((2, 3, 4, 8), 1, (4, 2))]
)
def test_targets_put_back_give_the_original_pixels(shape, tubelet_size, patch_size, norm_pix_loss):
    frames = random_frames(*shape)
    patch_shape = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    num_tokens = shape[0] // tubelet_size * (shape[2] // patch_shape[0]) * (shape[3] // patch_shape[1])
    target_ids = torch.randperm(num_tokens)[: num_tokens // 2]
    targets = reference_targets(frames, target_ids, tubelet_size, patch_shape, norm_pix_loss)
    restored = patches_to_frames(targets, target_ids, frames, tubelet_size, patch_size, norm_pix_loss)
    torch.testing.assert_close(restored, frames.float() / 255, rtol=0, atol=2e-6)
    assert torch.equal((restored * 255).round().to(torch.uint8), frames)


def test_predictions_change_their_own_tokens_only():
    frames = random_frames(4, 3, 8, 12)
    target_ids = torch.tensor([1, 10])  # (time 0, row 0, column 1) and (time 1, row 1, column 1)
    restored = patches_to_frames(torch.full((2, 96), 7.0), target_ids, frames, 2, 4, norm_pix_loss=False)
    expected = frames.float() / 255
    expected[:2, :, :4, 4:8] = 7
    expected[2:, :, 4:, 4:8] = 7
    torch.testing.assert_close(restored, expected)


def test_normalised_predictions_take_mean_and_deviation_of_each_channel_from_the_original():
    frames = random_frames(2, 3, 4, 4)
    restored = patches_to_frames(torch.zeros(1, 96), torch.tensor([0]), frames, 2, 4, norm_pix_loss=True)
    means = (frames.float() / 255).mean(dim=(0, 2, 3))
    torch.testing.assert_close(restored, means[None, :, None, None].expand(2, -1, 4, 4))


def test_a_tubelet_of_one_colour_is_restored():
    frames = torch.full((2, 3, 4, 4), 128, dtype=torch.uint8)
    targets = reference_targets(frames, torch.tensor([0]), 2, (4, 4), normalize=True)
    restored = patches_to_frames(targets, torch.tensor([0]), frames, 2, 4)
    assert torch.equal((restored * 255).round().to(torch.uint8), frames)


@pytest.mark.parametrize("shape", [(2, 3, 4, 8), (2, 1, 4, 4)])
def test_float_frames_are_taken_as_they_are_and_not_changed(shape):
    frames = torch.rand(shape)
    before = frames.clone()
    restored = patches_to_frames(torch.zeros(1, 32 * shape[1]), torch.tensor([0]), frames, 2, 4, norm_pix_loss=False)
    assert torch.equal(frames, before)
    assert torch.equal(restored[..., 4:], before[..., 4:]) and not restored[..., :4].any()


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_the_models_own_loss_is_the_distance_of_what_is_put_back(tiny_config, norm_pix_loss):
    config = tiny_config(pretraining_keep_ratio=0.5, mask_ratio=0.8, norm_pix_loss=norm_pix_loss)
    frames = random_frames(8, 3, 32, 32)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    model = VideoMSForPreTraining(config).eval()
    with torch.no_grad():
        outputs = model(((frames.float() / 255 - mean) / std)[None])
    ids = outputs.target_ids[0]
    restored = patches_to_frames(outputs.logits[0], ids, frames, 2, 8, norm_pix_loss)
    targets, predictions = (reference_targets(pixels, ids, 2, (8, 8), False) for pixels in (frames, (restored * 255)))
    if norm_pix_loss:
        shape = (len(ids), 2 * 8 * 8, 3)
        deviation = targets.view(shape).std(dim=1, keepdim=True) + 1e-6
        targets, predictions = targets.view(shape) / deviation, predictions.view(shape) / deviation
    torch.testing.assert_close((targets - predictions).square().mean(), outputs.loss, rtol=1e-4, atol=1e-6)


def test_frames_from_pixel_values_undo_the_normalisation():
    frames = random_frames(2, 3, 4, 6)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    assert torch.equal(frames_from_pixel_values((frames.float() / 255 - mean) / std), frames)
    assert torch.equal(frames_from_pixel_values(frames[:, :1].float() / 255), frames[:, :1])


def token_pixels(picture, layout, row, num_rows, token):
    """Pixels of one token in one row of a picture, without the 3 pixels at its edge: (height, width, 3)."""
    pixels = np.asarray(picture)
    step, place = divmod(token, layout.grid[1] * layout.grid[2])
    column = layout.shown_frames.index(step * layout.tubelet_size)
    token_height, token_width = layout.token_shape
    frame_height, frame_width = token_height * layout.grid[1], token_width * layout.grid[2]
    row_height = (pixels.shape[0] - 2 * 16 + 8 + 6) // num_rows
    top = 16 - 8 + row * row_height + row_height - 6 - frame_height + place // layout.grid[2] * token_height
    left = 16 + column * (frame_width + 6) + place % layout.grid[2] * token_width
    return pixels[top + 3 : top + token_height - 3, left + 3 : left + token_width - 3].astype(int)


def is_colourless(pixels):
    return np.ptp(pixels, axis=2).max() == 0


@pytest.fixture
def red_clip():
    """8 frames of 32 x 32, 4 x 4 x 4 tokens of 2 x 8 x 8, pure red."""
    frames = torch.zeros(8, 3, 32, 32, dtype=torch.uint8)
    frames[:, 0] = 200
    return frames


def test_kept_tokens_keep_their_colour_and_dropped_ones_lose_it(red_clip):
    kept_ids = torch.tensor([0, 5, 17, 63])
    picture = draw_kept_tokens(red_clip, kept_ids, 2, 8)
    layout = ClipLayout(red_clip, 2, 8)
    for token in range(64):
        assert (token_pixels(picture, layout, 0, 2, token) == [200, 0, 0]).all()
        look = token_pixels(picture, layout, 1, 2, token)
        if token in kept_ids:
            assert (look == [200, 0, 0]).all()
        else:
            assert is_colourless(look) and look.max() < 100


def test_visible_target_and_dropped_tokens_look_different(red_clip):
    visible_ids, target_ids = torch.tensor([3, 20]), torch.tensor([4, 21, 60])
    picture = draw_pretraining_tokens(red_clip, visible_ids, target_ids, 2, 8)
    layout = ClipLayout(red_clip, 2, 8)
    for token in range(64):
        look = token_pixels(picture, layout, 1, 2, token)
        if token in visible_ids:
            assert (look == [200, 0, 0]).all()
        elif token in target_ids:
            assert (look[..., 2] > look[..., 0]).all()
        else:
            assert is_colourless(look)


def test_the_heat_map_grows_brighter_with_importance(red_clip):
    importance = torch.arange(64.0)
    picture = draw_kept_tokens(red_clip, torch.tensor([0]), 2, 8, importance)
    layout = ClipLayout(red_clip, 2, 8)
    brightness = [token_pixels(picture, layout, 2, 3, token).mean() for token in range(63)]
    assert (np.diff(brightness) > 0).all()


def test_a_still_clip_has_a_dark_heat_map(red_clip):
    picture = draw_kept_tokens(red_clip, torch.tensor([0]), 2, 8, torch.zeros(64))
    assert token_pixels(picture, ClipLayout(red_clip, 2, 8), 2, 3, 9).max() < 40


def test_a_reconstruction_shows_predictions_at_the_targets_and_the_original_at_the_visible(red_clip):
    patches = torch.zeros(1, 2 * 8 * 8, 3)
    patches[..., 1] = 2.0  # green, beyond the scale
    visible_ids, target_ids = torch.tensor([1]), torch.tensor([6])
    picture = draw_reconstruction(red_clip, patches.flatten(1), visible_ids, target_ids, 2, 8, norm_pix_loss=False)
    layout = ClipLayout(red_clip, 2, 8)
    assert (token_pixels(picture, layout, 1, 3, 1) == [200, 0, 0]).all()
    assert (token_pixels(picture, layout, 1, 3, 6) < 40).all()
    assert (token_pixels(picture, layout, 2, 3, 1) == [200, 0, 0]).all()
    middle = token_pixels(picture, layout, 2, 3, 6)[6:-6, 6:-6]  # enlarging mixes colours at a token's edge
    assert (middle == [0, 255, 0]).all()
    assert is_colourless(token_pixels(picture, layout, 2, 3, 40))


def test_legends_show_the_colours_in_use(red_clip):
    picture = draw_pretraining_tokens(red_clip, torch.tensor([0]), torch.tensor([1]), 2, 8)
    colours = {colour for _, colour in picture.getcolors(1 << 24)}
    assert {VISIBLE_COLOR, TARGET_COLOR, DROPPED_COLOR} <= colours


@pytest.mark.parametrize(
    "shape, patch_size, shown",
    [
        ((8, 3, 32, 32), 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        ((16, 3, 64, 64), 8, [0, 2, 4, 6, 8, 10, 12, 14]),
        ((64, 3, 32, 32), 8, [0, 8, 16, 24, 32, 40, 48, 56]),
        ((16, 3, 224, 224), 16, [0, 2, 4, 8, 10, 12]),
        ((16, 1, 128, 448), (16, 8), [0, 4, 10]),
        ((4, 3, 16, 16), 8, [0, 1, 2, 3]),
    ],
)
def test_pictures_are_about_1200_wide_or_less_for_few_frames(shape, patch_size, shown):
    frames = random_frames(*shape)
    layout = ClipLayout(frames, 2, patch_size)
    assert layout.shown_frames == shown
    picture = draw_kept_tokens(frames, torch.arange(layout.num_tokens // 2), 2, patch_size)
    assert 1000 <= picture.width <= 1300


def test_a_very_short_clip_still_has_room_for_its_captions(red_clip):
    picture = draw_reconstruction(red_clip[:2], torch.zeros(1, 384), torch.tensor([0]), torch.tensor([1]), 2, 8)
    assert picture.width > 800


def test_outputs_of_the_models_can_be_drawn(tiny_config):
    clip = torch.randn(1, 8, 3, 32, 32)
    frames = frames_from_pixel_values(clip[0])
    outputs = VideoMSForVideoClassification(tiny_config()).eval()(clip)
    kept = draw_kept_tokens(frames, outputs.kept_ids[0], 2, 8, outputs.importance[0])
    config = tiny_config(pretraining_keep_ratio=0.5, mask_ratio=0.8)
    outputs = VideoMSForPreTraining(config).eval()(clip)
    ids = outputs.visible_ids[0], outputs.target_ids[0]
    tokens = draw_pretraining_tokens(frames, *ids, 2, 8, outputs.importance[0])
    reconstruction = draw_reconstruction(frames, outputs.logits[0], *ids, 2, 8)
    assert kept.size == tokens.size == reconstruction.size


@pytest.mark.parametrize(
    "change, message",
    [
        ({"frames": torch.rand(8, 3, 32, 32)}, "torch.float32.*must be torch.uint8"),
        ({"frames": random_frames(8, 2, 32, 32)}, "1 or 3 channels"),
        ({"frames": random_frames(1, 8, 3, 32, 32)}, "of one clip"),
        ({"frames": random_frames(7, 3, 32, 32)}, "must divide frames"),
        ({"patch_size": 12}, "must divide frames, height and width"),
        ({"kept_ids": torch.tensor([[0, 1]])}, r"kept_ids\[i\]"),
        ({"kept_ids": torch.tensor([0, 64])}, "tokens 0 to 63"),
        ({"kept_ids": torch.tensor([-1, 3])}, "from -1 to 3"),
        ({"kept_ids": torch.tensor([3, 3])}, "2 ids of which 1 differ"),
        ({"importance": torch.zeros(1, 64)}, r"\(1, 64\); it must be \(64,\)"),
    ],
)
def test_what_does_not_belong_together_is_refused(red_clip, change, message):
    arguments = {"frames": red_clip, "kept_ids": torch.tensor([0]), "tubelet_size": 2, "patch_size": 8, **change}
    with pytest.raises(ValueError, match=message):
        draw_kept_tokens(**arguments)


def test_a_token_that_is_visible_and_a_target_is_refused(red_clip):
    with pytest.raises(ValueError, match="1 tokens are in visible_ids and in target_ids"):
        draw_pretraining_tokens(red_clip, torch.tensor([0, 1]), torch.tensor([1, 2]), 2, 8)


def test_patches_of_another_size_are_refused(red_clip):
    with pytest.raises(ValueError, match=r"\(1, 100\).*must be \(1, 384\)"):
        patches_to_frames(torch.zeros(1, 100), torch.tensor([0]), red_clip, 2, 8)
