"""Frames told from packets, and never by the index of an AVI or the header of an mp4 that lies."""

import os
import threading

import av
import numpy as np
import pytest

from videoms_hf import decoding_videoms, sources_videoms
from videoms_hf.decoding_videoms import decode_frames, probe_video

from .odd_files import (
    NUM_FRAMES,
    encode,
    encoder,
    every_frame,
    images,
    numbered_frames,
    write_numbered,
    write_streams,
)


def refuse(*_, **__):
    raise AssertionError("decoded from the start")


def index_entries(data):
    """Places of the 16-byte entries of an AVI's index."""
    start = data.rindex(b"idx1")
    return range(start + 8, start + 8 + int.from_bytes(data[start + 4 : start + 8], "little"), 16)


def chunk_of(data, entry):
    """The place of the chunk that an entry of the index tells of."""
    return data.index(b"movi") + int.from_bytes(data[entry + 8 : entry + 12], "little")


def put_number(data, place, number):
    data[place : place + 4] = number.to_bytes(4, "little")


def put_sign(data):
    """The name of an encoder that may have packed pictures, in the padding of an AVI's header."""
    place = data.index(b"JUNK") + 8
    data[place : place + 4] = b"DivX"


def forget(*numbers):
    """Has the index lack these pictures."""

    def change(data):
        for number in numbers:
            entry = index_entries(data)[number]
            data[entry : entry + 4] = b"03tx"

    return change


def lie_of_size(data):
    put_number(data, index_entries(data)[7] + 12, 60)


def lie_of_place(data):
    entry = index_entries(data)[7]
    put_number(data, entry + 8, int.from_bytes(data[entry + 8 : entry + 12], "little") + 2)


def lie_of_huge_size(data):
    put_number(data, index_entries(data)[7] + 12, 0xFFFFFF00)


def swap_pictures(data):
    """The index has two pictures in another order than the file."""
    first, second = index_entries(data)[7:9]
    data[first : first + 16], data[second : second + 16] = data[second : second + 16], data[first : first + 16]


def hide_a_chunk(data):
    """Where the index has a picture lies something that is to be passed over."""
    place = chunk_of(data, index_entries(data)[12])
    data[place : place + 4] = b"JUNK"


def cut_last_chunk(data):
    place = chunk_of(data, index_entries(data)[-1])
    put_number(data, place + 4, 1 << 20)
    put_number(data, index_entries(data)[-1] + 12, 1 << 20)


def put_picture(data, number, picture):
    """Puts other, fewer bytes in the place of a picture, and padding behind them."""
    entry = index_entries(data)[number]
    place, size = chunk_of(data, entry), len(picture)
    room = int.from_bytes(data[place + 4 : place + 8], "little")
    room += room % 2 - size - 8
    put_number(data, place + 4, size), put_number(data, entry + 12, size)
    data[place + 8 : place + 16 + size] = picture + b"JUNK" + room.to_bytes(4, "little")


def empty_a_chunk(data):
    """The picture before it is to be shown again."""
    put_picture(data, 12, b"")


def put_dummy(data):
    """A picture that is not coded: type P, no whole second, marker, 5 bits of time, marker, 0."""
    put_picture(data, 12, b"\x00\x00\x01\xb6" + bytes([0b01010000, 0b01000000]))


CHANGES = {
    "lacks a picture": forget(9),
    "lacks the last picture": forget(-1),
    "lacks the first pictures": forget(*range(8)),
    "wrong size": lie_of_size,
    "huge size": lie_of_huge_size,
    "swaps pictures": swap_pictures,
    "has what is none": hide_a_chunk,
    "wrong place": lie_of_place,
    "last picture cut": cut_last_chunk,
    "sign of packing": put_sign,
    "empty chunk": empty_a_chunk,
    "no picture": put_dummy,
}


def without_repeats(clip):
    return clip[[i for i in range(len(clip)) if not i or not np.array_equal(clip[i], clip[i - 1])]]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["mpeg4.avi", "mpeg4 b.avi"])
def test_an_index_that_lies_costs_no_frame(odd_file, tmp_path, name, change):
    data = bytearray(odd_file(name).read_bytes())
    CHANGES[change](data)
    path = tmp_path / name
    path.write_bytes(data)
    expected, _ = every_frame(path)
    assert len(expected) > 10
    clip = images(decode_frames(path))
    assert len(clip) == probe_video(path).num_frames
    assert np.array_equal(without_repeats(clip), without_repeats(expected))  # what is damaged repeats the one before
    for i in range(len(clip)):
        assert np.array_equal(images(decode_frames(path, [i])), clip[[i]])


# -- mp4 -------------------------------------------------------------------------------------------------------------


def count_openings(monkeypatch):
    """A list that grows by "is the header trusted?" whenever a source is opened."""
    openings, open_file = [], decoding_videoms.FileReader._open

    def count(reader):
        video = open_file(reader)
        openings.append(video.level == sources_videoms.TRUSTED)
        return video

    monkeypatch.setattr(decoding_videoms.FileReader, "_open", count)
    return openings


@pytest.mark.parametrize(
    "name",
    ["h264.mp4", "h264 edit list.mp4", "h264 fragments.mp4", "hevc.mp4", "av1.mp4", "mpeg4 b.mp4", "10 bit.mp4"],
)
def test_an_mp4_is_opened_once_by_its_header(odd_file, name, monkeypatch):
    expected, _ = every_frame(odd_file(name))
    openings = count_openings(monkeypatch)
    for source in (odd_file(name), odd_file(name).read_bytes()):
        for indices in ([len(expected) - 1], [3, 11]):
            assert np.array_equal(images(decode_frames(source, indices)), expected[indices])
    assert openings == [True] * 4


def test_a_header_does_not_change_what_is_known_of_a_video(odd_file, monkeypatch):
    names = ["h264.mp4", "variable rate.mp4", "h264 edit list.mp4", "hevc.mp4", "av1.mp4", "grey.mp4"]
    by_header = [probe_video(odd_file(name)) for name in names]
    monkeypatch.setattr(sources_videoms, "is_mp4", lambda source: False)
    assert [probe_video(odd_file(name)) for name in names] == by_header


@pytest.mark.parametrize(("size", "openings"), [(bytes([0, 32, 0, 24]), [True, False]), (bytes(4), [True])])
def test_a_header_that_lies_of_the_size_is_seen_through(odd_file, tmp_path, monkeypatch, size, openings):
    data = bytearray(odd_file("h264.mp4").read_bytes())
    place = data.index(b"avc1", data.index(b"stsd")) + 28
    assert data[place : place + 4] == bytes([0, 64, 0, 48])
    data[place : place + 4] = size
    path = tmp_path / "lies.mp4"
    path.write_bytes(data)
    expected, _ = every_frame(path)
    assert expected.shape == (NUM_FRAMES, 48, 64, 3)
    found = count_openings(monkeypatch)
    monkeypatch.setattr(decoding_videoms.FileReader, "_frames_from_start", refuse)
    assert np.array_equal(images(decode_frames(path, [3, 20])), expected[[3, 20]])
    assert found == openings


def test_which_of_two_streams_is_shown_is_not_left_to_the_header(tmp_path, monkeypatch):
    path = write_streams(tmp_path / "two.mp4", with_cover=False)
    openings = count_openings(monkeypatch)
    decode_frames(path, [0])
    assert openings == [False]


def test_a_named_pipe_is_read_once_from_its_start(tmp_path):
    path = write_numbered(tmp_path / "file.ts", "libx264", "yuv420p", {"bf": "2", "g": "8"})
    expected, _ = every_frame(path)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(path.read_bytes(),), daemon=True)
    writer.start()
    assert np.array_equal(images(decode_frames(tmp_path / "pipe", [3, 20])), expected[[3, 20]])


def test_pictures_of_one_time_stamp_are_counted(tmp_path):
    path = tmp_path / "twice.mkv"
    with av.open(str(path), "w") as output:
        packets = encode(encoder(output, "mjpeg", "yuvj420p", (48, 64)), numbered_frames())
        for packet in packets[6:]:
            packet.pts = packet.dts = packet.pts - 1
        output.mux(packets)
    expected, times = every_frame(path)
    assert len(expected) == NUM_FRAMES and len(set(times)) == NUM_FRAMES - 1
    assert probe_video(path).num_frames == NUM_FRAMES
    for i in range(NUM_FRAMES):
        assert np.array_equal(images(decode_frames(path, [i])), expected[[i]])
