# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Opening a video, wherever it comes from; and its decoded frames as RGB pictures, upright as displayed."""

import io
import math
import os
import re
import time
import urllib.request
from typing import BinaryIO

import numpy as np


# Limits: a corrupt or hostile file must raise an error, not fill the memory or run forever.
MAX_FRAME_PIXELS = 8192 * 4320  # decoders allocate what a header claims
MAX_SECONDS = 600.0  # for one call
MAX_DOWNLOAD_BYTES = 1 << 30  # of an address that has to be downloaded
IO_TIMEOUT_SECONDS = 60.0  # for one access to a file or address
# How far a file is trusted: only in an mp4 with a single video stream the header suffices to set up a decoder. Down to
# `STRICT` the decoder refuses damaged frames, of which it otherwise makes what it can. See `FileReader`.
TRUSTED, STRICT, CONCEALED, COUNTED = range(4)
INDEX_KEY, INDEX_DISCARD = 1, 2  # FFmpeg's AVINDEX_KEYFRAME and AVINDEX_DISCARD_FRAME
ADDRESS = re.compile("https?://", re.IGNORECASE)
# Demuxers that read one file and never open another: containers, raw streams, animations and single images. Excluded
# are playlists (concat, hls, dash, sdp, imf), numbered images (image2), filter graphs (lavfi) and devices: a file that
# claims to be one of these could make the reader open any other file.
FORMATS = (
    "mov matroska avi mpegts mpeg mpegvideo flv live_flv kux asf asf_o ogg rm wtv mxf gxf lxf nut nuv nsv dv swf "
    "pva ty h261 h263 h264 hevc vvc evc av1 obu ivf m4v vc1 vc1test cavsvideo avs2 avs3 dirac dnxhd mjpeg "
    "mjpeg_2000 apv yuv4mpegpipe ingenient mpjpeg mxg smjpeg dhav hxvs ifv iv8 luodat lvf nc lmlm4 vivo vividas "
    "msnwctcp cine ser r3d 4xm anm bethsoftvid bfi bink bmv c93 cdxl derf dfa dsicin dxa ea ea_cdata film_cpk "
    "filmstrip flic gdv hnm idcin iff ipmovie ipu iss jv mgsts mm mods moflex mtv mv mvi paf pdv pmp psxstr rl2 roq "
    "rpl sga siff smk smush thp tiertexseq tmv txd usm vmd wc3movie wsvqa xmv yop gif apng jpegxl_anim bmp_pipe "
    "gif_pipe j2k_pipe jpeg_pipe jpegxl_pipe png_pipe ppm_pipe tiff_pipe webp_pipe"
).replace(" ", ",")


class VideoDecodeError(RuntimeError):
    """A video that cannot be read: `source` names it, `reason` says why and what to do."""

    def __init__(self, source: str, reason: str = ""):
        super().__init__(source, reason)
        self.source, self.reason = source, reason

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}" if self.reason else self.source


class OpenVideo:
    """A file that has just been opened, at `level` or, if its header does not suffice, one step down."""

    def __init__(self, source, level: int):
        import av
        from av.video.reformatter import VideoReformatter

        self.name, file, protocols = located(source)
        self.level = STRICT if level == TRUSTED and not is_mp4(file) else level
        self.is_fresh = True  # no packet has been read
        self.start_clock()
        limit = {"max_pixels": str(MAX_FRAME_PIXELS)}
        options = limit | {"format_whitelist": FORMATS, "protocol_whitelist": protocols}
        options |= {"skip_frame": "all", "analyzeduration": "1"} if self.level == TRUSTED else {}
        # Metadata is not UTF-8 in many old files, and not used here.
        self.container = av.open(file, "r", options=options, metadata_errors="ignore", timeout=IO_TIMEOUT_SECONDS)
        if len(self.container.streams.video) > 1:  # the first frames tell which one is shown
            self.level = max(self.level, STRICT)
        self.stream = self._shown_stream()
        context = self.stream.codec_context
        context.options = limit | ({"err_detect": "explode"} if self.level <= STRICT else {})
        self.codec, self.format = context.codec.canonical_name, self.container.format.name.split(",")[0]
        self.is_mpeg4_avi = (self.codec, self.format) == ("mpeg4", "avi")
        self.height, self.width = context.height, context.width
        self.rate = float(self.stream.average_rate or self.stream.guessed_rate or 0)  # by the header; 0: unknown
        self._reformatter = VideoReformatter()  # one for all frames: setting it up takes longer than a small frame
        self._turn: tuple[bool, int, int] | None = None  # that of the first frame holds for the whole video

    def _shown_stream(self):
        """The stream that players show, never a cover image."""
        from av.stream import Disposition

        streams, best = self.container.streams.video, self.container.streams.best("video")
        streams = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
        stream = best if best in streams else next(iter(streams), None)
        context, limit, reason = stream and stream.codec_context, MAX_FRAME_PIXELS, ""
        if stream is None:
            reason = "has no video stream (only sound or a cover image); leave it out"
        elif context is None:
            reason = "there is no decoder for its video stream; re-encode it, as H.264 for example"
        elif context.width * context.height > limit:
            reason = f"frames of {context.width} x {context.height}, but {limit} pixels are allowed: scale it down"
        elif not context.width * context.height or not stream.time_base:  # decoders forget a size above their limit
            reason = f"it is truncated, FFmpeg cannot decode it, or frames have more than {limit} pixels"
            reason = f"the size of its frames cannot be read: {reason}; download it again or leave it out"
        if reason:
            raise VideoDecodeError(self.name, reason)
        return stream

    def paint(self, frame) -> np.ndarray:
        """RGB uint8 (H, W, 3), a view of the frame: by the stream's matrix and range, swscale's tables, no alpha."""
        self._turn = self._turn or _turn_of(frame)
        # RGB is full range: without saying so, grey of limited range would stay limited.
        frame = self._reformatter.reformat(frame, self.width, self.height, "rgb24", dst_color_range="JPEG", threads=1)
        plane, (is_swapped, down, right) = frame.planes[0], self._turn
        rows = np.frombuffer(plane, dtype=np.uint8).reshape(-1, plane.line_size)
        picture = rows[: frame.height, : 3 * frame.width].reshape(frame.height, frame.width, 3)
        return (picture.swapaxes(0, 1) if is_swapped else picture)[::down, ::right]

    def promised_frames(self, num_frames: int) -> int:
        """Frames by the header, 0: unknown; more than the `num_frames` there are only if no edit list hides them."""
        promised = self.stream.frames
        if promised <= num_frames or self.format != "mov":
            return promised
        return min(promised, sum(not entry.flags & INDEX_DISCARD for entry in self.stream.index_entries) or promised)

    def stamps(self, window: tuple[float | None, float | None], origin: int) -> tuple[float, float]:
        """The bounds of a window of seconds as time stamps, rounded as those of frames are."""
        start, end = (seconds if seconds is None else round(seconds / self.stream.time_base) for seconds in window)
        return -math.inf if start is None else origin + start, math.inf if end is None else origin + end

    def start_clock(self) -> None:
        self._deadline = time.monotonic() + MAX_SECONDS

    def check_time(self) -> None:
        if time.monotonic() > self._deadline:
            reason = "it takes longer to read than is allowed: cut it into parts or re-encode it"
            raise VideoDecodeError(self.name, reason)


def located(source) -> tuple[str, str | BinaryIO, str]:
    """A source's name; what FFmpeg opens, and by which protocols."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"video of {len(source)} bytes", io.BytesIO(source), "none"
    if not isinstance(source, (str, os.PathLike)):
        if source.seekable():
            source.seek(0)
        return str(getattr(source, "name", "file object")), source, "none"
    name = os.fsdecode(source).removeprefix("file://")
    if ADDRESS.match(name):
        return name, name, "http,https,httpproxy,tcp,tls"
    if "://" in name and not os.path.exists(name):
        raise VideoDecodeError(name, "only files and http(s) addresses are read; download it first")
    if not os.stat(name).st_size and os.path.isfile(name):  # and not a pipe
        raise VideoDecodeError(name, "the file is empty; download it again or leave it out")
    return name, f"file:{name}", "file"  # without "file:" a name with a colon would be taken for an address


def is_mp4(file: str | BinaryIO) -> bool:
    """Whether what FFmpeg opens starts as an mp4; addresses, pipes and open files are not read."""
    if isinstance(file, io.BytesIO):
        return file.getbuffer()[4:8] == b"ftyp"
    path = file.removeprefix("file:") if isinstance(file, str) else ""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as opened:
        return opened.read(8)[4:] == b"ftyp"


def downloaded(source) -> BinaryIO | None:
    """The file at an address whose server cannot send parts, so that FFmpeg may not reach the index of an mp4."""
    if not isinstance(source, str) or not ADDRESS.match(source):
        return None
    file, deadline = io.BytesIO(), time.monotonic() + MAX_SECONDS
    file.name = source  # for messages
    try:
        with urllib.request.urlopen(source, timeout=IO_TIMEOUT_SECONDS) as response:
            if response.headers.get("Accept-Ranges") == "bytes":
                return None
            while part := response.read(1 << 20):
                file.write(part)
                if file.tell() > MAX_DOWNLOAD_BYTES or time.monotonic() > deadline:
                    raise VideoDecodeError(source, "its server cannot send parts and it is large: download it first")
    except OSError:
        return None
    return file


def _turn_of(frame) -> tuple[bool, int, int]:
    """Whether rows and columns swap, and the steps (1 or -1) down and right: x' = a x + c y, y' = b x + d y."""
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 17 and 18 do not know every kind of side data
        matrix = None
    a, b, _, c, d = (1, 0, 0, 0, 1) if matrix is None else np.frombuffer(matrix, dtype=np.int32)[:5].tolist()
    is_swapped = abs(a) < abs(b)
    right, down = (c, b) if is_swapped else (a, d)
    return is_swapped, -1 if down < 0 else 1, -1 if right < 0 else 1
