"""The main job from end to end: data, pre-training, fine-tuning, evaluation by several views, prediction, a table.

bash scripts/quickstart.sh                          on a small data set that it renders
bash scripts/quickstart.sh --data my/train.csv      on your own videos: a list (`path label` a line) or class folders

Every step is a script of this folder, whose command is shown. The same line again goes on where it was stopped.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from videoms_hf import VideoMSForVideoClassification
from videoms_hf.command_line import CommandParser, run
from videoms_hf.data.annotations import read_videos
from videoms_hf.data.preparation import write_list
from videoms_hf.data.splits import hold_out
from videoms_hf.data.synthetic import render_motion_dataset
from videoms_hf.data.tables import UNLABELLED
from videoms_hf.evaluation.report import describe_origin, write_json


SCRIPTS = Path(os.path.relpath(Path(__file__).parent))
OWN_CLIPS = {"num_frames": 16, "frame_stride": 4, "image_size": 112, "patch_size": 16}  # real videos are larger


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("--data", help="training videos: a list or a folder; default: a data set is rendered")
    parser.add_argument("--test", help="test videos, likewise; default: a fifth of each class of --data")
    parser.add_argument("--output_dir", type=Path, default=Path("quickstart"), help="folder of everything it makes")
    parser.add_argument("--pretrain_clips", type=int, default=25600, help="clips seen in pre-training")
    parser.add_argument("--finetune_clips", type=int, default=12800, help="clips seen in each fine-tuning")
    parser.add_argument("--num_segments", type=int, default=4, help="temporal positions of the test views")
    parser.add_argument("--num_crops", type=int, default=1, help="crops of each")
    return parser.parse_args(arguments)


def data_lists(args: argparse.Namespace) -> tuple[Path, Path, Path]:
    """Lists for pre-training, fine-tuning and testing."""
    if args.data is None:
        folder = render_motion_dataset(args.output_dir / "motion", num_train=960, num_test=120, num_frames=40)
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
    """The largest batch of up to 32 that leaves out no more than a tenth of the videos in an epoch."""
    return max(size for size in range(1, min(32, num_videos) + 1) if num_videos % size <= num_videos / 10)


def a_file(video: str | dict, folder: Path) -> str:
    """Path of a video, written to `folder` if its table keeps it inside."""
    if isinstance(video, str):
        return video
    path = folder / Path(video["path"] or "video.mp4").name
    path.write_bytes(video["bytes"])
    return str(path)


def step(script: str, *positional: object, **options: object) -> None:
    """Carry out a script of this folder and show its command; stop where it fails."""
    words = [*map(str, positional), *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
    words = [str(SCRIPTS / f"{script}.py"), *words, *({"--debug", "--verbose"} & set(sys.argv[1:]))]
    print(f"\n$ {shlex.join(['python', *words])}", flush=True)
    code = subprocess.run([sys.executable, *words]).returncode
    if code:
        sys.exit(code)


def summary(finetuned: dict, scratch: dict, gflops: dict[float, float]) -> str:
    """The run's table, and what it says of pre-training."""
    lines = [f"{'':34}{'top-1':>8}   95 % interval, {finetuned['accuracies']['num_videos']} videos"]
    for name, score in (("fine-tuned after pre-training", finetuned), ("from scratch, same budget", scratch)):
        top1, low, high = (score["accuracies"][f"video_top1{end}"] for end in ("", "_low", "_high"))
        lines.append(f"{name:34}{top1:8.1%}   {low:.1%} to {high:.1%}")
    lines.append(f"{'chance':34}{finetuned['chance_top1']:8.1%}")
    lines += [f"{f'GFLOPs a clip, {ratio:.0%} of the tokens':34}{value:8.3f}" for ratio, value in gflops.items()]
    gain = finetuned["accuracies"]["video_top1"] - scratch["accuracies"]["video_top1"]
    verdict = "helped" if gain > 0 else "did not help"
    lines.append(f"Pre-training {verdict} here: {100 * gain:+.1f} points of top-1 in this one run.")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    args, start = parse(arguments), time.perf_counter()
    pretraining, training, testing = data_lists(args)
    clips = {} if args.data is None else OWN_CLIPS
    recipes, out = SCRIPTS / "recipes" / "quickstart", args.output_dir

    def length(videos: Path, num_clips: int) -> dict:
        count = len(read_videos(videos))
        epochs = num_clips / count
        epochs = round(epochs) if epochs >= 1 else round(epochs, 3)
        return {
            "num_train_epochs": epochs,
            "warmup_epochs": round(min(4, epochs / 3), 3),
            "per_device_train_batch_size": batch_size(count),
        }

    step(
        "pretrain", recipes / "pretrain.yaml", train_data=pretraining, output_dir=out / "pretrain",
        **clips, **length(pretraining, args.pretrain_clips),
    )  # fmt: skip
    scores = {}
    for name, weights in (("finetune", {"model_name_or_path": out / "pretrain"}), ("scratch", {})):
        step(
            "finetune", recipes / "finetune.yaml", train_data=training, output_dir=out / name,
            **weights, **clips, **length(training, args.finetune_clips),
        )  # fmt: skip
        step(
            "evaluate", model=out / name, data=testing, output_dir=out / f"{name}-evaluation", batch_size=16,
            num_segments=args.num_segments, num_crops=args.num_crops,
        )  # fmt: skip
        scores[name] = json.loads((out / f"{name}-evaluation" / "evaluation.json").read_text())
    video, picture = a_file(read_videos(testing)[0]["video"], out), out / "kept_tokens.png"
    step("predict", video, model=out / "finetune", picture=picture)
    model = VideoMSForVideoClassification.from_pretrained(out / "finetune")
    gflops = {ratio: model.flops(keep_ratio=ratio) / 1e9 for ratio in (model.config.keep_ratio, 1.0)}
    table = summary(scores["finetune"], scores["scratch"], gflops)
    minutes = (time.perf_counter() - start) / 60
    accuracies = {name: score["accuracies"] for name, score in scores.items()}
    write_json({**accuracies, "table": table, "minutes": minutes, **describe_origin()}, out / "quickstart.json")
    print(f"\n{table}\n\nThe kept tokens: {picture}    All of it: {minutes:.1f} minutes")


if __name__ == "__main__":
    sys.exit(run(main))
