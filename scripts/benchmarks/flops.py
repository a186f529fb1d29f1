"""GMACs per clip, compared with transformers' VideoMAE, counted by torch.utils.flop_counter.

python scripts/benchmarks/flops.py --sizes small base large huge --output flops.json

A MAC is one multiply-add; papers on video models call GMACs "GFLOPs". "pretraining" and "classification" are forward
and backward, "inference" is forward only. "saving" is VideoMAE's count divided by ours.
"""

from collections.abc import Sequence

import torch
from contestants import build, make_step
from report import parser, write_report
from torch.utils.flop_counter import FlopCounterMode


def count(name: str, task: str, size: str, num_frames: int, image_size: int, keep_ratio: float = 0.6) -> int:
    """MACs of one clip: forward and backward, or forward only for "inference"."""
    # VideoMAE indexes its targets with a mask, and a meta tensor cannot tell how many there are: run it.
    device = "cpu" if (name, task) == ("videomae", "pretraining") else "meta"
    with torch.device(device):
        model = build(name, task, size, num_frames, image_size, keep_ratio)
        clip = torch.zeros(1, num_frames, 3, image_size, image_size)
    if name == "videoms":
        return model.flops((num_frames, 3, image_size, image_size), training=task != "inference")
    for module in model.modules():  # its decoder has its own configuration
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
                    "videoms GMACs": ours / 1e9,
                    "videomae GMACs": theirs / 1e9,
                    "saving": theirs / ours,
                }
            )
            print(rows[-1], flush=True)
    write_report(rows, args.output, arguments)


if __name__ == "__main__":
    main()
