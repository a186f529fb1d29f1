"""Reads clips for a long time: memory must not grow, and workers must neither hang nor outlive their loader.

python scripts/benchmarks/soak.py --reads 20000
python scripts/benchmarks/soak.py --workers 8 --minutes 10

Without workers, one process reads random clips from small intact and truncated files of several codecs, and compares
the resident memory after a tenth of the reads with that at the end. With workers, a `DataLoader` serves epoch after
epoch.
"""

import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import psutil
import report
import torch
from datasets import ClassLabel, Features, Value
from decode_files import moving_frames, write_video

from videoms_hf import VideoDecodeError, open_video
from videoms_hf.data.collate import collate_clips
from videoms_hf.data.dataset import ClipDataset
from videoms_hf.data.transforms import PretrainingTransform
from videoms_hf.sampling_videoms import pretraining_clip


CODECS = {"a.avi": ("mpeg4", {"g": "12"}), "b.mp4": ("libx264", {"g": "12"}), "c.webm": ("libvpx-vp9", {"g": "12"})}


def write_files(folder: Path) -> list[Path]:
    """Paths of an intact file of each codec and of a truncated one."""
    paths = [folder / name for name in CODECS]
    for path, (codec, options) in zip(paths, CODECS.values(), strict=True):
        write_video(path, moving_frames(48, 64, 80), codec, options)
    paths.append(folder / "cut.mp4")
    paths[-1].write_bytes(paths[1].read_bytes()[:3000])
    return paths


def resident() -> int:
    return psutil.Process().memory_info().rss


def read_clips(paths: list[Path], reads: int) -> dict:
    """Growth of the resident memory over `reads` clips."""
    rng, before, errors = np.random.default_rng(0), 0, 0
    for i in range(reads):
        path = paths[i % len(paths)]
        try:
            with open_video(path) as video:
                clip = video.frames(pretraining_clip(len(video), 8, 4, rng))
            assert clip.shape == (8, 3, 64, 80)
        except VideoDecodeError:
            errors += 1
        if i == reads // 10:
            before = resident()
    after = resident()
    return {
        "reads": reads,
        "errors": errors,
        "MB before": before / 1e6,
        "MB after": after / 1e6,
        "growth %": 100 * (after / before - 1),
    }


def serve(paths: list[Path], num_workers: int, minutes: float) -> dict:
    """Clips that a loader serves in that time, and processes that remain afterwards."""
    features = Features({"video": Value("string"), "label": ClassLabel(names=["one"])})
    rows = {"video": [str(path) for path in paths[:-1] * 40], "label": [0] * 40 * (len(paths) - 1)}
    table = datasets.Dataset.from_dict(rows, features=features)

    def choose(num_frames, rng):
        return pretraining_clip(num_frames, 8, 4, rng)

    clips = ClipDataset(table, choose, PretrainingTransform(64))
    end, served, epoch = time.monotonic() + 60 * minutes, 0, 0
    while time.monotonic() < end:  # new workers every third epoch, so that many start and end
        loader = torch.utils.data.DataLoader(
            clips, 4, num_workers=num_workers, collate_fn=collate_clips, persistent_workers=True, timeout=120
        )
        for _ in range(3):
            clips.set_epoch(epoch)
            served, epoch = served + sum(len(batch["pixel_values"]) for batch in loader), epoch + 1
        del loader
    left = psutil.Process().children(recursive=True)
    zombies = [process for process in left if process.status() == psutil.STATUS_ZOMBIE]
    return {
        "workers": num_workers,
        "minutes": minutes,
        "epochs": epoch,
        "clips": served,
        "processes left": len(left),
        "zombies": len(zombies),
        "expected": epoch * len(clips),
    }


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--reads", type=int, default=20000)
    parser.add_argument("--workers", type=int, default=0, help="serve with a loader of this many workers instead")
    parser.add_argument("--minutes", type=float, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_files(Path(folder))
        row = serve(paths, args.workers, args.minutes) if args.workers else read_clips(paths, args.reads)
    report.write_report([row], args.output)


if __name__ == "__main__":
    main()
