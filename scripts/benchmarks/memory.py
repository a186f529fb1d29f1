"""Memory of a step on top of weights and gradients, compared with transformers' VideoMAE.

python scripts/benchmarks/memory.py --sizes base --batch 4 --output memory.json

Each measurement runs in its own process. On the CPU it is the peak resident memory during two steps minus the resident
memory before them, with weights and gradients already allocated; the allocator returns freed memory to the system at
once, so that fragmentation does not count. On a GPU it is the peak allocated memory under bfloat16 autocast, minus
what was allocated before. "saving" is VideoMAE's memory divided by ours.
"""

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from contestants import TASKS, build, make_step
from report import add_device, parser, write_report


def resident(field: str) -> int:
    """A field of the process's status in bytes: VmRSS is the current resident memory, VmHWM the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"this system does not report {field}; run on Linux or with --device cuda")


def measure(
    name: str,
    task: str,
    size: str,
    batch: int,
    num_frames: int = 16,
    image_size: int = 224,
    device: str = "cpu",
    keep_ratio: float = 0.6,
    checkpointing: bool = False,
) -> dict:
    """One step's memory on top of weights and gradients, "bytes", and its "seconds" (on the CPU: processor time)."""
    torch.set_num_threads(1)
    model = build(name, task, size, num_frames, image_size, keep_ratio).to(device)
    if checkpointing:
        model.gradient_checkpointing_enable()
    if task != "inference":
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
    autocast = torch.bfloat16 if device == "cuda" else None
    # A step of one clip first: it allocates the libraries' workspaces, which do not count.
    make_step(model, name, task, torch.randn(1, num_frames, 3, image_size, image_size, device=device), autocast)()
    step = make_step(
        model, name, task, torch.randn(batch, num_frames, 3, image_size, image_size, device=device), autocast
    )
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before, clock = torch.cuda.memory_allocated(), time.perf_counter
    else:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets the highest resident memory
        before, clock = resident("VmRSS"), time.process_time
    seconds = []
    for _ in range(2):
        start = clock()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else resident("VmHWM")
    return {"bytes": peak - before, "seconds": min(seconds)}


def measure_apart(*arguments) -> dict:
    """`measure` in a new process, so that earlier measurements leave no trace."""
    result = subprocess.run(
        [sys.executable, __file__, "--measure", json.dumps(arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    if result.returncode:
        raise RuntimeError(f"measuring {arguments} failed:\n{result.stderr}")
    return json.loads(result.stdout)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--sizes", nargs="+", default=["base"])
    options.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    options.add_argument("--batch", type=int, nargs="+", default=[4])
    options.add_argument("--num_frames", type=int, default=16)
    options.add_argument("--image_size", type=int, default=224)
    add_device(options)
    options.add_argument("--measure", help="JSON list of `measure`'s arguments: print that one measurement")
    args = options.parse_args(arguments)
    if args.measure:
        print(json.dumps(measure(*json.loads(args.measure))))
        return
    rows = []
    for size in args.sizes:
        for task in args.tasks:
            for batch in args.batch:
                shape = (task, size, batch, args.num_frames, args.image_size, args.device)
                ours, theirs = (measure_apart(name, *shape)["bytes"] for name in ("videoms", "videomae"))
                row = {
                    "task": task,
                    "size": size,
                    "batch": batch,
                    "videoms MB": ours / 1e6,
                    "videomae MB": theirs / 1e6,
                }
                rows.append(row | {"saving": theirs / ours})
                print(rows[-1], flush=True)
    write_report(rows, args.output, arguments)


if __name__ == "__main__":
    main()
