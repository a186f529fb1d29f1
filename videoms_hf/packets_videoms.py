# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Which packet of a video holds which frame, found without decoding (a few microseconds per packet).

In the containers and codecs of video datasets a packet is one picture, and time stamps give the order of display.
Where that cannot be trusted, `Irregular` is raised, and frames have to be decoded and counted.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import dropwhile, islice, takewhile
from typing import Any, NamedTuple

import numpy as np

from .sources_videoms import VideoDecodeError


# Files up to this size and length are read whole; of longer ones only a part, where the container allows it.
SCAN_BYTES, SCAN_SECONDS = 4 << 20, 120
HELD_BYTES = 64 << 20  # packets up to this sum stay in memory until they are decoded; beyond it they are read twice
SCANNED_AVI_BYTES = 64 << 20  # files up to this size are read whole if they have an index
# In these codecs a packet is one picture.
REGULAR_CODECS = {"h264", "hevc", "vp9", "av1", "mpeg4", "mjpeg"}
SEEKABLE_CONTAINERS = {"mov", "matroska"}  # find the key frame before a time without reading what lies before it
TIMED_CONTAINERS = {"mov", "matroska", "mpegts", "flv"}  # these store when a picture is shown
WHOLE = (None, None)  # the window of all frames
MAX_PACKETS = 10_000_000  # 46 hours at 60 frames a second
MAX_REORDER = 64  # packets after a picture in which one may follow that is shown earlier; the standards allow 16
INDEX_KEY, INDEX_DISCARD = 1, 2  # FFmpeg's AVINDEX_KEYFRAME and AVINDEX_DISCARD_FRAME
MPEG4_PICTURE, MPEG4_I, MPEG4_B = b"\x00\x00\x01\xb6", 0, 2  # start code and types (the next two bits)
PACKED_SIGN = b"DivX"  # an encoder that may pack several pictures into a packet signs with this name
MPEG4_DUMMY_BYTES = 19  # FFmpeg's MAX_NVOP_SIZE: a packet up to this size may stand for "no picture"


class Irregular(Exception):  # noqa: N818 - not an error: packets do not tell the frames, which have to be counted
    pass


class Damaged(Irregular):
    """A decoder refuses a packet, or makes another frame of it than expected."""


@dataclass
class OpenVideo:
    name: str
    container: Any
    stream: Any
    codec: str
    format: str
    size: tuple[int, int]  # height, width
    read_all: Callable[[], bytes] | None  # the whole file, independent of the container
    is_trusted: bool  # opened by its header alone, which may be wrong
    is_strict: bool  # its decoder refuses damaged frames instead of concealing the damage
    deadline: float  # of `time.monotonic`
    is_fresh: bool = True  # no packet has been read


class Pictures(NamedTuple):
    """Packets in decode order from a key picture on, each with at most one picture."""

    packets: Callable[[np.ndarray], Iterable[tuple[int, Any]]]  # ascending numbers to (number, packet)
    pos: tuple  # place in the file, which identifies a packet
    pts: np.ndarray  # when the picture is shown, in the stream's time base
    is_key: np.ndarray
    rank: np.ndarray  # its frame number; -1: not shown, or outside the window


class Table(NamedTuple):
    """Which frames there are: how many, the time from the first to the last, and parts of packets to decode."""

    num_frames: int
    ticks: float
    parts: Callable[[np.ndarray], Iterable[tuple[Pictures, np.ndarray]]] | None = None


def packet_table(video: OpenVideo, window) -> Table:
    """The frames of a window of seconds, told from packets; raises `Irregular` where these do not tell them."""
    is_timed = video.format in TIMED_CONTAINERS or (video.format == "avi" and video.codec in ("mpeg4", "mjpeg"))
    if video.codec not in REGULAR_CODECS or not is_timed:
        raise Irregular
    seconds = (video.container.duration or 0) / 1e6
    is_long = video.container.size > SCAN_BYTES or seconds > SCAN_SECONDS
    is_long &= video.format in SEEKABLE_CONTAINERS
    index = mp4_index(video) if is_long and window == WHOLE and video.is_strict else None
    if index is not None:
        keys, shown = index
        first, last = (video.stream.index_entries[int(i)].timestamp for i in (shown[0], shown[-1]))
        return Table(len(shown), last - first, partial(mp4_parts, video, keys, shown))
    if is_long and window[0] is not None and video.is_strict:
        pictures = window_pictures(video, window)
    else:
        pictures = all_pictures(video, window, is_checked=not is_long)
    pts = pictures.pts[pictures.rank >= 0]
    return Table(len(pts), int(np.ptp(pts)) if len(pts) else 0, lambda wanted: [(pictures, wanted)])


def promised_frames(video: OpenVideo, num_frames: int) -> int:
    """Frames that the header promises, 0 if it does not say; more than there are only if no edit list hides them."""
    promised = video.stream.frames
    if promised <= num_frames or video.format != "mov":
        return promised
    return min(promised, sum(not entry.flags & INDEX_DISCARD for entry in video.stream.index_entries) or promised)


def all_pictures(video: OpenVideo, window, is_checked: bool = True) -> Pictures:
    """All pictures of a file; with `is_checked`, a packet without one raises `Irregular`."""
    pictures = _tabulate_avi(video)
    if pictures is None:
        pictures = _tabulate(video, lambda: _read(video), is_checked=is_checked)
    return _in_window(video, pictures, window, pictures.pts[pictures.rank == 0].sum())


def window_pictures(video: OpenVideo, window) -> Pictures:
    """The pictures of a window of seconds, reading nothing before or after it."""
    origin = video.stream.start_time or 0
    start, end = window_stamps(video, window, origin)
    target, before = start, None
    # Containers seek by decoding time, which can be earlier than presentation time: then seek further back.
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
    """Numbers of the packets that are key frames, and of those that are shown, by the index of a complete mp4."""
    entries = video.stream.index_entries
    if video.format != "mov" or not video.stream.frames or not len(entries):  # fragments are indexed one by one
        return None
    if entries[-1].pos + entries[-1].size > video.container.size:  # the file is truncated behind its index
        return None
    flags = np.array([entry.flags for entry in entries])
    keys, shown = np.flatnonzero(flags & INDEX_KEY), np.flatnonzero(~flags & INDEX_DISCARD)
    if not len(shown) or not len(keys) or keys[0]:
        return None
    _tabulate(video, lambda: islice(_read(video), MAX_REORDER))  # raises if the start is irregular
    return keys, shown


def mp4_parts(video: OpenVideo, keys, shown, wanted: np.ndarray) -> Iterator[tuple[Pictures, np.ndarray]]:
    """Runs of packets, each with the wanted frames in it, read one by one."""
    # In decode order a picture is near its place in presentation order. Everything shown before a picture has been
    # read from one key frame earlier than its own to MAX_REORDER packets after it.
    around = shown[wanted]
    starts = keys[np.maximum(np.searchsorted(keys, around, side="right") - 2, 0)]
    cuts = np.flatnonzero(starts[1:] > around[:-1] + MAX_REORDER) + 1
    for start, part in zip(starts[np.r_[0, cuts]].tolist(), np.split(wanted, cuts), strict=True):
        entry, count = video.stream.index_entries[start], int(shown[part[-1]]) + MAX_REORDER - start

        def read(entry=entry, count=count):
            packets = _read(video, entry.timestamp)
            return islice(dropwhile(lambda packet: packet.pos != entry.pos, packets), count)

        yield _tabulate(video, read, int(np.searchsorted(shown, start)), is_start=not start), part


def _in_window(video: OpenVideo, pictures: Pictures, window, origin: int) -> Pictures:
    """The pictures, of which only those in a window have a frame number, from 0."""
    start, end = window_stamps(video, window, origin)
    inside = (pictures.rank >= 0) & (pictures.pts >= start) & (pictures.pts < end)
    first = pictures.rank[inside].min(initial=np.iinfo(np.int64).max)
    return pictures._replace(rank=np.where(inside, pictures.rank - first, -1))


def _tabulate(
    video: OpenVideo, read: Callable[[], Iterable], first_rank: int = 0, is_start=True, is_checked=False
) -> Pictures:
    """The pictures in packets; `first_rank` is the number of frames in the packets before these."""
    held, held_bytes, rows, types = [], 0, [], []
    length_size = _unit_length_size(video) if is_checked else 0
    for packet in read():
        # Where the file is truncated, only the decoder knows whether a packet gives a picture.
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

    if video.format == "avi" and types:
        return _ranked_mpeg4(packets, pos, pts, types)
    pts = np.array(pts, dtype=np.int64)
    return _ranked(packets, pos, pts, np.array(is_key), np.array(is_shown), first_rank, is_start)


def _unit_length_size(video: OpenVideo) -> int:
    """Size of the length field before each unit of a packet, for H.264 and HEVC in mp4 and Matroska; else 0."""
    header, place = video.stream.codec_context.extradata or b"", {"h264": 4, "hevc": 21}.get(video.codec)
    return (header[place] & 3) + 1 if place and len(header) > place and header[0] == 1 else 0


def _has_picture(packet, length_size: int, is_hevc: bool) -> bool:
    """Whether a packet's units fill it and one is a slice; decoders drop other packets."""
    data, place, found = memoryview(packet), 0, False
    while place + length_size < len(data):
        kind = data[place + length_size]
        found = found or (kind >> 1 & 63 < 32 if is_hevc else 1 <= kind & 31 <= 5)
        place += length_size + int.from_bytes(data[place : place + length_size], "big")
    return found and place == len(data)


def _tabulate_avi(video: OpenVideo) -> Pictures | None:
    """`_tabulate` for MPEG-4 in AVI, 3x faster: by its index and bytes; `None` if these are inconsistent."""
    entries = video.stream.index_entries
    if (video.codec, video.format) != ("mpeg4", "avi") or video.read_all is None or not len(entries):
        return None
    if video.container.size > SCANNED_AVI_BYTES or len(entries) > MAX_PACKETS:
        return None
    data = video.read_all()
    if PACKED_SIGN in data:
        return None
    chunk, end = data[entries[0].pos :][:4], max(entries[0].pos, 0)
    places, types = [], []
    for entry in entries:
        start, stop = entry.pos + 8, entry.pos + 8 + entry.size
        is_there = end <= entry.pos and stop <= len(data) and data[entry.pos : start - 4] == chunk
        if not is_there or int.from_bytes(data[start - 4 : start], "little") != entry.size:
            return None
        if end != entry.pos and data.find(chunk, end, entry.pos) >= 0:  # the index lacks a picture
            return None
        end, picture = stop, data.find(MPEG4_PICTURE, start, stop - 1)
        if picture >= 0 and entry.size <= MPEG4_DUMMY_BYTES:  # a picture, or a sign that there is none
            return None
        places.append((start, stop))
        types.append(data[picture + 4] >> 6 if picture >= 0 else None)
    index = data.find(b"idx1", end)
    if data.find(chunk, end, index if index >= 0 else None) >= 0:
        return None

    def packets(numbers):
        return ((i, _packet_of(data[slice(*places[i])])) for i in numbers.tolist())

    return _ranked_mpeg4(packets, [None] * len(places), [entry.timestamp for entry in entries], types)


def _ranked_mpeg4(packets, pos, stamps: Sequence[int], types: list[int | None]) -> Pictures:
    """Pictures of MPEG-4 in AVI, which stores decode order only."""
    order, stamps = _mpeg4_order(types), np.array(stamps, dtype=np.int64)
    is_key, is_shown = np.array(types) == MPEG4_I, order >= 0
    stamps[is_shown] = np.sort(stamps[is_shown])[order[is_shown]]
    return _ranked(packets, pos, stamps, is_key, is_shown)


def _ranked(packets, pos, pts, is_key, is_shown, first_rank: int = 0, is_start: bool = True) -> Pictures:
    """Pictures with the numbers of their frames; raises `Irregular` where these are unclear."""
    # Pictures shown before the first key frame need others from before it, so they cannot be decoded from here. At the
    # start of the file the decoder decides whether they come out.
    is_leading = is_shown & (pts < pts[0])
    is_shown &= ~is_leading
    ascending = np.unique(pts[is_shown])
    if not is_key[0] or (is_start and is_leading.any()) or len(ascending) < is_shown.sum():
        raise Irregular
    rank = np.where(is_shown, first_rank + is_leading.sum() + np.searchsorted(ascending, pts), -1)
    return Pictures(packets, pos, pts, is_key, rank)


def _mpeg4_order(types: list[int | None]) -> np.ndarray:
    """Presentation order of MPEG-4 pictures in decode order; -1 for `None`, which is not a picture.

    A B picture is shown at once, any other when the next of its kind has been decoded: I P B B P shows as I B B P P.
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
    """Packets of one picture each, from the start or from the key frame before a time (of decoding, in mp4)."""
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
    """The stream's packets, as far as the file can be read."""
    import av

    video.is_fresh = False
    try:
        for number, packet in enumerate(video.container.demux(video.stream)):
            if number >= MAX_PACKETS:
                reason = f"it has more than {MAX_PACKETS} frames, which are allowed: cut it into parts"
                raise VideoDecodeError(video.name, reason)
            check_time(video)
            if packet.size:
                yield packet
    except (av.error.InvalidDataError, av.error.EOFError):
        return


def check_time(video: OpenVideo) -> None:
    if time.monotonic() > video.deadline:
        reason = "it takes longer to read than is allowed: cut it into parts or re-encode it"
        raise VideoDecodeError(video.name, reason)


def _unpacked(packets: Iterable, extradata: bytes) -> Iterator:
    """MPEG-4 packets of one picture each.

    DivX and Xvid pack a B picture into the packet of the picture that it needs. It is due with the next packet, which
    is a dummy or holds the next B picture. Decoders unpack these too, but then cannot skip single pictures. They do so
    only after a signature in the data.
    """
    waiting, is_packed = None, PACKED_SIGN in extradata
    for packet in packets:
        data, is_dummy = bytes(packet), packet.size <= MPEG4_DUMMY_BYTES
        starts = _mpeg4_pictures(data, is_packed)
        if not is_packed and PACKED_SIGN in data[: starts[0] if starts else None]:
            is_packed, starts = True, _mpeg4_pictures(data)
        if waiting is None and len(starts) < 2:
            if starts and is_dummy:
                raise Irregular  # a picture, or a sign that there is none: only the decoder knows
            yield packet
            continue
        if waiting is None:
            due, waiting, starts = data[: starts[1]], data[starts[1] :], starts[1:]
        else:
            due, waiting = waiting, None if is_dummy else data
        if waiting is not None and [data[start + 4] >> 6 for start in starts] != [MPEG4_B]:
            raise Irregular
        picture = _packet_of(due)
        picture.dts = packet.dts
        yield picture


def _packet_of(data: bytes):
    import av

    packet = av.Packet(len(data))  # with the padding that decoders need, which a packet made from bytes lacks
    packet.update(data)
    return packet


def _mpeg4_pictures(data: bytes, is_packed: bool = True) -> list[int]:
    """Where the MPEG-4 pictures in a packet start; only the first unless some are packed."""
    starts, start = [], data.find(MPEG4_PICTURE, 0, -1)
    while start >= 0 and (is_packed or not starts):
        starts.append(start)
        start = data.find(MPEG4_PICTURE, start + 4, -1)
    return starts


def window_stamps(video: OpenVideo, window, origin: int) -> tuple[float, float]:
    """The bounds of a window of seconds as time stamps, rounded as those of frames are."""
    start, end = (seconds if seconds is None else round(seconds / video.stream.time_base) for seconds in window)
    return -np.inf if start is None else origin + start, np.inf if end is None else origin + end
