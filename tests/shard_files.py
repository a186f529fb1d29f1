"""The same 28 videos in shards of both forms."""

from pathlib import Path

import numpy as np

from videoms_hf.data.shards import add_video, tar_writer
from videoms_hf.data.tables import make_table

from .video_files import write_video


SIZES = [7, 3, 11, 1, 6]  # videos of each shard


def write_videos(folder: Path) -> list[bytes]:
    """The videos' bytes; video i has 9 + i % 4 frames, all of grey level 8 i."""
    made = []
    for i in range(sum(SIZES)):
        frames = np.full((9 + i % 4, 16, 16, 3), 8 * i, dtype=np.uint8)
        made.append(write_video(folder / f"{i}.avi", frames, codec="mpeg4", qmin="1", qmax="2").read_bytes())
    return made


def write_tars(folder: Path, contents: list[bytes]) -> Path:
    """A folder with the videos in five tar files."""
    (folder / "classes.txt").write_text("wave\nclap\njump\n")
    number = 0
    for shard, size in enumerate(SIZES):
        with tar_writer(folder / f"{shard}.tar") as tar:
            for _ in range(size):
                add_video(tar, f"{number:06d}", "avi", contents[number], {"label": number % 3})
                number += 1
    return folder


def write_parquets(folder: Path, contents: list[bytes]) -> Path:
    """A folder with the videos in five parquet files, in row groups of 4."""
    number = 0
    for shard, size in enumerate(SIZES):
        numbers = range(number, number + size)
        rows = [{"path": f"{i:06d}.avi", "bytes": contents[i]} for i in numbers]
        table = make_table(rows, [i % 3 for i in numbers], ["wave", "clap", "jump"])
        table.to_parquet(folder / f"{shard}.parquet", batch_size=4)
        number += size
    return folder
