"""Line charts as PNG files, drawn by matplotlib (`pip install -e ".[benchmarks]"`)."""

from collections.abc import Sequence


NAMES = {"videoms": "VideoMS", "videomae": "VideoMAE"}
COLOURS = {"videoms": "#1f5fbf", "videomae": "#d9822b"}
Chart = tuple[str, str, dict[str, list[tuple[float, float]]]]  # labels of x and y, name -> points


def save_charts(panels: Sequence[Sequence[Chart]], path: str) -> None:
    """Write rows of charts as one picture; all axes start at 0 and are linear."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    shape = len(panels), max(len(row) for row in panels)
    figure, axes = pyplot.subplots(*shape, figsize=(3.8 * shape[1], 2.7 * shape[0]), squeeze=False)
    for row, places in zip(panels, axes, strict=True):
        for (x_label, y_label, lines), axis in zip(row, places, strict=True):
            for name, points in lines.items():
                axis.plot(*zip(*sorted(points), strict=True), "o-", color=COLOURS[name], label=NAMES[name])
            axis.set(xlabel=x_label, ylabel=y_label, xlim=(0, None), ylim=(0, None))
            axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(labels), frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.3 / figure.get_figheight()))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
