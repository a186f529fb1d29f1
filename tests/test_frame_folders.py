"""Folders with a picture for each frame: frames in order and upright, faults by name."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from videoms_hf.data.annotations import read_videos
from videoms_hf.data.dataset import ClipDataset
from videoms_hf.decoding_videoms import VideoDecodeError
from videoms_hf.readers import open_video


def write_pictures(folder, levels, ending="png", size=(8, 6)):
    """A folder of grey pictures whose names have no leading zeros, so that 10 comes before 2 in the alphabet."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, level in enumerate(levels):
        Image.new("L", size, int(level)).save(folder / f"img_{i}.{ending}")
    return folder


def test_frames_of_a_folder_are_its_pictures_in_the_order_of_their_numbers(tmp_path):
    folder = write_pictures(tmp_path / "v", range(0, 240, 20))
    (folder / "notes.txt").touch()
    with open_video(folder) as video:
        clip = video.frames([11, 0, 2, 2, 10])
        assert video.frames([len(video) - 1])[0, 0, 0, 0] == 220
    assert clip.shape == (5, 3, 6, 8) and clip.dtype == torch.uint8
    assert clip[:, 0, 0, 0].tolist() == [220, 0, 40, 40, 200]
    assert clip.is_contiguous(memory_format=torch.channels_last)


def test_a_picture_is_upright_as_displayed(tmp_path):
    picture = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20)
    exif = picture.getexif()
    exif[274] = 6  # turned: the first row is at the right
    (tmp_path / "v").mkdir()
    picture.save(tmp_path / "v/1.png", exif=exif)
    turned = open_video(tmp_path / "v").frames([0])[0, 0].numpy()
    assert np.array_equal(turned, np.rot90(np.asarray(picture), -1))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "img_1.png").write_text("no picture"), "img_1.png is not an image"),
        (lambda folder: os.truncate(folder / "img_1.png", 45), "img_1.png cannot be read"),
        (lambda folder: Image.new("L", (4, 4)).save(folder / "img_1.png"), "img_1.png is 4 x 4, but .* are 8 x 6"),
        (lambda folder: (folder / "img_2.png").unlink(), "frame 2 was asked for, but there are 2 frames"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "holds no image"),
    ],
)
def test_a_bad_folder_of_pictures_names_itself_the_picture_and_the_reason(tmp_path, spoil, reason):
    folder = write_pictures(tmp_path / "v", [0, 20, 40])
    spoil(folder)
    with pytest.raises(VideoDecodeError, match=f"{folder}: ({reason})"):
        open_video(folder).frames([0, 1, 2])


def test_clips_come_from_folders_of_pictures_too_and_bad_ones_name_their_line(tmp_path):
    good, bad = write_pictures(tmp_path / "good", range(0, 200, 10)), write_pictures(tmp_path / "bad", [0, 10])
    (bad / "img_1.png").write_text("no picture")
    (tmp_path / "x.csv").write_text(f"\n{good} 0\n{bad} 0\n")
    table = read_videos(tmp_path / "x.csv")
    clips = ClipDataset(
        table, lambda length, rng: np.array([1, length - 1]), lambda frames: frames.float(), max_bad_share=0.5
    )
    assert clips[0]["pixel_values"][:, 0, 0, 0].tolist() == [10, 190]
    assert clips[1]["pixel_values"][:, 0, 0, 0].tolist() == [10, 190]
    (found,) = clips.bad_videos()
    assert (found.path, found.line, found.row, found.num_draws) == (str(bad), 3, 1, 1)
    for epoch in range(1, 20):
        clips.set_epoch(epoch), clips[1]
    assert clips.bad_videos()[0].num_draws == 20, "one substitution a draw, and never by itself"
    with pytest.raises(ValueError, match=rf"1 of 2 videos are bad.*\n  {bad} \(line 3\): img_1.png is not an image"):
        ClipDataset(table, clips.choose_frames, clips.transform, max_bad_share=0.1)[1]
