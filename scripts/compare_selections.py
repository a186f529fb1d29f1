"""Motion against random and tube selection at equal token counts, in pre-training, fine-tuning or both, several seeds.

videoms compare --train_data my/train.csv --test_data my/test.csv --keep_ratios 0.1 0.3 0.6 1
videoms compare --stage both --pretrain_data my/pretrain.csv --train_data my/train.csv --test_data my/test.csv

All runs of a seed share initial weights, batches and crops. Finished runs are not repeated.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from videoms_hf.command_line import parse_recipe, run
from videoms_hf.data.annotations import read_videos
from videoms_hf.experiments.comparison import comparison_table, save_chart
from videoms_hf.experiments.in_memory import ClipsInMemory
from videoms_hf.experiments.single_run import evaluate_once, train_once
from videoms_hf.files import write_json
from videoms_hf.machine import describe_origin


RECIPES = Path(__file__).parent / "recipes" / "small"
MARGIN = 9 / 8  # frames are kept in memory a little larger than clips, for crops


@dataclass
class ComparisonArguments:
    """Which videos, how long; network and method are in the recipes small/*."""

    train_data: str = field(metadata={"help": "Labelled videos of the fine-tuning."})
    test_data: str = field(metadata={"help": "Labelled videos of the evaluation."})
    pretrain_data: str | None = field(default=None, metadata={"help": "Videos of the pre-training, without labels."})
    stage: str = field(
        default="finetune",
        metadata={
            "help": "Where selections differ: finetune (from random weights), pretrain (then fine-tuned by motion) or "
            "both.",
            "choices": ["finetune", "pretrain", "both"],
        },
    )
    output_dir: str = field(default="runs/comparison", metadata={"help": "Folder of all runs; finished ones stay."})
    selections: list[str] = field(
        default_factory=lambda: ["motion", "random", "tube"],
        metadata={"help": "The first one is compared to others.", "choices": ["motion", "random", "tube"]},
    )
    keep_ratios: list[float] = field(
        default_factory=lambda: [0.3], metadata={"help": "Shares of tokens kept in fine-tuning; 1: all of them."}
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of the whole run."})
    pretrain_steps: int = field(default=6000, metadata={"help": "Steps of pre-training."})
    finetune_steps: int = field(default=800, metadata={"help": "Steps of fine-tuning."})
    num_frames: int = field(default=16, metadata={"help": "Frames of a clip."})
    frame_stride: int = field(default=2, metadata={"help": "Take every n-th frame of the video."})
    image_size: int = field(default=64, metadata={"help": "Height and width of a clip, pixels."})
    num_segments: int = field(default=4, metadata={"help": "Temporal positions of the test views."})
    chart: str | None = field(default=None, metadata={"help": "PNG of top-1 against GMACs per clip (matplotlib)."})

    def __post_init__(self):
        if self.stage != "finetune" and self.pretrain_data is None:
            raise ValueError(f"stage is {self.stage}, but pretrain_data is not given")


def main(arguments: Sequence[str] | None = None) -> None:
    (args,) = parse_recipe(ComparisonArguments, arguments=arguments, description=__doc__)
    start, out = time.perf_counter(), Path(args.output_dir)
    data = {False: args.pretrain_data, True: args.train_data}
    clips = {
        labelled: ClipsInMemory(read_videos(videos, require_labels=labelled), labelled, int(args.image_size * MARGIN))
        for labelled, videos in data.items()
        if videos is not None and (labelled or args.stage != "finetune")
    }
    common = {"num_frames": args.num_frames, "frame_stride": args.frame_stride, "image_size": args.image_size}
    hits: dict[float, dict[str, list]] = {ratio: {} for ratio in args.keep_ratios}
    gmacs: dict[float, float] = {}
    for seed in args.seeds:  # outside, so that a run that is stopped has compared all selections
        for ratio in args.keep_ratios:
            # All tokens are the same tokens, so there is one run of them, unless weights differ.
            for name in args.selections if ratio < 1 or args.stage != "finetune" else ["none"]:
                weights = {}
                if args.stage != "finetune":
                    weights["model_name_or_path"] = train_once(
                        RECIPES / "pretrain.yaml", clips[False], out / f"pretrain-{name}-{seed}",
                        token_selection=name, seed=seed, max_steps=args.pretrain_steps, **common,
                    )  # fmt: skip
                chosen = "none" if ratio == 1 else "motion" if args.stage == "pretrain" else name
                folder = train_once(
                    RECIPES / "finetune.yaml", clips[True], out / f"finetune-{name}-{ratio}-{seed}",
                    token_selection=chosen, keep_ratio=ratio, seed=seed, max_steps=args.finetune_steps,
                    **weights, **common,
                )  # fmt: skip
                report = evaluate_once(folder, args.test_data, args.num_segments)
                gmacs[ratio] = report["gmacs_per_clip"]
                found = hits[ratio].setdefault(name, [])
                found.append([video["predicted"] == video["label"] for video in report["videos"]])
                print(f"seed {seed}, {ratio:.0%} by {name}: top-1 {np.mean(found[-1]):.1%}", flush=True)
        values = {r: {name: np.array(rows, float) for name, rows in cells.items()} for r, cells in hits.items()}
        table = "\n\n".join(
            f"{ratio:.0%} of the tokens, {gmacs[ratio]:.3g} GMACs per clip\n"
            + comparison_table(cells, report["chance_top1"])
            for ratio, cells in values.items()
        )
        content = {"arguments": asdict(args), "hits": hits, "gmacs_per_clip": gmacs, "table": table}
        minutes = (time.perf_counter() - start) / 60
        write_json(content | describe_origin() | {"minutes": minutes}, out / "comparison.json")
        print(f"\n{table}\n", flush=True)
    if args.chart is not None:
        save_chart(values, gmacs, report["chance_top1"], args.chart)


if __name__ == "__main__":
    sys.exit(run(main))
