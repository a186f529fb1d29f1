# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Which frame is in which packet of a video, told without decoding it (some microseconds a packet).

In the containers and codecs of video data sets a packet is one picture, and time stamps tell the order in which
pictures are shown. Where that cannot be trusted, `Irregular` is raised and frames have to be decoded and counted.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import dropwhile, islice, takewhile
from typing import Any, NamedTuple

import numpy as np


HELD_BYTES = 64 << 20  # packets are kept from reading to decoding up to this sum; beyond it they are read twice
SCANNED_AVI_BYTES = 64 << 20  # files up to this size are read whole, if their index tells where pictures are
TIMED_CONTAINERS = {"mov", "matroska", "mpegts", "flv"}  # these store the time at which a picture is shown
MAX_PACKETS = 10_000_000  # 46 hours at 60 frames a second
MAX_REORDER = 64  # packets from a picture to one that is shown earlier; the standards allow 16 frames
INDEX_KEY, INDEX_DISCARD = 1, 2  # FFmpeg's AVINDEX_KEYFRAME and AVINDEX_DISCARD_FRAME
MPEG4_PICTURE, MPEG4_I, MPEG4_B = b"\x00\x00\x01\xb6", 0, 2  # start code and types (the next two bits)
PACKED_SIGN = b"DivX"  # by that name, before a picture, an encoder says that it may have packed several
MPEG4_DUMMY_BYTES = 19  # FFmpeg's MAX_NVOP_SIZE: a packet up to this size may say "no picture here"


class Irregular(Exception):  # noqa: N818 - no error: frames cannot be told from packets and have to be counted
    pass


class Damaged(Irregular):
    """A decoder refuses a packet, or makes another frame of it than was foretold."""


class LimitError(Exception):
    """A limit that a video reaches."""


@dataclass
class OpenVideo:
    name: str
    container: Any
    stream: Any
    codec: str
    format: str
    size: tuple[int, int]  # height, width
    read_all: Callable[[], bytes] | None  # the whole file, apart from the container's own reading
    is_trusted: bool  # opened by its header alone, which may be wrong
    is_strict: bool  # its decoder refuses damaged frames instead of concealing the damage
    is_fresh: bool = True  # no packet has been read
    deadline: float = math.inf  # of `time.monotonic`


class Pictures(NamedTuple):
    """Packets in decode order from a key picture on, each with at most one picture."""

    packets: Callable[[np.ndarray], Iterable[tuple[int, Any]]]  # of ascending numbers, each with its packet
    pos: tuple  # place in the file, by which a packet is recognised
    pts: np.ndarray  # when the picture is shown, in the stream's time base
    is_key: np.ndarray
    rank: np.ndarray  # its frame number; -1: none is shown, or not in the window


def all_pictures(video: OpenVideo, window, is_checked: bool = True) -> Pictures:
    """All pictures of a file; with `is_checked`, `Irregular` is raised if a packet holds none."""
    pictures = _tabulate_avi(video)
    if pictures is None:
        pictures = _tabulate(video, lambda: _read(video), is_checked=is_checked)
    return _in_window(video, pictures, window, pictures.pts[pictures.rank == 0].sum())


def window_pictures(video: OpenVideo, window) -> Pictures:
    """The pictures of a window of seconds; nothing before or after is read."""
    origin = video.stream.start_time or 0
    start, end = window_stamps(video, window, origin)
    target, before = start, None
    # Containers seek by the time of decoding, which can be earlier than that of presentation: then further back.
    while (key := next(_read(video, target), None)) is not None and key.pos != before:
        if key.pts is None or key.pts <= start:
            break
        target, before = min(target, key.pts if key.dts is None else key.dts) - 1, key.pos
    if key is None:
        raise Irregular

    def read():
        return takewhile(lambda packet: packet.dts is None or packet.dts < end, _read(video, target))

    return _in_window(video, _tabulate(video, read, is_start=key.pos == before), window, origin)


def mp4_index(video: OpenVideo) -> tuple[np.ndarray, np.ndarray] | None:
    """Numbers of the packets that are keys and of those that are shown, by the index of a whole mp4 file."""
    entries = video.stream.index_entries
    if video.format != "mov" or not video.stream.frames or not len(entries):  # fragments are indexed one by one
        return None
    if entries[-1].pos + entries[-1].size > video.container.size:  # the file is cut, its index came first
        return None
    flags = np.array([entry.flags for entry in entries])
    keys, shown = np.flatnonzero(flags & INDEX_KEY), np.flatnonzero(~flags & INDEX_DISCARD)
    if not len(shown) or not len(keys) or keys[0]:
        return None
    _tabulate(video, lambda: islice(_read(video), MAX_REORDER))  # raises if the start is irregular
    return keys, shown


def mp4_parts(video: OpenVideo, keys, shown, wanted: np.ndarray) -> Iterator[tuple[Pictures, np.ndarray]]:
    """Stretches of packets, each with the wanted frames that lie in it, and read when its turn has come."""
    # In decode order a picture is near its place in the order of presentation. One key picture earlier than the last
    # is surely shown before it, and MAX_REORDER packets later all that are shown before it have been read.
    around = shown[wanted]
    starts = keys[np.maximum(np.searchsorted(keys, around, side="right") - 2, 0)]
    cuts = np.flatnonzero(starts[1:] > around[:-1] + MAX_REORDER) + 1
    for start, part in (
        zip(starts[np.r_[0, cuts]].tolist(), np.split(wanted, cuts), strict=True) if len(wanted) else ()
    ):
        entry, count = video.stream.index_entries[start], int(shown[part[-1]]) + MAX_REORDER - start

        def read(entry=entry, count=count):
            packets = _read(video, entry.timestamp)
            return islice(dropwhile(lambda packet: packet.pos != entry.pos, packets), count)

        yield _tabulate(video, read, int(np.searchsorted(shown, start)), is_start=not start), part


def _in_window(video: OpenVideo, pictures: Pictures, window, origin: int) -> Pictures:
    """The pictures with only the frames of a window numbered, from 0."""
    start, end = window_stamps(video, window, origin)
    inside = (pictures.rank >= 0) & (pictures.pts >= start) & (pictures.pts < end)
    first = pictures.rank[inside].min(initial=np.iinfo(np.int64).max)
    return pictures._replace(rank=np.where(inside, pictures.rank - first, -1))


def _tabulate(
    video: OpenVideo,
    read: Callable[[], Iterable],
    first_rank: int = 0,
    is_start: bool = True,
    is_checked: bool = False,
) -> Pictures:
    """What packets say of their pictures; `first_rank` is the number of frames whose packets come before these."""
    held, held_bytes, rows, types = [], 0, [], []
    length_size = _unit_length_size(video) if is_checked else 0
    for packet in read():
        # Where the file is cut, only the decoder knows whether a picture comes of it.
        if packet.is_corrupt or length_size and not _has_picture(packet, length_size, video.codec == "hevc"):
            raise Irregular
        rows.append((packet.pos, packet.pts, packet.dts, packet.is_keyframe, not packet.is_discard))
        held_bytes += packet.size
        if held_bytes <= HELD_BYTES:
            held.append(packet)
        if video.codec == "mpeg4":
            data = bytes(packet)
            found = [data[start + 4] >> 6 for start in _mpeg4_pictures(data, video.format != "avi")]
            if video.format != "avi" and (len(found) != 1 or packet.size <= MPEG4_DUMMY_BYTES):
                raise Irregular
            types.append(found[0] if found else None)
    if not rows:
        raise Irregular
    pos, pts, dts, is_key, is_shown = zip(*rows, strict=True)
    pts = dts if video.format == "avi" else pts
    if None in pts:
        raise Irregular

    def packets(numbers):
        if held_bytes <= HELD_BYTES:
            return ((i, held[i]) for i in numbers.tolist())
        wanted = set(numbers.tolist())
        return (pair for pair in enumerate(islice(read(), max(wanted, default=-1) + 1)) if pair[0] in wanted)

    pts, is_key, is_shown = np.array(pts, dtype=np.int64), np.array(is_key), np.array(is_shown)
    if video.format == "avi" and types:
        return _ranked_mpeg4(packets, pos, pts, types)
    return _ranked(packets, pos, pts, is_key, is_shown, first_rank, is_start)


def _unit_length_size(video: OpenVideo) -> int:
    """Bytes of the length before each unit of a packet, in H.264 and HEVC as mp4 and Matroska store them; else 0."""
    header, place = video.stream.codec_context.extradata or b"", {"h264": 4, "hevc": 21}.get(video.codec)
    return (header[place] & 3) + 1 if place and len(header) > place and header[0] == 1 else 0


def _has_picture(packet, length_size: int, is_hevc: bool) -> bool:
    """Whether a packet's units fill it, and one is a slice. Decoders drop other packets whole."""
    data, place, found = memoryview(packet), 0, False
    while place + length_size < len(data):
        kind = data[place + length_size]
        found = found or (kind >> 1 & 63 < 32 if is_hevc else 1 <= kind & 31 <= 5)
        place += length_size + int.from_bytes(data[place : place + length_size], "big")
    return found and place == len(data)


def _tabulate_avi(video: OpenVideo) -> Pictures | None:
    """As `_tabulate`, of MPEG-4 in AVI by its index and bytes: a third of the time; `None` where they are odd."""
    import av

    entries = video.stream.index_entries
    if (video.codec, video.format) != ("mpeg4", "avi") or video.read_all is None or not len(entries):
        return None
    if video.container.size > SCANNED_AVI_BYTES or len(entries) > MAX_PACKETS:
        return None
    data = video.read_all()
    if PACKED_SIGN in data:
        return None
    chunk, end = data[entries[0].pos :][:4], max(entries[0].pos, 0)
    stamps, places, types = [], [], []
    for entry in entries:
        start, stop = entry.pos + 8, entry.pos + 8 + entry.size
        if entry.pos < end or stop > len(data):
            return None
        if data[entry.pos : start - 4] != chunk or int.from_bytes(data[start - 4 : start], "little") != entry.size:
            return None
        if end != entry.pos and data.find(chunk, end, entry.pos) >= 0:  # the index lacks a picture
            return None
        end = stop
        picture = data.find(MPEG4_PICTURE, start, stop - 1)
        if picture >= 0 and entry.size <= MPEG4_DUMMY_BYTES:  # a picture, or a word that there is none
            return None
        stamps.append(entry.timestamp)
        places.append((start, stop))
        types.append(data[picture + 4] >> 6 if picture >= 0 else None)
    index = data.find(b"idx1", end)
    if data.find(chunk, end, index if index >= 0 else None) >= 0:
        return None

    def packets(numbers):
        for i in numbers.tolist():
            start, stop = places[i]
            packet = av.Packet(stop - start)  # with the room behind it that decoders need
            packet.update(data[start:stop])
            yield i, packet

    return _ranked_mpeg4(packets, [None] * len(places), np.array(stamps, dtype=np.int64), types)


def _ranked_mpeg4(packets, pos, stamps: np.ndarray, types: list[int | None]) -> Pictures:
    """Pictures of MPEG-4 in AVI, which stores the order of decoding only."""
    order = _mpeg4_order(types)
    is_key, is_shown = np.array(types) == MPEG4_I, order >= 0
    stamps[is_shown] = np.sort(stamps[is_shown])[order[is_shown]]
    return _ranked(packets, pos, stamps, is_key, is_shown)


def _ranked(packets, pos, pts, is_key, is_shown, first_rank: int = 0, is_start: bool = True) -> Pictures:
    """Pictures with the numbers of their frames; raises `Irregular` where these cannot be told."""
    # Pictures shown before the first key picture need others from before it: they are not to be had from here. At the
    # start of the file it is up to the decoder whether they come out.
    is_leading = is_shown & (pts < pts[0])
    is_shown &= ~is_leading
    ascending = np.unique(pts[is_shown])
    if not is_key[0] or (is_start and is_leading.any()) or len(ascending) < is_shown.sum():
        raise Irregular
    rank = np.where(is_shown, first_rank + is_leading.sum() + np.searchsorted(ascending, pts), -1)
    return Pictures(packets, pos, pts, is_key, rank)


def _mpeg4_order(types: list[int | None]) -> np.ndarray:
    """Places in the order of presentation of MPEG-4 pictures in decode order; -1 for `None`, which is no picture.

    A B picture is shown at once, any other when the next of its kind has been decoded: I P B B P is shown as I B B P
    P.
    """
    order, shown, held, references = [-1] * len(types), 0, None, 0
    for i, kind in enumerate(types):
        if kind == MPEG4_B and references < 2:
            raise Irregular
        if kind not in (MPEG4_B, None):
            references, held, i = references + 1, i, held
        if kind is not None and i is not None:
            order[i], shown = shown, shown + 1
    if held is not None:
        order[held] = shown
    return np.array(order)


def _read(video: OpenVideo, timestamp: int | None = None) -> Iterator:
    """Packets of one picture each, from the start or from the key picture before a time (of decoding, in mp4)."""
    import av

    if timestamp is None and not video.is_fresh:
        timestamp = video.stream.start_time or 0
    try:
        if timestamp is not None:
            video.container.seek(timestamp, stream=video.stream)
    except av.error.FFmpegError as error:
        raise Irregular from error
    packets = demux_packets(video)
    if (video.codec, video.format) != ("mpeg4", "avi"):
        return packets
    return _unpacked(packets, video.stream.codec_context.extradata or b"")


def demux_packets(video: OpenVideo) -> Iterator:
    """The stream's packets, to where the file ends, is cut off or cannot be followed any further."""
    import av

    video.is_fresh = False
    try:
        for number, packet in enumerate(video.container.demux(video.stream)):
            if number >= MAX_PACKETS:
                raise LimitError(f"it has more than {MAX_PACKETS} frames, which are allowed: cut it into parts")
            check_time(video)
            if packet.size:
                yield packet
    except (av.error.InvalidDataError, av.error.EOFError):
        return


def check_time(video: OpenVideo) -> None:
    if time.monotonic() > video.deadline:
        raise LimitError("it takes longer to read than is allowed: cut it into parts, or encode it anew")


def _unpacked(packets: Iterable, extradata: bytes) -> Iterator:
    """MPEG-4 packets of one picture each.

    AVI files by DivX and Xvid pack a B picture behind the one that it needs. Its turn comes with the next packet,
    which is a dummy or has the next B picture, whose turn comes later in turn. Decoders take them apart as is done
    here, but then they cannot leave out single pictures. They do so only after a sign in the data.
    """
    import av

    waiting, is_packed = None, PACKED_SIGN in extradata
    for packet in packets:
        data, is_dummy = bytes(packet), packet.size <= MPEG4_DUMMY_BYTES
        starts = _mpeg4_pictures(data, is_packed)
        if not is_packed and PACKED_SIGN in data[: starts[0] if starts else None]:
            is_packed, starts = True, _mpeg4_pictures(data)
        if waiting is None and len(starts) < 2:
            if starts and is_dummy:
                raise Irregular  # a picture, or a word that there is none: only the decoder knows
            yield packet
            continue
        if waiting is None:
            due, waiting, starts = data[: starts[1]], data[starts[1] :], starts[1:]
        else:
            due, waiting = waiting, None if is_dummy else data
        if waiting is not None and [data[start + 4] >> 6 for start in starts] != [MPEG4_B]:
            raise Irregular
        picture = av.Packet(len(due))  # with the room behind it that decoders need; a packet made of bytes has none
        picture.update(due)
        picture.dts = packet.dts
        yield picture


def _mpeg4_pictures(data: bytes, is_packed: bool = True) -> list[int]:
    """Places at which the MPEG-4 pictures in a packet start; of the first only, if there are no packed ones."""
    starts = [data.find(MPEG4_PICTURE, 0, -1)]
    if not is_packed:
        return starts if starts[0] >= 0 else []
    while starts[-1] >= 0:
        starts.append(data.find(MPEG4_PICTURE, starts[-1] + 4, -1))
    return starts[:-1]


def window_stamps(video: OpenVideo, window, origin: int) -> tuple[float, float]:
    """Bounds of a window of seconds as time stamps: rounded, as the stamps themselves are."""
    start, end = (seconds if seconds is None else round(seconds / video.stream.time_base) for seconds in window)
    return -np.inf if start is None else origin + start, np.inf if end is None else origin + end
