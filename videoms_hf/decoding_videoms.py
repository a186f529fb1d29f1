# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Frames of a video by PyAV: exactly the frames that were asked for, decoding little more than those.

Frame i is the i-th frame that a decode from the start puts out. To know it without decoding, the packets are read
first (`packets_videoms.py`). Then decoding starts at the key picture before a wanted frame, leaves out pictures that
no other refers to, and ends with the last wanted frame. What is less regular (other codecs, packets without a picture)
is decoded from the start and counted: slower, but never another frame.

If the decoder refuses a picture that its packet promises, the file is decoded from the start too, but frames keep the
numbers of their packets, and the refused one repeats the frame before it. So frame i does not depend on which other
frames are wanted. (Only in MPEG-4 Part 2 a damaged header can still change how later frames look.)
"""

import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch

from .packets_videoms import (
    INDEX_DISCARD,
    MAX_REORDER,
    TIMED_CONTAINERS,
    Damaged,
    Irregular,
    LimitError,
    OpenVideo,
    Pictures,
    all_pictures,
    check_time,
    demux_packets,
    mp4_index,
    mp4_parts,
    window_pictures,
    window_stamps,
)
from .pictures_videoms import Crop, Painter
from .sources_videoms import (
    FORMATS,
    IO_TIMEOUT_SECONDS,
    VideoDecodeError,
    downloaded,
    is_mp4,
    located,
    video_stream,
    whole_reader,
)


# Limits, so that a broken or hostile file is an error and no full memory or endless wait.
MAX_FRAME_PIXELS = 8192 * 4320  # decoders allocate what a header claims
MAX_CLIP_BYTES = 16 << 30  # of the frames that one call gives
MAX_SECONDS = 600.0  # for one reading of a file
# Files up to this size and length are read whole; of longer ones only a part, where the container helps.
SCAN_BYTES, SCAN_SECONDS = 4 << 20, 120
MAX_THREADS = 4  # of one decoder, by default
THREADED_PIXELS = 640 * 480  # smaller frames take longer with threads

# In these codecs a packet is one picture.
REGULAR_CODECS = {"h264", "hevc", "vp9", "av1", "mpeg4", "mjpeg"}
SEEKABLE_CONTAINERS = {"mov", "matroska"}  # find the key picture before a time without reading what lies before it
# Leaving out pictures that no other refers to is bit-exact here. HEVC's mark of such pictures allows references from
# higher temporal layers, and the decoders of VP9 and AV1 ignore the setting.
DROPPABLE_CODECS = {"h264", "mpeg4"}


class VideoInfo(NamedTuple):
    """Frames that can be had (whatever the header promises), mean frames a second, and the size as displayed."""

    num_frames: int
    fps: float
    width: int
    height: int
    duration_seconds: float
    promised_frames: int = 0  # what the header says; 0: nothing
    is_regular: bool = True  # frames can be told from packets; otherwise every reading decodes from the start


def probe_video(source: str | os.PathLike | bytes | BinaryIO) -> VideoInfo:
    """Length, rate and size of a video. Its first frame is decoded, so that a broken file shows; errors as there."""
    return _load(source, lambda num_frames: [0], (None, None), 1, 1)[1]


def decoder_threads(num_pixels: int) -> int:
    """Threads for a decoder of frames of so many pixels: in a worker of a `DataLoader` its share of the cores.

    That is the cores over the number of workers, at most `MAX_THREADS`. Elsewhere it is 1, and for small frames too.
    """
    worker = torch.utils.data.get_worker_info()
    if worker is None or num_pixels < THREADED_PIXELS:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(max(cores // worker.num_workers, 1), MAX_THREADS)


def decode_frames(
    source: str | os.PathLike | bytes | BinaryIO,
    indices: Iterable[int] | Callable[[int], Iterable[int]],
    *,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    num_threads: int | None = None,
    crop: Callable[[int, int], Crop] | None = None,
) -> torch.Tensor:
    """Frames of a video, RGB uint8 (len(indices), 3, H, W): a view of channels-last memory, upright as displayed.

    A damaged picture is what the decoder makes of it; one that it refuses repeats the frame before it, or is not
    counted if its packet shows that it holds none (H.264 and HEVC in files up to `SCAN_BYTES`).

    Colours follow the stream's matrix and range by swscale's usual tables; alpha is dropped; frames of another size
    than the stream's first are scaled to it.

    Args:
        source: path, address, a file's bytes, or a binary file object (read from its start).
        indices: frame numbers from 0, in any order, repeated or not; or a function from the number of frames to them,
            so that one opening serves both.
        start_seconds, end_seconds: number only the frames that are shown in [start, end) seconds after the first. In
            mp4 and Matroska this costs the window only, however long the file. Frame numbers do so in mp4; Matroska
            keeps no count of frames, so all its packets are read (not decoded; a second for an hour of small video).
        num_threads: threads of the decoder; `None`: see [`decoder_threads`]. Frames do not depend on it.
        crop: function from the height and width of the frames to the part that is wanted. Without a size to scale to,
            it is the same to the bit as that part of whole frames. With one, it is cut and scaled in the video's own
            colours before they become RGB. That needs less memory than frames of full size, but where torch scales
            bytes fast no less time, and it is not the same to the bit: on videos from cameras within 2.5 of 255 levels
            on average and 13 for 99 of 100 values, at sharp edges between colours within 50, for there colours are
            interpolated that RGB frames repeat.

    Raises:
        FileNotFoundError: there is no such file.
        VideoDecodeError: whatever is wrong with the video; also a frame number that it does not have, or a limit
            (`MAX_FRAME_PIXELS`, `MAX_CLIP_BYTES`, `MAX_SECONDS`, packets_videoms.py's `MAX_PACKETS`).
        ValueError: a negative frame number, a crop outside of the frame.
    """
    crops = None if crop is None else lambda height, width: [crop(height, width)]
    return _load(source, indices, (start_seconds, end_seconds), num_threads, 1, crops)[0][0]


def decode_clips(
    source: str | os.PathLike | bytes | BinaryIO,
    indices: Iterable[int] | Callable[[int], Iterable[int]],
    num_clips: int,
    *,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    num_threads: int | None = None,
    crops: Callable[[int, int], Sequence[Crop]] | None = None,
) -> list[torch.Tensor]:
    """Several clips of a video from one decoding, in which a frame is decoded once; see [`decode_frames`].

    Args:
        indices: the frame numbers of one clip after the other, equally many of each.
        num_clips: how many clips these are.
        crops: function from the height and width of the frames to the part of them for each clip, of any sizes.

    Raises:
        ValueError: also no clip, numbers that cannot be shared out equally, or not one crop for each clip.
    """
    if num_clips < 1:
        raise ValueError(f"num_clips is {num_clips}; it must be at least 1")
    return _load(source, indices, (start_seconds, end_seconds), num_threads, num_clips, crops)[0]


def iterate_frames(
    source: str | os.PathLike | bytes | BinaryIO,
    indices: Iterable[int],
    *,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
) -> Iterator[torch.Tensor]:
    """Yields the frames that [`decode_frames`] gives for ascending numbers, (3, H, W), by one decoding from the start.

    For as many frames as memory does not hold. The time between frames is the caller's, so `MAX_SECONDS` is not
    applied.
    """
    window, wanted, seen = (start_seconds, end_seconds), iter(indices), 0
    with _opened(source, 1) as video:
        painter, number = Painter(*video.size), next(wanted, None)
        frames = _frames_from_start(video._replace(deadline=float("inf")), window)
        while number is not None:
            frame = next(frames, (None, None))[1]
            if frame is None:
                raise _no_such_frame(video, number, seen, window)
            if seen == number:
                yield torch.from_numpy(painter.paint(frame).copy()).permute(2, 0, 1)
                number = next(wanted, None)
            seen += 1


def _load(
    source, indices, window, num_threads, num_clips: int, crops: Callable | None = None
) -> tuple[list[torch.Tensor], VideoInfo | None]:
    """The wanted clips, and what is known of all frames in the window; None where counting was not asked for."""
    # Asked once, even if the file has to be read again: the functions may draw random numbers.
    if callable(indices):
        indices = functools.cache(lambda num_frames, choose=indices: list(choose(num_frames)))
    crops = None if crops is None else functools.cache(crops)
    try:
        return _load_from(source, indices, window, num_threads, num_clips, crops)
    except VideoDecodeError as error:
        file = downloaded(source, MAX_SECONDS) if isinstance(error.__cause__, OSError | ValueError) else None
        if file is None:
            raise
    return _load_from(file, indices, window, num_threads, num_clips, crops)


def _load_from(
    source, indices, window, num_threads, num_clips: int, crops: Callable | None
) -> tuple[list[torch.Tensor], VideoInfo | None]:
    # The header of an mp4 may lie: then the file is opened again. Damage is decoded from the start, in one thread.
    is_trusted = is_strict = True
    while True:
        try:
            with _opened(source, num_threads if is_strict else 1, is_trusted, is_strict) as video:
                return _load_by_packets(video, indices, window, num_clips, crops)
        except Irregular as error:
            if video.is_trusted:
                is_trusted = False
            elif is_strict and isinstance(error, Damaged):
                is_strict = False
            else:
                break
    stamps = None
    if callable(indices):
        with _opened(source, 1) as video:
            stamps = [stamp for stamp, _ in _frames_from_start(video, window)]
    with _opened(source, 1) as video:
        wanted = _resolve(video, indices, None if stamps is None else len(stamps), window)
        frames = (frame for _, frame in _frames_from_start(video, window))
        clips, seen = _collect(video, enumerate(frames), wanted, num_clips, crops)
        if clips is None:
            raise _no_such_frame(video, wanted.max(), seen, window)
        # Where time jumps back, as between recordings that were joined, it goes on.
        info = stamps and _info(video, np.diff(stamps).clip(0).sum(), len(stamps), clips[0])
        return clips, info and info._replace(is_regular=False)


def _load_by_packets(
    video: OpenVideo, indices, window, num_clips: int, crops: Callable | None
) -> tuple[list[torch.Tensor], VideoInfo]:
    """As `_load`, with frames told from packets; raises `Irregular` where that cannot be trusted."""
    is_timed = video.format in TIMED_CONTAINERS or (video.format == "avi" and video.codec in ("mpeg4", "mjpeg"))
    if video.codec not in REGULAR_CODECS or not is_timed:
        raise Irregular
    seconds = (video.container.duration or 0) / 1e6
    is_long = video.container.size > SCAN_BYTES or seconds > SCAN_SECONDS
    is_long &= video.format in SEEKABLE_CONTAINERS
    index = mp4_index(video) if is_long and window == (None, None) and video.is_strict else None
    if index is not None:
        keys, shown = index
        first, last = (video.stream.index_entries[int(i)].timestamp for i in (shown[0], shown[-1]))
        num_frames, ticks = len(shown), last - first
        wanted = _resolve(video, indices, num_frames, window)
        parts = mp4_parts(video, keys, shown, np.unique(wanted))
    else:
        if is_long and window[0] is not None and video.is_strict:
            pictures = window_pictures(video, window)
        else:
            pictures = all_pictures(video, window, is_checked=not is_long)
        pts = pictures.pts[pictures.rank >= 0]
        num_frames, ticks = len(pts), int(np.ptp(pts)) if len(pts) else 0
        wanted = _resolve(video, indices, num_frames, window)
        parts = [(pictures, np.unique(wanted))]
    if video.is_strict:
        frames = (ranked for pictures, part in parts for ranked in _decode(video, pictures, part))
    else:
        frames = _decode_damaged(video, pictures)
    if video.is_trusted:
        frames = _of_promised_size(video, frames)
    clips, _ = _collect(video, frames, wanted, num_clips, crops)
    if clips is None:
        raise Damaged
    return clips, _info(video, ticks, num_frames, clips[0])


def _of_promised_size(video: OpenVideo, ranked: Iterator) -> Iterator:
    for rank, frame in ranked:
        if (frame.height, frame.width) != video.size:
            raise Irregular
        yield rank, frame


@contextmanager
def _opened(source, num_threads: int | None, is_trusted: bool = False, is_strict: bool = False) -> Iterator[OpenVideo]:
    """Opens a source for the time of a `with`; whatever FFmpeg raises in it becomes a `VideoDecodeError`.

    With `is_trusted`, an mp4 is opened by its header, without decoding its first pictures to see what they are. With
    `is_strict`, the decoder refuses damaged pictures, of which else it makes what it can.
    """
    import av  # here, so that a model can be loaded from the Hub without PyAV

    name, file, protocols = located(source)
    allowed = {"format_whitelist": FORMATS, "protocol_whitelist": protocols}
    limit = {"max_pixels": str(MAX_FRAME_PIXELS)}
    is_trusted = is_trusted and is_mp4(source)
    options = allowed | limit | ({"skip_frame": "all", "analyzeduration": "1"} if is_trusted else {})
    try:
        # Metadata is not UTF-8 in many an old file, and of no use here.
        with av.open(file, "r", options=options, metadata_errors="ignore", timeout=IO_TIMEOUT_SECONDS) as container:
            is_trusted = is_trusted and len(container.streams.video) == 1  # or the pictures tell which one is shown
            stream = video_stream(container, name, MAX_FRAME_PIXELS)
            context = stream.codec_context
            threads = decoder_threads(context.width * context.height) if num_threads is None else num_threads
            context.options = limit | ({"err_detect": "explode"} if is_strict else {})
            context.thread_count, context.thread_type = threads, "NONE" if threads == 1 else "AUTO"
            codec, container_format = context.codec.canonical_name, container.format.name.split(",")[0]
            size, deadline = (context.height, context.width), time.monotonic() + MAX_SECONDS
            read_all = whole_reader(source)
            try:
                yield OpenVideo(
                    name, container, stream, codec, container_format, size, deadline, read_all, is_trusted, is_strict
                )
            finally:
                # PyAV frees a decoder, which waits for its threads, without giving up the GIL. A thread that logs
                # through Python waits for the GIL. Flushing gives it up and leaves all threads idle.
                context.flush_buffers()
    except LimitError as error:
        raise VideoDecodeError(name, str(error)) from error
    except av.error.FFmpegError as error:
        reason = (
            f"FFmpeg cannot read it ({error.strerror}): not a video file, or corrupt; fetch it again or leave it out"
        )
        raise VideoDecodeError(name, reason) from error


def _rate(video: OpenVideo) -> float:
    """Frames a second by the header, 0 if it says nothing."""
    return float(video.stream.average_rate or video.stream.guessed_rate or 0)


def _promised_frames(video: OpenVideo, num_frames: int) -> int:
    """Frames that the header promises, 0 if it says nothing; more than there are only if no edit list hides them."""
    promised = video.stream.frames
    if promised <= num_frames or video.format != "mov":
        return promised
    return min(promised, sum(not entry.flags & INDEX_DISCARD for entry in video.stream.index_entries) or promised)


def _info(video: OpenVideo, ticks: float, num_frames: int, clip: torch.Tensor) -> VideoInfo:
    """What is known of a video whose last frame is shown so many `ticks` of its time base after the first."""
    rate, span = _rate(video), float(ticks * video.stream.time_base)
    duration = span + (1 / rate if rate else span / max(num_frames - 1, 1))  # the last frame lasts, too
    fps = num_frames / duration if duration else rate
    return VideoInfo(num_frames, fps, clip.shape[3], clip.shape[2], duration, _promised_frames(video, num_frames))


def _resolve(video: OpenVideo, indices, num_frames: int | None, window) -> np.ndarray:
    """Frame numbers int64 (n,), checked against the number of frames where that is known."""
    if callable(indices):
        if not num_frames:
            raise _no_such_frame(video, 0, 0, window)
        indices = indices(num_frames)
    wanted = np.asarray(indices if hasattr(indices, "__len__") else list(indices))
    if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iu"):
        raise ValueError(f"indices must be a list of integers, not of shape {wanted.shape} and type {wanted.dtype}")
    wanted = wanted.astype(np.int64)
    if wanted.min(initial=0) < 0:
        raise ValueError(f"frame numbers count from 0, but indices holds {wanted.min()}")
    if num_frames is not None and wanted.max(initial=-1) >= num_frames:
        raise _no_such_frame(video, wanted.max(), num_frames, window)
    return wanted


def _no_such_frame(video: OpenVideo, wanted: int, num_frames: int, window) -> VideoDecodeError:
    place = "" if window == (None, None) else f" from {window[0] or 0} s to {window[1] or 'the end,'} s"
    if not num_frames:
        return VideoDecodeError(video.name, f"no frame can be had{place}: it is broken, or ends earlier; leave it out")
    promised = _promised_frames(video, num_frames)
    promise = f" (its header promises {promised})" if promised > num_frames and not place else ""
    had = f"{num_frames} frames can be had{place}{promise}"
    return VideoDecodeError(video.name, f"frame {wanted} was asked for, but {had}: ask for 0 to {num_frames - 1}")


def _frames_from_start(video: OpenVideo, window) -> Iterator[tuple[float, Any]]:
    """Yields (time stamp, frame) for all frames of a window, as a decode of everything puts them out."""
    import av

    ticks = 1 / ((_rate(video) or 1.0) * float(video.stream.time_base))
    origin, number, stamp = None, 0, -ticks
    for packet in chain(demux_packets(video), [None]):
        try:
            frames = video.stream.codec_context.decode(packet)
        except av.error.FFmpegError:  # one broken packet: go on with the next, as players do
            continue
        for frame in frames:
            unknown = number * ticks if video.format == "avi" else stamp + ticks
            stamp = unknown if frame.pts is None or video.format == "avi" else frame.pts
            origin, number = stamp if origin is None else origin, number + 1
            start, end = window_stamps(video, window, origin)
            if stamp >= end:
                return
            if stamp >= start:
                yield stamp, frame


def _decode(video: OpenVideo, pictures: Pictures, wanted: np.ndarray) -> Iterator[tuple[int, Any]]:
    """Yields the wanted frames as (number, frame), decoding from the key pictures before them."""
    import av

    context = video.stream.codec_context
    at = np.flatnonzero(np.isin(pictures.rank, wanted))
    keys = np.flatnonzero(pictures.is_key)
    key_pts = pictures.pts[keys]
    if len(at) != len(wanted) or (np.diff(key_pts) <= 0).any():
        raise Irregular
    # The last key picture that is both decoded and shown before: a later one would come too late for its leading B.
    last_key = np.minimum(np.searchsorted(keys, at, "right"), np.searchsorted(key_pts, pictures.pts[at], "right")) - 1
    needed = np.zeros(len(pictures.rank) + 1, dtype=bool)
    for start, stop in zip(keys[last_key], at, strict=True):
        needed[start : stop + 1] = True
    is_wanted = np.isin(np.arange(len(needed)), at)
    # Of others only damage is of interest. Pictures shown before their key picture may lack what they refer to.
    is_leading = pictures.pts < key_pts[np.searchsorted(keys, np.arange(len(pictures.pts)), "right") - 1]
    for i, packet in pictures.packets(np.flatnonzero(needed)):
        check_time(video)
        if packet.pos != pictures.pos[i]:
            raise Irregular
        # Decoders hand the time stamp on to the frame, so that it can carry the frame's number.
        packet.pts = int(pictures.rank[i]) if is_wanted[i] else None if is_leading[i] else -1
        if video.codec in DROPPABLE_CODECS:
            context.skip_frame = "DEFAULT" if is_wanted[i] else "NONREF"
        try:
            frames = context.decode(packet)
            if not needed[i + 1]:  # have the decoder hand out what it holds, rather than feed it more
                frames += context.decode(None)
                context.flush_buffers()
        except av.error.FFmpegError as error:
            raise Damaged from error
        for frame in frames:
            if frame.pts is not None:
                if frame.is_corrupt:
                    raise Damaged
                if frame.pts >= 0:
                    yield frame.pts, frame


def _decode_damaged(video: OpenVideo, pictures: Pictures) -> Iterator[tuple[int, Any]]:
    """Yields all frames as (number, frame), decoded in order; one that the decoder refuses repeats the one before it.

    The first ones repeat the first that can be decoded. Frames that are missing without an error raise `Irregular`.
    """
    import av

    context, last, following, is_damaged = video.stream.codec_context, None, 0, False
    gaps: dict[int, Any] = {}  # frames that have not come, though later ones have, and what they repeat
    for i, packet in chain(pictures.packets(np.arange(len(pictures.rank))), [(None, None)]):
        check_time(video)
        if packet is not None:
            packet.pts = int(pictures.rank[i]) if pictures.rank[i] >= 0 else None
        try:
            frames = context.decode(packet)
        except av.error.FFmpegError:
            is_damaged, frames = True, []
        for frame in (frame for frame in frames if frame.pts is not None):
            is_damaged |= frame.is_corrupt
            gaps |= dict.fromkeys(range(following, frame.pts), last or frame)
            gaps.pop(frame.pts, None)
            yield frame.pts, frame
            last, following = frame, max(following, frame.pts + 1)
        for gap in [gap for gap in gaps if packet is None or gap < following - MAX_REORDER]:
            if not is_damaged:
                raise Irregular
            yield gap, gaps.pop(gap)
    if last is not None and is_damaged:
        yield from ((gap, last) for gap in range(following, int(pictures.rank.max()) + 1))


def _collect(
    video: OpenVideo, ranked: Iterator, wanted: np.ndarray, num_clips: int, crops: Callable | None
) -> tuple[list[torch.Tensor] | None, int]:
    """The wanted clips out of (number, frame) pairs, `None` if a frame never comes; and how many pairs came."""
    length, rest = divmod(len(wanted), num_clips)
    if rest:
        raise ValueError(f"{len(wanted)} indices are no {num_clips} clips of equally many frames")
    painter, parts, seen = Painter(*video.size), [None] * num_clips, 0
    clips = [] if len(wanted) else [np.empty((0, *video.size, 3), dtype=np.uint8)] * num_clips
    missing = set(wanted.tolist())
    while missing:
        rank, frame = next(ranked, (None, None))
        if frame is None:
            return None, seen
        seen += 1
        if rank not in missing:
            continue
        missing.remove(rank)
        if not clips:
            size = painter.displayed_size(frame)
            if crops is not None:
                parts = _checked_crops(crops(*size), num_clips, *size)
            clips = _room(video, length, [size if part is None else part.output_size for part in parts])
        pictures = {}
        for place in np.flatnonzero(wanted == rank).tolist():
            number, row = divmod(place, length)
            part = parts[number]
            if part not in pictures:
                pictures[part] = painter.paint(frame, part)
            clips[number][row] = pictures[part]
    return [torch.from_numpy(clip).permute(0, 3, 1, 2) for clip in clips], seen


def _checked_crops(crops: Sequence[Crop], num_clips: int, height: int, width: int) -> Sequence[Crop]:
    """The crops, if there is one for each clip and all are parts of frames of that height and width."""
    if len(crops) != num_clips:
        raise ValueError(f"{len(crops)} crops were given for {num_clips} clips; there must be one for each")
    for crop in crops:
        if min(crop.top, crop.left) < 0 or crop.top + crop.height > height or crop.left + crop.width > width:
            raise ValueError(f"{crop} is not within frames of {height} x {width}")
        if min(crop.height, crop.width, *crop.output_size) < 1:
            raise ValueError(f"{crop} is empty; height, width and size must be at least 1")
    return crops


def _room(video: OpenVideo, length: int, sizes: list[tuple[int, int]]) -> list[np.ndarray]:
    """Room for clips of so many frames of these heights and widths."""
    num_bytes = sum(length * height * width * 3 for height, width in sizes)
    if num_bytes > MAX_CLIP_BYTES:
        height, width = sizes[0]
        raise LimitError(
            f"{len(sizes) * length} frames of {width} x {height} were asked for, {num_bytes} bytes, but "
            f"{MAX_CLIP_BYTES} are allowed: ask for fewer at once"
        )
    return [np.empty((length, *size, 3), dtype=np.uint8) for size in sizes]
