"""A clip at minute 30 of a one-hour video, compared with one at minute 0: earlier frames must not be decoded.

python scripts/benchmarks/decode_long.py --output decode_long.json

The video has small frames at 25 fps, in mp4 and Matroska. The clip of 16 frames at stride 4 is requested by frame
indices and by a window in seconds, as Ego4D's annotations do.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import report
import torch
from decode_files import write_video

from videoms_hf.decoding_videoms import decode_frames


FPS, MINUTES = 25, (0, 30)


def hour_frames():
    """Yields an hour of frames uint8 (H, W, 3) of changing grey."""
    for i in range(3600 * FPS):
        yield np.full((48, 64, 3), 40 + i % 170, dtype=np.uint8)


def read(path: Path, minute: int, by: str) -> None:
    numbers = 4 * np.arange(16)
    if by == "frame numbers":
        clip = decode_frames(path, minute * 60 * FPS + numbers)
    else:
        clip = decode_frames(path, numbers, start_seconds=60 * minute, end_seconds=60 * minute + 4)
    expected = 40 + (minute * 60 * FPS + numbers) % 170
    assert (clip.float().mean(dim=(1, 2, 3)) - torch.from_numpy(expected)).abs().max() < 6


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "videoms_decode_benchmark")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in ("hour.mp4", "hour.mkv"):
        path = args.folder / name
        if not path.exists():
            write_video(path, hour_frames(), "libx264", {"g": "250", "preset": "ultrafast"})
        for by in ("frame numbers", "seconds"):
            times = {minute: [] for minute in MINUTES}
            for repeat in range(args.repeats + 1):  # the first one warms up
                for minute in MINUTES:
                    start = time.process_time()
                    read(path, minute, by)
                    times[minute] += [1000 * (time.process_time() - start)] if repeat else []
            first, later = (statistics.median(times[minute]) for minute in MINUTES)
            rows.append({"file": name, "by": by, "minute 0 ms": first, "minute 30 ms": later, "ratio": later / first})
    report.write_report(rows, args.output)


if __name__ == "__main__":
    main()
