"""README's animation: a rendered video next to the tokens that VideoMS keeps of it.

python scripts/benchmarks/kept_tokens.py docs/kept_tokens.webp
"""

import argparse
import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from transformers import set_seed

from videoms_hf import VideoMSConfig, VideoMSForVideoClassification
from videoms_hf.configuration_videoms import IMAGENET_MEAN, IMAGENET_STD
from videoms_hf.experiments import synthetic
from videoms_hf.visualization.animation import write_animation
from videoms_hf.visualization.clips import clip_tokens, clip_windows


synthetic.SOFT_EDGE, synthetic.TEXTURE_SIZE = 0.06, 256  # sharper than for small training clips
NUM_FRAMES, STRIDE, SIDE, KEEP_RATIO = 48, 1, 448, 0.3
MARGIN, TOP, GAP, CORNER = 24, 64, 2, 5
DARK, LIGHT, ORANGE = (13, 17, 23), (240, 246, 252), (255, 168, 0)
# Seed of an object's look; its first place and its way round the picture in one loop, columns and rows; its radius.
OBJECTS = (
    (31, (0.0, 0.22), (1, 0), 0.15),
    (23, (0.78, 0.5), (0, -1), 0.12),
    (43, (0.5, 0.72), (-1, 1), 0.15),
    (20, (0.0, 0.75), (-1, 0), 0.13),
)


def render() -> torch.Tensor:
    """Objects that move round over a still background and are where they began after the last frame, (T, 3, S, S)."""
    frames = synthetic._background(SIDE, np.random.default_rng(3)).expand(NUM_FRAMES, -1, -1, -1)
    loop = np.arange(NUM_FRAMES)[:, None] / NUM_FRAMES
    for seed, start, way, radius in OBJECTS:
        rng = np.random.default_rng(seed)
        places = (np.array(start) + loop * np.array(way)) % 1
        frames = synthetic._paste(frames, synthetic._sprite(rng), places, 2 * math.pi * rng.random(), radius)
    return (frames * 255).round().clamp(0, 255).to(torch.uint8)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("output", help="file to write: .webp, .gif or .mp4")
    args = options.parse_args()
    set_seed(0)
    model = VideoMSForVideoClassification(VideoMSConfig.from_size("small", keep_ratio=KEEP_RATIO)).eval()
    frames = render()
    pixels = torch.nn.functional.avg_pool2d(frames.float() / 255, SIDE // 224)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    kept = torch.zeros(NUM_FRAMES, 14, 14, dtype=torch.bool)
    for window in clip_windows(NUM_FRAMES, 16, STRIDE):
        clips = ((pixels - mean) / std)[torch.from_numpy(window)]
        for numbers, look in zip(window, clip_tokens(model, clips), strict=True):
            kept[torch.from_numpy(numbers)] = look.kept.view(look.grid).repeat_interleave(2, dim=0)
    write_animation((picture(*pair) for pair in zip(frames, kept, strict=True)), args.output, 16, quality=90)


def picture(frame: torch.Tensor, kept: torch.Tensor) -> np.ndarray:
    """One picture of the animation, uint8 (H, W, 3)."""
    image = Image.fromarray(frame.permute(1, 2, 0).numpy())
    canvas = Image.new("RGB", (3 * MARGIN + 2 * SIDE, TOP + SIDE + MARGIN), DARK)
    canvas.paste(image, (MARGIN, TOP))
    left, token = 2 * MARGIN + SIDE, SIDE // len(kept)
    mask = Image.new("L", (SIDE, SIDE), 0)
    draw = ImageDraw.Draw(mask)
    for row, column in kept.nonzero().tolist():
        x, y = column * token, row * token
        draw.rounded_rectangle([x + GAP, y + GAP, x + token - GAP - 1, y + token - GAP - 1], CORNER, fill=255)
    still = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, DARK), 0.88)
    canvas.paste(Image.composite(image, still, mask), (left, TOP))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(26)
    draw.text((MARGIN, TOP // 2), "The video", LIGHT, font, anchor="lm")
    draw.text((left, TOP // 2), f"What VideoMS computes on: {KEEP_RATIO:.0%}", ORANGE, font, anchor="lm")
    return np.asarray(canvas)


if __name__ == "__main__":
    main()
