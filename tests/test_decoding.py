"""Decoding: each wanted frame is exactly the one that a plain decode of the whole file gives, whatever the file."""

import io

import av
import numpy as np
import pytest
import torch
from PIL import Image

from videoms_hf import decoding_videoms, open_video, packets_videoms, reader_videoms, sources_videoms
from videoms_hf.decoding_videoms import VideoDecodeError, decode_frames, probe_video
from videoms_hf.reader_videoms import Crop, StaleInfoError, redraws

from .odd_files import (
    FILES,
    NUM_FRAMES,
    VFR_PTS,
    encode,
    encoder,
    every_frame,
    images,
    numbered_frames,
    overwrite,
    shown_number,
)
from .video_files import write_sound


NAMES = [*FILES, "packed.avi"]
LISTS = [[0], [23], [7, 3, 7, 18, 3], list(range(24)), [20, 21, 22], list(range(23, -1, -1)), [5, 12, 19], [9] * 4]
# Their frames can be told from the packets. (In AVI that is so for MPEG-4 alone, and edit lists may cut a picture.)
REGULAR = [
    name
    for name in NAMES
    if name.startswith(("h264", "variable", "hevc", "vp9", "av1", "mpeg4", "packed", "mjpeg", "10 bit.", "full"))
    and name not in ("h264.avi", "h264 intra refresh.mp4")
]


@pytest.mark.parametrize("name", NAMES)
def test_frames_are_those_of_a_plain_decode(odd_file, name):
    path = odd_file(name)
    expected, times = every_frame(path)
    first = NUM_FRAMES - len(expected)
    assert first == (5 if "edit list" in name else 0)
    assert [shown_number(image) for image in expected] == list(range(first, NUM_FRAMES))
    info = probe_video(path)
    assert info.num_frames == len(expected) and (info.height, info.width) == expected.shape[1:3]
    for indices in LISTS:
        indices = [i for i in indices if i < len(expected)]
        if indices:
            clip = decode_frames(path, indices)
            assert clip.dtype == torch.uint8 and clip.shape == (len(indices), 3, *expected.shape[1:3])
            assert np.array_equal(images(clip), expected[indices]), (name, indices)


@pytest.mark.parametrize("name", NAMES)
def test_a_window_of_seconds_has_the_frames_that_are_shown_in_it(odd_file, name):
    path = odd_file(name)
    expected, times = every_frame(path)
    times = np.arange(len(expected)) / 25 if name.endswith(".avi") else np.array(times) - times[0]
    for start, end in [(0.2, 0.6), (None, 0.32), (0.52, None), (0, 0.04)]:
        inside = np.flatnonzero((times >= (start or 0) - 2e-3) & (times < (end or 99) - 2e-3))
        clip = decode_frames(path, start_seconds=start, end_seconds=end)
        assert np.array_equal(images(clip), expected[inside]), (name, start, end)


@pytest.mark.parametrize("is_long", [False, True])
@pytest.mark.parametrize("name", REGULAR)
def test_regular_files_are_decoded_where_the_frames_are_and_not_from_the_start(odd_file, name, is_long, monkeypatch):
    def refuse(*_):
        raise AssertionError("decoded from the start")

    monkeypatch.setattr(decoding_videoms.FileReader, "_frames_from_start", refuse)
    monkeypatch.setattr(packets_videoms, "SCAN_BYTES", 0 if is_long else 1 << 30)
    length = probe_video(odd_file(name)).num_frames
    for i in range(length):
        assert shown_number(images(decode_frames(odd_file(name), [i]))[0]) == i + NUM_FRAMES - length


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith((".mp4", ".mkv", ".webm", ".mov"))])
def test_long_files_give_the_same_frames(odd_file, name, monkeypatch):
    monkeypatch.setattr(packets_videoms, "SCAN_BYTES", 0)  # every file is long
    path = odd_file(name)
    expected, times = every_frame(path)
    for indices in LISTS:
        indices = [i for i in indices if i < len(expected)]
        assert np.array_equal(images(decode_frames(path, indices)), expected[indices]), (name, indices)
    times = np.array(times) - times[0]
    inside = np.flatnonzero((times >= 0.5 - 2e-3) & (times < 0.8 - 2e-3))
    clip = decode_frames(path, start_seconds=0.5, end_seconds=0.8)
    assert np.array_equal(images(clip), expected[inside])


@pytest.mark.parametrize("name", REGULAR)
def test_packets_that_are_not_kept_are_read_again(odd_file, name, monkeypatch):
    monkeypatch.setattr(packets_videoms, "HELD_BYTES", 0)
    expected, _ = every_frame(odd_file(name))
    for indices in ([len(expected) - 1], [5], list(range(len(expected)))):
        assert np.array_equal(images(decode_frames(odd_file(name), indices)), expected[indices]), indices


# -- sources --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["h264.mp4", "mpeg4 b.avi", "vp9.webm", "animation.gif"])
def test_bytes_and_file_objects_are_read_like_the_file(odd_file, name):
    path = odd_file(name)
    expected = decode_frames(path, [3, 11, 20])
    data = path.read_bytes()
    with open(path, "rb") as file:
        file.read(10)  # read from its start all the same
        for source in (str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), file):
            assert torch.equal(decode_frames(source, [3, 11, 20]), expected), type(source)


def test_names_with_colons_and_odd_letters_are_files(odd_file, tmp_path):
    data = odd_file("h264.mp4").read_bytes()
    for name in ("a:b.mp4", "file:x #1;&(!).mp4", "http:a.mp4", "ünï 視.mp4"):
        (tmp_path / name).write_bytes(data)
        assert len(decode_frames(tmp_path / name, [0])) == 1


@pytest.mark.parametrize("name", NAMES)
def test_one_reader_gives_length_size_and_frames_again_and_again(odd_file, name):
    path = odd_file(name)
    expected, _ = every_frame(path)
    with open_video(path) as video:
        for indices in ([len(expected) - 1, 1], [3], range(len(expected)), [3], [5, 4]):
            assert np.array_equal(images(video.frames(indices)), expected[list(indices)])
        assert len(video) == len(expected) and video.size == expected.shape[1:3]
        assert video.info == probe_video(path)
        video.seek([9, 2, 9])
        assert np.array_equal(images(video.frames([9, 2, 9])), expected[[9, 2, 9]])
        assert np.array_equal(
            [images(frame[None])[0] for frame in video.iterate([1, 2, 2, 7])], expected[[1, 2, 2, 7]]
        )
        assert np.array_equal(images(video.frames(iter([7, 0]))), expected[[7, 0]])
        assert np.array_equal(
            images(video.window(0.2).frames([0])), images(decode_frames(path, [0], start_seconds=0.2))
        )
        assert len(video) < len(expected) and video.info.num_frames == len(expected)
        assert video.frames([]).shape == (0, 3, *expected.shape[1:3])


@pytest.mark.parametrize("name", ["h264.mp4", "animation.gif"])
def test_an_array_and_a_folder_of_images_are_read_like_the_file(odd_file, tmp_path, name):
    whole = decode_frames(odd_file(name))
    for i, image in enumerate(images(whole)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    for source in (whole, images(whole), tmp_path, str(tmp_path)):
        with open_video(source) as video, open_video(odd_file(name)) as file:
            assert len(video) == len(file) and video.size == file.size
            assert video.info[0] == file.info[0] and video.info[2:4] == file.info[2:4]
            video.seek([4, 9])
            assert torch.equal(video.frames([9, 4, 4]), file.frames([9, 4, 4]))
            crops = [Crop(3, 5, 20, 30), Crop(0, 0, 48, 10)]
            assert all(map(torch.equal, video.clips([[1, 2], [2]], crops), file.clips([[1, 2], [2]], crops)))
            assert all(map(torch.equal, video.iterate([1, 5]), file.iterate([1, 5])))
            with pytest.raises(VideoDecodeError, match="frame 24 was asked for, but there are 24 frames"):
                video.frames([24])
            with pytest.raises(VideoDecodeError, match="images have no times"):
                video.window(1.0)
            assert len(video.window()) == NUM_FRAMES


def test_an_array_that_holds_no_frames_is_refused():
    for frames in (np.zeros((2, 4, 4, 3)), np.zeros((0, 4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)):
        with pytest.raises(VideoDecodeError, match=r"it must be uint8 \(T, H, W, 3\)"):
            open_video(frames)


# -- errors ---------------------------------------------------------------------------------------------------------


def test_errors_name_the_file_and_the_reason(odd_file, tmp_path):
    text, empty = tmp_path / "text.mp4", tmp_path / "empty.mp4"
    text.write_text("no video")
    empty.touch()
    half = tmp_path / "half.mp4"
    half.write_bytes(odd_file("h264.mp4").read_bytes()[:2000])  # its index was at the end
    for path, reason in [
        (text, "FFmpeg cannot read it"),
        (empty, "the file is empty"),
        (half, "FFmpeg cannot read it"),
        (write_sound(tmp_path / "sound.mp4"), "no video stream"),
    ]:
        for read in (probe_video, lambda path: decode_frames(path, [0])):
            with pytest.raises(VideoDecodeError, match=reason) as error:
                read(path)
            assert error.value.source == str(path) and str(path) in str(error.value)
    with pytest.raises(FileNotFoundError, match="none.mp4"):
        decode_frames(tmp_path / "none.mp4", [0])
    with pytest.raises(VideoDecodeError, match="video of 8 bytes"):
        decode_frames(b"no video", [0])


def test_numbers_that_a_video_has_not_are_refused(odd_file):
    path = odd_file("h264.mp4")
    with pytest.raises(
        VideoDecodeError, match="frame 24 was asked for, but 24 frames can be decoded: ask for 0 to 23"
    ):
        decode_frames(path, [3, 24])
    with pytest.raises(ValueError, match="frame numbers count from 0, but indices holds -1"):
        decode_frames(path, [-1])
    with pytest.raises(ValueError, match="list of integers"):
        decode_frames(path, [0.5])
    with pytest.raises(VideoDecodeError, match="no frame can be decoded from 5 s to 6 s"):
        decode_frames(path, start_seconds=5, end_seconds=6)


def test_rate_and_length_come_from_what_is_there(odd_file):
    info = probe_video(odd_file("h264.mp4"))
    assert info.fps == pytest.approx(25) and info.duration_seconds == pytest.approx(24 / 25)
    info = probe_video(odd_file("variable rate.mp4"))
    assert info.duration_seconds == pytest.approx((VFR_PTS[-1] - VFR_PTS[0]) / 1000, abs=0.25)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("late.mp4", {}),
        ("late.mkv", {"avoid_negative_ts": "disabled"}),
        ("late.ts", {}),
        ("fragments.mp4", {"movflags": "frag_keyframe+empty_moov", "avoid_negative_ts": "disabled"}),
        ("late.flv", {}),
        ("late.mpg", {}),
    ],
)
@pytest.mark.parametrize("first", [0, 7, 250])
def test_rate_and_length_are_measured_from_the_first_frame(tmp_path, monkeypatch, name, options, first):
    codec = "mpeg2video" if name.endswith(".mpg") else "libx264"
    path = tmp_path / name
    with av.open(str(path), "w", options=options) as output:
        stream = encoder(output, codec, "yuv420p", (48, 64), {"bf": "2", "g": "12"}, 25)
        output.mux(encode(stream, numbered_frames(50), range(first, first + 50)))
    for scan_bytes in (packets_videoms.SCAN_BYTES, 0):
        monkeypatch.setattr(packets_videoms, "SCAN_BYTES", scan_bytes)
        info = probe_video(path)
        assert info.num_frames == 50 and info.promised_frames in (0, 50)
        assert info.fps == pytest.approx(25, abs=0.3) and info.duration_seconds == pytest.approx(2, abs=0.05)


def test_recordings_that_were_joined_last_as_long_as_their_parts(odd_file, tmp_path):
    (tmp_path / "joined.ts").write_bytes(2 * odd_file("h264.ts").read_bytes())
    info = probe_video(tmp_path / "joined.ts")
    assert info.num_frames == 2 * NUM_FRAMES and info.duration_seconds == pytest.approx(1.92, abs=0.1)


def test_frames_that_an_edit_list_hides_are_not_promised(odd_file):
    info = probe_video(odd_file("h264 edit list.mp4"))
    assert info.promised_frames == info.num_frames == NUM_FRAMES - 5
    with pytest.raises(VideoDecodeError, match="19 frames can be decoded: ask for 0 to 18"):
        decode_frames(odd_file("h264 edit list.mp4"), [19])


def test_a_size_that_cannot_be_read_is_no_reason_to_scale_down(tmp_path):
    pictures = [Image.fromarray(frame) for frame in numbered_frames(3)]
    pictures[0].save(tmp_path / "a.webp", save_all=True, append_images=pictures[1:])
    with pytest.raises(
        VideoDecodeError, match="the size of its frames cannot be read: it is truncated, FFmpeg cannot"
    ):
        probe_video(tmp_path / "a.webp")


# -- limits, threads, processes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "limit", "value", "reason"),
    [
        (
            sources_videoms,
            "MAX_FRAME_PIXELS",
            3000,
            "frames of 64 x 48, but 3000 pixels are allowed|frames have more than 3000 pixels",
        ),
        (reader_videoms, "MAX_CLIP_BYTES", 20000, "3 frames of 64 x 48 were asked for, 27648 bytes, but 20000 are"),
        (sources_videoms, "MAX_SECONDS", -1.0, "takes longer to read than is allowed"),
        (packets_videoms, "MAX_PACKETS", 20, "more than 20 frames, which are allowed: cut it into parts"),
    ],
)
@pytest.mark.parametrize("name", ["h264.mp4", "h264.avi", "mpeg4.avi"])
def test_limits_are_errors_that_name_file_and_limit(odd_file, monkeypatch, name, module, limit, value, reason):
    monkeypatch.setattr(module, limit, value)
    with pytest.raises(VideoDecodeError, match=reason) as error:
        last_frames(odd_file(name))
    assert error.value.source == str(odd_file(name))


@redraws
def last_frame(video, lengths):
    lengths.append(len(video))
    return images(video.frames([1, lengths[-1] - 2, lengths[-1] - 1]))[2]


def last_frames(path):
    with open_video(path) as video:
        return last_frame(video, [])


@pytest.mark.parametrize("name", ["h264.mp4", "animation.gif", "h264.avi"])
def test_frames_are_chosen_once_even_if_the_file_is_read_twice(odd_file, name):
    lengths = []
    with open_video(odd_file(name)) as video:
        assert shown_number(last_frame(video, lengths)) == 23
    assert lengths == [NUM_FRAMES]


def test_frames_are_chosen_again_where_the_length_proves_wrong(odd_file, tmp_path, monkeypatch):
    monkeypatch.setattr(packets_videoms, "SCAN_BYTES", 0)  # so that the index of an mp4 is believed
    path, lengths = tmp_path / "a.mp4", []
    path.write_bytes(odd_file("h264.mp4").read_bytes())
    overwrite(path, 23, b"\xff" * 16)
    monkeypatch.setattr(decoding_videoms, "_decode_damaged", lambda *_: iter(()))  # only counting is left
    expected, _ = every_frame(path)
    with open_video(path) as video:
        assert np.array_equal(last_frame(video, lengths), expected[-1])
    assert lengths == [24, 23] and len(expected) == 23
    with open_video(path) as video:
        assert video.info.num_frames == 24
        with pytest.raises(StaleInfoError, match="23 frames can be decoded, not what"):
            video.frames([22])
        assert video.info.num_frames == 23
        assert np.array_equal(images(video.frames([22]))[0], expected[-1])


def test_a_long_recording_is_not_read_as_a_whole_however_small_its_file(odd_file, monkeypatch):
    def refuse(*_, is_checked=None, **__):
        assert is_checked is None, "all packets were read"
        return tabulate(*_, **__)

    tabulate = packets_videoms._tabulate
    monkeypatch.setattr(packets_videoms, "_tabulate", refuse)
    monkeypatch.setattr(packets_videoms, "SCAN_SECONDS", 0.5)  # the files have 0.96 s
    assert shown_number(images(decode_frames(odd_file("h264.mp4"), [17]))[0]) == 17
    for name in ("h264.mp4", "h264.mkv"):
        assert len(decode_frames(odd_file(name), start_seconds=0.4, end_seconds=0.6)) == 5
