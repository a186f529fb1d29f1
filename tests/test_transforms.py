"""Augmentation: the same for all frames, drawn from torch's generator, against plain references and PIL."""

import math

import numpy as np
import PIL.Image
import PIL.ImageEnhance
import PIL.ImageOps
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from videoms_hf.configuration_videoms import IMAGENET_MEAN, IMAGENET_STD
from videoms_hf.data.transforms import (
    OPERATIONS,
    RAND_AUGMENT,
    EvaluationTransform,
    FinetuningTransform,
    PretrainingTransform,
    RandAugment,
    erase_box,
    normalize,
)
from videoms_hf.video_processing_videoms import VideoMSVideoProcessor


def smooth_frame(height, width, seed=0):
    """A colourful picture without fine detail, uint8 (3, H, W)."""
    coarse = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(seed))
    picture = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (255 * picture[0]).clamp(0, 255).to(torch.uint8)


def still_clip(num_frames=3, height=48, width=64):
    """Frames that are all alike, in the decoder's memory layout."""
    return smooth_frame(height, width).permute(1, 2, 0).repeat(num_frames, 1, 1, 1).permute(0, 3, 1, 2)


def noise_clip(num_frames=3, height=48, width=64):
    return torch.randint(0, 256, (num_frames, height, width, 3), dtype=torch.uint8).permute(0, 3, 1, 2)


def coordinates_clip(height, width):
    """Frames that hold their pixels' own row in red and column in green."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, torch.zeros_like(rows)]).to(torch.uint8).expand(2, -1, -1, -1)


TRANSFORMS = {
    "pretraining": PretrainingTransform(32),
    "finetuning": FinetuningTransform(32),
    "evaluation": EvaluationTransform(32),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48), (30, 90), (32, 32)])
def test_clips_come_out_square_as_bytes_and_the_input_stays(transform, height, width):
    frames = noise_clip(4, height, width)
    before = frames.clone()
    clip = transform(frames)
    assert clip.shape == (4, 3, 32, 32) and clip.dtype == torch.uint8
    assert torch.equal(frames, before)


@pytest.mark.parametrize("name", ["pretraining", "finetuning"])
def test_the_draw_is_that_of_torchs_generator(name):
    def draw(seed):
        torch.manual_seed(seed)
        return TRANSFORMS[name](noise)

    noise = noise_clip(2)
    for seed in range(10):
        assert torch.equal(draw(seed), draw(seed))
    assert len({tuple(draw(seed).flatten()[:50].tolist()) for seed in range(10)}) > 5


@pytest.mark.parametrize("name", ["pretraining", "finetuning"])
def test_all_frames_are_treated_alike(name):
    transform = PretrainingTransform(32) if name == "pretraining" else FinetuningTransform(32, random_erasing=0)
    frames = still_clip()
    for _ in range(60):
        clip = transform(frames)
        assert torch.equal(clip, clip[:1].expand_as(clip))


def test_normalisation_is_imagenets():
    frames = torch.tensor([0, 128, 255], dtype=torch.uint8).repeat(3, 1)[None, :, :, None]
    for channel in range(3):
        expected = [(value / 255 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel] for value in (0, 128, 255)]
        torch.testing.assert_close(normalize(frames)[0, channel, :, 0], torch.tensor(expected))
    batch = torch.stack([noise_clip(2), noise_clip(2)])
    assert torch.equal(normalize(batch), torch.stack([normalize(clip) for clip in batch]))
    assert normalize(batch).is_contiguous() and normalize(batch).dtype == torch.float32


# -- pre-training ----------------------------------------------------------------------------------------------------


def reference_crops(height, width, size):
    """Every (top, left, height, width) that the multi-scale crop can give."""
    base = min(height, width)
    sides = []
    for share in (1, 0.875, 0.75, 0.66):
        side = int(base * share)
        if -3 < side - size < 3 and size <= base:
            side = size
        sides.append(side)
    crops = set()
    for i in range(4):
        for j in range(4):
            if i - j in (-1, 0, 1):
                down, right = (height - sides[i]) // 4, (width - sides[j]) // 4
                corners = [(0, 0), (0, 4), (4, 0), (4, 4)]
                middles = [(0, 2), (2, 0), (2, 4), (4, 2), (2, 2)]
                quarters = [(1, 1), (1, 3), (3, 1), (3, 3)]
                for y, x in corners + middles + quarters:
                    crops.add((y * down, x * right, sides[i], sides[j]))
    return crops


@pytest.mark.parametrize(
    ("height", "width", "size"), [(240, 320, 224), (256, 256, 224), (226, 300, 224), (222, 400, 224), (100, 80, 64)]
)
def test_pretraining_draws_the_official_crops_and_no_others(height, width, size):
    transform = PretrainingTransform(size)
    drawn = [transform.draw_crop(height, width) for _ in range(3000)]
    assert {crop[:4] for crop in drawn} == reference_crops(height, width, size)
    for top, left, crop_height, crop_width in drawn:
        assert 0 <= top <= height - crop_height and 0 <= left <= width - crop_width


def test_a_side_less_than_three_pixels_from_the_wanted_size_becomes_it():
    def heights(base):
        return {PretrainingTransform(224).draw_crop(base, 340)[2] for _ in range(200)}

    assert heights(258) == {258, 224, 193, 170}  # int(0.875 * 258) = 225
    assert heights(260) == {260, 227, 195, 171}


def test_pretraining_neither_mirrors_nor_recolours():
    transform = PretrainingTransform(40)
    frames = coordinates_clip(48, 64)
    for _ in range(50):
        clip = transform(frames)
        rows, columns = clip[0, :2].float()
        assert rows[0].mean() < rows[-1].mean() and columns[:, 0].mean() < columns[:, -1].mean()
        assert (clip[:, 2] == 0).all()


def test_pretraining_resizes_what_it_crops():
    transform = PretrainingTransform(40)
    frames = coordinates_clip(48, 64)
    for seed in range(20):
        torch.manual_seed(seed)
        top, left, height, width = transform.draw_crop(48, 64)
        torch.manual_seed(seed)
        clip = transform(frames)
        places = [(torch.arange(40) + 0.5) * side / 40 - 0.5 for side in (height, width)]
        red, green = clip[0, :2].float()
        torch.testing.assert_close(red[5:-5, 7], top + places[0][5:-5], atol=0.6, rtol=0)
        torch.testing.assert_close(green[7, 5:-5], left + places[1][5:-5], atol=0.6, rtol=0)


# -- evaluation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(48, 64), (90, 40), (33, 71)])
@pytest.mark.parametrize("num_crops", [1, 3])
def test_evaluation_gives_what_the_processor_gives(height, width, num_crops):
    frames = noise_clip(4, height, width)
    processor = VideoMSVideoProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    expected = processor(frames, num_crops=num_crops, return_tensors="pt")["pixel_values"][0]
    # The processor folds scale and mean into one step, in another order of roundings.
    torch.testing.assert_close(normalize(EvaluationTransform(32, num_crops)(frames)), expected, atol=1e-6, rtol=1e-6)


def test_crops_are_spaced_along_the_longer_side_and_a_single_one_is_the_centre():
    for height, width, channel in [(32, 96, 1), (96, 32, 0)]:
        frames = coordinates_clip(height, width)
        start = EvaluationTransform(32, 3)(frames)[:, 0, channel].float().amin(dim=(1, 2))
        torch.testing.assert_close(start, torch.tensor([0.0, 32.0, 64.0]), atol=0.01, rtol=0)
        assert torch.equal(EvaluationTransform(32)(frames), EvaluationTransform(32, 3)(frames)[1])


# -- fine-tuning -----------------------------------------------------------------------------------------------------


def test_without_randomness_finetuning_is_evaluation():
    transform = FinetuningTransform(32, rand_augment=None, min_crop_area=1, flip=False, random_erasing=0)
    frames = noise_clip()
    assert torch.equal(transform(frames), EvaluationTransform(32)(frames))


def test_half_of_the_clips_are_mirrored_unless_that_is_off():
    frames = noise_clip()
    expected = EvaluationTransform(32)(frames)
    off = {"rand_augment": None, "min_crop_area": 1, "random_erasing": 0}
    clips = [FinetuningTransform(32, **off)(frames) for _ in range(60)]
    mirrored = sum(torch.equal(clip, expected.flip(-1)) for clip in clips)
    assert mirrored + sum(torch.equal(clip, expected) for clip in clips) == 60
    assert 15 < mirrored < 45


def test_the_random_crop_keeps_to_its_area_and_aspect():
    transform = FinetuningTransform(32, rand_augment=None, flip=False, random_erasing=0)
    frames = coordinates_clip(96, 128)
    areas, aspects = [], []
    for seed in range(300):
        torch.manual_seed(seed)
        clip = transform(frames)
        red, green = clip[0, :2].float()
        height, width = ((channel.amax() - channel.amin()) * 32 / 31 for channel in (red, green))
        areas.append((height * width / (96 * 128)).item()), aspects.append((width / height).item())
    assert 0.06 < min(areas) < 0.12 and max(areas) < 1.05 and np.percentile(areas, 90) > 0.7 > np.percentile(areas, 50)
    assert 0.7 < min(aspects) < 0.8 and 1.25 < max(aspects) < 1.42


def test_crops_are_as_large_as_wanted_and_an_area_outside_its_range_is_refused():
    transform = FinetuningTransform(32, rand_augment=None, flip=False, random_erasing=0, min_crop_area=0.4)
    areas = []
    for seed in range(200):
        torch.manual_seed(seed)
        red, green = transform(coordinates_clip(96, 128))[0, :2].float()
        spans = [(channel.amax() - channel.amin()) * 32 / 31 for channel in (red, green)]
        areas.append((spans[0] * spans[1] / (96 * 128)).item())
    assert 0.36 < min(areas) < 0.48 and max(areas) < 1.05
    for area in (0, 1.5):
        with pytest.raises(ValueError, match=f"min_crop_area is {area}; it must be a share of the frame"):
            FinetuningTransform(32, min_crop_area=area)


def test_finetuning_in_bytes_is_the_official_order_in_floats_but_for_a_level():
    transform = FinetuningTransform(32, rand_augment=None, flip=False, random_erasing=0)
    frames = noise_clip(3, 50, 70)
    for seed in range(20):
        torch.manual_seed(seed)
        clip = transform(frames)
        torch.manual_seed(seed)
        top, left, height, width = RandomResizedCrop.get_params(frames, [0.08, 1.0], [3 / 4, 4 / 3])
        crop = normalize(frames)[..., top : top + height, left : left + width]  # first, as the official code does
        expected = torch.nn.functional.interpolate(crop, (32, 32), mode="bilinear", align_corners=False)
        errors = (normalize(clip) - expected) * 255 * torch.tensor(IMAGENET_STD).view(3, 1, 1)
        assert errors.abs().max() < 1.01 and errors.abs().mean() < 0.4 and errors.mean().abs() < 0.15


def test_a_quarter_of_the_clips_lose_one_box_to_noise_that_differs_between_frames():
    clip = torch.full((4, 3, 40, 60), 100, dtype=torch.uint8)
    shares, noises = [], []
    for _ in range(200):
        erased = erase_box(clip)
        # A value of the noise may be 100 by chance, but hardly so in every frame and channel.
        boxes = (erased != 100).any(dim=(0, 1)).expand_as(erased)
        assert (erased != 100)[boxes].float().mean() > 0.97, "the same box in all frames and channels"
        rows, columns = boxes[0, 0].any(1).nonzero(), boxes[0, 0].any(0).nonzero()
        height, width = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
        assert height * width == boxes[0, 0].sum(), "one full rectangle"
        assert 0.25 < height / width < 4
        shares.append((height * width / 2400).item())
        noise = normalize(erased)[boxes].view(4, -1)
        assert not torch.equal(noise[0], noise[1])
        if noise.numel() > 2000:
            assert noise.mean().abs() < 0.15 and abs(noise.std() - 1) < 0.15
            noises.append(noise.flatten())
    assert 0.01 < min(shares) < 0.05 and 0.28 < max(shares) < 0.36
    assert (clip == 100).all(), "the input stays"
    # Against normal noise after normalisation, cut off at black and white: the same shares below some levels.
    noise, reference = torch.cat(noises), torch.randn(400000)
    for level in (-1.5, -0.5, 0.0, 0.7, 1.5):
        assert abs((noise < level).float().mean() - (reference < level).float().mean()) < 0.01

    transform = FinetuningTransform(32, rand_augment=None, min_crop_area=1, flip=False)
    expected = EvaluationTransform(32)(still_clip())
    count = sum(not torch.equal(transform(still_clip()), expected) for _ in range(200))
    assert 30 < count < 72


def test_a_policy_that_cannot_be_done_is_refused():
    augment = RandAugment(RAND_AUGMENT)
    assert (augment.magnitude, augment.num_ops, augment.magnitude_std) == (7, 4, 0.5)
    assert RandAugment("rand-m9-n2-inc1").magnitude_std == 0
    for policy in ("rand-m7-n4-mstd0.5", "augmix-m3", "rand-m7-n4-mstd0.5-inc0", ""):
        with pytest.raises(ValueError, match="rand-m7-n4-mstd0.5-inc1"):
            RandAugment(policy)
    with pytest.raises(ValueError, match="rand-m11-n4-inc1.*magnitude, 0 to 10"):
        FinetuningTransform(32, rand_augment="rand-m11-n4-inc1")
    with pytest.raises(ValueError, match="random_erasing is 2"):
        FinetuningTransform(32, random_erasing=2)


GREY = (128, 128, 128)


def affine(*matrix):
    return lambda image: image.transform(image.size, PIL.Image.AFFINE, matrix, PIL.Image.BILINEAR, fillcolor=GREY)


def solarize_add(add):
    table = [min(255, level + add) if level < 128 else level for level in range(256)]
    return lambda image: image.point(table * 3)


def references(strength):
    """What timm's operations do to a PIL image of 64 x 48, in the order of OPERATIONS: for each, the possible results.

    Strengths are signed at random, so that most have two.
    """
    enhance = [
        [lambda image, kind=kind, sign=sign: kind(image).enhance(1 + sign * 0.9 * strength) for sign in (-1, 1)]
        for kind in (
            PIL.ImageEnhance.Color,
            PIL.ImageEnhance.Contrast,
            PIL.ImageEnhance.Brightness,
            PIL.ImageEnhance.Sharpness,
        )
    ]
    shear, shift = 0.3 * strength, 0.45 * strength
    return [
        [PIL.ImageOps.autocontrast],
        [PIL.ImageOps.equalize],
        [PIL.ImageOps.invert],
        [
            lambda image, sign=sign: image.rotate(sign * 30 * strength, PIL.Image.BILINEAR, fillcolor=GREY)
            for sign in (-1, 1)
        ],
        [lambda image: image.point([level & ~(2 ** (4 + int(strength * 4)) - 1) for level in range(256)] * 3)],
        [lambda image: PIL.ImageOps.solarize(image, 256 - int(strength * 256))],
        [solarize_add(int(strength * 110))],
        *enhance,
        [affine(1, sign * shear, 0, 0, 1, 0) for sign in (-1, 1)],
        [affine(1, 0, 0, sign * shear, 1, 0) for sign in (-1, 1)],
        [affine(1, 0, sign * shift * 64, 0, 1, 0) for sign in (-1, 1)],
        [affine(1, 0, 0, 0, 1, sign * shift * 48) for sign in (-1, 1)],
    ]


@pytest.mark.parametrize("strength", [0.0, 0.33, 0.7, 1.0])
@pytest.mark.parametrize("i", range(15))
def test_operations_do_what_timms_do_to_images(i, strength):
    assert len(OPERATIONS) == 15
    frame = smooth_frame(48, 64)
    image = PIL.Image.fromarray(frame.permute(1, 2, 0).numpy())
    results = [torch.from_numpy(np.array(f(image))).permute(2, 0, 1).int() for f in references(strength)[i]]
    seen = set()
    for _ in range(12):
        frames = OPERATIONS[i](torch.stack([frame, frame.flip(0)]), strength)
        assert frames.dtype == torch.uint8 and frames.shape == (2, 3, 48, 64)
        # Rounding differs by a level or two, and at an edge of the picture half a pixel of grey may be mixed in.
        errors = [(frames[0].int() - result).abs().float() for result in results]
        best = min(range(len(results)), key=lambda k: errors[k].mean())
        assert errors[best].mean() < 1.5 and errors[best].quantile(0.95) <= 4, (i, strength, errors[best].mean())
        seen.add(best)
    if strength > 0:
        assert len(seen) == len(results), "either sign is drawn"


def test_rand_augment_applies_each_of_four_draws_half_of_the_time(monkeypatch):
    strengths, calls = [], []

    def record(frames, strength):
        strengths.append(strength), calls.append(1)
        return frames

    monkeypatch.setattr("videoms_hf.data.transforms.OPERATIONS", [record])
    augment = RandAugment(RAND_AUGMENT)
    counts = []
    for _ in range(500):
        calls.clear()
        augment(noise_clip(1, 2, 2))
        counts.append(len(calls))
    frequencies = np.bincount(counts, minlength=5) / 500
    expected = [math.comb(4, k) / 16 for k in range(5)]
    assert np.abs(frequencies - expected).max() < 0.08
    assert abs(np.mean(strengths) - 0.7) < 0.01 and abs(np.std(strengths) - 0.05) < 0.01


def test_strengths_stay_on_their_scale(monkeypatch):
    strengths = []
    monkeypatch.setattr(
        "videoms_hf.data.transforms.OPERATIONS", [lambda frames, strength: strengths.append(strength) or frames]
    )
    augment = RandAugment("rand-m9.5-n4-mstd5.0-inc1")
    for _ in range(50):
        augment(noise_clip(1, 2, 2))
    assert min(strengths) >= 0 and max(strengths) == 1.0
