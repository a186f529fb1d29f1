"""Re-encoded videos: the same frames, within limits of size and rate, and nothing half-written."""

import os
from itertools import islice

import av
import numpy as np
import pytest
import torch
from PIL import Image

from videoms_hf.data.preparation import prepare_dataset
from videoms_hf.data.tables import make_table
from videoms_hf.data.transcoding import Encoding, transcode_video
from videoms_hf.decoding_videoms import FileReader, VideoDecodeError, decode_frames, probe_video

from .odd_files import images, shown_number, write_file, write_numbered
from .video_files import write_ramp


STEP = 8


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Nine videos of 12 + i frames, 48 x 32, 25 frames a second; the grey level is 8 times the frame's number."""
    folder = tmp_path_factory.mktemp("videos")
    return [write_ramp(folder / f"v {i}.mp4", num_frames=12 + i, step=STEP) for i in range(9)]


def frame_levels(path):
    frames = decode_frames(path)
    return frames.float().mean(dim=(1, 2, 3)).numpy()


def test_an_encoded_video_has_the_same_frames(videos, tmp_path):
    transcode_video({"video": str(videos[8])}, tmp_path / "x.mp4", Encoding(gop=5))
    info = probe_video(tmp_path / "x.mp4")
    assert (info.num_frames, info.width, info.height, round(info.fps, 3)) == (20, 48, 32, 25)
    assert np.abs(frame_levels(tmp_path / "x.mp4") - STEP * np.arange(20)).max() < 3
    with av.open(str(tmp_path / "x.mp4")) as container:
        keys = [i for i, packet in enumerate(p for p in container.demux(video=0) if p.size) if packet.is_keyframe]
        assert max(np.diff([*keys, 20])) <= 5
    content = (tmp_path / "x.mp4").read_bytes()
    assert b"keyint=5 " in content and b"cabac=1 " in content
    assert content.index(b"moov") < content.index(b"mdat")
    assert os.listdir(tmp_path) == ["x.mp4"]


def test_size_and_rate_are_upper_limits_and_sides_become_even(videos, tmp_path):
    out = tmp_path / "x.mp4"
    transcode_video({"video": str(videos[8])}, out, Encoding(short_side=18, fps=10, fastdecode=True))
    info = probe_video(out)
    assert (info.width, info.height, info.num_frames, round(info.fps, 3)) == (28, 18, 8, 10)
    # Frame k is shown at k / 10 s, and the one of 25 a second that is seen then is floor(2.5 k).
    expected = STEP * np.array([0, 2, 5, 7, 10, 12, 15, 17])
    assert np.abs(frame_levels(out) - expected).max() < 3
    assert b"cabac=0 " in out.read_bytes()
    transcode_video({"video": str(videos[0])}, out, Encoding(short_side=64, fps=60))
    info = probe_video(out)
    assert (info.width, info.height, info.num_frames, round(info.fps, 3)) == (48, 32, 12, 25)


def test_a_rate_counts_from_the_first_frame_whenever_that_is_shown(tmp_path):
    late = [10_000 + 40 * i for i in range(50)]
    path = write_numbered(tmp_path / "late.ts", "libx264", "yuv420p", {"bf": "2"}, pts=late, num_frames=50)
    transcode_video({"video": str(path)}, tmp_path / "x.mp4", Encoding(fps=5))
    info = probe_video(tmp_path / "x.mp4")
    assert (info.num_frames, round(info.fps, 3)) == (10, 5)
    report = prepare_dataset({"train": make_table([str(path)], [0], ["a"])}, tmp_path / "out")
    assert report["train"]["hours"] == pytest.approx(2 / 3600, rel=0.02)


def test_a_window_is_cut_out(videos, tmp_path):
    row = {"video": str(videos[8]), "start_seconds": 0.2, "end_seconds": 0.72}
    transcode_video(row, tmp_path / "x.mp4", Encoding())
    levels = frame_levels(tmp_path / "x.mp4")
    assert len(levels) == 13 and np.abs(levels - STEP * np.arange(5, 18)).max() < 3


def test_pictures_and_embedded_videos_are_encoded_too(videos, tmp_path):
    (tmp_path / "pictures").mkdir()
    for i in range(4):
        Image.new("RGB", (21, 17), (40 * i,) * 3).save(tmp_path / f"pictures/{i}.png")
    transcode_video({"video": str(tmp_path / "pictures")}, tmp_path / "p.mp4", Encoding())
    info = probe_video(tmp_path / "p.mp4")
    assert (info.width, info.height, info.num_frames) in [(20, 16, 4), (20, 18, 4), (22, 16, 4), (22, 18, 4)]
    embedded = {"video": {"path": "x.mp4", "bytes": videos[1].read_bytes()}}
    transcode_video(embedded, tmp_path / "e.mp4", Encoding())
    assert probe_video(tmp_path / "e.mp4").num_frames == 13


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_side": 15}, "short_side is 15; it must be even and at least 16"),
        ({"fps": 0}, "fps is 0"),
        ({"gop": 0}, "gop is 0"),
        ({"crf": 52}, "crf is 52"),
    ],
)
def test_an_encoding_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Encoding(**options)


def test_a_failed_encoding_leaves_nothing_behind(videos, tmp_path, monkeypatch):
    iterate = FileReader.iterate

    def failing(video, indices):
        yield from islice(iterate(video, indices), 4)
        raise OSError("the disk has gone")

    monkeypatch.setattr(FileReader, "iterate", failing)
    with pytest.raises(OSError, match="disk"):
        transcode_video({"video": str(videos[8])}, tmp_path / "x.mp4", Encoding())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("window", [{}, {"start_seconds": 0.2, "end_seconds": 0.8}])
def test_an_irregular_video_is_decoded_once_however_long_it_is(tmp_path, monkeypatch, window):
    path = write_file(tmp_path, "msmpeg4.avi")
    opened, open_file = [], av.open
    monkeypatch.setattr(
        av, "open", lambda file, *args, **kwargs: opened.append(file) or open_file(file, *args, **kwargs)
    )
    transcode_video({"video": str(path), **window}, tmp_path / "x.mp4", Encoding(crf=1))
    assert len(opened) <= 6, "to count its frames and those of the window, to see one, to decode, to write"
    wanted = decode_frames(path, **window)
    assert len(wanted) == (15 if window else 24)
    assert list(map(shown_number, images(decode_frames(tmp_path / "x.mp4")))) == list(
        map(shown_number, images(wanted))
    )
    with FileReader(path) as video:
        assert torch.equal(torch.stack(list(video.window(**window).iterate([1, 4, 9]))), wanted[[1, 4, 9]])
        with pytest.raises(VideoDecodeError, match="frame 99 was asked for"):
            list(video.iterate([1, 99]))
