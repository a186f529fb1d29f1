"""Evaluate a classifier on several views of every video: accuracies with confidence intervals, scores of every video.

videoms evaluate --model runs/mine --data my/test.csv
videoms evaluate --model runs/mine --data my/test.csv --keep_ratio 0.2 0.4 0.6 1.0
torchrun --nproc_per_node 8 -m videoms_hf evaluate ucf101/evaluate --keep_ratio 0.4
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from videoms_hf.command_line import parse_recipe, run
from videoms_hf.data.dataset import ViewDataset
from videoms_hf.data.tables import video_names
from videoms_hf.evaluation.classifier import class_names, load_classifier, load_processor
from videoms_hf.evaluation.metrics import multiview_accuracies
from videoms_hf.evaluation.prediction import evaluation_views, labelled_videos, predict_views, start_accelerator
from videoms_hf.evaluation.results import (
    accuracy_table,
    check_not_of_another_model,
    class_lines,
    class_table,
    confusion_matrix,
    evaluation_report,
    mistakes,
    ratio_lines,
    weights_digest,
)
from videoms_hf.files import write_json, write_text
from videoms_hf.machine import describe_origin
from videoms_hf.training import leave_processes
from videoms_hf.visualization.charts import draw_confusions, draw_ratios, save_chart
from videoms_hf.visualization.clips import view_of
from videoms_hf.visualization.pages import Mistake, mistakes_page


@dataclass
class EvaluationArguments:
    """Which model, which videos, which views."""

    model: str = field(metadata={"help": "Fine-tuned classifier: a folder or a Hub name."})
    data: str = field(metadata={"help": "Labelled videos: a list, a table, or a folder with a folder per class."})
    data_root: str | None = field(default=None, metadata={"help": "Folder of the list's relative paths."})
    output_dir: str = field(default="runs/evaluation", metadata={"help": "Folder for evaluation.json and reports."})
    num_segments: int = field(default=5, metadata={"help": "Temporal positions of the views (segments)."})
    num_crops: int = field(default=3, metadata={"help": "Crops per segment, along the longer side."})
    keep_ratio: list[float] | None = field(
        default=None,
        metadata={"help": "Fraction of tokens kept; default: the model's. The report is on the first of several."},
    )
    num_kept_tokens: int | None = field(default=None, metadata={"help": "Tokens kept, instead of keep_ratio."})
    num_frames: int | None = field(default=None, metadata={"help": "Frames per clip; default: the model's."})
    frame_stride: int | None = field(default=None, metadata={"help": "Use every n-th frame; default: the model's."})
    image_size: int | None = field(default=None, metadata={"help": "Height and width, pixels; default: the model's."})
    batch_size: int = field(default=8, metadata={"help": "Clips per batch and process."})
    num_workers: int = field(default=2, metadata={"help": "Decoding processes per process."})
    mixed_precision: str = field(default="no", metadata={"help": "Precision.", "choices": ["no", "bf16", "fp16"]})
    skip_broken: bool = field(default=False, metadata={"help": "Skip broken videos and report them."})
    num_mistakes: int = field(
        default=12, metadata={"help": "Mistakes to draw in mistakes.html, the most confident ones; 0: no reports."}
    )


def draw_mistakes(report: dict, rows: Sequence[int], model, views: ViewDataset, limit: int) -> list[Mistake]:
    """The most confident mistakes with the middle view of each; `rows` are those of the report's videos."""
    drawn, names, middle = [], report["class_names"], views.num_segments // 2 * views.num_crops + views.num_crops // 2
    for video in mistakes(report)[:limit]:
        row = rows[report["videos"].index(video)]
        clip = views[views.rows.index(row) * views.views_per_video + middle]["pixel_values"]
        view = view_of(model, views.normalize(clip).to(model.device))
        label, predicted, scores = video["label"], video["predicted"], video["probabilities"]
        drawn.append(Mistake(video["video"], names[label], names[predicted], scores[predicted], scores[label], view))
    return drawn


def write_reports(report: dict, drawn: list[Mistake], tubelet_size: int, folder: Path) -> list[Path | str]:
    """Write mistakes.html, confusion.png and, of several keep ratios, keep_ratios.png; returns them, or why not."""
    names, charts = report["class_names"], {}
    charts["confusion.png"] = (draw_confusions, confusion_matrix(report), names)
    if "keep_ratios" in report:
        charts["keep_ratios.png"] = (draw_ratios, report["keep_ratios"], report["chance_top1"])
    problems = {folder / name: save_chart(draw, folder / name, *content) for name, (draw, *content) in charts.items()}
    num_wrong, accuracies = len(mistakes(report)), report["accuracies"]
    share = (
        f"{report['keep_ratio']:.0%} of the tokens" if report["keep_ratio"] else f"{report['num_kept_tokens']} tokens"
    )
    summary = (
        f"{report['arguments']['model']} on {report['arguments']['data']}: top-1 {accuracies['video_top1']:.2%}, "
        f"{num_wrong} of {accuracies['num_videos']} videos are wrong. The middle view of each is shown; scores are "
        f"means of {report['num_segments']} x {report['num_crops']} views on {share}."
    )
    page = mistakes_page("The most confident mistakes", summary, drawn, report["class_table"], tubelet_size)
    write_text(folder / "mistakes.html", page)
    return [folder / "mistakes.html", *(problem or path for path, problem in problems.items())]


def main(arguments: Sequence[str] | None = None) -> None:
    (args,) = parse_recipe(EvaluationArguments, arguments=arguments, description=__doc__)
    path = Path(args.output_dir) / "evaluation.json"
    check_not_of_another_model(path, args.model)
    accelerator = start_accelerator(args.mixed_precision)
    ratios = args.keep_ratio or [None]
    model = load_classifier(
        args.model,
        keep_ratio=ratios[0],
        num_kept_tokens=args.num_kept_tokens,
        num_frames=args.num_frames,
        image_size=args.image_size,
    )
    processor = load_processor(args.model, args.frame_stride, args.image_size)
    names = class_names(model)
    table = labelled_videos(args.data, names, args.data_root)
    start = time.perf_counter()
    views = evaluation_views(table, model, processor, args.num_segments, args.num_crops, args.skip_broken)
    work = args.batch_size, args.num_workers, args.skip_broken
    predictions, *others = predict_views(model, views, accelerator, *work, ratios)
    seconds = time.perf_counter() - start
    leave_processes()
    if not accelerator.is_main_process:
        return
    size = processor.crop_size["height"]
    clip_shape = (views.num_frames, model.config.num_channels, size, size)
    gmacs = model.flops(clip_shape) / 1e9
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
    report["class_table"] = class_table(report)
    if others:
        report["keep_ratios"] = [
            {"keep_ratio": ratio, "gflops_per_clip": model.flops(clip_shape, keep_ratio=ratio) / 1e9}
            | multiview_accuracies(found.logits, found.video_ids, found.labels)
            for ratio, found in zip(ratios, [predictions, *others], strict=True)
        ]
    write_json(report, path)
    print(accuracy_table(report))
    if others:
        print(ratio_lines(report["keep_ratios"]))
    print(class_lines(report["class_table"]))
    budget, value = model.config.budget
    print(f"{report['accuracies']['num_videos']} videos, {num_views} views each, {budget.replace('_', ' ')} {value}")
    print(f"{gmacs:.3g} GMACs per clip, {gmacs * num_views:.3g} per video; {seconds:.0f} s")
    print(f"Scores of every video: {path}")
    if args.num_mistakes:
        rows = sorted(set(predictions.video_ids.tolist()))
        drawn = draw_mistakes(report, rows, model, views, args.num_mistakes)
        print(*write_reports(report, drawn, model.config.tubelet_size, path.parent), sep="\n")


if __name__ == "__main__":
    sys.exit(run(main))
