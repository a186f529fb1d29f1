"""Clips a CPU second against decord and torchcodec: decode, random resized crop to 224, bytes; on one thread.

python scripts/benchmarks/decode.py --output decode.json
python scripts/benchmarks/decode.py --videos my/videos/*.mp4

16 frames at stride 4 from a random start; the same draws for every loader, interleaved; processor time. "x decord" is
the median over the draws of decord's time for the same clips divided by ours. decord and torchcodec are used where
they are installed (`pip install decord==0.6.0 torchcodec`). "ours" crops while decoding, as pre-training does.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import report
import torch
import torch.nn.functional as F
from decode_files import KINDS, write_videos
from torchvision.transforms import RandomResizedCrop

from videoms_hf import open_video
from videoms_hf.decoding_videoms import probe_video
from videoms_hf.reader_videoms import Crop


SIZE, NUM_FRAMES, STRIDE = 224, 16, 4


def ours(path, numbers, crops):
    with open_video(path) as video:
        parts = video.clips(np.split(np.asarray(numbers), len(crops)), [Crop(*crop) for crop in crops])
    return [clip for part in parts for clip in resized(part, [(0, 0, *part.shape[-2:])])]


def resized(frames, crops):
    """A clip (T, 3, 224, 224) of each crop (top, left, height, width), from frames (N T, 3, H, W)."""
    clips = []
    for clip, (top, left, height, width) in zip(frames.split(NUM_FRAMES), crops, strict=True):
        part = clip[..., top : top + height, left : left + width].contiguous(memory_format=torch.channels_last)
        clips.append(F.interpolate(part, (SIZE, SIZE), mode="bilinear"))
    return clips


def loaders() -> dict:
    """Functions of path, frame numbers and crops to clips, by name; what is not installed is said and left out."""
    found = {"ours": ours}
    try:
        import decord

        def by_decord(path, numbers, crops):
            frames = decord.VideoReader(str(path), num_threads=1).get_batch(numbers).asnumpy()
            return resized(torch.from_numpy(frames).permute(0, 3, 1, 2), crops)

        found["decord"] = by_decord
    except (ImportError, OSError) as error:
        print(f"without decord: {error}")
    try:
        from torchcodec.decoders import VideoDecoder

        def by_torchcodec(path, numbers, crops):
            decoder = VideoDecoder(str(path), num_ffmpeg_threads=1, dimension_order="NHWC", seek_mode="exact")
            return resized(decoder.get_frames_at(indices=numbers).data.permute(0, 3, 1, 2), crops)

        found["torchcodec"] = by_torchcodec
    except (ImportError, OSError, RuntimeError) as error:
        print(f"without torchcodec: {str(error).splitlines()[0]}")
    return found


def measure(path, num_clips: int, num_draws: int, contestants: dict) -> dict:
    """Processor milliseconds a clip of every contestant, medians, and the median ratios to ours."""
    info, rng = probe_video(path), np.random.default_rng(0)
    times = {name: [] for name in contestants}
    for draw in range(num_draws + 1):  # the first one warms up
        starts = rng.integers(max(info.num_frames - NUM_FRAMES * STRIDE, 0) + 1, size=num_clips)
        numbers = np.minimum(starts[:, None] + STRIDE * np.arange(NUM_FRAMES), info.num_frames - 1).ravel().tolist()
        picture = torch.empty(3, info.height, info.width)
        crops = [RandomResizedCrop.get_params(picture, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in starts]
        order = list(contestants)
        for name in order[draw % len(order) :] + order[: draw % len(order)]:
            start = time.process_time()
            contestants[name](path, numbers, crops)
            if draw:
                times[name].append((time.process_time() - start) * 1000 / num_clips)
    row = {f"{name} ms": statistics.median(values) for name, values in times.items()}
    others = [name for name in times if name != "ours"]
    for name in others:
        row[f"x {name}"] = statistics.median(a / b for a, b in zip(times[name], times["ours"], strict=True))
    return row


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--videos", nargs="+", type=Path, help="own videos instead of those that the script makes")
    parser.add_argument("--draws", type=int, default=15)
    parser.add_argument("--clips", nargs="+", type=int, default=[1, 4], help="clips of one video at once")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "videoms_decode_benchmark")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    videos = {path.name: path for path in args.videos} if args.videos else write_videos(args.folder, args.kinds)
    contestants, rows = loaders(), []
    for name, path in videos.items():
        for num_clips in args.clips:
            rows.append({"video": name, "clips": num_clips, **measure(path, num_clips, args.draws, contestants)})
            print(rows[-1], flush=True)
    report.write_report(rows, args.output)


if __name__ == "__main__":
    main()
