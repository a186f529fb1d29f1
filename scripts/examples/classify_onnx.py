"""Classify a video with a model from `videoms export`, by onnxruntime, PyAV and NumPy alone.

python scripts/examples/classify_onnx.py onnx video.mp4

Pixels equal those of `VideoMSVideoProcessor` up to float32 rounding (1e-6) on CPUs with AVX2 or ARM; on others,
torchvision resizes in floating point, and a value may differ by 1 of 255 levels. Videos that are stored mirrored are
not turned, and the whole video is decoded, twice.
"""

import json
import sys
from pathlib import Path

import av
import numpy as np
import onnxruntime


def decoded(path):
    with av.open(path) as container:
        yield from container.decode(video=0)


def clip_indices(length: int, num_frames: int, stride: int | None) -> list[int]:
    """Frames in the middle of the video, `stride` apart, or spread over it; a short one repeats its last frame."""
    if stride is None:
        parts = min(num_frames, length)
        indices = [(2 * i + 1) * length // (2 * parts) for i in range(parts)]
    elif length < (window := num_frames * stride):
        indices = list(range(0, length, stride))
    else:
        start = (length - window) // 2
        indices = np.linspace(start, start + window, num_frames).astype(int).clip(max=start + window - 1).tolist()
    return (indices + indices[-1:] * num_frames)[:num_frames]


def read_clip(path, num_frames: int, stride: int | None) -> list[np.ndarray]:
    """Frames (H, W, 3), RGB uint8."""
    indices = clip_indices(sum(1 for _ in decoded(path)), num_frames, stride)
    pictures = {}
    for i, frame in enumerate(decoded(path)):
        if i in indices:
            picture = frame.reformat(format="rgb24", dst_color_range="JPEG").to_ndarray()
            pictures[i] = np.rot90(picture, frame.rotation // 90)
    return [pictures[i] for i in indices]


def resize_axis(frame: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Bilinear resize of one axis with antialiasing, in integers, as torch does it for uint8."""
    scale = frame.shape[axis] / size
    reach = max(scale, 1.0)
    centres = scale * (np.arange(size)[:, None] + 0.5)
    pixels = np.arange(frame.shape[axis])
    is_near = (pixels >= (centres - reach + 0.5).astype(int)) & (pixels < (centres + reach + 0.5).astype(int))
    weights = np.where(is_near, np.maximum(1 - np.abs(pixels - centres + 0.5) / reach, 0), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    bits = max(bits for bits in range(22) if int(0.5 + weights.max() * 2**bits) < 2**15)
    sums = np.tensordot(np.floor(weights * 2**bits + 0.5), frame.astype(np.float64), (1, axis))
    return np.moveaxis((np.floor(sums + 2 ** (bits - 1)) // 2**bits).clip(0, 255), 0, axis)


def preprocess(path, settings: dict) -> np.ndarray:
    """`pixel_values` float32 (1, T, 3, H, W) of the middle of a video, by "preprocessing" of the JSON file."""
    size, crop = settings["size"], settings["crop_size"]
    clip = []
    for frame in read_clip(path, settings["num_frames"], settings["frame_stride"]):
        height, width = frame.shape[:2]
        if "shortest_edge" in size:
            short = size["shortest_edge"]
            new = (short, short * width // height) if height <= width else (short * height // width, short)
        else:
            new = size["height"], size["width"]
        if (height, width) != new:
            frame = resize_axis(resize_axis(frame, new[1], axis=1), new[0], axis=0)
        top, left = (new[0] - crop["height"]) // 2, (new[1] - crop["width"]) // 2
        clip.append(frame[top : top + crop["height"], left : left + crop["width"]])
    mean, std = (
        np.float32(settings[name]) * np.float32(1 / settings["rescale_factor"]) for name in ("image_mean", "image_std")
    )
    return ((np.float32(clip) - mean) / std).transpose(0, 3, 1, 2)[None]


def main(folder: str, video: str) -> None:
    settings = json.loads((Path(folder) / "preprocessing.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(Path(folder) / "model.onnx", providers=["CPUExecutionProvider"])
    inputs = {"pixel_values": preprocess(video, settings["preprocessing"])}
    if "keep_ratio" in settings["inputs"]:
        inputs["keep_ratio"] = np.array(settings["keep_ratio"])  # any value in (0, 1]: less is faster
    (logits,) = session.run(["logits"], inputs)
    scores = np.exp(logits[0] - logits[0].max())
    scores /= scores.sum()
    for i in scores.argsort()[::-1][:5]:
        print(f"{scores[i]:7.2%}  {settings['classes'][i]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
