# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Which packet of a video holds which frame, found without decoding (a few microseconds per packet).

In video datasets a packet is mostly one picture, and time stamps give the order of display. Where that cannot be
trusted, `Irregular` is raised, and frames have to be decoded and counted.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import dropwhile, islice, takewhile
from typing import Any, NamedTuple

import numpy as np

from .sources_videoms import INDEX_DISCARD, INDEX_KEY, STRICT, OpenVideo, VideoDecodeError


# Files up to this size and length are read whole; of longer ones only a part, where the container allows it.
SCAN_BYTES, SCAN_SECONDS = 4 << 20, 120
HELD_BYTES = 64 << 20  # packets up to this sum stay in memory until they are decoded; beyond it they are read twice
SCANNED_AVI_BYTES = 64 << 20  # files up to this size are read whole if they have an index
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
    if video.codec not in CODECS.get(video.format, ()):
        raise Irregular
    is_long = video.container.size > SCAN_BYTES or (video.container.duration or 0) / 1e6 > SCAN_SECONDS
    is_long &= video.format in SEEKABLE_CONTAINERS
    is_partly_read = is_long and video.level <= STRICT
    if is_partly_read and window == WHOLE and (table := _indexed(video)) is not None:
        return table
    if is_partly_read and window[0] is not None:
        pictures = window_pictures(video, window)
    else:
        pictures = all_pictures(video, window, is_checked=not is_long)
    pts = pictures.pts[pictures.rank >= 0]
    return Table(len(pts), int(np.ptp(pts)) if len(pts) else 0, lambda wanted: [(pictures, wanted)])


def all_pictures(video: OpenVideo, window, is_checked: bool = True) -> Pictures:
    """All pictures of a file; with `is_checked`, a packet without one raises `Irregular`."""
    pictures = _tabulate_avi(video) or _tabulate(video, lambda: _read(video), is_checked=is_checked)
    return _in_window(video, pictures, window, pictures.pts[pictures.rank == 0].sum())


def window_pictures(video: OpenVideo, window) -> Pictures:
    """The pictures of a window of seconds, reading nothing before or after it."""
    origin = video.stream.start_time or 0
    start, end = video.stamps(window, origin)
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
    _tabulate(video, lambda: islice(_read(video), MAX_REORDER))  # raises if the start is irregular
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

        def read(entry=entry, count=count):
            packets = _read(video, entry.timestamp)
            return islice(dropwhile(lambda packet: packet.pos != entry.pos, packets), count)

        yield _tabulate(video, read, int(np.searchsorted(shown, start)), is_start=not start), part


def _in_window(video: OpenVideo, pictures: Pictures, window, origin: int) -> Pictures:
    """The pictures, of which only those in a window have a frame number, from 0."""
    start, end = video.stamps(window, origin)
    inside = (pictures.rank >= 0) & (pictures.pts >= start) & (pictures.pts < end)
    first = pictures.rank[inside].min(initial=np.iinfo(np.int64).max)
    return pictures._replace(rank=np.where(inside, pictures.rank - first, -1))


def _tabulate(video: OpenVideo, read, first_rank: int = 0, is_start=True, is_checked=False) -> Pictures:
    """The pictures in packets; `first_rank` is the number of frames in the packets before these."""
    held, held_bytes, rows, is_avi = [], 0, [], video.format == "avi"
    for packet in read():
        # Where the file is truncated, only the decoder knows whether a packet gives a picture.
        if packet.is_corrupt or is_checked and _lacks_picture(video, packet):
            raise Irregular
        kind = MPEG4_NONE
        if video.codec == "mpeg4":
            data = bytes(packet)
            kind = _mpeg4_type(data)
            if not is_avi and (data.count(MPEG4_PICTURE) != 1 or len(data) <= MPEG4_DUMMY_BYTES):
                raise Irregular
        stamp = packet.dts if is_avi else packet.pts
        rows.append((packet.pos, stamp, packet.is_keyframe, not packet.is_discard, kind))
        held_bytes += packet.size
        if held_bytes <= HELD_BYTES:
            held.append(packet)
    if not rows or any(row[1] is None for row in rows):
        raise Irregular

    def packets(numbers):
        if held_bytes <= HELD_BYTES:
            return ((i, held[i]) for i in numbers.tolist())
        wanted = set(numbers.tolist())
        return (pair for pair in enumerate(islice(read(), max(wanted, default=-1) + 1)) if pair[0] in wanted)

    pos, stamps, is_key, is_shown, types = zip(*rows, strict=True)
    if video.is_mpeg4_avi:
        return _ranked(packets, pos, *_as_displayed(stamps, types))
    return _ranked(packets, pos, np.array(stamps), np.array(is_key), np.array(is_shown), first_rank, is_start)


def _lacks_picture(video: OpenVideo, packet) -> bool:
    """Whether no unit of an H.264 or HEVC packet is a slice, or they do not fill it; decoders drop such packets."""
    header, place = video.stream.codec_context.extradata or b"", {"h264": 4, "hevc": 21}.get(video.codec)
    if place is None or len(header) <= place or header[0] != 1:  # without lengths, as outside mp4 and Matroska
        return False
    data, start, found, length_size = memoryview(packet), 0, False, (header[place] & 3) + 1
    while start + length_size < len(data):
        kind = data[start + length_size]
        found = found or (kind >> 1 & 63 < 32 if video.codec == "hevc" else 1 <= kind & 31 <= 5)
        start += length_size + int.from_bytes(data[start : start + length_size], "big")
    return not found or start != len(data)


def _tabulate_avi(video: OpenVideo) -> Pictures | None:
    """`_tabulate` for MPEG-4 in AVI, 3x faster: by its index and bytes; `None` if these are inconsistent."""
    entries = video.stream.index_entries
    is_small = len(entries) <= MAX_PACKETS and video.container.size <= SCANNED_AVI_BYTES
    if not video.is_mpeg4_avi or video.reopen is None or not len(entries) or not is_small:
        return None
    with video.reopen() as file:
        data = file.read()
    chunk, end, pictures, types = data[entries[0].pos :][:4], max(entries[0].pos, 0), [], []
    for entry in entries:
        start, stop = entry.pos + 8, entry.pos + 8 + entry.size
        is_there = end <= entry.pos and stop <= len(data) and data[entry.pos : start - 4] == chunk
        is_there &= int.from_bytes(data[start - 4 : start], "little") == entry.size
        if not is_there or data.find(chunk, end, entry.pos) >= 0:  # or the index lacks a picture
            return None
        pictures.append(data[start:stop])
        types.append(_mpeg4_type(pictures[-1]))
        if types[-1] != MPEG4_NONE and entry.size <= MPEG4_DUMMY_BYTES:  # a picture, or a sign that there is none
            return None
        end = stop
    index = data.find(b"idx1", end)
    if PACKED_SIGN in data or data.find(chunk, end, index if index >= 0 else None) >= 0:
        return None

    def packets(numbers):
        return ((i, _packet_of(pictures[i])) for i in numbers.tolist())

    stamps = [entry.timestamp for entry in entries]
    return _ranked(packets, [None] * len(stamps), *_as_displayed(stamps, types))


def _as_displayed(stamps: Sequence[int], types: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Time stamps, `is_key` and `is_shown` of MPEG-4 pictures, for AVI, which stores their decode order only.

    A B picture is shown at once, any other when the next of its kind has been decoded: I P B B P shows as I B B P P.
    """
    stamps, types, moments = np.array(stamps), np.array(types), np.arange(len(types), dtype=float)
    is_shown, is_b = types != MPEG4_NONE, types == MPEG4_B
    references = np.flatnonzero(is_shown & ~is_b)
    following = np.append(references[1:], len(types))
    if not len(references) or is_b[: following[0]].any():
        raise Irregular
    moments[references] = following - 0.5
    shown = np.flatnonzero(is_shown)
    stamps[shown[np.argsort(moments[shown])]] = np.sort(stamps[shown])
    return stamps, types == MPEG4_I, is_shown


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
    return _unpacked(video) if video.is_mpeg4_avi else demux_packets(video)


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
    queue, is_packed = [], PACKED_SIGN in (video.stream.codec_context.extradata or b"")
    for packet in demux_packets(video):
        data = bytes(packet)
        is_packed, is_dummy = is_packed or PACKED_SIGN in data, len(data) <= MPEG4_DUMMY_BYTES
        if is_dummy and not queue and _mpeg4_type(data) != MPEG4_NONE:
            raise Irregular  # a picture, or a sign that there is none: only the decoder knows
        if not is_dummy or not queue:
            second = data.find(MPEG4_PICTURE, data.find(MPEG4_PICTURE) + 1, -1) if is_packed else -1
            queue += [data] if second < 0 else [data[:second], data[second:]]
        due, *waiting = queue
        if waiting and (len(waiting), waiting[0].count(MPEG4_PICTURE), _mpeg4_type(waiting[0])) != (1, 1, MPEG4_B):
            raise Irregular
        if due is not data:
            dts, packet = packet.dts, _packet_of(due)
            packet.dts = dts
        queue = waiting
        yield packet


def _packet_of(data: bytes):
    import av

    packet = av.Packet(len(data))  # with the padding that decoders need, which a packet made from bytes lacks
    packet.update(data)
    return packet


def _mpeg4_type(data: bytes) -> int:
    """The type of the first MPEG-4 picture in a packet."""
    place = data.find(MPEG4_PICTURE, 0, -1)
    return MPEG4_NONE if place < 0 else data[place + 4] >> 6
