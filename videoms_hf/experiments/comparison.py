# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""How sure a difference of training methods is, when each was trained with several seeds and has few test videos."""

import numpy as np


def mean_and_interval(
    values: np.ndarray, confidence: float = 0.95, num_draws: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of `values` (seeds, videos) and the ends of its interval, from resampled seeds and videos.

    Both are sampled with replacement, so the interval knows that other seeds and other test videos would have given
    another mean. Values are hits (0 or 1), or the differences of two methods' hits on the same videos and seeds.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"values have the shape {values.shape}; it must be (seeds, videos) with at least one of each")
    rng = np.random.default_rng(seed)
    num_seeds, num_videos = values.shape
    means = np.empty(num_draws)
    for i in range(num_draws):
        seeds, videos = rng.integers(num_seeds, size=num_seeds), rng.integers(num_videos, size=num_videos)
        means[i] = values[np.ix_(seeds, videos)].mean()
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
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
        lines.append(
            f"{first} - {name}: {100 * mean:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f} at 95 %; {sure})"
        )
    return "\n".join(lines)


def save_chart(hits: dict[float, dict[str, np.ndarray]], gmacs: dict[float, float], chance: float, path: str) -> None:
    """Write a chart of top-1 against GMACs per clip, a curve for each method with 95 % intervals; needs matplotlib.

    `hits` (seeds, videos) are by keep ratio and method, `gmacs` by keep ratio. A method of one point is a marker.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(5.5, 3.5))
    for name in dict.fromkeys(name for cells in hits.values() for name in cells):
        points = sorted(
            (gmacs[ratio], *mean_and_interval(cells[name])) for ratio, cells in hits.items() if name in cells
        )
        x, mean, low, high = np.array(points).T
        label = "all tokens" if name == "none" else name
        axis.errorbar(x, 100 * mean, 100 * np.array([mean - low, high - mean]), marker="o", capsize=3, label=label)
    axis.axhline(100 * chance, color="grey", linestyle=":", label="chance")
    axis.set(xlabel="GMACs per clip", ylabel="top-1, %", xlim=(0, None), ylim=(0, 100))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
