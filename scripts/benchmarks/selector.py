"""The motion score: its share of an inference step and, on real clips, how well cheaper scores would agree with it.

python scripts/benchmarks/selector.py --frames 16 64 --num_kept_tokens 470 940
python scripts/benchmarks/selector.py my/videos --output selector.json
python scripts/benchmarks/selector.py my/videos --model runs/mine/pretrain --num_videos 50

The overlap is the intersection over union of the kept sets, at the keep ratios of pre-training and of classification.
A cheaper score would be worth an option from an overlap of 0.95. Without `--model` the weights are random.

Without videos, the share of selection is measured on one thread: 1 - (time with the same number of tokens given by a
mask, so that only these are embedded) / (time with selection). The two take turns; times are minima.
"""

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from report import parser, write_report
from torch import Tensor

from videoms_hf import VideoMSConfig, VideoMSModel
from videoms_hf.configuration_videoms import floor_share
from videoms_hf.selection_videoms import most_important, motion_importance
from videoms_hf.tubelets_videoms import split_tubelets
from videoms_hf.video_processing_videoms import VideoMSVideoProcessor


VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm")


def changes(clip: Tensor, config: VideoMSConfig) -> Tensor:
    """Each tubelet's change since the one before, (B, T - 1, L, values)."""
    size = config.tubelet_size
    return split_tubelets(clip[:, size:] - clip[:, :-size], config).flatten(2, 3).flatten(3)


def scores(model: VideoMSModel, width: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Name -> motion scores (B, N) of clips; the first is the exact one."""
    config = model.config
    weight = model.embeddings.patch_embeddings.projection.weight.detach().flatten(1)
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(width, weight.shape[0], generator=generator) @ weight
    # The directions in which the embedding stretches most: the best that `width` products can do for any clip.
    principal = torch.linalg.svd(weight, full_matrices=False)
    principal = principal.S[:width, None] * principal.Vh[:width]
    return {
        "exact": model.embeddings.importance,
        "pixel distance": lambda clip: motion_importance(changes(clip, config)),
        f"random projection to {width}": lambda clip: motion_importance(changes(clip, config) @ projection.T),
        f"{width} principal directions": lambda clip: motion_importance(changes(clip, config) @ principal.T),
    }


def overlap(ours: Tensor, exact: Tensor, ratio: float) -> float:
    """Intersection over union of the `ratio` highest of two rows of scores."""
    num_kept = floor_share(ratio, len(exact))
    a, b = (set(most_important(row[None], num_kept)[0].tolist()) for row in (ours, exact))
    return len(a & b) / len(a | b)


@torch.no_grad()
def compare(model: VideoMSModel, clips: list[Tensor], width: int) -> list[dict]:
    """A row for each score: mean and minimum overlap with the exact score over the clips, and time per clip."""
    config = model.config
    methods, rows = scores(model, width), []
    exact = [model.embeddings.importance(clip)[0] for clip in clips]
    for name, score in methods.items():
        start = time.process_time()
        results = [score(clip)[0] for clip in clips]
        row = {"score": name, "clips": len(clips)}
        for use, ratio in (("pre-training", config.pretraining_keep_ratio), ("classification", config.keep_ratio)):
            overlaps = [overlap(*pair, ratio) for pair in zip(results, exact, strict=True)]
            row |= {f"{use} mean": sum(overlaps) / len(overlaps), f"{use} min": min(overlaps)}
        rows.append(row | {"ms per clip": 1000 * (time.process_time() - start) / len(clips)})
    return rows


@torch.no_grad()
def share(config: VideoMSConfig, num_frames: int, num_kept: int, repeats: int) -> dict:
    """The row of a clip of `num_frames` of which `num_kept` tokens are encoded."""
    config = copy.deepcopy(config)
    config.num_frames = num_frames
    model = VideoMSModel(config).eval()
    clip = torch.randn(1, num_frames, config.num_channels, *config.image_shape)
    mask = torch.arange(config.num_tokens)[None] >= num_kept
    steps = {"selected": {"num_kept_tokens": num_kept}, "given": {"bool_masked_pos": mask}}
    times = {name: [] for name in steps}
    for _ in range(repeats + 1):  # the first round warms up
        for name, options in steps.items():
            start = time.process_time()
            model(clip, **options)
            times[name].append(1000 * (time.process_time() - start))
    selected, given = (min(values[1:]) for values in times.values())
    row = {"frames": num_frames, "tokens": config.num_tokens, "kept": num_kept, "ms": selected, "ms, given": given}
    return row | {"share of selection": 1 - given / selected}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("videos", nargs="?", help="folder with videos, searched at any depth")
    options.add_argument("--model", help="pre-trained model; by default random weights of --size")
    options.add_argument("--size", default="base")
    options.add_argument("--frames", type=int, nargs="+", default=[16, 32, 64])
    options.add_argument("--num_kept_tokens", type=int, nargs="+", default=[940])
    options.add_argument("--motion_score", default="embedding", choices=["embedding", "pixel"])
    options.add_argument("--repeats", type=int, default=7)
    options.add_argument("--num_videos", type=int, default=40, help="evenly spaced in the sorted list")
    options.add_argument("--width", type=int, default=64, help="dimensions of the projections")
    args = options.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pretrained = VideoMSModel.from_pretrained(args.model) if args.model else None
    model = pretrained or VideoMSModel(VideoMSConfig.from_size(args.size, motion_score=args.motion_score))
    config = model.eval().config
    if args.videos is None:
        rows = [share(config, t, k, args.repeats) for t in args.frames for k in args.num_kept_tokens]
        return write_report(rows, args.output, arguments)
    processor = VideoMSVideoProcessor(
        size={"shortest_edge": min(config.image_shape)},
        crop_size=dict(zip(("height", "width"), config.image_shape, strict=True)),
    )
    files = sorted(path for path in Path(args.videos).rglob("*") if path.suffix in VIDEO_SUFFIXES)
    files = files[:: max(len(files) // args.num_videos, 1)][: args.num_videos]
    clips = [
        processor(str(file), num_frames=config.num_frames, do_sample_frames=True, return_tensors="pt")["pixel_values"]
        for file in files
    ]
    write_report(compare(model, clips, args.width), args.output, arguments)


if __name__ == "__main__":
    main()
