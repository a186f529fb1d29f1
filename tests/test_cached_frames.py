"""Frames that are kept in memory give the clips that decoding gives, to the bit, within a bound."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from tests import test_dataset
from tests.test_dataset import CLIP, count_decodings, load, make_table, same
from videoms_hf.data.dataset import ClipDataset
from videoms_hf.data.transforms import FinetuningTransform, PretrainingTransform
from videoms_hf.sampling_videoms import finetuning_clip, pretraining_clip
from videoms_hf.training import (
    AugmentationArguments,
    DataArguments,
    finetuning_clips,
    pretraining_clips,
    training_table,
)


videos, bad_videos, log = test_dataset.videos, test_dataset.bad_videos, test_dataset.log  # fixtures
FRAME = 32 * 48 * 3
KINDS = {
    "pretraining": {"choose_frames": partial(pretraining_clip, **CLIP), "transform": PretrainingTransform(24)},
    "fine-tuning": {"choose_frames": partial(finetuning_clip, **CLIP), "transform": FinetuningTransform(24)},
    "samples": {
        "choose_frames": partial(pretraining_clip, **CLIP), "transform": PretrainingTransform(24), "num_samples": 2,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_clips_are_the_same_and_nothing_is_decoded_again(kind, num_workers, videos, monkeypatch):
    table = make_table(videos * 2, [0, 1, 2] * 2)
    plain, cached = ClipDataset(table, **KINDS[kind]), ClipDataset(table, **KINDS[kind], cache_bytes=2**30)
    for epoch in (0, 1):
        plain.set_epoch(epoch), cached.set_epoch(epoch)
        expected = load(plain)
        decoded = count_decodings(monkeypatch)
        assert same(load(cached, num_workers), expected) and not decoded
        assert expected[0]["pixel_values"].stride() == cached[0]["pixel_values"].stride()
        monkeypatch.undo()


def test_what_does_not_fit_is_decoded_as_before_and_said(videos, monkeypatch, log):
    table = make_table(videos, [0, 1, 2])
    plain = ClipDataset(table, **KINDS["pretraining"])
    cached = ClipDataset(table, **KINDS["pretraining"], cache_bytes=2 * 26 * FRAME)
    assert "The frames of 2 of 3 videos fit into" in log.text
    expected, decoded = load(plain), count_decodings(monkeypatch)
    assert same(load(cached), expected) and len(decoded) == 1


def test_windows_folders_of_pictures_and_broken_videos_are_as_without(videos, bad_videos, tmp_path, log):
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for number in range(9):
        picture = Image.fromarray(rng.integers(256, size=(30, 40, 3), dtype=np.uint8))
        picture.save(tmp_path / "pictures" / f"{number:03}.png")
    paths = [videos[0], tmp_path / "pictures", bad_videos["text"], videos[2]]
    seconds = {"start_seconds": [0.5, None, None, None], "end_seconds": [1.0, None, None, None]}
    table = make_table(paths, [0, 1, 2, 0], **seconds)
    both = [ClipDataset(table, **KINDS["pretraining"], max_bad_share=0.5, cache_bytes=size) for size in (0, 2**30)]
    assert same(load(both[1]), load(both[0]))
    assert both[0].bad_videos() == both[1].bad_videos() != []


def test_runs_take_the_bound_in_gib(videos, tmp_path, tiny_config):
    (tmp_path / "train.csv").write_text("".join(f"{video} {i}\n" for i, video in enumerate(videos)))
    options = {"train_data": str(tmp_path / "train.csv"), "num_frames": 4, "frame_stride": 2, "image_size": 32}
    config = tiny_config()
    for is_labelled in (False, True):
        clips = []
        for size in (0.0, 0.01):
            data = DataArguments(**options, cache_frames=size)
            made = pretraining_clips(training_table(data, require_labels=False), data, config)
            if is_labelled:
                made = finetuning_clips(made.table, data, AugmentationArguments(), config)
            assert len(made._frames) == (3 if size else 0)
            torch.manual_seed(0)
            clips.append(load(made))
        assert same(*clips)
    for wrong, message in (
        ({"cache_frames": -1.0}, "cache_frames is -1.0"),
        ({"cache_frames": 1.0, "train_data": "stream:shards"}, "a stream is not kept"),
    ):
        with pytest.raises(ValueError, match=message):
            DataArguments(**options | wrong)
