"""How time, memory and multiply-adds grow with frames, resolution, batch and keep ratio, against VideoMAE.

python scripts/benchmarks/scaling.py --size small --output scaling.json --plot scaling.png
python scripts/benchmarks/scaling.py --size base --axes frames --frames 16 64 --checkpointing

Pre-training steps; the keep ratio's steps are classification training (VideoMAE keeps all). Time is the processor
time of a step in float32 on one thread (on a GPU: time under bfloat16 autocast), memory is that above weights and
gradients, each in a process of its own. `--checkpointing` is for VideoMS alone: it shows the longest clips that fit.
"""

from collections.abc import Sequence
from importlib.util import find_spec

from flops import count
from memory import measure_apart
from plot import save_charts
from report import add_device, parser, write_report


AXES = ("frames", "resolution", "batch", "keep_ratio")
AXIS_LABELS = {
    "frames": "frames of a clip",
    "resolution": "height and width, pixels",
    "batch": "clips of a batch",
    "keep_ratio": "share of tokens kept, classification",
}
MEASURES = {"s": "step, s", "MB": "memory of a step, MB", "G": "multiply-adds, G"}


def row(axis: str, value: float, size: str, image_size: int, device: str, checkpointing: bool) -> dict:
    """Both models' figures at one point of an axis; the other axes stay at 16 frames, `image_size`, batch 1."""
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
        result[f"{name} G"] = batch * count(name, task, size, frames, side, keep_ratio) / 1e9
    return result


def draw(rows: list[dict], path: str) -> None:
    """A picture with a row of charts for each axis and a column for each measure."""
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
    options.add_argument("--image_size", type=int, default=224, help="on all axes but the resolution's")
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
