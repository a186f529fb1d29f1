"""What a frame looks like: colours, turns and sizes, whole frames and parts of them."""

import av
import numpy as np
import pytest
import torch

from videoms_hf import open_video
from videoms_hf.decoding_videoms import decode_frames, probe_video
from videoms_hf.reader_videoms import Crop

from .odd_files import (
    NUM_FRAMES,
    every_frame,
    images,
    shown_number,
    write_streams,
    write_turned,
)


TURNS = {
    "by 90": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "by 180": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "by 270": ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
    "mirrored": ((-1, 0, 0, 1), np.fliplr),
    "upside down": ((1, 0, 0, -1), np.flipud),
}


@pytest.mark.parametrize("turn", TURNS)
def test_frames_are_turned_as_they_are_displayed(tmp_path, turn):
    matrix, turned = TURNS[turn]
    path = write_turned(tmp_path / "turned.mp4", matrix)
    expected = np.stack([turned(image) for image in every_frame(path)[0]])
    assert np.array_equal(images(decode_frames(path)), expected)
    info = probe_video(path)
    assert (info.height, info.width) == expected.shape[1:3]


def test_limited_and_full_range_give_the_same_colours(odd_file):
    limited, full = (decode_frames(odd_file(name), [3]).float() for name in ("h264.mp4", "full range.mp4"))
    assert (limited - full).abs().mean() < 6 and limited.min() < 12 and limited.max() > 243


def test_grey_is_grey_from_black_to_white(odd_file):
    for name in ("grey.mkv", "grey.mp4"):
        clip = decode_frames(odd_file(name)).int()
        assert (clip - clip[:, :1]).abs().max() <= 2 and clip.min() < 8 and clip.max() > 247


@pytest.mark.parametrize("with_cover", [True, False])
def test_the_stream_that_players_show_is_read_and_never_the_cover(tmp_path, with_cover):
    path = write_streams(tmp_path / "two.mp4", with_cover)
    clip = decode_frames(path)
    assert clip.shape == (NUM_FRAMES, 3, 48, 64)
    assert [shown_number(image) for image in images(clip)] == list(range(NUM_FRAMES))


def test_frames_that_change_their_size_are_scaled_to_the_first(tmp_path):
    parts = []
    for size in ((48, 64), (96, 128)):
        with av.open(str(tmp_path / "part.ts"), "w", format="mpegts") as output:
            stream = output.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            for level in (60, 200):
                frame = np.full((*size, 3), level, dtype=np.uint8)
                output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            output.mux(stream.encode())
        parts.append((tmp_path / "part.ts").read_bytes())
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    clip = decode_frames(tmp_path / "both.ts")
    assert clip.shape[1:] == (3, 48, 64) and len(clip) >= 3


# -- parts of frames ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["h264.mp4", "mpeg4 b.avi", "10 bit.mp4", "odd size 444.mp4", "alpha.mov", "grey.mp4", "animation.gif"]
)
def test_a_part_that_is_not_scaled_is_that_of_whole_frames(odd_file, name):
    whole = decode_frames(odd_file(name), [3, 20, 3])
    for crop in (Crop(0, 0, *whole.shape[-2:]), Crop(0, 0, 1, 1), Crop(7, 13, 21, 33), Crop(16, 2, 30, 40)):
        with open_video(odd_file(name)) as video:
            part = video.frames([3, 20, 3], crop)
        assert torch.equal(part, whole[(..., *crop.slices)]) and part.shape[-2:] == (crop.height, crop.width)


@pytest.mark.parametrize("turn", TURNS)
def test_a_part_of_a_turned_frame_is_that_of_the_displayed_one(tmp_path, turn):
    path = write_turned(tmp_path / "turned.mp4", TURNS[turn][0])
    crop = Crop(5, 9, 30, 22)
    whole = decode_frames(path, [4])
    with open_video(path) as video:
        video.seek([4])
        assert video.size == tuple(whole.shape[-2:])
        assert torch.equal(video.frames([4], crop), whole[(..., *crop.slices)])


def test_each_clip_can_have_a_part_of_its_own_of_any_size(odd_file):
    crops = [Crop(0, 0, 40, 50), Crop(8, 10, 40, 40), Crop(0, 0, 40, 50), Crop(3, 0, 8, 9)]
    lists = [[3, 1], [3, 4, 3], [0, 3], []]
    with open_video(odd_file("h264.mp4")) as video:
        for indices, crop, clip in zip(lists, crops, video.clips(lists, crops), strict=True):
            assert torch.equal(clip, video.frames(indices)[(..., *crop.slices)]) and len(clip) == len(indices)
        assert all(map(torch.equal, video.clips(lists), map(video.frames, lists)))
        assert [clip.shape for clip in video.clips([[], []])] == [(0, 3, 48, 64)] * 2
        with pytest.raises(ValueError, match="no clip was asked for"):
            video.clips([])


@pytest.mark.parametrize(
    ("crop", "complaint"),
    [
        (Crop(0, 0, 49, 10), "is not within frames of 48 x 64"),
        (Crop(-1, 0, 10, 10), "is not within frames of 48 x 64"),
        (Crop(0, 0, 0, 10), "is empty"),
        (Crop(0, 60, 10, 10), "is not within frames of 48 x 64"),
        (Crop(0, 10, 10, 0), "is empty"),
    ],
)
def test_impossible_parts_are_refused(odd_file, crop, complaint):
    with open_video(odd_file("h264.mp4")) as video:
        with pytest.raises(ValueError, match=complaint):
            video.frames([0], crop)
        with pytest.raises(ValueError, match="1 crops were given for 2 clips"):
            video.clips([[0], [1]], [crop])
        assert len(video.frames([0])) == 1
