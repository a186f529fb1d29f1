"""Small real video files for tests."""

from pathlib import Path

import av
import numpy as np


def write_video(path, frames: np.ndarray, codec: str = "libx264", fps: int = 25, **options: str) -> Path:
    """The path of a file with `frames` uint8 (T, H, W, 3), RGB; its ending chooses the container, and height and width
    must be even. `options` are the encoder's, such as crf or g."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={"threads": "1", **options})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return Path(path)


def write_ramp(path, num_frames: int = 12, height: int = 32, width: int = 48, step: int = 20, **options) -> Path:
    """The path of a video whose frame i is grey of level `step * i`, so that every decoded frame names itself."""
    levels = (step * np.arange(num_frames)).astype(np.uint8)[:, None, None, None]
    return write_video(path, np.broadcast_to(levels, (num_frames, height, width, 3)), **options)


def write_sound(path) -> Path:
    """The path of a file with a tenth of a second of silence and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Path(path)
