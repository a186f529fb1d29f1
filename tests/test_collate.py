"""Batches of clips: stacked, labels smoothed, mixed by mixup and cutmix."""

import pytest
import torch

from videoms_hf.data.collate import MixingCollator, collate_clips


def make_items(count=4):
    return [{"pixel_values": torch.full((2, 3, 8, 8), float(i)), "labels": i % 3, "video_id": i} for i in range(count)]


def test_batches_are_stacked_items():
    batch = collate_clips(make_items())
    assert batch["pixel_values"].shape == (4, 2, 3, 8, 8)
    assert batch["pixel_values"][:, 0, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert batch["labels"].dtype == torch.int64 and batch["labels"].tolist() == [0, 1, 2, 0]
    assert batch["video_id"].tolist() == [0, 1, 2, 3]
    assert collate_clips([{"pixel_values": torch.zeros(2, 3, 8, 8)}]).keys() == {"pixel_values"}


def test_clips_of_different_shapes_make_no_batch():
    items = [{"pixel_values": torch.zeros(2, 3, 8, 8)}, {"pixel_values": torch.zeros(2, 3, 8, 6)}]
    with pytest.raises(ValueError, match=r"\(2, 3, 8, 6\), \(2, 3, 8, 8\)"):
        collate_clips(items)


def test_labels_are_smoothed():
    batch = MixingCollator(3, label_smoothing=0.3)(make_items())
    expected = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.8, 0.1, 0.1]])
    torch.testing.assert_close(batch["labels"], expected)
    assert torch.equal(batch["pixel_values"], collate_clips(make_items())["pixel_values"])
    with pytest.raises(ValueError, match="label_smoothing is 3"):
        MixingCollator(3, label_smoothing=3)


def test_mixup_mixes_with_the_reversed_batch_and_its_labels_by_one_share():
    collate = MixingCollator(3, label_smoothing=0.1, mixup=0.8)
    shares = []
    for _ in range(20):
        batch = collate(make_items(3))
        pixels = batch["pixel_values"]
        assert type(pixels) is torch.Tensor and pixels.shape == (3, 2, 3, 8, 8)
        share = batch["labels"][2, 2].sub(0.1 / 3).div(0.9).item()  # of clip 2 in itself; the rest is clip 0
        torch.testing.assert_close(pixels[2], torch.full((2, 3, 8, 8), 2 * share))
        torch.testing.assert_close(pixels[0], torch.full((2, 3, 8, 8), 2 * (1 - share)))
        torch.testing.assert_close(pixels[1], torch.ones(2, 3, 8, 8))  # the middle one has no counterpart
        torch.testing.assert_close(batch["labels"].sum(1), torch.ones(3))
        shares.append(share)
    assert len(set(shares)) == 20 and min(shares) >= 0 and max(shares) <= 1


def test_bytes_are_mixed_to_the_nearest_level():
    items = [{"pixel_values": torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8), "labels": i} for i in range(3)]
    first = torch.stack([item["pixel_values"] for item in items])
    for options in ({"mixup": 0.8}, {"cutmix": 1.0}):
        batch = MixingCollator(3, **options)(items)
        assert batch["pixel_values"].dtype == torch.uint8
        share = batch["labels"][2, 2]
        if "mixup" in options:
            exact = share * first + (1 - share) * first.flip(0)
            assert (batch["pixel_values"] - exact).abs().max() <= 0.501
        else:
            assert ((batch["pixel_values"] == first) | (batch["pixel_values"] == first.flip(0))).all()


@pytest.mark.parametrize("options", [{"mixup": 0.8}, {"cutmix": 1.0}])
@pytest.mark.parametrize("num_videos, num_samples", [(4, 2), (3, 2), (3, 3), (1, 2)])
def test_clips_are_never_mixed_with_others_of_their_own_video(num_videos, num_samples, options):
    """The partner of a clip is its counterpart in the reversed batch, as in the official code."""
    num_clips = num_videos * num_samples
    values = torch.arange(num_clips).view(num_videos, num_samples, 1, 1, 1, 1).expand(-1, -1, 2, 3, 8, 8)
    collate = MixingCollator(num_videos, **options)
    for _ in range(10):
        # The powers of two tell from a sum which they are.
        batch = collate([{"pixel_values": 2.0**clips, "labels": i} for i, clips in enumerate(values)])
        for i, (clip, label) in enumerate(zip(batch["pixel_values"], batch["labels"], strict=True)):
            other = num_clips - 1 - i
            other = i if other // num_samples == i // num_samples else other
            own = label[i // num_samples].item() if other != i else 1.0
            assert clip.mean().item() == pytest.approx(own * 2**i + (1 - own) * 2**other, rel=1e-4)
            assert label[i // num_samples] + (label[other // num_samples] if other != i else 0) == pytest.approx(1)


def test_cutmix_cuts_one_box_out_of_all_frames():
    collate = MixingCollator(3, cutmix=1.0)
    areas = []
    for _ in range(20):
        batch = collate(make_items(3))
        box = batch["pixel_values"][2] == 0
        assert torch.equal(box, box[:1, :1].expand_as(box))
        area = box[0, 0].float().mean().item()
        torch.testing.assert_close(batch["labels"][2], torch.tensor([area, 0.0, 1 - area]))
        areas.append(area)
    assert len(set(areas)) > 5


def test_with_both_mixtures_either_is_used():
    collate = MixingCollator(3, mixup=1.0, cutmix=1.0)
    clips = [collate(make_items(3))["pixel_values"][2] for _ in range(40)]
    whole = [bool((clip % 1 == 0).all()) for clip in clips]  # cutmix leaves pixels as they are
    assert 8 < sum(whole) < 32
