"""Check every video of one or more lists: report broken, short, odd and shared ones, and write cleaned lists.

videoms scan --data my/videos
videoms scan --data data/ucf101/train.csv data/ucf101/val.csv --drop broken short leaks --output_dir scan
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from videoms_hf.command_line import parse_recipe, run
from videoms_hf.data.annotations import read_videos
from videoms_hf.data.preparation import write_list
from videoms_hf.data.scanning import scan_summary, scan_tables
from videoms_hf.files import write_text


@dataclass
class ScanArguments:
    """Which lists, and what to remove from the cleaned ones."""

    data: list[str] = field(metadata={"help": "Lists, folders or tables; the first defines the classes."})
    output_dir: str = field(default="scan", metadata={"help": "Folder for scan.json and the cleaned lists."})
    data_root: str | None = field(default=None, metadata={"help": "Folder of the lists' relative paths."})
    min_frames: int = field(default=16, metadata={"help": "A video with fewer frames is short."})
    num_workers: int = field(default=2, metadata={"help": "Decoding processes; 0: none."})
    drop: list[str] = field(
        default_factory=lambda: ["broken"],
        metadata={
            "help": "What to remove from the lists; leaks are only removed from the first list.",
            "choices": ["broken", "short", "odd", "leaks"],
        },
    )


def main(arguments: Sequence[str] | None = None) -> None:
    (args,) = parse_recipe(ScanArguments, arguments=arguments, description=__doc__)
    names = None
    tables = {}
    for path in args.data:
        name = Path(path).name.split(".")[0].replace(":", "_")
        name = name if name not in tables else f"{Path(path).absolute().parent.name}_{name}"
        if name in tables:
            raise ValueError(f"two of the lists are called {name}; rename one: the cleaned lists get these names")
        tables[name] = read_videos(path, args.data_root, names, allow_missing=True)
        names = tables[name].features["label"].names if names is None else names
    report, rows = scan_tables(tables, args.min_frames, args.num_workers)
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    print(scan_summary(report))
    write_text(folder / "scan.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    print(f"Report: {folder / 'scan.json'}")
    empty = []
    for position, (name, table) in enumerate(tables.items()):
        dropped = set().union(*(rows[name][kind] for kind in args.drop if kind != "leaks" or position == 0))
        if len(dropped) == len(table):
            empty.append(f"{name} (all {len(table)})")
            continue
        path = write_list(table.select(sorted(set(range(len(table))) - dropped)), folder, name)
        print(f"{path}: {len(table) - len(dropped)} of {len(table)} videos")
    if empty:
        raise ValueError(
            f"no video is left of {', '.join(empty)}, so no list was written for it; the reasons are above"
        )


if __name__ == "__main__":
    sys.exit(run(main))
