"""Time of a training step and of inference against transformers' VideoMAE, interleaved, on one thread or one GPU.

python scripts/benchmarks/step.py --size base --batch 2 --output step.json

On the CPU the figure is processor time in float32 (`--threads`, by default one); on a GPU it is the time between two
events under bfloat16 autocast. "of matrix rate" is the share of the step that its matrix products would take alone:
each product of the step is timed by itself at its own shape.
"""

import argparse
import statistics
import time
from collections import Counter

import torch
from contestants import TASKS, build, make_step
from report import write_report
from torch.utils._python_dispatch import TorchDispatchMode


class ProductRecorder(TorchDispatchMode):
    """Counts the matrix products of a step by shape: (batch, rows, inner, columns)."""

    def __init__(self):
        super().__init__()
        self.shapes = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm", "baddbmm"):
            a, b = args[-2:]
            self.shapes[(a.shape[0] if a.ndim == 3 else 0, a.shape[-2], a.shape[-1], b.shape[-1])] += 1
        elif "scaled_dot_product" in name:
            query, key = (args[1], args[2]) if "backward" in name else (args[0], args[1])
            heads, queries, keys, size = query.shape[0] * query.shape[1], query.shape[2], key.shape[2], query.shape[3]
            # Forward: scores and values; backward: the scores again and the gradients of query, key, value, scores.
            products = [(queries, size, keys)] * 3 + [(queries, keys, size)] * 2 if "backward" in name else []
            products = products or [(queries, size, keys), (queries, keys, size)]
            for product in products:
                self.shapes[(heads, *product)] += 1
        return func(*args, **(kwargs or {}))


def seconds(function, device: torch.device) -> float:
    """Processor time of one call on the CPU, time between two events on a GPU."""
    if device.type == "cpu":
        start = time.process_time()
        function()
        return time.process_time() - start
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    function()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def product_seconds(step, device: torch.device, dtype: torch.dtype) -> float:
    """Time of the step's matrix products alone, each at its own shape."""
    with ProductRecorder() as recorder:
        step()
    total = 0.0
    for (batch, rows, inner, columns), count in recorder.shapes.items():
        lead = (batch,) if batch else ()
        a = torch.randn(*lead, rows, inner, device=device, dtype=dtype)
        b = torch.randn(*lead, columns, inner, device=device, dtype=dtype).transpose(-1, -2)
        torch.matmul(a, b)
        total += count * min(seconds(lambda a=a, b=b: torch.matmul(a, b), device) for _ in range(3))
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="base")
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--batch", type=int, nargs="+", default=[2])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="torch.compile both models")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", help="JSON file to write")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    autocast = torch.bfloat16 if device.type == "cuda" else None
    rows = []
    for task in args.tasks:
        models = {name: build(name, task, args.size).to(device) for name in ("videoms", "videomae")}
        for batch in args.batch:
            clips = torch.randn(batch, 16, 3, 224, 224, device=device)
            plain = {name: make_step(model, name, task, clips, autocast) for name, model in models.items()}
            steps = plain
            if args.compile:
                compiled = {name: torch.compile(model) for name, model in models.items()}
                steps = {name: make_step(model, name, task, clips, autocast) for name, model in compiled.items()}
            times = {name: [] for name in steps}
            for repeat in range(args.repeats + 1):  # the first round warms up
                for name, step in steps.items():
                    elapsed = seconds(step, device)
                    if repeat:
                        times[name].append(elapsed)
            ours, theirs = (statistics.median(times[name]) for name in ("videoms", "videomae"))
            ratios = [a / b for a, b in zip(times["videoms"], times["videomae"], strict=True)]
            floor = product_seconds(plain["videoms"], device, autocast or torch.float32)
            rows.append(
                {
                    "task": task,
                    "size": args.size,
                    "batch": batch,
                    "videoms s": ours,
                    "videomae s": theirs,
                    "ratio": statistics.median(ratios),
                    "of matrix rate": floor / ours,
                }
            )
            print(rows[-1], flush=True)
    write_report(rows, args.output)


if __name__ == "__main__":
    main()
