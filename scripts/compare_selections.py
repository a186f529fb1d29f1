"""Motion against tube and random selection: the same steps of pre-training, fine-tuning and evaluation, several seeds.

python scripts/compare_selections.py --pretrain_data my/pretrain.csv --train_data my/train.csv --test_data my/test.csv
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path


if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path.pop(0)  # else `import evaluate`, the library, finds the script of that name beside this one

import json
import time
from dataclasses import asdict, dataclass, field

import numpy as np
from transformers import set_seed

from videoms_hf.data.annotations import read_videos
from videoms_hf.data.collate import MixingCollator, collate_clips
from videoms_hf.data.in_memory import ClipsInMemory
from videoms_hf.data.tables import video_names
from videoms_hf.data.transforms import FinetuningTransform, PretrainingTransform
from videoms_hf.evaluation.classifier import class_names, load_classifier, load_processor
from videoms_hf.evaluation.comparison import comparison_table
from videoms_hf.evaluation.prediction import evaluation_views, labelled_videos, predict_views, start_accelerator
from videoms_hf.evaluation.report import describe_origin, evaluation_report, write_json
from videoms_hf.sampling_videoms import finetuning_clip, pretraining_clip
from videoms_hf.training import (
    DataArguments,
    FineTuningArguments,
    ModelArguments,
    PreTrainingArguments,
    VideoMSTrainer,
    classification_model,
    parse_recipe,
    pretraining_model,
    processor_for,
)


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
        default_factory=lambda: ["motion", "tube", "random"], metadata={"help": "Selections of the pre-training."}
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of the whole run."})
    pretrain_epochs: int = field(default=30, metadata={"help": "Epochs of pre-training."})
    finetune_epochs: int = field(default=60, metadata={"help": "Epochs of fine-tuning."})
    num_segments: int = field(default=4, metadata={"help": "Temporal positions of the test views."})
    batch_size: int = field(default=32, metadata={"help": "Clips of a step of pre-training; fine-tuning takes half."})


def train(stage: str, clips: ClipsInMemory, folder: Path, **options) -> Path:
    """The folder of a trained model with its processor; a finished one is left as it is."""
    if (folder / "model.safetensors").is_file():
        return folder
    kinds = (ModelArguments, DataArguments, PreTrainingArguments if stage == "pretrain" else FineTuningArguments)
    words = [str(RECIPES / f"{stage}.yaml"), *(f"--{name}={value}" for name, value in options.items())]
    model_args, data_args, training_args = parse_recipe(*kinds, arguments=[*words, f"--output_dir={folder}"])
    set_seed(training_args.seed)
    names, collate = clips.table.features["label"].names, collate_clips
    if stage == "pretrain":
        model, _ = pretraining_model(model_args, data_args)
        choose, clips.transform = pretraining_clip, PretrainingTransform(data_args.image_size)
    else:
        model, _ = classification_model(model_args, data_args, names)
        choose = finetuning_clip
        clips.transform = FinetuningTransform(data_args.image_size, None, True, False, 0.0)
        collate = MixingCollator(len(names), training_args.label_smoothing_factor)
    clips.choose_frames = partial(choose, num_frames=data_args.num_frames, stride=data_args.frame_stride)
    processor = processor_for(data_args, model.config)
    trainer = VideoMSTrainer(
        model, training_args, data_collator=collate, train_dataset=clips, processing_class=processor
    )
    trainer.train()
    trainer.save_model()
    return folder


def evaluate(folder: Path, args: ComparisonArguments) -> dict:
    """The report of a fine-tuned model on several views of the test videos."""
    if (folder / "evaluation.json").is_file():
        return json.loads((folder / "evaluation.json").read_text())
    model = load_classifier(str(folder))
    names = class_names(model)
    table = labelled_videos(args.test_data, names)
    views = evaluation_views(table, model, load_processor(str(folder)), args.num_segments, 1)
    report = evaluation_report(predict_views(model, views, start_accelerator(), 32), video_names(table), names)
    write_json(report, folder / "evaluation.json")
    return report


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
            weights = train(
                "pretrain", pretraining, folder / "pretrain", token_selection=name, seed=seed,
                num_train_epochs=args.pretrain_epochs, per_device_train_batch_size=args.batch_size,
            )  # fmt: skip
            finetuned = train(
                "finetune", training, folder / "finetune", model_name_or_path=weights, seed=seed,
                num_train_epochs=args.finetune_epochs, per_device_train_batch_size=max(args.batch_size // 2, 1),
            )  # fmt: skip
            report = evaluate(finetuned, args)
            hits[name].append([video["predicted"] == video["label"] for video in report["videos"]])
            print(f"seed {seed}, {name}: top-1 {np.mean(hits[name][-1]):.1%}", flush=True)
        table = comparison_table({name: np.array(rows, float) for name, rows in hits.items()}, report["chance_top1"])
        content = {"arguments": asdict(args), "hits": hits, "table": table, **describe_origin()}
        write_json(content | {"minutes": (time.perf_counter() - start) / 60}, out / "comparison.json")
        print(f"\n{table}\n", flush=True)


if __name__ == "__main__":
    main()
