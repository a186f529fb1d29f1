"""Markdown tables from the JSON files of the benchmarks, as in docs/benchmarks.md.

python scripts/benchmarks/tables.py results/step.json results/memory.json
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from report import markdown_table


def section(report: dict) -> str:
    """One report as Markdown: its title, the table, and the command, date and machine it was measured with."""
    machine = report["machine"]
    where = machine["accelerator"] or f"{machine['processor']}, {machine['threads']} of {machine['cores']} cores"
    if allocator := machine["allocator"]:
        where += ", " + " ".join(f"{name}={value}" for name, value in allocator.items())
    return (
        f"**{report['title']}**\n\n{markdown_table(report['rows'])}\n\n"
        f"`{report['command']}`, {report['date']}, {where}, load {machine['load']}, Python {machine['python']}, "
        f"torch {machine['torch']}, transformers {machine['transformers']}."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    files = sys.argv[1:] if arguments is None else arguments
    print("\n\n".join(section(json.loads(Path(file).read_text())) for file in files))


if __name__ == "__main__":
    main()
