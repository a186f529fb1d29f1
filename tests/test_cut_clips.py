"""Pre-training clips that are cropped while decoding."""

from functools import partial

import datasets
import numpy as np
import pytest
import torch
from torchvision.transforms.v2.functional import to_pil_image

from videoms_hf.data.dataset import ClipDataset
from videoms_hf.data.transforms import PretrainingTransform
from videoms_hf.decoding_videoms import decode_frames
from videoms_hf.sampling_videoms import pretraining_clip

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
    for i, frame in enumerate(decode_frames(video)):
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


def test_only_the_wanted_part_of_the_frames_is_kept(video, monkeypatch):
    shapes, finish = [], PretrainingTransform.finish
    monkeypatch.setattr(
        PretrainingTransform, "finish", lambda self, frames: shapes.append(frames.shape) or finish(self, frames)
    )
    clips(video, PretrainingTransform(40))
    assert len(shapes) == 12 and all(max(shape[-2:]) <= 96 for shape in shapes)
