"""Memory of a step above weights and gradients, against transformers' VideoMAE: GPU peak, or resident on the CPU.

python scripts/benchmarks/memory.py --size base --batch 4 --output memory.json

Each measurement is a process of its own. On the CPU it is the highest resident memory during two steps less the
resident memory before them, with weights and gradients in place; on a GPU the highest allocated memory likewise, under
bfloat16 autocast.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from contestants import TASKS, build, make_step
from report import write_report


def resident(field: str) -> int:
    """A field of the process's status in bytes: VmRSS now, VmHWM the highest so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"the system does not tell {field}; measure on Linux or with --device cuda")


def measure(name: str, task: str, size: str, batch: int, num_frames: int, image_size: int, device: str) -> int:
    """Bytes above weights and gradients that one step needs."""
    torch.set_num_threads(1)
    model = build(name, task, size, num_frames, image_size).to(device)
    if task != "inference":
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
    # The step of a small clip makes the libraries' own workspaces, which belong to no step.
    make_step(model, name, task, torch.randn(1, num_frames, 3, image_size, image_size, device=device))()
    clips = torch.randn(batch, num_frames, 3, image_size, image_size, device=device)
    step = make_step(model, name, task, clips, torch.bfloat16 if device == "cuda" else None)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        step()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # resets the highest resident memory
    before = resident("VmRSS")
    step()
    step()
    return resident("VmHWM") - before


def measure_apart(*arguments) -> int:
    """`measure` in a process of its own, so that nothing is left over from another one."""
    command = [sys.executable, __file__, "--measure", json.dumps(arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"measuring {arguments} failed:\n{result.stderr}")
    return int(result.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="base")
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--batch", type=int, nargs="+", default=[4])
    parser.add_argument("--num_frames", type=int, default=16)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", help="JSON file to write")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # arguments of one measurement, used internally
    args = parser.parse_args()
    if args.measure:
        print(measure(*json.loads(args.measure)))
        return
    rows = []
    for task in args.tasks:
        for batch in args.batch:
            shape = (task, args.size, batch, args.num_frames, args.image_size, args.device)
            ours, theirs = (measure_apart(name, *shape) for name in ("videoms", "videomae"))
            rows.append(
                {
                    "task": task,
                    "size": args.size,
                    "batch": batch,
                    "videoms MB": ours / 1e6,
                    "videomae MB": theirs / 1e6,
                    "ratio": ours / theirs,
                }
            )
            print(rows[-1], flush=True)
    write_report(rows, args.output)


if __name__ == "__main__":
    main()
