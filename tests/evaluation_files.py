"""A tiny saved classifier and small labelled videos for the tests of evaluation and prediction."""

from pathlib import Path

import numpy as np

from tests.conftest import randomize
from tests.video_files import write_video
from videoms_hf import VideoMSConfig, VideoMSForVideoClassification
from videoms_hf.video_processing_videoms import VideoMSVideoProcessor


CLASSES = ["wave", "hop", "spin"]
SIZE, WIDTH, NUM_FRAMES, STRIDE = 32, 48, 8, 2


def save_classifier(folder, names=CLASSES, **fields) -> Path:
    """Folder with a classifier of random weights, of clips of 8 frames of 32 x 32, and its processor of stride 2."""
    config = VideoMSConfig(
        **{
            "image_size": SIZE,
            "patch_size": 8,
            "num_frames": NUM_FRAMES,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "decoder_hidden_size": 12,
            "decoder_num_attention_heads": 3,
            "decoder_intermediate_size": 20,
            "id2label": dict(enumerate(names)),
            "label2id": {name: i for i, name in enumerate(names)},
            **fields,
        }
    )
    randomize(VideoMSForVideoClassification(config)).save_pretrained(folder)
    processor = VideoMSVideoProcessor(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        num_frames=NUM_FRAMES,
        frame_stride=STRIDE,
        candidate_ratio=config.candidate_ratio,
    )
    processor.save_pretrained(folder)
    return Path(folder)


def write_noise(path, num_frames: int, seed: int) -> Path:
    """The path of a video of coarse noise that changes from frame to frame, 32 x 48: no resize is needed."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (num_frames, SIZE // 8, WIDTH // 8, 3), dtype=np.uint8)
    return write_video(path, frames.repeat(8, axis=1).repeat(8, axis=2))


def write_labelled_videos(folder) -> Path:
    """List of 5 videos of 6 to 40 frames (short ones repeat their last frame) with numbers as labels."""
    lines = []
    for i, num_frames in enumerate([6, 17, 24, 33, 40]):
        write_noise(folder / f"clip {i}.mp4", num_frames, seed=i)
        lines.append(f"clip {i}.mp4 {i % 3}\n")
    (folder / "test.csv").write_text("".join(lines))
    return folder / "test.csv"
