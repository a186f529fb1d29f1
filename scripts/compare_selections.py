"""Motion, random and tube selection compared at equal token counts, in pre-training, fine-tuning or both, over seeds.

videoms compare --train_data my/train.csv --test_data my/test.csv --keep_ratios 0.1 0.3 0.6 1
videoms compare --stage pretrain --pretrain_data my/pretrain.csv --train_data my/train.csv --test_data my/test.csv

All runs of a seed share initial weights, batches and crops. Finished runs are not repeated. Where pre-training is
compared, a control without it is fine-tuned as well ("scratch").
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from videoms_hf.command_line import parse_recipe, read_recipe, run
from videoms_hf.configuration_videoms import VideoMSConfig
from videoms_hf.data.annotations import read_videos
from videoms_hf.data.tables import few_shot
from videoms_hf.experiments.comparison import Panel, comparison_table, draw_panels
from videoms_hf.experiments.selectors import SELECTIONS
from videoms_hf.experiments.single_run import ClipsInMemory, evaluate_once, train_once
from videoms_hf.files import write_json
from videoms_hf.machine import describe_origin
from videoms_hf.visualization.charts import save_chart


SCRATCH = "scratch"  # the control without pre-training
MARGIN = 9 / 8  # frames are kept in memory a little larger than clips, for crops


@dataclass
class ComparisonArguments:
    """Which videos, how long; network and method are in the recipes."""

    train_data: str = field(metadata={"help": "Labelled videos of the fine-tuning."})
    test_data: str = field(metadata={"help": "Labelled videos of the evaluation."})
    pretrain_data: str | None = field(default=None, metadata={"help": "Videos of the pre-training, without labels."})
    stage: str = field(
        default="finetune",
        metadata={
            "help": "Where selections differ: finetune (from random weights), pretrain (then fine-tuned by motion) or "
            "both (pre-trained and fine-tuned by the same).",
            "choices": ["finetune", "pretrain", "both"],
        },
    )
    output_dir: str = field(default="runs/comparison", metadata={"help": "Folder of all runs; finished ones stay."})
    pretrain_dir: str | None = field(
        default=None, metadata={"help": "Folder of pre-trained models, to share them; default: output_dir."}
    )
    selections: list[str] = field(
        default_factory=lambda: ["motion", "random", "tube"],
        metadata={
            "help": "The first one is compared to others; those with + spend a share on the background.",
            "choices": list(SELECTIONS),
        },
    )
    keep_ratios: list[float] | None = field(
        default=None,
        metadata={"help": "Shares of tokens kept in fine-tuning; 1: all of them. Default: as in the recipe."},
    )
    num_kept_tokens: list[int] | None = field(
        default=None, metadata={"help": "Numbers of tokens kept in fine-tuning, instead of shares."}
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of the whole run."})
    pretrain_steps: int = field(default=6000, metadata={"help": "Steps of pre-training."})
    finetune_steps: int = field(default=800, metadata={"help": "Steps of fine-tuning."})
    equal_time: bool = field(
        default=False,
        metadata={
            "help": "Train each cell again, with as many steps as take the processor time of the slowest cell, "
            "pre-training included."
        },
    )
    few_shot: int | None = field(default=None, metadata={"help": "Labelled videos of each class, drawn by the seed."})
    recipes: str = field(
        default="small", metadata={"help": "Folder, or shipped recipes, with pretrain.yaml and finetune.yaml."}
    )
    num_frames: int | None = field(default=None, metadata={"help": "Frames of a clip; by default as in the recipe."})
    frame_stride: int | None = field(default=None, metadata={"help": "Take every n-th frame; likewise."})
    image_size: int | None = field(default=None, metadata={"help": "Height and width of a clip, pixels; likewise."})
    num_segments: int = field(default=4, metadata={"help": "Temporal positions of the test views."})
    chart: str | None = field(default=None, metadata={"help": "PNG of top-1 against GMACs per clip (matplotlib)."})

    def __post_init__(self):
        if self.stage != "finetune" and self.pretrain_data is None:
            raise ValueError(f"stage is {self.stage}, but pretrain_data is not given")
        recipe = read_recipe(f"{self.recipes}/finetune.yaml")
        default = recipe.get("num_kept_tokens") or float(recipe.get("keep_ratio") or VideoMSConfig().keep_ratio)
        self.budgets = self.num_kept_tokens or self.keep_ratios or [default]

    @property
    def clip_options(self) -> dict[str, int]:
        """What is laid over the recipes."""
        options = {name: getattr(self, name) for name in ("num_frames", "frame_stride", "image_size")}
        return {name: value for name, value in options.items() if value is not None}


def is_all(budget: float | int) -> bool:
    """Whether a keep ratio (float) or number of tokens (int) stands for all tokens."""
    return isinstance(budget, float) and budget == 1


def words(budget: float | int) -> str:
    return f"{budget:.0%} of the tokens" if isinstance(budget, float) else f"{budget} tokens"


class Cell(NamedTuple):
    """One trained network."""

    hits: list[bool]  # of each test video
    chance: float
    gmacs: float  # per clip
    pretrain_seconds: float  # processor time of its pre-training
    seconds: float  # and of its fine-tuning


def run_cell(args: ComparisonArguments, clips: dict, seed: int, budget: float | int, name: str, steps: int) -> Cell:
    """Pre-train, fine-tune and evaluate with one selection; what has been done is read."""
    out, seconds, weights = Path(args.output_dir), 0.0, {}
    if args.stage != "finetune" and name != SCRATCH:
        weights["model_name_or_path"] = Path(args.pretrain_dir or out) / f"pretrain-{name}-{seed}"
        seconds = train_once(
            f"{args.recipes}/pretrain.yaml", clips[False], weights["model_name_or_path"],
            selection=name, seed=seed, max_steps=args.pretrain_steps, **args.clip_options,
        )  # fmt: skip
    chosen = "none" if is_all(budget) else "motion" if args.stage == "pretrain" or name == SCRATCH else name
    folder = out / f"finetune-{name}-{budget}-{seed}{'' if steps == args.finetune_steps else f'-{steps}-steps'}"
    share = {"keep_ratio" if isinstance(budget, float) else "num_kept_tokens": budget}
    own_seconds = train_once(
        f"{args.recipes}/finetune.yaml", clips[True], folder,
        selection=chosen, seed=seed, max_steps=steps, **share, **weights, **args.clip_options,
    )  # fmt: skip
    report = evaluate_once(folder, chosen, args.test_data, args.num_segments)
    hits = [video["predicted"] == video["label"] for video in report["videos"]]
    print(f"seed {seed}, {words(budget)} by {name}, {steps} steps: top-1 {np.mean(hits):.1%}", flush=True)
    return Cell(hits, report["chance_top1"], report["gmacs_per_clip"], seconds, own_seconds)


def run_seed(args: ComparisonArguments, clips: dict, seed: int) -> tuple[dict, dict]:
    """Cells of a seed by budget and name, at equal steps and, if wanted, at equal time."""
    controls = [] if args.stage == "finetune" else [SCRATCH]
    # All tokens are the same tokens, so there is one run of them, unless weights differ.
    names = {budget: args.selections if controls or not is_all(budget) else ["none"] for budget in args.budgets}
    cells = {
        budget: {name: run_cell(args, clips, seed, budget, name, args.finetune_steps) for name in [*chosen, *controls]}
        for budget, chosen in names.items()
    }
    if not args.equal_time:
        return cells, {}
    every = [cell for row in cells.values() for cell in row.values()]
    longest = max(cell.pretrain_seconds + cell.seconds for cell in every)
    again = {}
    for budget, row in cells.items():
        for name, cell in row.items():
            scale = (longest - cell.pretrain_seconds) / cell.seconds  # at least 1
            steps = args.finetune_steps if abs(scale - 1) < 0.05 else round(scale * args.finetune_steps)
            again.setdefault(budget, {})[name] = run_cell(args, clips, seed, budget, name, steps)
    return cells, again


def table_of(seeds: list[dict]) -> str:
    """The tables of all budgets; each of `seeds` has its cells by budget and name."""
    parts = []
    for budget, row in seeds[0].items():
        first = next(iter(row.values()))
        seconds = {
            name: np.mean([cells[budget][name].pretrain_seconds + cells[budget][name].seconds for cells in seeds])
            for name in row
        }
        parts.append(f"{words(budget)}, {first.gmacs:.3g} GMACs per clip")
        parts.append(comparison_table(hits_of(seeds)[budget], first.chance, seconds) + "\n")
    return "\n".join(parts)


def hits_of(seeds: list[dict]) -> dict[float | int, dict[str, np.ndarray]]:
    """Hits (seeds, videos) by budget and name."""
    return {
        budget: {name: np.array([cells[budget][name].hits for cells in seeds], float) for name in row}
        for budget, row in seeds[0].items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    (args,) = parse_recipe(ComparisonArguments, arguments=arguments, description=__doc__)
    start = time.perf_counter()
    side = int((args.image_size or read_recipe(f"{args.recipes}/finetune.yaml")["image_size"]) * MARGIN)
    data = {False: args.pretrain_data, True: args.train_data}
    tables = {
        labelled: read_videos(videos, require_labels=labelled)
        for labelled, videos in data.items()
        if videos is not None and (labelled or args.stage != "finetune")
    }
    clips = {labelled: ClipsInMemory(table, labelled, side) for labelled, table in tables.items()}
    seeds = []
    for seed in args.seeds:  # outside, so that a run that is stopped has compared all selections
        if args.few_shot is not None:
            clips[True] = ClipsInMemory(few_shot(tables[True], args.few_shot, seed), True, side)
        seeds.append(run_seed(args, clips, seed))
        steps, times = ([cells[kind] for cells in seeds] for kind in (0, 1))
        table = table_of(steps)
        table += f"\nAt equal time:\n{table_of(times)}" if args.equal_time else ""
        content = {"arguments": asdict(args), "table": table, **describe_origin()}
        content |= {"minutes": (time.perf_counter() - start) / 60, "seeds": args.seeds[: len(seeds)]}
        for key, cells in (("equal_steps", steps), ("equal_time", times)):
            content[key] = [{r: {n: c._asdict() for n, c in row.items()} for r, row in one.items()} for one in cells]
        write_json(content, Path(args.output_dir) / "comparison.json")
        print(f"\n{table}", flush=True)
    if args.chart is not None:
        gmacs = {budget: next(iter(row.values())).gmacs for budget, row in steps[0].items()}
        chance = next(iter(next(iter(steps[0].values())).values())).chance
        print(save_chart(draw_panels, args.chart, [Panel("", hits_of(steps), gmacs, chance)]) or args.chart)


if __name__ == "__main__":
    sys.exit(run(main))
