# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Which packet of a video holds which frame, found without decoding (a few microseconds per packet).

In video datasets a packet is mostly one picture, and time stamps give the order of display. Where that cannot be
trusted, `Irregular` is raised, and frames have to be decoded and counted.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import dropwhile, islice, takewhile
from typing import NamedTuple

import numpy as np

from .sources_videoms import INDEX_DISCARD, INDEX_KEY, STRICT, OpenVideo, VideoDecodeError


# Files up to this size and length are read whole; of longer ones only a part, where the container allows it.
SCAN_BYTES, SCAN_SECONDS = 4 << 20, 120
HELD_BYTES = 64 << 20  # packets up to this sum stay in memory until they are decoded; beyond it they are read twice
# Codecs in which a packet is one picture, by containers that store when it is shown (AVI does not).
CODECS = dict.fromkeys(("mov", "matroska", "mpegts", "flv"), {"h264", "hevc", "vp9", "av1", "mpeg4", "mjpeg"})
CODECS["avi"] = {"mpeg4", "mjpeg"}
SEEKABLE_CONTAINERS = {"mov", "matroska"}  # find the key frame before a time without reading what lies before it
WHOLE = (None, None)  # the window of all frames
MAX_PACKETS = 10_000_000  # 46 hours at 60 frames a second
MAX_REORDER = 64  # packets after a picture in which one may follow that is shown earlier; the standards allow 16
MPEG4_PICTURE = b"\x00\x00\x01\xb6"  # start code; the next two bits are the type
MPEG4_I, MPEG4_B, MPEG4_NONE = 0, 2, -1
PACKED_SIGN = b"DivX"  # an encoder that may pack several pictures into a packet signs with this name
MPEG4_DUMMY_BYTES = 19  # FFmpeg's MAX_NVOP_SIZE: a packet up to this size may stand for "no picture"


class Irregular(Exception):  # noqa: N818 - not an error
    """Packets do not tell the frames."""


class Damaged(Irregular):
    """A decoder refuses a packet, or makes another frame of it than expected."""


class Pictures(NamedTuple):
    """Packets in decode order from a key picture on, each with at most one picture."""

    packets: Callable[[np.ndarray], Iterator]  # yields (number, packet) of ascending numbers
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
    if video.codec not in CODECS.get(video.format, ()):
        raise Irregular
    is_long = video.container.size > SCAN_BYTES or (video.container.duration or 0) / 1e6 > SCAN_SECONDS
    is_long &= video.format in SEEKABLE_CONTAINERS
    is_partly_read = is_long and video.level <= STRICT
    if is_partly_read and window == WHOLE and (table := _indexed(video)) is not None:
        return table
    if is_partly_read and window[0] is not None:
        origin = video.stream.start_time or 0
        pictures = _between(video, *video.stamps(window, origin))
    else:
        pictures = _tabulate(video, partial(_read, video), is_checked=not is_long)
        origin = pictures.pts[pictures.rank == 0].sum()
    start, end = video.stamps(window, origin)
    inside = (pictures.rank >= 0) & (pictures.pts >= start) & (pictures.pts < end)
    pts, ranks = pictures.pts[inside], pictures.rank[inside]
    if not len(pts):
        return Table(0, 0)
    pictures = pictures._replace(rank=np.where(inside, pictures.rank - ranks.min(), -1))
    return Table(len(pts), int(np.ptp(pts)), lambda wanted: [(pictures, wanted)])


def _between(video: OpenVideo, start: int, end: float) -> Pictures:
    """The pictures from the key frame before a time stamp to another, reading nothing before or after them."""
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

    return _tabulate(video, read, is_start=key.pos == before)


def _indexed(video: OpenVideo) -> Table | None:
    """The frames of a complete mp4, told from its index; packets are read only around those that are wanted."""
    entries = video.stream.index_entries
    if video.format != "mov" or not video.stream.frames or not len(entries):  # fragments are indexed one by one
        return None
    flags = np.array([entry.flags for entry in entries])
    keys, shown = np.flatnonzero(flags & INDEX_KEY), np.flatnonzero(~flags & INDEX_DISCARD)
    is_truncated = entries[-1].pos + entries[-1].size > video.container.size
    if is_truncated or not len(shown) or not len(keys) or keys[0]:
        return None
    _tabulate(video, partial(_read, video, count=MAX_REORDER))  # raises if the start is irregular
    first, last = (entries[int(i)].timestamp for i in (shown[0], shown[-1]))
    return Table(len(shown), last - first, partial(_indexed_parts, video, keys, shown))


def _indexed_parts(video: OpenVideo, keys, shown, wanted: np.ndarray) -> Iterator[tuple[Pictures, np.ndarray]]:
    """Runs of packets, each with the wanted frames in it, read one by one."""
    # In decode order a picture is near its place in presentation order. Everything shown before a picture has been
    # read from one key frame earlier than its own to MAX_REORDER packets after it.
    around = shown[wanted]
    starts = keys[np.maximum(np.searchsorted(keys, around, side="right") - 2, 0)]
    cuts = np.flatnonzero(starts[1:] > around[:-1] + MAX_REORDER) + 1
    for start, part in zip(starts[np.r_[0, cuts]].tolist(), np.split(wanted, cuts), strict=True):
        entry, count = video.stream.index_entries[start], int(shown[part[-1]]) + MAX_REORDER - start
        read = partial(_read, video, entry.timestamp, entry.pos, count)
        yield _tabulate(video, read, int(np.searchsorted(shown, start)), is_start=not start), part


def _tabulate(video: OpenVideo, read, first_rank: int = 0, is_start=True, is_checked=False) -> Pictures:
    """The pictures in packets, `first_rank` frames after the first; with `is_checked`, all must hold a picture."""
    held, held_bytes, rows, is_avi, is_mpeg4 = [], 0, [], video.format == "avi", video.codec == "mpeg4"
    # mp4 and Matroska store a length before each unit of a picture, and the length's own size in the header.
    header, place = video.stream.codec_context.extradata or b"", {"h264": 4, "hevc": 21}.get(video.codec)
    is_checked &= place is not None and len(header) > place and header[0] == 1
    for packet in read():
        # Where the file is truncated, only the decoder knows whether a packet gives a picture.
        if packet.is_corrupt or is_checked and _lacks_picture(packet, video.codec, (header[place] & 3) + 1):
            raise Irregular
        kind = MPEG4_NONE
        if is_mpeg4:
            data = bytes(packet)
            kind = _mpeg4_type(data)
            if not is_avi and (data.count(MPEG4_PICTURE) != 1 or len(data) <= MPEG4_DUMMY_BYTES):
                raise Irregular
        stamp = packet.dts if is_avi else packet.pts
        rows.append((packet.pos, stamp, packet.is_keyframe, not packet.is_discard, kind))
        held_bytes += packet.size
        if held_bytes <= HELD_BYTES:
            held.append(packet)
    pos, *columns = zip(*rows, strict=True) if rows else ((), [None])
    if None in columns[0]:
        raise Irregular
    pts, is_key, is_shown, kinds = map(np.array, columns)
    if video.is_mpeg4_avi:
        is_key, is_shown = kinds == MPEG4_I, kinds != MPEG4_NONE
        pts = _as_displayed(pts, is_shown, kinds == MPEG4_B)
    # Pictures shown before the first key frame need others from before it, so they cannot be decoded from here. At the
    # start of the file the decoder decides whether they come out.
    is_leading = is_shown & (pts < pts[0])
    is_shown &= ~is_leading
    ascending = np.sort(pts[is_shown])
    if not is_key[0] or (is_start and is_leading.any()) or not np.diff(ascending).all():
        raise Irregular
    rank = np.where(is_shown, first_rank + is_leading.sum() + np.searchsorted(ascending, pts), -1)

    def packets(numbers):
        wanted = set(numbers.tolist())
        found = held if held_bytes <= HELD_BYTES else read()
        for i, packet in enumerate(islice(found, max(wanted, default=-1) + 1)):
            if i in wanted:
                if packet.pos != pos[i]:
                    raise Irregular
                yield i, packet

    return Pictures(packets, pts, is_key, rank)


def _as_displayed(dts: np.ndarray, is_shown: np.ndarray, is_b: np.ndarray) -> np.ndarray:
    """Time stamps of display of MPEG-4 pictures in AVI, which stores those of decoding only.

    A B picture is shown at once, any other when the next of its kind has been decoded: I P B B P shows as I B B P P.
    """
    moments, references = np.arange(len(dts), dtype=float), np.flatnonzero(is_shown & ~is_b)
    following = np.append(references[1:], len(dts))
    if not len(references) or is_b[: following[0]].any():
        raise Irregular
    moments[references] = following - 0.5
    shown = np.flatnonzero(is_shown)
    dts[shown[np.argsort(moments[shown])]] = np.sort(dts[shown])
    return dts


def _lacks_picture(packet, codec: str, length_size: int) -> bool:
    """Whether no unit of an H.264 or HEVC packet is a slice, or they do not fill it; decoders drop such packets."""
    data, start, found = memoryview(packet), 0, False
    while start + length_size < len(data):
        kind = data[start + length_size]
        found = found or (kind >> 1 & 63 < 32 if codec == "hevc" else 1 <= kind & 31 <= 5)
        start += length_size + int.from_bytes(data[start : start + length_size], "big")
    return not found or start != len(data)


def _read(video: OpenVideo, timestamp: int | None = None, pos=None, count=None) -> Iterator:
    """Packets of one picture each, from the start or from the key frame before a time (of decoding, in mp4).

    Those before place `pos` in the file are left out, and there are at most `count`.
    """
    import av

    if timestamp is None and not video.is_fresh:
        timestamp = video.stream.start_time or 0
    try:
        if timestamp is not None:
            video.container.seek(timestamp, stream=video.stream)
    except av.error.FFmpegError as error:
        raise Irregular from error
    packets = _unpacked(video) if video.is_mpeg4_avi else demux_packets(video)
    return islice(dropwhile(lambda packet: pos not in (None, packet.pos), packets), count)


def demux_packets(video: OpenVideo) -> Iterator:
    """The stream's packets, as far as the file can be read."""
    import av

    video.is_fresh = False
    with suppress(av.error.InvalidDataError, av.error.EOFError):
        for number, packet in enumerate(video.container.demux(video.stream)):
            if number >= MAX_PACKETS:
                reason = f"it has more than {MAX_PACKETS} frames, which are allowed: cut it into parts"
                raise VideoDecodeError(video.name, reason)
            video.check_time()
            if packet.size:
                yield packet


def _unpacked(video: OpenVideo) -> Iterator:
    """MPEG-4 packets of one picture each.

    DivX and Xvid pack a B picture into the packet of the picture that it needs. It is due with the next packet, which
    is a dummy or holds the next B picture. Decoders unpack these too, but then cannot skip single pictures. They do so
    only after a signature in the data.
    """
    import av

    queue, is_packed = [], PACKED_SIGN in (video.stream.codec_context.extradata or b"")
    for packet in demux_packets(video):
        data = bytes(packet)
        first, is_dummy = data.find(MPEG4_PICTURE), len(data) <= MPEG4_DUMMY_BYTES
        is_packed = is_packed or data.find(PACKED_SIGN, 0, first) >= 0
        if not (is_packed or is_dummy):  # the common case
            yield packet
            continue
        if is_dummy and not queue and _mpeg4_type(data) != MPEG4_NONE:
            raise Irregular  # a picture, or a sign that there is none: only the decoder knows
        if not is_dummy or not queue:
            second = data.find(MPEG4_PICTURE, first + 1, -1) if is_packed else -1
            queue += [data] if second < 0 else [data[:second], data[second:]]
        due, *queue = queue
        if queue and (len(queue), queue[0].count(MPEG4_PICTURE), _mpeg4_type(queue[0])) != (1, 1, MPEG4_B):
            raise Irregular
        if due is not data:
            dts, packet = packet.dts, av.Packet(len(due))  # with padding for the decoder, unlike one made from bytes
            packet.update(due)
            packet.dts = dts
        yield packet


def _mpeg4_type(data: bytes) -> int:
    """The type of the first MPEG-4 picture in a packet."""
    place = data.find(MPEG4_PICTURE, 0, -1)
    return MPEG4_NONE if place < 0 else data[place + 4] >> 6
