"""What a frame looks like: colours, turns and sizes, whole frames and parts of them, cut or scaled."""

import av
import numpy as np
import pytest
import torch

from videoms_hf.decoding_videoms import decode_clips, decode_frames, probe_video
from videoms_hf.pictures_videoms import Crop

from .odd_files import (
    NUM_FRAMES,
    encode,
    encoder,
    every_frame,
    images,
    shown_number,
    turn_mp4,
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
    assert np.array_equal(images(decode_frames(path, range)), expected)
    info = probe_video(path)
    assert (info.height, info.width) == expected.shape[1:3]


def test_limited_and_full_range_give_the_same_colours(odd_file):
    limited, full = (decode_frames(odd_file(name), [3]).float() for name in ("h264.mp4", "full range.mp4"))
    assert (limited - full).abs().mean() < 6 and limited.min() < 12 and limited.max() > 243


def test_grey_is_grey_from_black_to_white(odd_file):
    for name in ("grey.mkv", "grey.mp4"):
        clip = decode_frames(odd_file(name), range).int()
        assert (clip - clip[:, :1]).abs().max() <= 2 and clip.min() < 8 and clip.max() > 247


@pytest.mark.parametrize("with_cover", [True, False])
def test_the_stream_that_players_show_is_read_and_never_the_cover(tmp_path, with_cover):
    path = write_streams(tmp_path / "two.mp4", with_cover)
    clip = decode_frames(path, range)
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
    clip = decode_frames(tmp_path / "both.ts", lambda num_frames: range(num_frames))
    assert clip.shape[1:] == (3, 48, 64) and len(clip) >= 3


# -- parts of frames, cut ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["h264.mp4", "mpeg4 b.avi", "10 bit.mp4", "odd size 444.mp4", "alpha.mov", "grey.mp4", "animation.gif"]
)
def test_a_part_that_is_not_scaled_is_that_of_whole_frames(odd_file, name):
    whole = decode_frames(odd_file(name), [3, 20, 3])
    for crop in (Crop(0, 0, *whole.shape[-2:]), Crop(0, 0, 1, 1), Crop(7, 13, 21, 33), Crop(16, 2, 30, 40)):
        part = decode_frames(odd_file(name), [3, 20, 3], crop=lambda height, width, crop=crop: crop)
        assert torch.equal(part, whole[(..., *crop.slices)]) and part.shape[-2:] == (crop.height, crop.width)


@pytest.mark.parametrize("turn", TURNS)
def test_a_part_of_a_turned_frame_is_that_of_the_displayed_one(tmp_path, turn):
    path = write_turned(tmp_path / "turned.mp4", TURNS[turn][0])
    sizes, crop = [], Crop(5, 9, 30, 22)
    part = decode_frames(path, [4], crop=lambda *size: sizes.append(size) or crop)
    whole = decode_frames(path, [4])
    assert sizes == [tuple(whole.shape[-2:])] and torch.equal(part, whole[(..., *crop.slices)])


# -- parts of frames, scaled in the decoder's colours ----------------------------------------------------------------

CROPS = {
    "whole, smaller": Crop(0, 0, 96, 128, (56, 72)),
    "whole, larger": Crop(0, 0, 96, 128, (112, 160)),
    "part": Crop(10, 20, 60, 80, (40, 40)),
    "odd part": Crop(7, 13, 61, 77, (48, 64)),
    "corner": Crop(32, 64, 64, 64, (64, 64)),
}


def plain_crop(clip, crop):
    """The part of whole RGB frames, scaled by torch in floating point."""
    part = clip[..., crop.top : crop.top + crop.height, crop.left : crop.left + crop.width].float()
    return torch.nn.functional.interpolate(part, crop.size, mode="bilinear", antialias=True)


@pytest.fixture(scope="module")
def smooth_video(tmp_path_factory):
    """Makes videos of coloured waves by codec and pixel format: the finest detail is 12 pixels."""
    y, x = np.mgrid[:96, :128].astype(np.float32)

    def get(name, codec, pix_fmt, turned=False):
        path = tmp_path_factory.getbasetemp() / name
        waves = [[127 + 100 * np.sin(x / 9 + i + k / 4) * np.cos(y / 11) for k in range(3)] for i in range(6)]
        frames = [np.stack(wave, axis=-1).astype(np.uint8) for wave in waves]
        with av.open(str(path), "w") as output:
            stream = encoder(output, codec, pix_fmt, (96, 128), {"crf": "1"} if codec == "libx264" else {})
            output.mux(encode(stream, frames))
        return turn_mp4(path, TURNS["by 90"][0]) if turned else path

    return get


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize(
    "video",
    [
        ("8 bit.mp4", "libx264", "yuv420p"),
        ("full.mp4", "libx264", "yuvj420p"),
        ("444.mp4", "libx264", "yuv444p"),
        ("10 bit.mp4", "libx264", "yuv420p10le"),
        ("rgb.mkv", "ffv1", "bgra"),
        ("grey.mkv", "ffv1", "gray"),
    ],
    ids=lambda video: video[0],
)
def test_a_part_scaled_in_the_decoders_colours_is_near_the_plain_way(smooth_video, video, crop):
    path, crop = smooth_video(*video), CROPS[crop]
    expected = plain_crop(decode_frames(path, [0, 5, 2]), crop)
    clip = decode_frames(path, [0, 5, 2], crop=lambda height, width: crop)
    assert clip.shape == (3, 3, *crop.size) and clip.dtype == torch.uint8
    errors = (clip.float() - expected).abs()
    assert errors.mean() < 2 and errors.quantile(0.99) < 7, (errors.mean(), errors.max())


def test_parts_are_those_of_the_displayed_frame(smooth_video):
    path = smooth_video("turned.mp4", "libx264", "yuv420p", turned=True)
    sizes, crop = [], Crop(30, 10, 70, 50, (64, 32))
    clip = decode_frames(path, [1], crop=lambda *size: sizes.append(size) or crop)
    assert sizes == [(128, 96)]
    errors = (clip.float() - plain_crop(decode_frames(path, [1]), crop)).abs()
    assert clip.shape == (1, 3, 64, 32) and errors.mean() < 2


def test_each_clip_can_have_a_part_of_its_own_of_any_size(smooth_video):
    path = smooth_video("each.mp4", "libx264", "yuv420p")
    crops = [Crop(0, 0, 50, 60, (20, 30)), Crop(10, 10, 60, 60), Crop(0, 0, 50, 60, (20, 30)), Crop(3, 0, 8, 9)]
    clips = decode_clips(path, [3, 1, 3, 4, 0, 3, 5, 5], 4, crops=lambda height, width: crops)
    for indices, crop, clip in zip(([3, 1], [3, 4], [0, 3], [5, 5]), crops, clips, strict=True):
        assert torch.equal(clip, decode_frames(path, indices, crop=lambda height, width, crop=crop: crop))
    whole = decode_clips(path, lambda num_frames: [0, num_frames - 1, 3, 1], 2)
    assert all(map(torch.equal, whole, (decode_frames(path, [0, 5]), decode_frames(path, [3, 1]))))
    assert [clip.shape for clip in decode_clips(path, [], 2)] == [(0, 3, 96, 128)] * 2
    with pytest.raises(ValueError, match="3 indices are no 2 clips"):
        decode_clips(path, [1, 2, 3], 2)
    with pytest.raises(ValueError, match="num_clips is 0; it must be at least 1"):
        decode_clips(path, [], 0)


@pytest.mark.parametrize(
    ("crop", "complaint"),
    [
        (Crop(0, 0, 97, 10, (8, 8)), "is not within frames of 96 x 128"),
        (Crop(-1, 0, 10, 10, (8, 8)), "is not within frames of 96 x 128"),
        (Crop(0, 0, 0, 10, (8, 8)), "is empty"),
        (Crop(0, 120, 10, 10), "is not within frames of 96 x 128"),
        (Crop(0, 0, 10, 0), "is empty"),
    ],
)
def test_parts_that_cannot_be_had_are_refused(smooth_video, crop, complaint):
    with pytest.raises(ValueError, match=complaint):
        decode_frames(smooth_video("refused.mp4", "libx264", "yuv420p"), [0], crop=lambda height, width: crop)
    with pytest.raises(ValueError, match="1 crops were given for 2 clips"):
        decode_clips(smooth_video("refused.mp4", "libx264", "yuv420p"), [0, 1], 2, crops=lambda *size: [crop])
