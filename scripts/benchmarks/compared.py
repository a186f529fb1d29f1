"""Draw the results of `videoms compare` side by side: top-1 against GMACs per clip, one panel for each data set.

python scripts/benchmarks/compared.py EgoGestAR=runs/ego/comparison.json Rendered=runs/rendered/comparison.json \\
    --plot docs/selectors.png
"""

import argparse
import json
from pathlib import Path

import numpy as np

from videoms_hf.experiments.comparison import Panel, save_chart


def read_panel(title: str, path: str) -> Panel:
    """The panel of one comparison.json, from its cells at equal steps."""
    seeds = json.loads(Path(path).read_text(encoding="utf-8"))["equal_steps"]
    hits, gmacs = {}, {}
    for ratio, row in seeds[0].items():
        gmacs[float(ratio)] = next(iter(row.values()))["gmacs"]
        hits[float(ratio)] = {name: np.array([cells[ratio][name]["hits"] for cells in seeds], float) for name in row}
    return Panel(title, hits, gmacs, next(iter(row.values()))["chance"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", nargs="+", help="TITLE=comparison.json")
    parser.add_argument("--plot", required=True, help="the PNG file")
    args = parser.parse_args()
    save_chart([read_panel(*words.split("=", 1)) for words in args.comparisons], args.plot)


if __name__ == "__main__":
    main()
