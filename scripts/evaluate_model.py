"""Evaluate a classifier on several views of every video: accuracies with confidence intervals, scores of every video.

videoms evaluate --model runs/mine --data my/test.csv
torchrun --nproc_per_node 8 -m videoms_hf evaluate ucf101/evaluate --keep_ratio 0.4
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from videoms_hf.command_line import parse_recipe, run
from videoms_hf.data.tables import video_names
from videoms_hf.evaluation.classifier import class_names, load_classifier, load_processor
from videoms_hf.evaluation.prediction import evaluation_views, labelled_videos, predict_views, start_accelerator
from videoms_hf.evaluation.results import accuracy_table, check_not_of_another_model, evaluation_report, weights_digest
from videoms_hf.files import write_json
from videoms_hf.machine import describe_origin
from videoms_hf.training import leave_processes


@dataclass
class EvaluationArguments:
    """Which model, which videos, which views."""

    model: str = field(metadata={"help": "Fine-tuned classifier: a folder or a Hub name."})
    data: str = field(metadata={"help": "Labelled videos: a list, a table, or a folder with a folder per class."})
    data_root: str | None = field(default=None, metadata={"help": "Folder of the list's relative paths."})
    output_dir: str = field(default="runs/evaluation", metadata={"help": "Folder for evaluation.json."})
    num_segments: int = field(default=5, metadata={"help": "Temporal positions of the views (segments)."})
    num_crops: int = field(default=3, metadata={"help": "Crops per segment, along the longer side."})
    keep_ratio: float | None = field(default=None, metadata={"help": "Fraction of tokens kept; default: the model's."})
    num_kept_tokens: int | None = field(default=None, metadata={"help": "Tokens kept, instead of keep_ratio."})
    num_frames: int | None = field(default=None, metadata={"help": "Frames per clip; default: the model's."})
    frame_stride: int | None = field(default=None, metadata={"help": "Use every n-th frame; default: the model's."})
    image_size: int | None = field(default=None, metadata={"help": "Height and width, pixels; default: the model's."})
    batch_size: int = field(default=8, metadata={"help": "Clips per batch and process."})
    num_workers: int = field(default=2, metadata={"help": "Decoding processes per process."})
    mixed_precision: str = field(default="no", metadata={"help": "Precision.", "choices": ["no", "bf16", "fp16"]})
    skip_broken: bool = field(default=False, metadata={"help": "Skip broken videos and report them."})


def main(arguments: Sequence[str] | None = None) -> None:
    (args,) = parse_recipe(EvaluationArguments, arguments=arguments, description=__doc__)
    path = Path(args.output_dir) / "evaluation.json"
    check_not_of_another_model(path, args.model)
    accelerator = start_accelerator(args.mixed_precision)
    model = load_classifier(
        args.model,
        keep_ratio=args.keep_ratio,
        num_kept_tokens=args.num_kept_tokens,
        num_frames=args.num_frames,
        image_size=args.image_size,
    )
    processor = load_processor(args.model, args.frame_stride, args.image_size)
    names = class_names(model)
    table = labelled_videos(args.data, names, args.data_root)
    start = time.perf_counter()
    views = evaluation_views(table, model, processor, args.num_segments, args.num_crops, args.skip_broken)
    predictions = predict_views(model, views, accelerator, args.batch_size, args.num_workers, args.skip_broken)
    seconds = time.perf_counter() - start
    leave_processes()
    if not accelerator.is_main_process:
        return
    size = processor.crop_size["height"]
    gmacs = model.flops((views.num_frames, model.config.num_channels, size, size)) / 1e9
    num_views = args.num_segments * args.num_crops
    report = {
        **describe_origin(accelerator.num_processes),
        "arguments": asdict(args),
        "weights_sha256": weights_digest(model.state_dict().items()),
        "keep_ratio": model.config.keep_ratio,
        "num_kept_tokens": model.config.num_kept_tokens,
        "num_segments": args.num_segments,
        "num_crops": args.num_crops,
        "num_frames": model.config.num_frames,
        "frame_stride": processor.frame_stride,
        "image_size": size,
        "gflops_per_clip": gmacs,
        "gflops_per_video": gmacs * num_views,
        "seconds": seconds,
        **evaluation_report(predictions, video_names(table), names),
    }
    write_json(report, path)
    print(accuracy_table(report))
    budget, value = model.config.budget
    print(f"{report['accuracies']['num_videos']} videos, {num_views} views each, {budget.replace('_', ' ')} {value}")
    print(f"{gmacs:.3g} GMACs per clip, {gmacs * num_views:.3g} per video; {seconds:.0f} s")
    print(f"Scores of every video: {path}")


if __name__ == "__main__":
    sys.exit(run(main))
