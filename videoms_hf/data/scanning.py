# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Finds broken and unusual videos in tables, and leaks between tables that should have nothing in common."""

import hashlib
import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO, NamedTuple

from datasets import Dataset, Video

from ..reader_videoms import VideoReader, redraws
from ..readers import open_video
from .dataset import check_usable
from .tables import WINDOW_COLUMNS, is_address, size_of, video_names, video_source, window_of
from .workers import look_through


RATES = (5.0, 121.0)  # usual frames per second; the other bounds likewise
SMALLEST_SIDE = 32
LARGEST_ASPECT = 4.0
LATE_SECONDS = 0.5  # that a window may reach beyond its file
PROMISED_FRAMES = 3  # that a header may promise too many
DIGEST_BYTES = 1 << 16
KINDS = ("broken", "short", "odd")
# File names that show which videos are cut from the same one: the groups of UCF101, the videos of Kinetics.
ORIGINS = {
    "UCF101 group": re.compile(r"v_([A-Za-z]+_g[0-9]+)_c[0-9]+"),
    "YouTube video": re.compile(r"(.{11})_[0-9]{6}_[0-9]{6}"),
}


class Look(NamedTuple):
    """What a scan found about a video that gives clips; `oddities` says what is unusual about it."""

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
    rows, keys, names = {}, {}, {}
    for name, table in tables.items():
        found = look_through(_look, table, num_workers, f"Scanning {name}")
        looks = [Look() if isinstance(look, str) else look for look in found]
        names[name] = video_names(table)
        lines = table["line"][:] if "line" in table.features else [None] * len(table)
        part = report["tables"][name] = {
            "videos": len(table),
            "frames": sum(look.num_frames for look in looks),
            "hours": sum(look.seconds for look in looks) / 3600,
            "bytes": sum(look.num_bytes for look in looks),
            **{kind: [] for kind in KINDS},
        }
        for row, look in enumerate(found):
            reasons = {"broken": look}
            if not isinstance(look, str):
                short = f"has {look.num_frames} frames, fewer than {min_frames}"
                reasons = {"short": short * (look.num_frames < min_frames), "odd": "; ".join(look.oddities)}
            for kind, reason in reasons.items():
                if reason:
                    about = {"video": names[name][row], "row": row, "line": lines[row]}
                    part[kind].append({**about, "reason": reason})
        rows[name] = {kind: {entry["row"] for entry in part[kind]} for kind in KINDS} | {"leaks": set()}
        keys[name] = [_origins(video, table, look) for video, look in zip(names[name], looks, strict=True)]
    for one, other in itertools.combinations(tables, 2):
        for kind, what, ours, theirs in _shared(keys[one], keys[other]):
            rows[one]["leaks"] |= set(ours)
            rows[other]["leaks"] |= set(theirs)
            videos = {name: [names[name][row] for row in found] for name, found in ((one, ours), (other, theirs))}
            report["leaks"].append({"kind": kind, "what": what, "videos": videos})
    return report, rows


def scan_summary(report: Mapping) -> str:
    """The lines of a scan: counts of each table, every broken video, and leaks by kind."""
    lines = []
    for name, part in report["tables"].items():
        counts = ", ".join(f"{len(part[kind])} {kind}" for kind in KINDS)
        lines.append(f"{name}: {part['videos']} videos, {part['hours']:.2f} h, {part['bytes'] / 1e9:.3f} GB: {counts}")
        for bad in part["broken"]:
            place = f"row {bad['row']}" if bad["line"] is None else f"line {bad['line']}"
            lines.append(f"  {bad['video']} ({place}): {bad['reason']}")
    counts = Counter((" and ".join(leak["videos"]), leak["kind"]) for leak in report["leaks"])
    lines += [f"LEAK: {names} have {count} times the same {kind}" for (names, kind), count in counts.items()]
    return "\n".join(lines)


def _look(number: int, read: Callable[[], dict]) -> Look:
    row = read()
    source = video_source(row)
    with open_video(source) as video:
        look = _look_into(video, window_of(row))
    return look._replace(num_bytes=size_of(source), digest=_digest(source))


@redraws
def _look_into(video: VideoReader, window: Mapping[str, float | None]) -> Look:
    num_frames = len(video.window(**window))
    wanted = [0, num_frames // 2, num_frames - 1]
    check_usable(video, wanted)
    frames, info = video.frames(wanted), video.info
    height, width = video.size
    seconds, start, end = info.duration_seconds, window.get("start_seconds") or 0.0, window.get("end_seconds")
    end = seconds if end is None else end
    promised = f"its header promises {info.promised_frames} frames, {info.num_frames} can be decoded: it is truncated"
    is_extreme = min(height, width) < SMALLEST_SIDE or max(height, width) > LARGEST_ASPECT * min(height, width)
    oddities = {
        "its first, middle and last frame are the same: it does not move": bool((frames == frames[:1]).all()),
        promised: info.promised_frames > info.num_frames + PROMISED_FRAMES,
        f"{info.fps:.3g} frames per second": info.fps and not RATES[0] <= info.fps <= RATES[1],
        f"frames of {width} x {height}": is_extreme,
        f"its window ends at {end:.2f} s, but it has {seconds:.2f} s": end > seconds + LATE_SECONDS,
    }
    return Look(tuple(what for what, is_so in oddities.items() if is_so), num_frames, min(end, seconds) - start)


def _digest(source: str | BinaryIO) -> str:
    """A hash of a file's size, beginning and end; of folders and addresses none."""
    if isinstance(source, str) and not os.path.isfile(source):
        return ""
    with open(source, "rb") if isinstance(source, str) else source as file:
        size = size_of(file)
        file.seek(0)
        content = file.read(DIGEST_BYTES)
        file.seek(max(size - DIGEST_BYTES, 0))
        content += file.read(DIGEST_BYTES)
    return hashlib.sha256(b"%d " % size + content).hexdigest()


def _origins(video: str, table: Dataset, look: Look) -> set[tuple[str, str]]:
    """What a video is or comes from, as pairs of a kind and a name; two videos that share one are related."""
    stem = os.path.splitext(os.path.basename(video))[0]
    found = {(kind, match[1]) for kind, form in ORIGINS.items() if (match := form.fullmatch(stem))}
    is_embedded = isinstance(table.features["video"], Video)
    has_window = any(name in table.features for name in WINDOW_COLUMNS)
    if not is_embedded:
        path = video if is_address(video) else os.path.realpath(video)
        found.add(("recording" if has_window else "file", path))
    if look.digest and (is_embedded or not has_window):
        found.add(("content", look.digest))
    return found


def _shared(ours: Sequence[set], theirs: Sequence[set]) -> list[tuple[str, str, list[int], list[int]]]:
    """What two tables have in common: kind, name, and the rows of both."""
    places = defaultdict(lambda: ([], []))
    for side, found in enumerate((ours, theirs)):
        for row, origins in enumerate(found):
            for origin in origins:
                places[origin][side].append(row)
    leaks = [(*origin, *rows) for origin, rows in sorted(places.items()) if all(rows)]
    # The same file has the same content, which would be reported twice.
    files = {row for kind, _, rows, _ in leaks if kind == "file" for row in rows}
    return [leak for leak in leaks if leak[0] != "content" or not set(leak[2]) <= files]
