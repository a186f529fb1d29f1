"""The main job from end to end: data, pre-training, probing, fine-tuning, evaluation by several views, a table.

videoms quickstart                          on a small data set that it renders
videoms quickstart --seeds 0 1 2            with three seeds
videoms quickstart --data my/train.csv      on your own videos: a list (`path label` a line) or class folders

Every step is a script of this folder, whose command is shown. The same line again resumes where it was stopped.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from transformers import set_seed

from videoms_hf import VideoMSConfig, VideoMSForPreTraining
from videoms_hf.command_line import CommandParser, run
from videoms_hf.data.annotations import read_videos
from videoms_hf.data.preparation import write_list
from videoms_hf.data.tables import UNLABELLED, hold_out
from videoms_hf.evaluation.classifier import load_processor
from videoms_hf.experiments.comparison import mean_and_interval
from videoms_hf.experiments.synthetic import render_motion_dataset
from videoms_hf.files import write_json
from videoms_hf.machine import describe_origin
from videoms_hf.training.training_arguments import available_cores


SCRIPTS = Path(os.path.relpath(Path(__file__).parent))
FEW = 10  # labels of each class
SCRATCH, PRETRAINED = "from scratch", "after pre-training"
PROBES = {"untrained": "linear probe, untrained backbone", "pretrain": f"linear probe, {PRETRAINED}"}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("--data", help="training videos: a list or a folder; default: a data set is rendered")
    parser.add_argument("--test", help="test videos, likewise; default: a fifth of each class of --data")
    parser.add_argument("--output_dir", type=Path, default=Path("quickstart"), help="folder of everything it makes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the training runs")
    parser.add_argument("--pretrain_steps", type=int, default=10000, help="steps of pre-training, of 16 clips")
    parser.add_argument("--finetune_steps", type=int, default=400, help="steps of each fine-tuning, of 8 clips")
    parser.add_argument("--num_segments", type=int, default=4, help="temporal positions of the test views")
    return parser.parse_args(arguments)


def data_lists(args: argparse.Namespace) -> tuple[Path, Path, Path]:
    """Lists for pre-training, fine-tuning and testing."""
    if args.data is None:
        folder = render_motion_dataset(args.output_dir / "motion", num_train=960, num_val=8, num_test=240)
        return folder / "pretrain.csv", folder / "train.csv", folder / "test.csv"
    table = read_videos(args.data)
    if args.test is None:
        table, test = hold_out(table, share=0.2)
    else:
        test = read_videos(args.test, class_names=table.features["label"].names, require_labels=True)
    labelled = table.select([row for row, label in enumerate(table["label"]) if label != UNLABELLED])
    (args.output_dir / "lists").mkdir(parents=True, exist_ok=True)
    lists = (("pretrain", table), ("train", labelled), ("test", test))
    return tuple(write_list(part, args.output_dir / "lists", name) for name, part in lists)


def batch_size(num_videos: int) -> int:
    """The largest batch of up to 16 that leaves out no more than a tenth of the videos in an epoch."""
    return max(size for size in range(1, min(16, num_videos) + 1) if num_videos % size <= num_videos / 10)


def a_file(video: str | dict, folder: Path) -> str:
    """Path of a video, written to `folder` if its table keeps it inside."""
    if isinstance(video, str):
        return video
    path = folder / Path(video["path"] or "video.mp4").name
    path.write_bytes(video["bytes"])
    return str(path)


def command(script: str, *positional: object, **options: object) -> list[str]:
    """The words that run a script of this folder."""
    words = [*map(str, positional), *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
    words += {"--debug", "--verbose"} & set(sys.argv[1:])
    return [sys.executable, str(SCRIPTS / f"{script}.py"), *words]


def step(*commands: list[str], show_first: bool = False) -> None:
    """Run commands on a core each and stop if one fails; only the first one's output is shown live, if wanted."""

    def run_one(words: list[str]) -> subprocess.CompletedProcess:
        start, line = time.perf_counter(), f"$ {shlex.join(['python', *words[1:]])}"
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if show_first and words is commands[0]:
            print(f"\n{line}", flush=True)
            return subprocess.run(words, env=environment)
        done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        shown = done.stdout if done.returncode else f"done in {time.perf_counter() - start:.0f} s"
        print(f"{line}\n  {shown}", flush=True)
        return done

    with ThreadPoolExecutor(available_cores()) as pool:
        for done in pool.map(run_one, commands):
            if done.returncode:
                sys.exit(done.returncode)


def save_untrained(pretrained: Path, folder: Path, seed: int) -> None:
    """The network of a pre-trained model with random weights."""
    set_seed(seed)
    VideoMSForPreTraining(VideoMSConfig.from_pretrained(pretrained)).save_pretrained(folder)
    load_processor(str(pretrained)).save_pretrained(folder)


def finetunings(pretrained: Path, least: int) -> dict[str, tuple[str, dict]]:
    """Row of the table, and options, of every fine-tuning, by its folder; `least`: videos of the rarest class."""
    weights = {"model_name_or_path": pretrained}
    runs = {"scratch": (f"fine-tuned {SCRATCH}", {}), "finetune": (f"fine-tuned {PRETRAINED}", weights)}
    if least > FEW:
        for folder, (row, options) in tuple(runs.items()):
            runs[f"{folder}-few"] = f"{row}, {FEW} labels a class", {**options, "few_shot": FEW}
    runs["random"] = "  on random tokens instead", {**weights, "token_selection": "random"}
    runs["all"] = "  on all tokens instead", {**weights, "token_selection": "none"}
    return runs


def one_seed(args: argparse.Namespace, lists: tuple[Path, Path, Path], seed: int) -> dict[str, dict]:
    """Train and test with one seed: by row of the table "hits" (or "top1" of a probe), "gmacs" and "seconds"."""
    pretraining, training, testing = lists
    out = args.output_dir / f"seed-{seed}"
    recipes = SCRIPTS / "recipes" / ("rendered" if args.data is None else "small")
    counts = Counter(read_videos(training)["label"])
    pretrain = {"max_steps": args.pretrain_steps, "train_data": pretraining, "output_dir": out / "pretrain"}
    pretrain["per_device_train_batch_size"] = batch_size(len(read_videos(pretraining)))
    data = {"train_data": training, "test_data": testing, "num_workers": 0, "batch_size": 32}
    runs = finetunings(out / "pretrain", min(counts.values()))
    finetune = {"max_steps": args.finetune_steps, "train_data": training, "dataloader_num_workers": 0, "seed": seed}
    finetune["per_device_train_batch_size"] = min(8, len(counts) * min(*counts.values(), FEW))
    trainings = {
        folder: command("finetune", recipes / "finetune.yaml", output_dir=out / folder, **finetune, **options)
        for folder, (_, options) in runs.items()
    }
    first = [trainings.pop(folder) for folder in tuple(runs) if "model_name_or_path" not in runs[folder][1]]
    step(command("pretrain", recipes / "pretrain.yaml", seed=seed, **pretrain), *first, show_first=True)
    save_untrained(out / "pretrain", out / "untrained", seed)
    step(
        *(
            command("probe", model=out / name, output_dir=out / f"{name}-probes", **data)
            + ["--probes", "frame_differences", "linear"]
            for name in PROBES
        ),
        *trainings.values(),
    )
    views = {"num_segments": args.num_segments, "num_crops": 1, "batch_size": 32, "num_workers": 0}
    step(*(command("evaluate_model", model=out / name, data=testing, output_dir=out / name, **views) for name in runs))
    found = {}
    for name, row in PROBES.items():
        probes = json.loads((out / f"{name}-probes" / "probing.json").read_text())["probes"]
        found["ridge on frame differences"] = {"top1": probes["frame_differences"]["video_top1"]}
        found[row] = {"top1": probes["linear"]["video_top1"]}
    for folder, (row, _) in runs.items():
        report, log = (
            json.loads((out / folder / f"{name}.json").read_text()) for name in ("evaluation", "training_log")
        )
        found[row] = {
            "hits": [video["predicted"] == video["label"] for video in report["videos"]],
            "gmacs": report["gflops_per_clip"],
            "seconds": next(entry["train_runtime"] for entry in log["log_history"] if "train_runtime" in entry),
        }
    return found


def summary(results: list[dict[str, dict]], chance: float) -> str:
    """The table of all seeds, and what it says of pre-training."""
    lines = [
        f"{'':49}{'top-1':>6}  {'95 % interval':16}{'GMACs':>6}{'train':>7}   each seed",
        f"{'chance':49}{chance:6.1%}",
    ]
    for row, first in results[0].items():
        cells = [result[row] for result in results]
        tops = [cell["top1"] if "top1" in cell else np.mean(cell["hits"]) for cell in cells]
        line = f"{row:49}{np.mean(tops):6.1%}  "
        if "hits" in first:
            _, low, high = mean_and_interval(np.array([cell["hits"] for cell in cells]))
            seconds = np.mean([cell["seconds"] for cell in cells])
            line += f"{f'{low:.1%} to {high:.1%}':16}{first['gmacs']:6.3f}{seconds:5.0f} s"
        else:
            line += " " * 29
        lines.append(line + "   " + ", ".join(f"{top:.1%}" for top in tops))
    hits = [np.array([result[f"fine-tuned {kind}"]["hits"] for result in results]) for kind in (PRETRAINED, SCRATCH)]
    mean, low, high = mean_and_interval(hits[0].astype(float) - hits[1])
    verdict = "helps here" if low > 0 else "hurts here" if high < 0 else "makes no sure difference here"
    lines.append(f"Pre-training {verdict}: {100 * mean:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f} at 95 %).")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    args, start = parse(arguments), time.perf_counter()
    lists = data_lists(args)
    results = [one_seed(args, lists, seed) for seed in args.seeds]
    last = args.output_dir / f"seed-{args.seeds[-1]}"
    test, picture = read_videos(lists[2]), args.output_dir / "kept_tokens.png"
    picturing = command("predict", a_file(test[0]["video"], args.output_dir), model=last / "finetune", picture=picture)
    step(picturing, show_first=True)
    table = summary(results, 1 / len(test.features["label"].names))
    minutes = (time.perf_counter() - start) / 60
    content = {"seeds": args.seeds, "results": results, "table": table, "minutes": minutes, **describe_origin()}
    write_json(content, args.output_dir / "quickstart.json")
    print(f"\n{table}\n\nThe kept tokens: {picture}    All of it: {minutes:.1f} minutes")


if __name__ == "__main__":
    sys.exit(run(main))
