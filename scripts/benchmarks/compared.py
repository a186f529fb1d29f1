"""Draw the results of `videoms compare` side by side, top-1 against GMACs per clip, and print each as a table.

python scripts/benchmarks/compared.py EgoGestAR=runs/ego/comparison.json Rendered=runs/rendered/comparison.json \\
    --plot docs/selectors.png
"""

import argparse
import json
from pathlib import Path

import numpy as np

from videoms_hf.experiments.comparison import Panel, draw_panels, mean_and_interval
from videoms_hf.visualization.charts import save_chart


def read_panel(title: str, path: str) -> Panel:
    """The panel of one comparison.json, from its cells at equal steps."""
    seeds = json.loads(Path(path).read_text(encoding="utf-8"))["equal_steps"]
    hits, gmacs = {}, {}
    for ratio, row in seeds[0].items():
        gmacs[float(ratio)] = next(iter(row.values()))["gmacs"]
        hits[float(ratio)] = {name: np.array([cells[ratio][name]["hits"] for cells in seeds], float) for name in row}
    return Panel(title, hits, gmacs, next(iter(row.values()))["chance"])


def table(panel: Panel) -> str:
    """Markdown: a row for each keep ratio, a column for each method, and top-1 with its interval, in percent."""
    names = list(dict.fromkeys(name for cells in panel.hits.values() for name in cells))
    lines = [f"| tokens | GMACs | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for ratio, cells in sorted(panel.hits.items()):
        found = {name: [100 * value for value in mean_and_interval(hits)] for name, hits in cells.items()}
        texts = {name: "{:.1f} ({:.0f} to {:.0f})".format(*values) for name, values in found.items()}
        row = " | ".join(texts.get(name, "") for name in names)
        lines.append(f"| {ratio:.0%} | {panel.gmacs[ratio]:.3f} | {row} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", nargs="+", help="TITLE=comparison.json")
    parser.add_argument("--plot", required=True, help="the PNG file")
    args = parser.parse_args()
    panels = [read_panel(*words.split("=", 1)) for words in args.comparisons]
    if problem := save_chart(draw_panels, args.plot, panels):
        print(problem)
    for panel in panels:
        print(f"\n{panel.title}\n\n{table(panel)}")


if __name__ == "__main__":
    main()
