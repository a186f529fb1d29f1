# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Charts of results: the spread of motion, training curves, confusions, accuracy against the keep ratio.

They are drawn by matplotlib, which is optional: `save_figure` says in one line how to install it.
"""

import os
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

    Needs no display and leaves matplotlib's settings as they are.
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
    text = f"{keep_ratio:.0%} of the tokens:\n{share:.0%} of the motion"
    kept.annotate(
        text,
        (100 * keep_ratio, 100 * share),
        xytext=(10, -14),
        textcoords="offset points",
        va="top",
        backgroundcolor="w",
    )
    kept.set(title="What a keep ratio keeps", xlabel="tokens kept, %", ylabel="motion kept, %")
    kept.set(xlim=(0, 100), ylim=(0, 102))
    kept.legend(loc="lower right")
