"""Decoding of damaged files: what is there can be had, and a frame is the same alone and with others."""

import numpy as np
import pytest
import torch

from videoms_hf import packets_videoms
from videoms_hf.decoding_videoms import VideoDecodeError, decode_frames, probe_video

from .odd_files import NUM_FRAMES, every_frame, images, overwrite, spoil


@pytest.mark.parametrize("name", ["mpeg4.avi", "mpeg4 b.avi", "h264.mkv", "vp9.webm", "h264.ts", "h264 fragments.mp4"])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_of_a_cut_file_the_frames_that_are_there_can_be_had(odd_file, tmp_path, name, share):
    data = odd_file(name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(share * len(data))])
    expected, _ = every_frame(path)
    assert 1 < len(expected) < NUM_FRAMES
    assert probe_video(path).num_frames == len(expected)
    assert np.array_equal(images(decode_frames(path)), expected)
    with pytest.raises(VideoDecodeError, match=f"frame 23 was asked for, but {len(expected)} frames can be decoded"):
        decode_frames(path, [23])


@pytest.mark.parametrize("kind", ["no index", "wrong count", "no index and wrong count"])
@pytest.mark.parametrize("name", ["mpeg4.avi", "mpeg4 b.avi", "packed.avi", "mjpeg.avi"])
def test_an_avi_without_index_or_with_a_wrong_count_gives_every_frame(odd_file, tmp_path, name, kind):
    data = bytearray(odd_file(name).read_bytes())
    expected, _ = every_frame(odd_file(name))
    if "index" in kind:
        start = data.rindex(b"idx1")
        data[start : start + 4] = b"JUNK"
    if "count" in kind:
        header, stream = data.index(b"avih") + 8 + 16, data.index(b"strh") + 8 + 32
        for place in (header, stream):
            data[place : place + 4] = (500).to_bytes(4, "little")
    path = tmp_path / name
    path.write_bytes(data)
    assert probe_video(path).num_frames == NUM_FRAMES
    assert np.array_equal(images(decode_frames(path)), expected)
    assert np.array_equal(images(decode_frames(path, [22, 4])), expected[[22, 4]])
    if "count" in kind:
        with pytest.raises(VideoDecodeError, match=r"frame 300.*24 frames can be decoded.*ask for 0 to 23"):
            decode_frames(path, [300])


DAMAGED = ["h264.mp4", "h264.mkv", "mpeg4.avi", "mpeg4 b.avi", "hevc.mp4", "vp9.webm"]
MARKED = [  # by the decoder, which refuses nothing
    ("h264 sliced.mp4", 3, 0.0005),
    ("h264 all key.mp4", 12, 0.0005),
    ("full range.mp4", 3, 0.0005),
    ("h264.flv", 22, 0.002),
]


@pytest.mark.parametrize(
    ("name", "seed", "share"), [(name, seed, 0.002) for name in DAMAGED for seed in range(3)] + MARKED
)
def test_what_damage_leaves_does_not_depend_on_what_else_is_wanted(odd_file, tmp_path, name, seed, share):
    path = tmp_path / name
    path.write_bytes(spoil(odd_file(name).read_bytes(), seed, share))
    try:
        whole = decode_frames(path)
    except VideoDecodeError:
        return
    assert probe_video(path).num_frames == len(whole)
    for indices in ([len(whole) - 1], [3, 1], list(range(0, len(whole), 5)), *([i] for i in range(len(whole)))):
        clip = decode_frames(path, indices)
        if name in DAMAGED:  # with threads, FFmpeg may miss that it has marked a frame
            assert torch.equal(decode_frames(path, indices, num_threads=3), clip)
        if "mpeg4" not in name:  # whose decoder keeps what a damaged header said
            assert torch.equal(clip, whole[indices])


@pytest.mark.parametrize("data", [b"\xff" * 16, bytes(16), b"\x00\x00\x00\x01\x09", b"\x7f\xff\xff\xff"])
@pytest.mark.parametrize("number", [23, 12, 5])
@pytest.mark.parametrize("name", ["h264.mp4", "h264 all key.mp4", "hevc.mp4"])
def test_a_packet_without_a_picture_is_not_counted(odd_file, tmp_path, name, number, data):
    path = tmp_path / name
    path.write_bytes(odd_file(name).read_bytes())
    overwrite(path, number, data)
    expected, _ = every_frame(path)
    assert len(expected) < NUM_FRAMES and probe_video(path).num_frames == len(expected)
    assert np.array_equal(images(decode_frames(path)), expected)
    for i in range(len(expected)):
        assert np.array_equal(images(decode_frames(path, [i])), expected[[i]])


def test_frames_are_counted_where_one_never_comes_and_nothing_is_refused(odd_file, tmp_path):
    path = tmp_path / "av1.mp4"
    path.write_bytes(odd_file("av1.mp4").read_bytes())
    overwrite(path, 12, bytes(16))
    expected, _ = every_frame(path)
    assert len(expected) < NUM_FRAMES
    assert np.array_equal(images(decode_frames(path)), expected)


@pytest.mark.parametrize("is_long", [False, True])
@pytest.mark.parametrize("number", [0, 12, 23])
@pytest.mark.parametrize("name", ["vp9.webm", "mpeg4 b.mp4", "mjpeg.avi", "av1.mp4", "h264.mp4"])
def test_a_damaged_frame_is_the_same_alone_and_with_others(odd_file, tmp_path, monkeypatch, name, number, is_long):
    monkeypatch.setattr(packets_videoms, "SCAN_BYTES", 0 if is_long else 1 << 30)
    path = tmp_path / name
    path.write_bytes(odd_file(name).read_bytes())
    overwrite(path, number, b"\xff" * 12)
    clip = decode_frames(path)
    assert probe_video(path).num_frames == len(clip)
    for i in range(len(clip)):
        assert torch.equal(decode_frames(path, [i]), clip[[i]])
    if number and name == "vp9.webm":
        assert len(clip) == NUM_FRAMES and torch.equal(clip[number], clip[number - 1])
