"""What all benchmarks share: a report with command, date, machine and library versions, as JSON and as a table."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from videoms_hf.machine import describe_machine, library_versions


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the option that all benchmarks have: `--output`."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--output", help="JSON file to write")
    return result


def add_device(options: argparse.ArgumentParser) -> None:
    """Add `--device`, by default a GPU if there is one."""
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))


def machine() -> dict:
    """Processor, load, threads, accelerator, library versions and the memory allocator's settings."""
    return {
        **describe_machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        **library_versions(),
        "torch": torch.__version__,  # with its CUDA version
        "allocator": {name: value for name, value in os.environ.items() if name.startswith(("MALLOC_", "LD_PRELOAD"))},
    }


def markdown_table(rows: list[dict]) -> str:
    """Rows with the same keys as a Markdown table; floats with three significant digits."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        lines.append("| " + " | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()) + " |")
    return "\n".join(lines)


def write_report(rows: list[dict], output: str | None, arguments: Sequence[str] | None = None) -> None:
    """Print the rows as a Markdown table and write them, with machine, date and command, to the JSON file `output`."""
    script = sys.modules["__main__"]
    report = {
        "title": (script.__doc__ or "").strip().partition("\n")[0],
        "command": shlex.join(["python", sys.argv[0], *(sys.argv[1:] if arguments is None else arguments)]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "rows": rows,
    }
    print(f"{markdown_table(rows)}\n\n{report['date']}, {report['machine']}")
    if output:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        Path(output).write_text(json.dumps(report, indent=2) + "\n")
