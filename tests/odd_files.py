"""Video files of every trait that the decoder must cope with. Every frame shows its own number."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition


NUM_FRAMES = 24
FPS = 25
CODE_BITS = 6
QUIET_X265 = "pools=1:frame-threads=1:log-level=none:keyint=8:bframes=3"
VFR_PTS = np.cumsum([40, 10, 90, 33, 17, 200] * 4).tolist()  # milliseconds

# Name: encoder, pixel format, options of the encoder, and of `write_numbered`.
FILES = {
    "h264.mp4": ("libx264", "yuv420p", {"bf": "3", "g": "12"}, {}),
    "h264 open gop.mp4": (
        "libx264",
        "yuv420p",
        {"x264-params": "open-gop=1:keyint=8:min-keyint=8:bframes=3:scenecut=0"},
        {},
    ),
    "h264 intra refresh.mp4": ("libx264", "yuv420p", {"x264-params": "intra-refresh=1:keyint=8"}, {}),
    "h264 sliced.mp4": ("libx264", "yuv420p", {"x264-params": "slices=3:bframes=2:keyint=8"}, {}),
    "h264 all key.mp4": ("libx264", "yuv420p", {"g": "1"}, {}),
    "h264.mkv": ("libx264", "yuv420p", {"bf": "3", "g": "8"}, {}),
    "h264.ts": ("libx264", "yuv420p", {"bf": "2", "g": "8"}, {}),
    "h264.flv": ("libx264", "yuv420p", {"bf": "2", "g": "8"}, {}),
    "h264.avi": ("libx264", "yuv420p", {"bf": "2", "g": "8"}, {}),
    "h264 fragments.mp4": (
        "libx264",
        "yuv420p",
        {"bf": "2", "g": "8"},
        {"container": {"movflags": "frag_keyframe+empty_moov"}},
    ),
    "h264 edit list.mp4": (
        "libx264",
        "yuv420p",
        {"bf": "2", "g": "8"},
        {"pts": [40 * (i - 5) for i in range(NUM_FRAMES)], "container": {"avoid_negative_ts": "disabled"}},
    ),
    "variable rate.mp4": ("libx264", "yuv420p", {"bf": "2", "g": "8"}, {"pts": VFR_PTS}),
    "variable rate.mkv": ("libx264", "yuv420p", {"bf": "2", "g": "8"}, {"pts": VFR_PTS}),
    "hevc.mp4": ("libx265", "yuv420p", {"x265-params": QUIET_X265}, {}),
    "hevc open gop.mkv": ("libx265", "yuv420p", {"x265-params": QUIET_X265 + ":open-gop=1"}, {}),
    "vp9.webm": (
        "libvpx-vp9",
        "yuv420p",
        {"g": "8", "auto-alt-ref": "1", "lag-in-frames": "8", "cpu-used": "8"},
        {},
    ),
    "vp8.webm": ("libvpx", "yuv420p", {"g": "8", "auto-alt-ref": "1", "lag-in-frames": "8"}, {}),
    "av1.webm": ("libsvtav1", "yuv420p", {"preset": "12", "g": "8"}, {}),
    "av1.mp4": ("libsvtav1", "yuv420p", {"preset": "12", "g": "8"}, {}),
    "mpeg4.avi": ("mpeg4", "yuv420p", {"g": "8", "qmax": "2"}, {}),
    "mpeg4 b.avi": ("mpeg4", "yuv420p", {"g": "8", "bf": "2", "qmax": "2"}, {}),
    "mpeg4 b.mp4": ("mpeg4", "yuv420p", {"g": "8", "bf": "2"}, {}),
    "msmpeg4.avi": ("msmpeg4", "yuv420p", {"g": "8"}, {}),
    "wmv2.wmv": ("wmv2", "yuv420p", {"g": "8"}, {}),
    "mjpeg.avi": ("mjpeg", "yuvj420p", {}, {}),
    "animation.gif": ("gif", "rgb8", {}, {}),
    "animation.apng": ("apng", "rgb24", {}, {}),
    "10 bit.mp4": ("libx264", "yuv420p10le", {"bf": "2", "g": "8"}, {}),
    "10 bit 422.mov": ("prores", "yuv422p10le", {}, {}),
    "full range.mp4": ("libx264", "yuvj420p", {"bf": "2", "g": "8"}, {}),
    "grey.mkv": ("ffv1", "gray", {}, {}),
    "grey.mp4": ("libx264", "gray", {"bf": "2", "g": "8"}, {}),
    "alpha.mov": ("qtrle", "argb", {}, {}),
    "alpha.webm": ("libvpx-vp9", "yuva420p", {"g": "8", "cpu-used": "8"}, {}),
    "odd size 444.mp4": ("libx264", "yuv444p", {"bf": "2", "g": "8"}, {"size": (47, 63)}),
    "odd size 420.mkv": ("ffv1", "yuv420p", {}, {"size": (47, 63)}),
}


def numbered_frames(num_frames: int = NUM_FRAMES, size: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    """Frames uint8 (H, W, 3) of a moving pattern, with their number in black and white blocks at the bottom."""
    height, width = size
    rng = np.random.default_rng(0)
    pattern = rng.integers(0, 256, (height // 8 + 9, width // 8 + 9, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    frames = []
    for i in range(num_frames):
        frame = np.ascontiguousarray(pattern[i % 64 : i % 64 + height, (2 * i) % 64 : (2 * i) % 64 + width])
        for bit in range(CODE_BITS):
            frame[-16:, bit * (width // CODE_BITS) : (bit + 1) * (width // CODE_BITS)] = 255 * (i >> bit & 1)
        frames.append(frame)
    return frames


def shown_number(frame: np.ndarray) -> int:
    """The number that a frame (H, W, 3) shows."""
    step = frame.shape[1] // CODE_BITS
    places = [frame[-11:-5, bit * step + step // 3 : (bit + 1) * step - step // 3] for bit in range(CODE_BITS)]
    return sum((place.mean() > 128) << bit for bit, place in enumerate(places))


def encoder(container, codec: str, pix_fmt: str, size: tuple[int, int], options: dict | None = None, ticks: int = FPS):
    """A new stream with `ticks` time stamps a second."""
    stream = container.add_stream(codec, rate=FPS, options=options or {})
    stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
    stream.codec_context.time_base = Fraction(1, ticks)
    stream.codec_context.thread_count = 1
    return stream


def encode(stream, frames: list[np.ndarray], pts: list[int] | None = None) -> list:
    """The packets of frames."""
    packets = []
    for i, frame in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(frame, format="rgb24")
        frame.pts, frame.time_base = i if pts is None else pts[i], stream.codec_context.time_base
        packets += stream.encode(frame)
    return packets + stream.encode()


def write_numbered(path, codec, pix_fmt, options, *, size=(48, 64), pts=None, container=None, num_frames=NUM_FRAMES):
    """The path of a file with numbered frames; `pts` in milliseconds."""
    with av.open(str(path), "w", options=container or {}) as output:
        stream = encoder(output, codec, pix_fmt, size, options, FPS if pts is None else 1000)
        output.mux(encode(stream, numbered_frames(num_frames, size), pts))
    return Path(path)


def write_file(folder: Path, name: str) -> Path:
    """The path of one of `FILES` in a folder."""
    codec, pix_fmt, options, more = FILES[name]
    return write_numbered(folder / name, codec, pix_fmt, options, **more)


def write_packed(path) -> Path:
    """The path of an AVI as DivX wrote it: each B picture behind the picture that it needs, then a dummy packet."""
    with av.open(str(path), "w") as output:
        stream = encoder(output, "mpeg4", "yuv420p", (48, 64), {"g": "9", "bf": "1", "b_strategy": "0"})
        packets = [bytes(packet) for packet in encode(stream, numbered_frames())]
        marker = b"\x00\x00\x01\xb2DivX503b1393p\x00"
        kinds = [data[data.index(b"\x00\x00\x01\xb6") + 4] >> 6 for data in packets]
        packed, i = [], 0
        while i < len(packets):
            data = packets[i]
            if kinds[i] == 0:  # key pictures carry the word that B pictures are packed
                start = data.index(b"\x00\x00\x01\xb6")
                data = data[:start] + marker + data[start:]
            if i + 1 < len(packets) and kinds[i + 1] == 2:
                # A picture that is not coded: type P, no whole second, marker, 5 bits of time, marker, 0.
                packed += [data + packets[i + 1], b"\x00\x00\x01\xb6" + bytes([0b01010000, 0b01000000])]
                i += 1
            else:
                packed.append(data)
            i += 1
        for i, data in enumerate(packed):
            packet = av.Packet(data)
            packet.stream, packet.time_base, packet.dts, packet.pts = stream, Fraction(1, FPS), i, i
            packet.is_keyframe = marker in data
            output.mux(packet)
    return Path(path)


def write_turned(path, matrix: tuple[int, int, int, int]) -> Path:
    """The path of an mp4 with numbered frames to be displayed turned: see [`turn_mp4`]."""
    return turn_mp4(write_numbered(path, "libx264", "yuv420p", {"bf": "2", "g": "8"}), matrix)


def turn_mp4(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """The path of an mp4, now to be displayed turned: x' = a x + c y, y' = b x + d y for the matrix a b c d."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 4 + 4 * 5 + 8 + 8  # version and flags, times and id, reserved, layer and volume
    a, b, c, d = (value * 65536 for value in matrix)
    data[start : start + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], dtype=">i4").tobytes()
    path.write_bytes(data)
    return path


def write_streams(path, with_cover: bool) -> Path:
    """The path of a file with a cover picture, or another video stream, before the one that players show."""
    with av.open(str(path), "w") as output:
        other = encoder(output, "mjpeg" if with_cover else "libx264", "yuvj420p", (96, 96))
        main = encoder(output, "libx264", "yuv420p", (48, 64), {"bf": "2", "g": "8"})
        main.disposition = Disposition.default
        other.disposition = Disposition.attached_pic if with_cover else Disposition(0)
        cover = encode(other, numbered_frames(1 if with_cover else NUM_FRAMES, (96, 96)))
        output.mux(cover)
        output.mux(encode(main, numbered_frames()))
    return path


def every_frame(path, stream=0):
    """All frames of a file by a plain decode from its beginning, uint8 (N, H, W, 3); and their times in seconds."""
    images, times, is_open = [], [], True
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.video[stream]
        context, packets = stream.codec_context, container.demux(stream)
        context.thread_count = 1  # with several, damage looks different
        while is_open:
            try:
                packet = next((packet for packet in packets if packet.size), None)
            except av.error.FFmpegError:  # where the file is cut
                packet = None
            is_open = packet is not None
            try:
                frames = context.decode(packet)
            except av.error.FFmpegError:
                continue
            for frame in frames:
                images.append(frame.reformat(format="rgb24", dst_color_range="JPEG").to_ndarray())
                times.append(None if frame.pts is None else float(frame.pts * stream.time_base))
    return np.stack(images), times


def images(clip):
    return clip.permute(0, 2, 3, 1).numpy()


def spoil(data, seed, share=0.01):
    """Bytes with some in the middle overwritten."""
    rng = np.random.default_rng(seed)
    data = np.frombuffer(data, dtype=np.uint8).copy()
    start, stop = len(data) // 5, len(data) * 4 // 5
    places = rng.integers(start, stop, max(int(share * len(data)), 1))
    data[places] = rng.integers(0, 256, len(places))
    return data.tobytes()


def overwrite(path, number, data):
    """Overwrites the start of a packet in a file."""
    with av.open(str(path)) as container:
        packet = bytes([packet for packet in container.demux(video=0) if packet.size][number])
    content = path.read_bytes()
    path.write_bytes(content.replace(packet, (data + packet[len(data) :])[: len(packet)], 1))
