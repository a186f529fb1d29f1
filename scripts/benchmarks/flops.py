"""Multiply-adds of a clip against transformers' VideoMAE, counted by torch.utils.flop_counter, in G.

python scripts/benchmarks/flops.py --sizes small base large huge --output flops.json

"training" is forward and backward. A multiply-add counts as one; some papers count it as two.
"""

from collections.abc import Sequence

import torch
from contestants import build, make_step
from report import parser, write_report
from torch.utils.flop_counter import FlopCounterMode


def count(name: str, task: str, size: str, num_frames: int, image_size: int, keep_ratio: float = 0.6) -> int:
    """Multiply-adds of one step of one clip: forward and backward, or for "inference" forward only."""
    # VideoMAE takes its targets by a mask, whose count no meta tensor knows: it has to run.
    device = "cpu" if (name, task) == ("videomae", "pretraining") else "meta"
    with torch.device(device):
        model = build(name, task, size, num_frames, image_size, keep_ratio)
        clip = torch.zeros(1, num_frames, 3, image_size, image_size)
    if name == "videoms":
        return model.flops((num_frames, 3, image_size, image_size), training=task != "inference")
    for module in model.modules():  # its decoder has a configuration of its own
        if hasattr(module, "config"):
            module.config._attn_implementation = "eager"  # the counter does not know the CPU's fused attention
    step = make_step(model, name, task, clip)
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() // 2


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--sizes", nargs="+", default=["small", "base"])
    options.add_argument("--num_frames", type=int, default=16)
    options.add_argument("--image_size", type=int, default=224)
    args = options.parse_args(arguments)
    rows = []
    for size in args.sizes:
        for task in ("pretraining", "classification", "inference"):
            ours, theirs = (
                count(name, task, size, args.num_frames, args.image_size) for name in ("videoms", "videomae")
            )
            rows.append(
                {
                    "task": task,
                    "size": size,
                    "videoms G": ours / 1e9,
                    "videomae G": theirs / 1e9,
                    "ratio": ours / theirs,
                }
            )
            print(rows[-1], flush=True)
    write_report(rows, args.output, arguments)


if __name__ == "__main__":
    main()
