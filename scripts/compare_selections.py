"""Motion against tube and random selection: the same steps of pre-training, fine-tuning and evaluation, several seeds.

python scripts/compare_selections.py --pretrain_data my/pretrain.csv --train_data my/train.csv --test_data my/test.csv
"""

import sys
from collections.abc import Sequence
from pathlib import Path


if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path.pop(0)  # else `import evaluate`, the library, finds the script of that name beside this one

import time
from dataclasses import asdict, dataclass, field

import numpy as np

from videoms_hf.command_line import parse_recipe, run
from videoms_hf.data.annotations import read_videos
from videoms_hf.data.in_memory import ClipsInMemory
from videoms_hf.evaluation.comparison import comparison_table
from videoms_hf.evaluation.report import describe_origin, write_json
from videoms_hf.training.comparison import evaluate_once, train_once


RECIPES = Path(__file__).parent / "recipes" / "comparison"
FRAME_SIZE = 56  # shorter side of the frames that are kept in memory, a little larger than the recipes' clips


@dataclass
class ComparisonArguments:
    """Which videos, how long; the network and the rest are in scripts/recipes/comparison."""

    pretrain_data: str = field(metadata={"help": "Videos of the pre-training, labels are not read."})
    train_data: str = field(metadata={"help": "Labelled videos of the fine-tuning."})
    test_data: str = field(metadata={"help": "Labelled videos of the evaluation."})
    output_dir: str = field(default="runs/comparison", metadata={"help": "Folder of all runs; finished ones stay."})
    selections: list[str] = field(
        default_factory=lambda: ["motion", "tube", "random"],
        metadata={"help": "Of the pre-training.", "choices": ["motion", "tube", "random"]},
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of the whole run."})
    pretrain_epochs: int = field(default=30, metadata={"help": "Epochs of pre-training."})
    finetune_epochs: int = field(default=60, metadata={"help": "Epochs of fine-tuning."})
    num_segments: int = field(default=4, metadata={"help": "Temporal positions of the test views."})
    batch_size: int = field(default=32, metadata={"help": "Clips of a step of pre-training; fine-tuning takes half."})


def main(arguments: Sequence[str] | None = None) -> None:
    (args,) = parse_recipe(ComparisonArguments, arguments=arguments)
    start, out = time.perf_counter(), Path(args.output_dir)
    pretraining, training = (
        ClipsInMemory(read_videos(data, require_labels=labelled), labelled, FRAME_SIZE)
        for data, labelled in ((args.pretrain_data, False), (args.train_data, True))
    )
    hits = {name: [] for name in args.selections}
    for seed in args.seeds:  # outside, so that a run that is stopped has compared all selections
        for name in args.selections:
            folder = out / f"{name}-{seed}"
            weights = train_once(
                RECIPES / "pretrain.yaml", pretraining, folder / "pretrain", token_selection=name, seed=seed,
                num_train_epochs=args.pretrain_epochs, per_device_train_batch_size=args.batch_size,
            )  # fmt: skip
            finetuned = train_once(
                RECIPES / "finetune.yaml", training, folder / "finetune", model_name_or_path=weights, seed=seed,
                num_train_epochs=args.finetune_epochs, per_device_train_batch_size=max(args.batch_size // 2, 1),
            )  # fmt: skip
            report = evaluate_once(finetuned, args.test_data, args.num_segments)
            hits[name].append([video["predicted"] == video["label"] for video in report["videos"]])
            print(f"seed {seed}, {name}: top-1 {np.mean(hits[name][-1]):.1%}", flush=True)
        table = comparison_table({name: np.array(rows, float) for name, rows in hits.items()}, report["chance_top1"])
        content = {"arguments": asdict(args), "hits": hits, "table": table, **describe_origin()}
        write_json(content | {"minutes": (time.perf_counter() - start) / 60}, out / "comparison.json")
        print(f"\n{table}\n", flush=True)


if __name__ == "__main__":
    sys.exit(run(main))
