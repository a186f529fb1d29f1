"""Predict Ego4D's object state changes: a submission for the challenge and, for labelled windows, the accuracy.

videoms state_changes --model runs/oscc/finetune --annotations ego4d/fho_oscc-pnr_val.json --videos ego4d/full_scale
videoms state_changes --model runs/oscc/finetune --annotations unannotated.json --videos ego4d --output answer.json
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from videoms_hf.command_line import parse_recipe, run
from videoms_hf.data.annotations import read_oscc
from videoms_hf.evaluation.classifier import class_names, load_classifier, load_processor
from videoms_hf.evaluation.prediction import evaluation_views, predict_views, start_accelerator
from videoms_hf.evaluation.results import state_change_predictions, submission_accuracy
from videoms_hf.files import write_json
from videoms_hf.training import leave_processes


@dataclass
class PredictionArguments:
    """Which model, which windows, which views."""

    model: str = field(metadata={"help": "Classifier fine-tuned on OSCC: a folder or a Hub name."})
    annotations: str = field(metadata={"help": "fho_oscc-pnr_val.json, or ..._test_unannotated.json."})
    videos: str = field(metadata={"help": "Folder of the recordings, <video_uid>.mp4."})
    output: str = field(default="runs/oscc/submission.json", metadata={"help": "File to write."})
    num_segments: int = field(default=1, metadata={"help": "Temporal positions of the views per window (segments)."})
    num_crops: int = field(default=3, metadata={"help": "Crops per segment, along the longer side."})
    keep_ratio: float | None = field(default=None, metadata={"help": "Fraction of tokens kept; default: the model's."})
    num_kept_tokens: int | None = field(default=None, metadata={"help": "Tokens kept, instead of keep_ratio."})
    batch_size: int = field(default=8, metadata={"help": "Clips per batch and process."})
    num_workers: int = field(default=2, metadata={"help": "Decoding processes per process."})
    mixed_precision: str = field(default="no", metadata={"help": "Precision.", "choices": ["no", "bf16", "fp16"]})


def main(arguments: Sequence[str] | None = None) -> None:
    (args,) = parse_recipe(PredictionArguments, arguments=arguments, description=__doc__)
    accelerator = start_accelerator(args.mixed_precision)
    model = load_classifier(args.model, keep_ratio=args.keep_ratio, num_kept_tokens=args.num_kept_tokens)
    table = read_oscc(args.annotations, args.videos, class_names(model))
    views = evaluation_views(table, model, load_processor(args.model), args.num_segments, args.num_crops)
    (predictions,) = predict_views(model, views, accelerator, args.batch_size, args.num_workers)
    leave_processes()
    if not accelerator.is_main_process:
        return
    submission = state_change_predictions(predictions, table)
    write_json(submission, Path(args.output))
    changes = sum(answer["state_change"] for answer in submission)
    print(f"{changes} of {len(submission)} windows have a state change; the submission: {args.output}")
    accuracy = submission_accuracy(submission, table)
    if accuracy is not None:
        print(f"accuracy {accuracy:.2%}")


if __name__ == "__main__":
    sys.exit(run(main))
