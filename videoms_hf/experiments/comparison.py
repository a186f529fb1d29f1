# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""How sure a difference of training methods is, when each was trained with several seeds and has few test videos."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


NUM_DRAWS = 10_000
COLOURS = {"motion": "#1f5fbf", "random": "#d9822b", "tube": "#7a7a7a"}


def mean_and_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean of `values` (seeds, videos) and the ends of its 95 % interval, from resampled seeds and videos.

    Both are sampled with replacement, so the interval knows that other seeds and other test videos would have given
    another mean. Values are hits (0 or 1), or the differences of two methods' hits on the same videos and seeds.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"values have the shape {values.shape}; it must be (seeds, videos) with at least one of each")
    rng, (num_seeds, num_videos) = np.random.default_rng(0), values.shape
    means = np.empty(NUM_DRAWS)
    for i in range(NUM_DRAWS):
        seeds, videos = rng.integers(num_seeds, size=num_seeds), rng.integers(num_videos, size=num_videos)
        means[i] = values[np.ix_(seeds, videos)].mean()
    low, high = np.quantile(means, [(1 - 0.95) / 2, (1 + 0.95) / 2])
    return float(values.mean()), float(low), float(high)


def comparison_table(hits: dict[str, np.ndarray], chance: float, seconds: dict[str, float]) -> str:
    """Top-1 of each method with its interval, and the first one's lead over the others.

    `hits` (seeds, videos) and the `seconds` of training are by method.
    """
    first = next(iter(hits))
    num_seeds, num_videos = hits[first].shape
    columns = f"{'selection':12}{'top-1':>8}   {'95 % interval':18}{'train':>6}"
    lines = [f"{columns}   each of {num_seeds} seeds, {num_videos} test videos"]
    for name, values in hits.items():
        mean, low, high = mean_and_interval(values)
        each = ", ".join(f"{value:.1%}" for value in values.mean(axis=1))
        interval = f"{low:.1%} to {high:.1%}"
        lines.append(f"{name:12}{mean:8.1%}   {interval:18}{seconds[name]:5.0f} s   {each}")
    lines.append(f"{'chance':12}{chance:8.1%}")
    for name in list(hits)[1:]:
        mean, low, high = mean_and_interval(hits[first] - hits[name])
        sure = "sure" if low > 0 or high < 0 else "not sure: the interval holds 0"
        interval = f"{100 * low:+.1f} to {100 * high:+.1f} at 95 %"
        lines.append(f"{first} - {name}: {100 * mean:+.1f} points ({interval}; {sure})")
    return "\n".join(lines)


class Panel(NamedTuple):
    """One chart: top-1 against GMACs per clip, of one data set."""

    title: str
    hits: dict[float, dict[str, np.ndarray]]  # (seeds, videos) by keep ratio and method
    gmacs: dict[float, float]  # per clip, by keep ratio
    chance: float


def draw_panels(figure, panels: Sequence[Panel]) -> None:
    """Charts side by side, a curve for each method with its 95 % interval; see `charts.save_chart`.

    "none", all tokens, is a level line that the curves can be compared with.
    """
    figure.set_size_inches(4.6 * len(panels) + 0.8, 3.4)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)
    for axis, panel in zip(axes[0], panels, strict=True):
        for name in dict.fromkeys(name for cells in panel.hits.values() for name in cells):
            ratios = [ratio for ratio, cells in panel.hits.items() if name in cells]
            points = sorted((panel.gmacs[ratio], *mean_and_interval(panel.hits[ratio][name])) for ratio in ratios)
            x, mean, low, high = np.array(points).T * [[1], [100], [100], [100]]
            if name == "none":
                axis.axhline(mean[0], color="black", linewidth=1, linestyle="--")
                errors = [mean - low, high - mean]
                axis.errorbar(x, mean, errors, color="black", fmt="D", capsize=3, label="all tokens")
                continue
            style = {"color": COLOURS.get(name), "linewidth": 2.5 if name == "motion" else 1.5}
            (line,) = axis.plot(x, mean, "o-", **style, label=name)
            axis.fill_between(x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axis.axhline(100 * panel.chance, color="grey", linestyle=":", linewidth=1, label="chance")
        axis.set(xlabel="GMACs per clip", xlim=(0, None), ylim=(0, 100), title=panel.title)
    axes[0, 0].set_ylabel("top-1, %")
    axes[0, -1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
