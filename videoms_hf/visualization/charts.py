# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Charts of results: the spread of motion, training curves, confusions, accuracy against the keep ratio."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..files import atomic_path
from .clips import MotionSummary


MISSING = "is not drawn, because matplotlib is not installed: pip install matplotlib"
BLUE, ORANGE, GREY = "#3478f6", "#f59300", "#9aa0a8"
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e8e8ec",
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.edgecolor": "#60646c",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 110,
}


def save_chart(draw, path: str | os.PathLike, *content) -> str | None:
    """Write the figure that `draw(figure, *content)` fills as an image; returns why it was not, or `None`.

    matplotlib, which is optional, needs no display and keeps its settings.
    """
    if find_spec("matplotlib") is None:
        return f"{path} {MISSING}"
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure()
        FigureCanvasAgg(figure)
        draw(figure, *content)
        with atomic_path(path) as partial:
            figure.savefig(partial, format=Path(path).suffix[1:].lower())
    return None


def draw_motion(figure, summary: MotionSummary, keep_ratio: float) -> None:
    """Motion over time, over the picture, and in the kept tokens; `keep_ratio` is marked."""
    figure.set_size_inches(11.5, 3.4)
    time, space, kept = figure.subplots(1, 3, width_ratios=[1.3, 1, 1.2])
    time.fill_between(summary.seconds, summary.over_time, color=BLUE, alpha=0.2, linewidth=0)
    time.plot(summary.seconds, summary.over_time, color=BLUE)
    time.set(title="Motion over time", xlabel="seconds", ylabel="mean importance", ylim=(0, None))
    time.margins(x=0)
    image = space.imshow(100 * summary.over_space, cmap="magma", vmin=0)
    space.set(title="Motion over the picture", xticks=[], yticks=[])
    space.spines[:].set_visible(False)
    space.grid(False)
    figure.colorbar(image, ax=space, shrink=0.85, label="% of all motion", format="%.3g")
    ratios, shares = (np.concatenate([[0], part]) for part in (summary.ratios, summary.kept_motion))
    kept.plot(100 * ratios, 100 * shares, color=ORANGE, label="most-moving tokens")
    kept.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1.2, label="random tokens")
    share = np.interp(keep_ratio, ratios, shares)
    kept.plot(100 * keep_ratio, 100 * share, "o", color=ORANGE)
    text, place = f"{keep_ratio:.0%} of the tokens:\n{share:.0%} of the motion", (100 * keep_ratio, 100 * share)
    kept.annotate(text, place, xytext=(10, -14), textcoords="offset points", va="top", backgroundcolor="w")
    kept.set(title="What a keep ratio keeps", xlabel="tokens kept, %", xlim=(0, 100))
    kept.set(ylabel="motion kept, %", ylim=(0, 102))
    kept.legend(loc="lower right")


# Panels of a training log: title, the entries with their names in the legend, and the factor on their values.
TRAINING_PANELS = (
    ("Loss", {"loss": "training", "eval_loss": "validation"}, 1),
    ("Accuracy, %", {"eval_top1": "top-1", "eval_top5": "top-5"}, 100),
    ("Learning rate", {"learning_rate": "last layer", "lowest_learning_rate": "first layer"}, 1),
    ("Gradient norm", {"grad_norm": ""}, 1),
    ("Motion in the {kept} kept tokens, %", {"kept_motion_share": ""}, 100),
    ("Mean motion importance", {"mean_importance": ""}, 1),
)


def draw_training(figure, history: Sequence[dict]) -> None:
    """The curves of a trainer's `log_history` against the step, a panel each, as far as it has them."""
    tokens = {name: entry[name] for entry in history for name in entry if name.endswith("_tokens")}
    known = {name for entry in history for name in entry}
    panels = [panel for panel in TRAINING_PANELS if known & panel[1].keys()]
    num_columns = min(len(panels), 3)
    num_rows = -(-len(panels) // num_columns)
    figure.set_size_inches(3.9 * num_columns, 2.6 * num_rows + 0.2)
    axes = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, names, factor) in zip(axes, panels, strict=False):
        shown = [name for name in names if name in known]
        for name, color in zip(shown, (BLUE, ORANGE), strict=False):
            line = np.array([(entry["step"], factor * entry[name]) for entry in history if name in entry])
            axis.plot(*line.T, color=color, label=names[name], marker="o" if len(line) < 15 else None, ms=3)
        axis.set(title=title.format(kept=sum(tokens.values())))
        if len(shown) > 1:
            axis.legend()
    figure.supxlabel("step", fontsize=10)


def draw_confusions(figure, counts: np.ndarray, class_names: Sequence[str]) -> None:
    """The confusion matrix `counts` (L, L), true classes down, each row as shares; numbers if they fit."""
    num_classes = len(counts)
    side = min(max(0.42 * num_classes, 3.2), 16)
    figure.set_size_inches(side + 2.4, side + 1.6)
    axis = figure.add_subplot()
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    axis.set(title="Confusions", xlabel="predicted", ylabel="true class")
    axis.grid(False)
    axis.spines[:].set_visible(False)
    if num_classes <= 101:
        size = min(9, 560 / num_classes * side / 16)
        names = [(name if len(name) <= 24 else f"{name[:22]} ...").replace("$", r"\$") for name in class_names]
        axis.set_xticks(range(num_classes), names, rotation=90, fontsize=size)
        axis.set_yticks(range(num_classes), names, fontsize=size)
    for i, j in np.argwhere(counts) if num_classes <= 24 else ():
        color = "white" if shares[i, j] > 55 else "#303840"
        axis.text(j, i, f"{counts[i, j]}", ha="center", va="center", fontsize=9, color=color)
    figure.colorbar(image, ax=axis, shrink=0.7, label="% of the class's videos")


def draw_ratios(figure, rows: Sequence[dict], chance: float) -> None:
    """Top-1 with its interval against the keep ratio, and GMACs per clip, from a report's "keep_ratios"."""
    figure.set_size_inches(5.5, 3.6)
    axis = figure.add_subplot()
    rows = sorted(rows, key=lambda row: row["keep_ratio"])
    ratios, top1, low, high = (
        [100 * row[key] for row in rows] for key in ("keep_ratio", "video_top1", "video_top1_low", "video_top1_high")
    )
    axis.fill_between(ratios, low, high, color=BLUE, alpha=0.15, linewidth=0, label="95 % interval")
    axis.plot(ratios, top1, "o-", color=BLUE, label="top-1")
    axis.axhline(100 * chance, color=GREY, linestyle=":", label="chance")
    for ratio, value, row in zip(ratios, top1, rows, strict=True):
        text, place = f"{row['gflops_per_clip']:.3g}\nGMACs", (0, -26 if value > 20 else 8)
        axis.annotate(text, (ratio, value), xytext=place, textcoords="offset points", ha="center", fontsize=8)
    axis.set(title="Accuracy against the keep ratio", xlabel="tokens kept, %", ylabel="top-1, %")
    axis.set(xlim=(0, 105), ylim=(0, 100))
    axis.legend(loc="best")
