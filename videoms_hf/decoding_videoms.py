# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Decoding exactly the frames that are asked for; frame i is the i-th that decoding the whole file gives.

Packets tell where it is (`packets_videoms.py`): decoding starts at the key frame before it, skips frames that no other
refers to, and ends with the last wanted one. Less regular files (other codecs, packets without a picture) are decoded
from the start and counted. So is a file of which the decoder refuses a packet, but then frames keep the numbers of
their packets and a refused one repeats the one before it: frame i does not depend on which others are wanted. (Only in
MPEG-4 Part 2 can a damaged header still change how later frames look.)
"""

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, BinaryIO

import numpy as np
import torch

from .packets_videoms import MAX_REORDER, WHOLE, Damaged, Irregular, Pictures, Table, demux_packets, packet_table
from .reader_videoms import StaleInfoError, VideoInfo, VideoReader, redraws
from .sources_videoms import CONCEALED, COUNTED, STRICT, TRUSTED, OpenVideo, VideoDecodeError, downloaded, located


MAX_THREADS = 4  # of one decoder, by default
THREADED_PIXELS = 640 * 480  # smaller frames take longer with threads
# Skipping frames that no other refers to is bit-exact here. HEVC's mark of such frames allows references from higher
# temporal layers, and the decoders of VP9 and AV1 ignore the setting.
DROPPABLE_CODECS = {"h264", "mpeg4"}


class FileReader(VideoReader):
    """Reader of a video file.

    A damaged frame is what the decoder makes of it, or that before it. One whose packet shows that it holds no picture
    is not counted (H.264 and HEVC in files up to `SCAN_BYTES`). Colours follow the stream's matrix and range; alpha is
    dropped; frames of another size than the stream's first are scaled to it. A window in mp4 and Matroska, and frames
    of an mp4, cost their own packets only; else all packets are read (a second for an hour of small Matroska video).

    Args:
        source: path, http(s) address, a file's bytes, or a binary file object, which is read from its start.
        num_threads: of the decoder; `None`: see [`decoder_threads`]. Only what it makes of damage can depend on it.
    """

    def __init__(self, source: str | os.PathLike | bytes | BinaryIO, num_threads: int | None = None):
        is_stream = hasattr(source, "read") and not source.seekable()
        super().__init__(located(source)[0])
        self._source, self._num_threads = source.read() if is_stream else source, num_threads
        self._level, self._window, self._tables = TRUSTED, WHOLE, {}
        self._given_length: int | None = None  # to the caller
        self._video: OpenVideo | None = None
        self._read(lambda: None)

    def close(self) -> None:
        super().close()
        self._tables = {}
        video, self._video = self._video, None
        if video is not None:
            # PyAV holds the GIL while it frees a decoder and waits for its threads; one that logs waits for the GIL.
            # Flushing releases the GIL and leaves all threads idle.
            video.stream.codec_context.flush_buffers()
            video.container.close()

    def __len__(self) -> int:
        self._given_length = self._read(lambda: self._table(self._window).num_frames)
        return self._given_length

    @property
    def info(self) -> VideoInfo:
        return self._read(self._describe)

    def window(self, start_seconds: float | None = None, end_seconds: float | None = None) -> "FileReader":
        if (start_seconds, end_seconds) != self._window:
            self._window, self._given_length, self._ahead = (start_seconds, end_seconds), None, None
        return self

    def _read(self, read: Callable, *args):
        """`read(*args)`, again for as long as the file proves less regular than it was taken for."""
        import av  # here, so that a model can be loaded from the Hub without PyAV

        while True:
            try:
                if self._video is None:
                    self._video = self._open()
                self._video.start_clock()
                length = self._given_length and self._table(self._window).num_frames
                if length != self._given_length:
                    self._given_length = None
                    raise StaleInfoError(self.name, f"{length} frames can be decoded, not what its header says")
                return read(*args)
            except Irregular as error:
                is_next = self._video.level == TRUSTED or self._video.level == STRICT and isinstance(error, Damaged)
                self._level = self._video.level + 1 if is_next else COUNTED
            except av.error.FFmpegError as error:
                if (file := downloaded(self._source)) is None:
                    reason = f"FFmpeg cannot read it ({error.strerror}): not a video file, or corrupt"
                    raise VideoDecodeError(self.name, f"{reason}; download it again or leave it out") from error
                self._source, self._level = file, TRUSTED
            self.close()

    def _open(self) -> OpenVideo:
        video = OpenVideo(self._source, self._level)
        threads, context = self._num_threads if video.level <= STRICT else 1, video.stream.codec_context
        threads = decoder_threads(video.width * video.height) if threads is None else threads
        context.thread_count, context.thread_type = threads, "NONE" if threads == 1 else "AUTO"
        return video

    def _table(self, window: tuple[float | None, float | None]) -> Table:
        """The frames of a window, at least one; raises `Irregular` where the packets do not tell them."""
        if window not in self._tables:
            if self._video.level == COUNTED:
                stamps = [stamp for stamp, _ in self._frames_from_start(window)]
                # Where time jumps back, as between recordings that were joined, it goes on.
                table = Table(len(stamps), np.diff(stamps).clip(0).sum())
            else:
                table = packet_table(self._video, window)
            if not table.num_frames:
                raise self._no_such_frame(0, 0)
            self._tables[window] = table
        return self._tables[window]

    def _frames_from_start(self, window: tuple[float | None, float | None]) -> Iterator[tuple[float, Any]]:
        """Yields (time stamp, frame) for all frames of a window, as decoding everything gives them."""
        if not self._video.is_fresh:
            self._video.container.close()
            self._video = self._open()
        video, number, origin = self._video, 0, None
        ticks = 1 / ((video.rate or 1.0) * float(video.stream.time_base))
        stamp = -ticks
        # After a corrupt packet continue with the next, as players do.
        for frame in filter(None, _decoded(video, chain(demux_packets(video), [None]))):
            unknown = number * ticks if video.format == "avi" else stamp + ticks
            stamp = unknown if frame.pts is None or video.format == "avi" else frame.pts
            origin, number = stamp if origin is None else origin, number + 1
            start, end = video.stamps(window, origin)
            if stamp >= end:
                return
            if stamp >= start:
                yield stamp, frame

    def _describe(self) -> VideoInfo:
        height, width = self.size
        table, video = self._table(WHOLE), self._video
        if self._window == WHOLE:
            self._given_length = table.num_frames
        rate, span = video.rate, float(table.ticks * video.stream.time_base)
        duration = span + (1 / rate if rate else span / max(table.num_frames - 1, 1))  # the last frame lasts, too
        fps, promised = table.num_frames / duration if duration else rate, video.promised_frames(table.num_frames)
        return VideoInfo(table.num_frames, fps, width, height, duration, promised, video.codec)

    def _pictures(self, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        last, missing, number, video = int(wanted[-1]), set(wanted.tolist()), -1, self._video
        if video.level == COUNTED:
            numbered = enumerate(frame for _, frame in self._frames_from_start(self._window))
        else:
            table = self._table(self._window)
            if last >= table.num_frames:
                raise self._no_such_frame(last, table.num_frames)
            video.stream.codec_context.flush_buffers()  # an earlier call may have ended in the middle
            decode = _decode_damaged if video.level == CONCEALED else _decode
            numbered = chain.from_iterable(decode(video, *part) for part in table.parts(wanted))
        for number, frame in numbered:
            if number in missing:
                if video.level == TRUSTED and (frame.height, frame.width) != (video.height, video.width):
                    raise Irregular
                missing.remove(number)
                yield number, video.paint(frame)
                if not missing and video.level > STRICT:  # else the decoder may still hold a damaged reference
                    return
        if missing:
            raise self._no_such_frame(last, number + 1) if video.level == COUNTED else Damaged

    def _no_such_frame(self, wanted: int, num_frames: int) -> VideoDecodeError:
        (start, end), promised = self._window, self._video.promised_frames(num_frames)
        place = "" if self._window == WHOLE else f" from {start or 0} s to {end or 'the end,'} s"
        if not num_frames:
            return VideoDecodeError(self.name, f"no frame can be decoded{place}: it is corrupt or ends earlier")
        place += f" (its header promises {promised})" if promised > num_frames and not place else ""
        reason = f"frame {wanted} was asked for, but {num_frames} frames can be decoded{place}"
        return VideoDecodeError(self.name, f"{reason}: ask for 0 to {num_frames - 1}")


def decode_frames(
    source: str | os.PathLike | bytes | BinaryIO,
    indices: Iterable[int] | None = None,
    *,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    num_threads: int | None = None,
) -> torch.Tensor:
    """Frames of a file that is not read any further; `None`: all of them. See [`FileReader`]."""
    with FileReader(source, num_threads) as video:
        return redraws(FileReader.frames)(video.window(start_seconds, end_seconds), indices)


def probe_video(source: str | os.PathLike | bytes | BinaryIO) -> VideoInfo:
    """The `info` of a file that is not read any further."""
    with FileReader(source, 1) as video:
        return video.info


def decoder_threads(num_pixels: int) -> int:
    """Threads for a decoder: a `DataLoader` worker's share of the cores, if frames are large; elsewhere 1."""
    worker = torch.utils.data.get_worker_info()
    if worker is None or num_pixels < THREADED_PIXELS:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(max(cores // worker.num_workers, 1), MAX_THREADS)


def _decoded(video: OpenVideo, packets: Iterable) -> Iterator:
    """Yields the frames of packets, `None` for one that the decoder refuses; a packet `None` empties the decoder."""
    import av

    context = video.stream.codec_context
    for packet in packets:
        video.check_time()
        try:
            frames = context.decode(packet)
        except av.error.FFmpegError:
            yield None
            continue
        if packet is None:
            context.flush_buffers()
        yield from frames


def _decode(video: OpenVideo, pictures: Pictures, wanted: np.ndarray) -> Iterator[tuple[int, Any]]:
    """Yields the wanted frames as (number, frame), decoding from the key frames before them."""
    by_rank = np.argsort(pictures.rank)
    at = by_rank[np.searchsorted(pictures.rank, wanted, sorter=by_rank) % len(by_rank)]
    key_pts = pictures.pts[keys := np.flatnonzero(pictures.is_key)]
    if (pictures.rank[at] != wanted).any() or (np.diff(key_pts) <= 0).any():
        raise Irregular
    # The last key frame that is both decoded and shown before: a later one would come too late for its leading B.
    last_key = np.minimum(np.searchsorted(keys, at, "right"), np.searchsorted(key_pts, pictures.pts[at], "right")) - 1
    needed = np.zeros(len(pictures.rank) + 1, dtype=bool)
    for start, stop in zip(keys[last_key], at, strict=True):
        needed[start : stop + 1] = True
    is_wanted = np.bincount(at, minlength=len(needed)) > 0
    # Of other frames only damage is of interest, but those shown before their key frame may lack what they refer to.
    is_leading = pictures.pts < key_pts[np.searchsorted(keys, np.arange(len(pictures.pts)), "right") - 1]

    def packets():
        for i, packet in pictures.packets(np.flatnonzero(needed)):
            # Decoders pass the time stamp on to the frame, so it can carry the frame's number.
            packet.pts = int(pictures.rank[i]) if is_wanted[i] else None if is_leading[i] else -1
            if video.codec in DROPPABLE_CODECS:
                video.stream.codec_context.skip_frame = "DEFAULT" if is_wanted[i] else "NONREF"
            yield packet
            if not needed[i + 1]:  # have the decoder return the frames it holds, rather than feed it more
                yield None

    for frame in _decoded(video, packets()):
        if frame is None or frame.pts is not None and frame.is_corrupt:
            raise Damaged
        if frame.pts is not None and frame.pts >= 0:
            yield frame.pts, frame


def _decode_damaged(video: OpenVideo, pictures: Pictures, _) -> Iterator[tuple[int, Any]]:
    """Yields all frames as (number, frame), decoded in order; one that the decoder refuses repeats the one before it.

    The first ones repeat the first that can be decoded. Frames that are missing without an error raise `Irregular`.
    """

    def packets():
        for i, packet in pictures.packets(np.arange(len(pictures.rank))):
            packet.pts = int(pictures.rank[i]) if pictures.rank[i] >= 0 else None
            yield packet
        yield None

    last, following, is_damaged = None, 0, False
    gaps: dict[int, Any] = {}  # frames that have not come, though later ones have, and what they repeat
    for frame in _decoded(video, packets()):
        is_damaged |= frame is None or frame.pts is not None and frame.is_corrupt
        if frame is None or frame.pts is None:
            continue
        gaps |= dict.fromkeys(range(following, frame.pts), last or frame)
        gaps.pop(frame.pts, None)
        yield frame.pts, frame
        last, following = frame, max(following, frame.pts + 1)
        for gap in [gap for gap in gaps if gap < following - MAX_REORDER]:
            if not is_damaged:
                raise Irregular
            yield gap, gaps.pop(gap)
    if gaps and not is_damaged:
        raise Irregular
    if is_damaged and last is not None:
        gaps |= dict.fromkeys(range(following, int(pictures.rank.max()) + 1), last)
    yield from gaps.items()
