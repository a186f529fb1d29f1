"""Classify videos with a fine-tuned model: top classes and all probabilities, as text, JSON, JSON lines or CSV.

videoms predict video.mp4 --model runs/mine
find my/videos -name "*.mp4" | videoms predict - --model runs/mine --output predictions.jsonl --resume
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm.auto import tqdm

from videoms_hf.command_line import CommandParser, run
from videoms_hf.evaluation.classifier import class_names, load_classifier, load_processor
from videoms_hf.evaluation.inference import PredictionFile, find_videos, name_of, predict_videos
from videoms_hf.evaluation.prediction import video_views
from videoms_hf.messages import printable
from videoms_hf.visualization.clips import draw_clip, view_of


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument(
        "videos", nargs="+", help="video files, folders, patterns, lists or tables of videos, addresses; -: from stdin"
    )
    parser.add_argument("--model", required=True, help="fine-tuned classifier: a folder or a Hub name")
    parser.add_argument("--output", help="file to write, .json, .jsonl or .csv; default: print the top classes")
    parser.add_argument("--resume", action="store_true", help="skip videos that the output file already contains")
    parser.add_argument("--top_k", type=int, default=5, help="number of best classes to report")
    parser.add_argument(
        "--picture", help="image file to write: the kept tokens of the first video, as by `videoms visualize`"
    )
    parser.add_argument("--keep_ratio", type=float, help="fraction of tokens kept, in (0, 1]; default: the model's")
    parser.add_argument("--num_kept_tokens", type=int, help="tokens kept per clip, instead of keep_ratio")
    parser.add_argument("--num_segments", type=int, default=1, help="temporal positions of the views (segments)")
    parser.add_argument("--num_crops", type=int, default=1, help="crops per segment, along the longer side")
    parser.add_argument("--batch_size", type=int, default=8, help="videos per batch")
    parser.add_argument("--num_workers", type=int, default=2, help="decoding processes")
    args = parser.parse_args(arguments)
    if args.resume and not args.output:
        parser.error("resume needs the output that is to be continued; give --output")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 if some videos cannot be classified; each is reported and the others are classified."""
    args = parse(arguments)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    model = load_classifier(args.model, keep_ratio=args.keep_ratio, num_kept_tokens=args.num_kept_tokens).to(device)
    processor, names = load_processor(args.model), class_names(model)
    output, videos = None, find_videos(args.videos, sys.stdin)
    if args.output:
        facts = {"model": args.model, **dict([model.config.budget])}
        output = PredictionFile(args.output, names, args.top_k, facts, args.resume)
        videos = [video for video in videos if name_of(video) not in output.paths]
    views = {"num_segments": args.num_segments, "num_crops": args.num_crops}
    num_workers = min(args.num_workers, len(videos) - 1) if videos else 0
    found = predict_videos(model, processor, videos, **views, batch_size=args.batch_size, num_workers=num_workers)
    start, failed, drawn = time.perf_counter(), 0, None
    try:
        for video, result in zip(videos, tqdm(found, "Classifying", len(videos), unit="video"), strict=True):
            if result.reason:
                failed += 1
                tqdm.write(printable(f"{result.path} cannot be classified: {result.reason}"), file=sys.stderr)
            drawn = video if drawn is None and not result.reason else drawn
            if output:
                output.add(result)
            elif not result.reason:
                values, classes = torch.tensor(result.probabilities).topk(min(args.top_k, len(names)))
                lines = [f"  {p:7.2%}  {names[i]}" for p, i in zip(values.tolist(), classes.tolist(), strict=True)]
                tqdm.write("\n".join(map(printable, [result.path, *lines])), file=sys.stdout)
    finally:
        if output:
            output.save()
    if output:
        speed = len(videos) / (time.perf_counter() - start)
        print(f"{len(videos)} videos, {failed} failed, {speed:.3g} videos/s: {args.output}")
    if args.picture and drawn is not None:
        Path(args.picture).parent.mkdir(parents=True, exist_ok=True)
        view, config = view_of(model, video_views(processor, drawn, **views)[0][0, 0]), model.config
        draw_clip(view, config.tubelet_size, view.heading(config.kept_share)).save(args.picture)
        print(f"kept tokens of {printable(name_of(drawn))}: {args.picture}")
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(run(main))
