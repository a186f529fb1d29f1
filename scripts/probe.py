"""Evaluate frozen features by linear, attentive and k-NN probing, next to a baseline of frame differences.

videoms probe --model runs/ucf101/pretrain --train_data my/train.csv --test_data my/test.csv
videoms probe --model runs/ucf101/pretrain --train_data my/train.csv --test_data my/test.csv --probes knn --few_shot 10

The baseline is a ridge classifier on the differences of neighbouring frames. It needs no network.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import Tensor
from torch.nn.functional import one_hot

from videoms_hf.command_line import parse_recipe, run
from videoms_hf.data.annotations import read_videos
from videoms_hf.data.tables import few_shot
from videoms_hf.evaluation.classifier import load_encoder, load_processor
from videoms_hf.evaluation.features import extract_features
from videoms_hf.evaluation.metrics import multiview_accuracies
from videoms_hf.evaluation.prediction import evaluation_views, start_accelerator
from videoms_hf.evaluation.probing import (
    attentive_probe,
    frame_differences,
    linear_probe,
    nearest_neighbours,
    ridge_probe,
)
from videoms_hf.evaluation.results import check_not_of_another_model
from videoms_hf.files import write_json
from videoms_hf.machine import describe_origin
from videoms_hf.training import leave_processes


@dataclass
class ProbingArguments:
    """Which encoder, which videos, which probes."""

    model: str = field(metadata={"help": "Pre-trained or fine-tuned model: a folder or a Hub name."})
    train_data: str = field(metadata={"help": "Labelled videos that the probes are trained on."})
    test_data: str = field(metadata={"help": "Labelled videos that the probes are tested on."})
    data_root: str | None = field(default=None, metadata={"help": "Folder of the lists' relative paths."})
    output_dir: str = field(default="runs/probing", metadata={"help": "Folder for probing.json."})
    probes: list[str] = field(
        default_factory=lambda: ["frame_differences", "linear", "attentive", "knn"],
        metadata={"help": "Probes to run.", "choices": ["frame_differences", "linear", "attentive", "knn"]},
    )
    few_shot: int | None = field(default=None, metadata={"help": "Training videos per class; null: all."})
    seed: int = field(default=0, metadata={"help": "Seed of the few-shot sample and the attentive probe."})
    num_neighbours: int = field(default=20, metadata={"help": "Neighbours of the k-NN probe (k)."})
    num_segments: int = field(default=1, metadata={"help": "Temporal positions of the views, for training and test."})
    num_crops: int = field(default=1, metadata={"help": "Crops per segment, along the longer side."})
    keep_ratio: float | None = field(default=None, metadata={"help": "Fraction of tokens kept; default: the model's."})
    num_kept_tokens: int | None = field(default=None, metadata={"help": "Tokens kept, instead of keep_ratio."})
    batch_size: int = field(default=8, metadata={"help": "Clips per batch and process."})
    num_workers: int = field(default=2, metadata={"help": "Decoding processes per process."})
    mixed_precision: str = field(default="no", metadata={"help": "Precision.", "choices": ["no", "bf16", "fp16"]})


def main(arguments: Sequence[str] | None = None) -> None:
    (args,) = parse_recipe(ProbingArguments, arguments=arguments, description=__doc__)
    path = Path(args.output_dir) / "probing.json"
    check_not_of_another_model(path, args.model)
    accelerator = start_accelerator(args.mixed_precision)
    encoder = load_encoder(args.model, keep_ratio=args.keep_ratio, num_kept_tokens=args.num_kept_tokens)
    processor = load_processor(args.model)
    train = read_videos(args.train_data, args.data_root, require_labels=True)
    names = train.features["label"].names
    train = train if args.few_shot is None else few_shot(train, args.few_shot, args.seed)
    test = read_videos(args.test_data, args.data_root, names, require_labels=True)
    level = "token" if "attentive" in args.probes else "clip"
    views = [evaluation_views(table, encoder, processor, args.num_segments, args.num_crops) for table in (train, test)]
    known, asked = (
        extract_features(encoder, part, accelerator, level, args.batch_size, args.num_workers) for part in views
    )
    leave_processes()
    if not accelerator.is_main_process:
        return
    tokens, means = (known.features, asked.features), [part.features for part in (known, asked)]
    if level == "token":
        means = [part.mean(dim=1) for part in tokens]
    heads, count = encoder.config.num_attention_heads, len(names)

    def frame_difference_probe() -> Tensor:
        changes = [frame_differences(part, args.batch_size, args.num_workers) for part in views]
        return ridge_probe(changes[0], one_hot(known.labels, count)).logits(changes[1])

    fit = {
        "frame_differences": frame_difference_probe,
        "linear": lambda: linear_probe(means[0], known.labels, means[1], count),
        "attentive": lambda: attentive_probe(
            tokens[0], known.labels, tokens[1], count, heads, seed=args.seed, device=accelerator.device
        ),
        "knn": lambda: nearest_neighbours(means[0], known.labels, means[1], count, args.num_neighbours).log(),
    }
    results = {}
    for name in args.probes:
        scores = fit[name]().clamp_min(-1e4)  # a class without a vote has no logarithm
        results[name] = multiview_accuracies(scores.numpy(), asked.video_ids.numpy(), asked.labels.numpy())
        top1, low, high = (results[name][f"video_top1{end}"] for end in ("", "_low", "_high"))
        print(f"{name:18} top-1 {top1:.2%} ({low:.2%} to {high:.2%} at 95 %), chance {1 / count:.2%}")
    content = {"arguments": asdict(args), "num_training_videos": len(train), "probes": results, **describe_origin()}
    write_json(content, path)


if __name__ == "__main__":
    sys.exit(run(main))
