"""Time of a training step and of inference, compared with transformers' VideoMAE on one CPU thread or one GPU.

python scripts/benchmarks/step.py --sizes small base --batch 1 2 4 --output step.json
python scripts/benchmarks/step.py --device cuda --sizes large --batch 16 64 256 --compile reduce-overhead

A step is forward and backward, without the optimiser; the two models take turns. CPU figures are processor time in
float32 (`--threads`, one by default), GPU figures the time between two CUDA events under bfloat16 autocast. "speed-up"
is VideoMAE's time divided by ours. "GEMM-bound" is the fraction of the step that its matrix products alone would take:
each is timed separately at its own shape, in the same round. "of peak" compares the achieved FLOP/s with those of one
large square product.

On the CPU, glibc may return large tensors to the system and fetch them again, which slows VideoMAE's step by an amount
that depends on the heap's layout. Set MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000 to keep the
memory of both models, so that only computation counts.
"""

import statistics
import time
from collections import Counter
from collections.abc import Sequence

import torch
from contestants import TASKS, build, make_step
from report import add_device, parser, write_report
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


class Products:
    """The matrix products of a step, each with operands of its own shape, to be timed alone."""

    def __init__(self, step, device: torch.device, dtype: torch.dtype):
        with ProductRecorder() as recorder:
            step()
        self.device, self.operands = device, []
        for (batch, rows, inner, columns), count in recorder.shapes.items():
            lead = (batch,) if batch else ()
            a = torch.randn(*lead, rows, inner, device=device, dtype=dtype)
            b = torch.randn(*lead, columns, inner, device=device, dtype=dtype).transpose(-1, -2)
            self.operands.append((a, b, count))
        self.flops = sum(2 * count * a.numel() * b.shape[-1] for a, b, count in self.operands)

    def seconds(self) -> float:
        """Total time of the products: the minimum of two timings of each shape, once per use."""
        total = 0.0
        for a, b, count in self.operands:
            torch.matmul(a, b)
            total += count * min(seconds(lambda a=a, b=b: torch.matmul(a, b), self.device) for _ in range(2))
        return total


def peak_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product (a multiply-add is two FLOPs)."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    torch.matmul(a, b)
    return 2 * size**3 / min(seconds(lambda: torch.matmul(a, b), device) for _ in range(3))


def compare(task: str, size: str, batch: int, repeats: int, device: torch.device, compiled: str | None) -> dict:
    """The row of one task, size and batch: medians over `repeats` rounds, also of the speed-ups."""
    autocast = torch.bfloat16 if device.type == "cuda" else None
    models = {name: build(name, task, size).to(device) for name in ("videoms", "videomae")}
    clips = torch.randn(batch, 16, 3, 224, 224, device=device)
    products = Products(
        make_step(models["videoms"], "videoms", task, clips, autocast), device, autocast or clips.dtype
    )
    if compiled:
        models = {name: torch.compile(model, mode=compiled) for name, model in models.items()}
    timed = {name: make_step(model, name, task, clips, autocast) for name, model in models.items()}
    times = {name: [] for name in (*timed, "products")}
    for repeat in range(repeats + 1):  # the first round warms up
        for name, step in timed.items():
            elapsed = seconds(step, device)
            if repeat:
                times[name].append(elapsed)
        if repeat:
            times["products"].append(products.seconds())
    ours, theirs, products_alone = (times[name] for name in ("videoms", "videomae", "products"))
    rate = products.flops / statistics.median(ours)
    return {
        "task": task,
        "size": size,
        "batch": batch,
        "compiled": compiled or "no",
        "videoms s": statistics.median(ours),
        "videomae s": statistics.median(theirs),
        "speed-up": statistics.median(b / a for a, b in zip(ours, theirs, strict=True)),
        "GEMM-bound": statistics.median(a / b for a, b in zip(products_alone, ours, strict=True)),
        "TFLOP/s": rate / 1e12,
        "of peak": rate / peak_rate(device, autocast or clips.dtype),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--sizes", nargs="+", default=["base"])
    options.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    options.add_argument("--batch", type=int, nargs="+", default=[2])
    options.add_argument("--repeats", type=int, default=7)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--compile", help="torch.compile both with this mode: default, reduce-overhead (CUDA graphs)")
    add_device(options)
    args = options.parse_args(arguments)
    torch.set_num_threads(args.threads)
    rows = []
    for size in args.sizes:
        for task in args.tasks:
            for batch in args.batch:
                rows.append(compare(task, size, batch, args.repeats, torch.device(args.device), args.compile))
                print(rows[-1], flush=True)
    write_report(rows, args.output, arguments)


if __name__ == "__main__":
    main()
