"""Reads truncated, altered and spliced files: each must give frames or a VideoDecodeError, in bounded time and memory.

python scripts/benchmarks/fuzz.py --files 2000

Each file is read in three ways: its length, a clip, and a window in seconds. Batches of files are read in processes
with limited memory. A crash, any other error or a timeout is reported with the recipe, and the script exits with
status 1. `--keep` saves such files.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import report
from decode_files import moving_frames, write_video

from videoms_hf import VideoDecodeError, open_video
from videoms_hf.decoding_videoms import decode_frames, probe_video
from videoms_hf.reader_videoms import VideoReader, redraws
from videoms_hf.sampling_videoms import pretraining_clip


CODECS = {
    "a.avi": ("mpeg4", {"g": "8", "bf": "2"}),
    "b.mp4": ("libx264", {"g": "8", "bf": "2"}),
    "c.mkv": ("libx264", {"g": "8", "bf": "2"}),
    "d.webm": ("libvpx-vp9", {"g": "8"}),
    "e.mp4": ("libx265", {"x265-params": "keyint=8:log-level=none"}),
    "f.ts": ("libx264", {"g": "8"}),
    "g.avi": ("mjpeg", {}),
    "h.gif": ("gif", {}),
    "i.webm": ("libsvtav1", {"preset": "12", "g": "8"}),
}
BATCH = 50
MAX_BYTES = 6 << 30  # of address space, most of which is libraries


def damage(originals: list[bytes], number: int) -> tuple[str, bytes]:
    """A recipe and the bytes of a damaged file, both determined by `number`."""
    rng = np.random.default_rng(number)
    data = np.frombuffer(originals[rng.integers(len(originals))], dtype=np.uint8).copy()
    recipe = ["cut", "flip bits", "flip bits in the header", "overwrite", "splice", "drop", "repeat"][number % 7]
    start, stop = sorted(rng.integers(0, len(data), 2).tolist())
    if recipe == "cut":
        data = data[:stop]
    elif recipe.startswith("flip"):
        end = 1000 if recipe.endswith("header") else len(data)
        places = rng.integers(0, min(end, len(data)), rng.integers(1, 40))
        data[places] ^= (1 << rng.integers(0, 8, len(places))).astype(np.uint8)
    elif recipe == "overwrite":
        data[start:stop] = rng.integers(0, 256, stop - start)
    elif recipe == "splice":
        other = np.frombuffer(originals[rng.integers(len(originals))], dtype=np.uint8)
        data = np.concatenate([data[:start], other[rng.integers(len(other)) :], data[start:]])
    elif recipe == "drop":
        data = np.concatenate([data[:start], data[stop:]])
    else:
        data = np.concatenate([data[:stop], data[start:]])
    return recipe, data.tobytes()


@redraws
def random_clip(video: VideoReader) -> None:
    with video:
        video.frames(pretraining_clip(len(video), 8, 4, np.random.default_rng(0)))


def read(data: bytes) -> str:
    """ "frames" or "error"; any error but the documented one goes through."""
    result = "frames"
    readings = [
        lambda: probe_video(data),
        lambda: random_clip(open_video(data)),
        lambda: decode_frames(data, start_seconds=0.2, end_seconds=0.5),
    ]
    for reading in readings:
        try:
            reading()
        except VideoDecodeError:
            result = "error"
    return result


def read_batch(originals: list[bytes], numbers: range, results) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    for number in numbers:
        recipe, data = damage(originals, number)
        start = time.process_time()
        try:
            outcome = read(data)
        except BaseException:
            outcome = traceback.format_exc()
        results.put((number, recipe, outcome, time.process_time() - start))


def read_all(originals: list[bytes], first: int, num_files: int, limit_s: float):
    """Yields (number, recipe, outcome, seconds) of every file."""
    end = first + num_files
    while first < end:
        numbers = range(first, min(first + BATCH, end))
        results = multiprocessing.Queue()
        process = multiprocessing.Process(target=read_batch, args=(originals, numbers, results))
        process.start()
        for number in numbers:
            waited = time.monotonic()
            while results.empty() and process.is_alive() and time.monotonic() - waited < limit_s:
                time.sleep(0.01)
            if results.empty():  # go on behind this file with another process
                outcome = f"no answer in {limit_s} s" if process.is_alive() else f"crash, exit code {process.exitcode}"
                process.kill()
                yield number, damage(originals, number)[0], outcome, time.monotonic() - waited
                first = number + 1
                break
            yield results.get()
            first = number + 1
        process.join()


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="number of the first file; other numbers, other files")
    parser.add_argument("--limit_s", type=float, default=60, help="seconds that one file may take")
    parser.add_argument("--keep", type=Path, help="folder for files that fail")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, (codec, options) in CODECS.items():
            write_video(Path(folder) / name, moving_frames(24, 48, 64), codec, options)
        originals = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
    counts, slowest, failures = {}, 0.0, []
    for number, recipe, outcome, seconds in read_all(originals, args.first, args.files, args.limit_s):
        slowest = max(slowest, seconds)
        if outcome not in ("frames", "error"):
            failures.append(f"file {number} ({recipe}): {outcome}")
            print(failures[-1], flush=True)
            if args.keep:
                args.keep.mkdir(parents=True, exist_ok=True)
                (args.keep / str(number)).write_bytes(damage(originals, number)[1])
            outcome = "failure"
        count = counts.setdefault(recipe, {"recipe": recipe, "frames": 0, "error": 0, "failure": 0})
        count[outcome] += 1
    report.write_report(sorted(counts.values(), key=lambda row: row["recipe"]), args.output)
    print(f"slowest: {slowest:.2f} s")
    if failures:
        sys.exit(f"{len(failures)} of {args.files} files failed")


if __name__ == "__main__":
    main()
