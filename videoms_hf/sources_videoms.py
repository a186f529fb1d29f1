# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Where a video may come from (a file, an http address, bytes, a file object), and what FFmpeg may open for it."""

import errno
import io
import os
import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


MAX_DOWNLOAD_BYTES = 1 << 30  # of an address that has to be downloaded
IO_TIMEOUT_SECONDS = 60.0  # for one access to a file or address
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


def located(source) -> tuple[str, Any, str, Callable[[], bytes] | None]:
    """A source's name; what FFmpeg opens, and by which protocols; what reads all of it, if it can be read twice."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"video of {len(source)} bytes", io.BytesIO(source), "none", lambda: bytes(source)
    if not isinstance(source, (str, os.PathLike)):
        if source.seekable():
            source.seek(0)
        return str(getattr(source, "name", "file object")), source, "none", None
    name = os.fsdecode(source).removeprefix("file://")
    if ADDRESS.match(name):
        return name, name, "http,https,httpproxy,tcp,tls", None
    if not os.path.exists(name):
        if "://" in name:
            raise VideoDecodeError(name, "only files and http(s) addresses are read; download it first")
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    is_file = os.path.isfile(name)  # and not a pipe
    if is_file and not os.path.getsize(name):
        raise VideoDecodeError(name, "the file is empty; download it again or leave it out")
    # Without "file:" a name with a colon would be taken for an address.
    return name, f"file:{name}", "file", Path(name).read_bytes if is_file else None


def is_mp4(source) -> bool:
    """Whether a file or bytes are an mp4, whose header suffices to set up a decoder."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source[4:8]) == b"ftyp"
    if not isinstance(source, (str, os.PathLike)) or not os.path.isfile(source):  # do not read from a pipe
        return False
    with open(source, "rb") as file:
        return file.read(8)[4:] == b"ftyp"


def downloaded(source, max_seconds: float) -> BinaryIO | None:
    """The file at an address whose server cannot send parts, so that FFmpeg may not reach the index of an mp4."""
    if not isinstance(source, str) or not ADDRESS.match(source):
        return None
    file, deadline = io.BytesIO(), time.monotonic() + max_seconds
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


def video_stream(container, name: str, max_pixels: int):
    """The stream that players show, never a cover image."""
    from av.stream import Disposition

    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise VideoDecodeError(name, "has no video stream (only sound or a cover image); leave it out")
    best = container.streams.best("video")
    stream = best if best in streams else streams[0]
    context = stream.codec_context
    if context is None:
        raise VideoDecodeError(name, "there is no decoder for its video stream; re-encode it, as H.264 for example")
    if not context.width * context.height or not stream.time_base:  # decoders forget a size that their limit refuses
        reason = f"it is truncated, FFmpeg cannot decode it, or frames have more than {max_pixels} pixels"
        reason = f"the size of its frames cannot be read: {reason}; download it again or leave it out"
        raise VideoDecodeError(name, reason)
    if context.width * context.height > max_pixels:
        size = f"{context.width} x {context.height}"
        raise VideoDecodeError(name, f"frames of {size}, but {max_pixels} pixels are allowed: scale it down")
    return stream
