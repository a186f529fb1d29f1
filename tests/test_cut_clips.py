"""Pre-training clips whose crop is cut, or cut and scaled, while decoding."""

from functools import partial

import datasets
import numpy as np
import pytest
import torch
from torchvision.transforms.v2.functional import to_pil_image

from videoms_hf.data.annotations import read_videos
from videoms_hf.data.dataset import ClipDataset
from videoms_hf.data.frame_folders import decode_row, decode_row_clips
from videoms_hf.data.transforms import PretrainingTransform
from videoms_hf.decoding_videoms import decode_frames
from videoms_hf.pictures_videoms import Crop
from videoms_hf.sampling_videoms import pretraining_clip
from videoms_hf.training import (
    AugmentationArguments,
    DataArguments,
    finetuning_clips,
    pretraining_clips,
    training_table,
)

from .video_files import write_video


CHOOSE = partial(pretraining_clip, num_frames=4, stride=2)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """12 frames of coloured waves, 96 x 128, whose finest detail is 12 pixels."""
    y, x = np.mgrid[:96, :128].astype(np.float32)
    waves = [[127 + 100 * np.sin(x / 9 + i + k / 4) * np.cos(y / 11) for k in range(3)] for i in range(12)]
    frames = np.stack([np.stack(wave, axis=-1).astype(np.uint8) for wave in waves])
    return write_video(tmp_path_factory.mktemp("waves") / "waves.mp4", frames, crf="1")


@pytest.fixture(scope="module")
def folder(video):
    """The same frames as pictures."""
    folder = video.with_suffix("")
    folder.mkdir()
    for i, frame in enumerate(decode_frames(video, range)):
        to_pil_image(frame).save(folder / f"{i}.png")
    return folder


def clips(source, transform, num_samples=1):
    table = datasets.Dataset.from_dict({"video": [str(source)] * 12, "label": [0] * 12})
    dataset = ClipDataset(table, CHOOSE, transform, with_labels=False, num_samples=num_samples)
    return torch.stack([dataset[i]["pixel_values"] for i in range(12)])


@pytest.mark.parametrize("kind", ["video", "folder"])
def test_clips_that_are_cut_while_decoding_are_the_same(kind, request):
    source, transform = request.getfixturevalue(kind), PretrainingTransform(40)
    whole = clips(source, lambda frames: transform(frames))  # which hides that it could be cut
    assert torch.equal(clips(source, transform), whole) and whole.shape == (12, 4, 3, 40, 40)
    several = clips(source, lambda frames: transform(frames), num_samples=3)
    assert torch.equal(clips(source, transform, num_samples=3), several) and several.shape == (12, 3, 4, 3, 40, 40)


@pytest.mark.parametrize("kind", ["video", "folder"])
def test_clips_that_are_scaled_in_the_decoder_are_near_the_plain_ones(kind, request):
    source = request.getfixturevalue(kind)
    plain, scaled = (clips(source, PretrainingTransform(40, is_scaled)) for is_scaled in (False, True))
    errors = (plain.float() - scaled.float()).abs().flatten(1)
    assert (errors.mean(1) <= 2).all() and (errors.quantile(0.99, dim=1) <= 7).all()
    assert torch.equal(plain, scaled) == (kind == "folder")  # pictures have no other colours than RGB


def test_only_the_wanted_part_of_the_frames_is_kept(video, monkeypatch):
    shapes, finish = [], PretrainingTransform.finish
    monkeypatch.setattr(
        PretrainingTransform, "finish", lambda self, frames: shapes.append(frames.shape) or finish(self, frames)
    )
    clips(video, PretrainingTransform(40))
    assert len(shapes) == 12 and all(max(shape[-2:]) <= 96 for shape in shapes)
    shapes.clear()
    clips(video, PretrainingTransform(40, scale_in_decoder=True))
    assert set(shapes) == {(4, 3, 40, 40)}


def test_a_run_is_told_to_scale_in_the_decoder(tmp_path, video, tiny_config):
    (tmp_path / "list.csv").write_text(f"{video} 0\n")
    for is_scaled in (False, True):
        options = {"image_size": 32, "frame_stride": 1, "scale_in_decoder": is_scaled}
        data_args = DataArguments(train_data=str(tmp_path / "list.csv"), **options)
        table = training_table(data_args, require_labels=False)
        assert pretraining_clips(table, data_args, tiny_config()).transform.scale_in_decoder == is_scaled
    with pytest.raises(ValueError, match="scale_in_decoder is set, but fine-tuning augments whole frames first"):
        finetuning_clips(read_videos(data_args.train_data), data_args, AugmentationArguments(), tiny_config())


def test_parts_of_pictures_are_those_of_whole_ones(folder):
    row, sizes, crop = {"video": str(folder)}, [], Crop(7, 13, 30, 41)
    crops = [crop, crop._replace(size=(20, 24))]
    part, scaled = decode_row_clips(row, [3, 1, 3, 1], 2, lambda *size: sizes.append(size) or crops)
    assert torch.equal(part, decode_row(row, [3, 1])[(..., *crop.slices)]) and sizes == [(96, 128)]
    expected = torch.nn.functional.interpolate(part.float(), (20, 24), mode="bilinear", antialias=True)
    assert scaled.dtype == torch.uint8 and (scaled.float() - expected).abs().max() <= 1
