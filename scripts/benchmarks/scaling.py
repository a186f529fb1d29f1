"""How time, memory and GMACs grow with frames, resolution, batch size and keep ratio, compared with VideoMAE.

python scripts/benchmarks/scaling.py --size small --output scaling.json --plot scaling.png
python scripts/benchmarks/scaling.py --size base --axes frames --frames 16 64 --checkpointing

Steps are pre-training steps, except on the keep ratio's axis: those are classification steps, and VideoMAE keeps all
tokens. Time is the processor time of a step in float32 on one thread (on a GPU: under bfloat16 autocast); memory is
measured on top of weights and gradients. `--checkpointing` turns on gradient checkpointing in VideoMS only, to find
the longest clips that fit.
"""

from collections.abc import Sequence
from importlib.util import find_spec

from flops import count
from memory import measure_apart
from plot import save_charts
from report import add_device, parser, write_report


AXES = ("frames", "resolution", "batch", "keep_ratio")
AXIS_LABELS = {
    "frames": "frames per clip",
    "resolution": "resolution (pixels)",
    "batch": "batch size",
    "keep_ratio": "keep ratio (classification)",
}
MEASURES = {"s": "seconds per step", "MB": "memory per step (MB)", "GMACs": "GMACs per step"}


def row(axis: str, value: float, size: str, image_size: int, device: str, checkpointing: bool) -> dict:
    """Both models' figures at one point of an axis; the other axes stay at 16 frames, `image_size` and batch 1."""
    task = "classification" if axis == "keep_ratio" else "pretraining"
    least = {"batch": 1, "frames": 16, "resolution": image_size}
    batch, frames, side = (int(value) if axis == name else least[name] for name in least)
    keep_ratio = value if axis == "keep_ratio" else 0.6
    result = {"axis": axis, "value": value}
    for name in ("videoms", "videomae"):
        ours = name == "videoms"
        figures = measure_apart(name, task, size, batch, frames, side, device, keep_ratio, checkpointing and ours)
        result[f"{name} s"] = figures["seconds"]
        result[f"{name} MB"] = figures["bytes"] / 1e6
        result[f"{name} GMACs"] = batch * count(name, task, size, frames, side, keep_ratio) / 1e9
    return result


def draw(rows: list[dict], path: str) -> None:
    """Write a chart with a row for each axis and a column for each measure."""
    panels = []
    for axis in dict.fromkeys(row["axis"] for row in rows):
        points = [row for row in rows if row["axis"] == axis]
        panels.append(
            [
                (
                    AXIS_LABELS[axis],
                    label,
                    {name: [(p["value"], p[f"{name} {measure}"]) for p in points] for name in ("videoms", "videomae")},
                )
                for measure, label in MEASURES.items()
            ]
        )
    save_charts(panels, path)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--size", default="small")
    options.add_argument("--image_size", type=int, default=224, help="resolution on the other axes")
    options.add_argument("--axes", nargs="+", default=AXES, choices=AXES)
    options.add_argument("--frames", type=int, nargs="+", default=[16, 32, 64, 128])
    options.add_argument("--resolution", type=int, nargs="+", default=[112, 160, 224, 288])
    options.add_argument("--batch", type=int, nargs="+", default=[1, 2, 4])
    options.add_argument("--keep_ratio", type=float, nargs="+", default=[0.2, 0.4, 0.6, 0.8, 1.0])
    options.add_argument("--checkpointing", action="store_true", help="gradient checkpointing in VideoMS")
    options.add_argument("--plot", help="PNG file to draw")
    add_device(options)
    args = options.parse_args(arguments)
    if args.plot and not find_spec("matplotlib"):  # before an hour of measuring, not after
        options.error("--plot needs matplotlib: pip install -e '.[benchmarks]'")
    rows = []
    for axis in args.axes:
        for value in getattr(args, axis):
            rows.append(row(axis, value, args.size, args.image_size, args.device, args.checkpointing))
            print(rows[-1], flush=True)
    write_report(rows, args.output, arguments)
    if args.plot:
        draw(rows, args.plot)


if __name__ == "__main__":
    main()
