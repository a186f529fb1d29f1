# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Finds broken and unusual videos in tables, and leaks between tables that should have nothing in common."""

import hashlib
import itertools
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from datasets import Dataset, Video

from ..decoding_videoms import VideoDecodeError
from ..reader_videoms import VideoReader, redraws
from ..readers import open_video
from .dataset import check_usable
from .tables import video_name, video_names, video_source, window_of
from .workers import WorkerKilled, work_through


RATES = (5.0, 121.0)  # usual frames per second; the other bounds likewise
SMALLEST_SIDE = 32
LARGEST_ASPECT = 4.0
LATE_SECONDS = 0.5  # that a window may reach beyond its file
PROMISED_FRAMES = 3  # that a header may promise too many
DIGEST_BYTES = 1 << 16
# File names that show which videos are cut from the same one: the groups of UCF101, the videos of Kinetics.
ORIGINS = {
    "UCF101 group": re.compile(r"v_([A-Za-z]+_g[0-9]+)_c[0-9]+"),
    "YouTube video": re.compile(r"(.{11})_[0-9]{6}_[0-9]{6}"),
}


class Look(NamedTuple):
    """What a scan found about a video; `broken` says why it gives no clip, `oddities` what is unusual about it."""

    broken: str | None
    oddities: tuple[str, ...] = ()
    num_frames: int = 0
    seconds: float = 0.0
    num_bytes: int = 0
    digest: str = ""


def scan_tables(
    tables: Mapping[str, Dataset], min_frames: int = 16, num_workers: int = 0
) -> tuple[dict, dict[str, dict[str, set[int]]]]:
    """A report for JSON, and for each table the rows that are "broken", "short", "odd" or in "leaks".

    The first, middle and last frame of every video are decoded. Broken videos give no clip, short ones have fewer than
    `min_frames` frames, odd ones do not move or have an unusual rate or size. A leak is what two tables share: a file,
    content, windows of one recording, or videos of the same origin by their names.
    """
    report: dict = {"tables": {}, "leaks": []}
    rows: dict[str, dict[str, set[int]]] = {}
    keys: dict[str, list[set[tuple[str, str]]]] = {}
    for name, table in tables.items():
        looks = _look_at_all(table, num_workers, f"Scanning {name}")
        found: dict[str, list[tuple[int, str]]] = {"broken": [], "short": [], "odd": []}
        for row, look in enumerate(looks):
            if look.broken is not None:
                found["broken"].append((row, look.broken))
                continue
            if look.num_frames < min_frames:
                found["short"].append((row, f"has {look.num_frames} frames, fewer than {min_frames}"))
            if look.oddities:
                found["odd"].append((row, "; ".join(look.oddities)))
        names = video_names(table)
        lines = table["line"][:] if "line" in table.features else None
        report["tables"][name] = {
            "videos": len(table),
            "frames": sum(look.num_frames for look in looks),
            "hours": sum(look.seconds for look in looks) / 3600,
            "bytes": sum(look.num_bytes for look in looks),
            **{
                kind: [
                    {"video": names[row], "row": row, "line": lines and lines[row], "reason": reason}
                    for row, reason in entries
                ]
                for kind, entries in found.items()
            },
        }
        rows[name] = {kind: {row for row, _ in entries} for kind, entries in found.items()} | {"leaks": set()}
        keys[name] = [_origins(video, table, row, looks[row]) for row, video in enumerate(names)]
    for one, other in itertools.combinations(tables, 2):
        for kind, what, ours, theirs in _shared(keys[one], keys[other]):
            rows[one]["leaks"] |= set(ours)
            rows[other]["leaks"] |= set(theirs)
            videos = {
                name: [video_name(tables[name][row]) for row in found]
                for name, found in ((one, ours), (other, theirs))
            }
            report["leaks"].append({"kind": kind, "what": what, "videos": videos})
    return report, rows


def scan_summary(report: Mapping) -> str:
    """The lines of a scan: counts of each table, every broken video, and leaks by kind."""
    lines = []
    for name, part in report["tables"].items():
        counts = ", ".join(f"{len(part[kind])} {kind}" for kind in ("broken", "short", "odd"))
        lines.append(f"{name}: {part['videos']} videos, {part['hours']:.2f} h, {part['bytes'] / 1e9:.3f} GB: {counts}")
        for bad in part["broken"]:
            place = f"row {bad['row']}" if bad["line"] is None else f"line {bad['line']}"
            lines.append(f"  {bad['video']} ({place}): {bad['reason']}")
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for leak in report["leaks"]:
        counts[" and ".join(leak["videos"]), leak["kind"]] += 1
    lines += [f"LEAK: {names} have {count} times the same {kind}" for (names, kind), count in counts.items()]
    return "\n".join(lines)


def _look_at_all(table: Dataset, num_workers: int, description: str) -> list[Look]:
    # Embedded videos stay in their table until they are needed; for others the workers need only the row.
    is_embedded = isinstance(table.features["video"], Video)
    items = range(len(table)) if is_embedded else table.to_list()
    found = dict(work_through(partial(_look, table=table if is_embedded else None), items, num_workers, description))
    killed = Look("the process that read it was killed (out of memory, or a fault of the decoder)")
    return [killed if isinstance(found[i], WorkerKilled) else found[i] for i in range(len(table))]


def _look(row: dict | int, table: Dataset | None) -> Look:
    row = row if table is None else table[row]
    source = video_source(row)
    try:
        with open_video(source) as video:
            look = _look_into(video, window_of(row))
        if isinstance(source, str) and os.path.isdir(source):
            return look._replace(num_bytes=sum(entry.stat().st_size for entry in os.scandir(source)))
        size, digest = _digest(source)
        return look._replace(num_bytes=size, digest=digest)
    except VideoDecodeError as error:
        return Look(error.reason)
    except OSError as error:
        return Look(f"cannot be read ({error.strerror or error})")


@redraws
def _look_into(video: VideoReader, window: Mapping[str, float | None]) -> Look:
    num_frames = len(video.window(**window))
    wanted = [0, num_frames // 2, num_frames - 1]
    check_usable(video, wanted)
    frames, info = video.frames(wanted), video.info
    height, width = video.size
    seconds, promised = info.duration_seconds, info.promised_frames
    oddities = []
    if bool((frames == frames[:1]).all()):
        oddities.append("its first, middle and last frame are the same: it does not move")
    if promised > info.num_frames + PROMISED_FRAMES:
        oddities.append(f"its header promises {promised} frames, {info.num_frames} can be decoded: it is truncated")
    if info.fps and not RATES[0] <= info.fps <= RATES[1]:
        oddities.append(f"{info.fps:.3g} frames per second")
    if min(height, width) < SMALLEST_SIDE or max(height, width) > LARGEST_ASPECT * min(height, width):
        oddities.append(f"frames of {width} x {height}")
    start, end = window.get("start_seconds") or 0.0, window.get("end_seconds")
    if end is not None and end > seconds + LATE_SECONDS:
        oddities.append(f"its window ends at {end:.2f} s, but it has {seconds:.2f} s")
    if window:
        seconds = min(seconds if end is None else end, seconds) - start
    return Look(None, tuple(oddities), num_frames, seconds)


def _digest(source) -> tuple[int, str]:
    """Size of a file, and a hash of its size, beginning and end."""
    if isinstance(source, str) and "://" in source:
        return 0, ""
    with open(source, "rb") if isinstance(source, str) else source as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        content = file.read(DIGEST_BYTES)
        file.seek(max(size - DIGEST_BYTES, 0))
        content += file.read(DIGEST_BYTES)
    return size, hashlib.sha256(b"%d " % size + content).hexdigest()


def _origins(video: str, table: Dataset, row: int, look: Look) -> set[tuple[str, str]]:
    """What a video is or comes from, as pairs of a kind and a name; two videos that share one are related."""
    stem = os.path.splitext(os.path.basename(video))[0]
    found = {(kind, match[1]) for kind, form in ORIGINS.items() if (match := form.fullmatch(stem))}
    if isinstance(table.features["video"], Video):
        return found | ({("content", look.digest)} if look.digest else set())
    path = os.path.realpath(video) if "://" not in video else video
    has_window = any(name in table.features for name in ("start_seconds", "end_seconds"))
    found.add(("recording" if has_window else "file", path))
    if look.digest and not has_window:
        found.add(("content", look.digest))
    return found


def _shared(ours: Sequence[set], theirs: Sequence[set]) -> list[tuple[str, str, list[int], list[int]]]:
    """What two tables have in common: kind, name, and the rows of both."""
    places: tuple[dict, dict] = defaultdict(list), defaultdict(list)
    for table, found in zip(places, (ours, theirs), strict=True):
        for row, origins in enumerate(found):
            for origin in origins:
                table[origin].append(row)
    common = sorted(places[0].keys() & places[1].keys())
    leaks = [(kind, what, places[0][kind, what], places[1][kind, what]) for kind, what in common]
    # The same file has the same content, which would be reported twice.
    files = {row for kind, _, rows, _ in leaks if kind == "file" for row in rows}
    return [leak for leak in leaks if leak[0] != "content" or not set(leak[2]) <= files]
