"""Videos for the decoding benchmarks: a panned image with moving patches and sensor noise."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


PIXELS = {"mjpeg": "yuvj420p", "gif": "rgb8"}  # pixel formats other than yuv420p
# Name: encoder, height, width, options. Bit rates are typical of UCF101 and Kinetics (0.25 and 0.22 bits per pixel)
# and of 720p video on the web (0.13).
KINDS = {
    "320x240 MPEG-4 AVI": ("mpeg4", 240, 320, {"g": "12", "b": "480k"}),
    "340x256 H.264 GOP 30": ("libx264", 256, 340, {"g": "30", "b": "480k"}),
    "340x256 H.264 GOP 250": ("libx264", 256, 340, {"g": "250", "b": "480k"}),
    "720p H.264 GOP 30": ("libx264", 720, 1280, {"g": "30", "b": "3000k"}),
    "720p H.264 GOP 250": ("libx264", 720, 1280, {"g": "250", "b": "3000k"}),
}


def write_videos(folder: Path, kinds: list[str], num_frames: int = 250) -> dict[str, Path]:
    """Paths of one video of each kind; existing files are kept."""
    paths = {}
    for kind in kinds:
        codec, height, width, options = KINDS[kind]
        paths[kind] = folder / (kind.replace(" ", "_") + (".avi" if codec == "mpeg4" else ".mp4"))
        if not paths[kind].exists():
            write_video(paths[kind], moving_frames(num_frames, height, width), codec, options)
    return paths


def moving_frames(num_frames: int, height: int, width: int):
    """Yields frames uint8 (H, W, 3)."""
    rng = np.random.default_rng(0)
    picture = natural_picture(rng, height + 200, width + 200)
    patches = [natural_picture(rng, height // 4, width // 6) for _ in range(4)]
    for i in range(num_frames):
        top, left = (int(100 + 90 * f(i / 40)) for f in (np.sin, np.cos))
        frame = picture[top : top + height, left : left + width].astype(np.float32)
        for k, patch in enumerate(patches):
            y = int((height - patch.shape[0]) * (0.5 + 0.5 * np.sin(i / (9 + 4 * k) + k)))
            x = int((width - patch.shape[1]) * (0.5 + 0.5 * np.cos(i / (12 + 3 * k))))
            frame[y : y + patch.shape[0], x : x + patch.shape[1]] = patch
        grain = rng.normal(0, 3, (height, width, 1))
        yield (frame + grain).clip(0, 255).astype(np.uint8)


def natural_picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise with the 1/f spectrum of photographs, uint8 (H, W, 3)."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) + 1 / max(height, width)
    channels = []
    for _ in range(3):
        noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) / frequency, (height, width))
        channels.append(128 + 50 * noise / noise.std())
    return np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8)


def write_video(path: Path, frames, codec: str, options: dict) -> None:
    """Encode `frames` at 25 fps; the file appears when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name("part_" + path.name)
    with av.open(str(part), "w") as container:
        stream = None
        for i, frame in enumerate(frames):
            if stream is None:
                rate = int(float(options.get("b", "0").rstrip("k")) * 1000)
                stream = container.add_stream(codec, rate=25, options={k: v for k, v in options.items() if k != "b"})
                stream.height, stream.width, stream.pix_fmt = *frame.shape[:2], PIXELS.get(codec, "yuv420p")
                stream.codec_context.time_base = Fraction(1, 25)
                if rate:
                    stream.bit_rate = rate
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = i
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    part.rename(path)
