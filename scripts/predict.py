"""Classify videos by a fine-tuned model: the best classes of each with their probabilities, and a picture if wished.

python scripts/predict.py video.mp4 --model runs/mine
python scripts/predict.py a.mp4 b.avi --model runs/mine --num_segments 5 --num_crops 3 --picture kept_tokens.png
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from videoms_hf.command_line import CommandParser, run
from videoms_hf.data.transforms import pixel_statistics
from videoms_hf.decoding_videoms import VideoDecodeError
from videoms_hf.evaluation.models import class_names, load_classifier, load_processor
from videoms_hf.evaluation.prediction import video_views
from videoms_hf.messages import printable
from videoms_hf.modeling_videoms import VideoMSForVideoClassification, VideoMSForVideoClassificationOutput
from videoms_hf.tubelets_videoms import gather_slices
from videoms_hf.visualization.tokens import draw_kept_tokens, frames_from_pixel_values


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("videos", nargs="+", help="video files, addresses or folders of pictures")
    parser.add_argument("--model", required=True, help="fine-tuned classifier, a folder or a Hub name")
    parser.add_argument("--top_k", type=int, default=5, help="classes to print")
    parser.add_argument("--num_segments", type=int, default=1, help="temporal positions of the views")
    parser.add_argument("--num_crops", type=int, default=1, help="crops of each, along the longer side")
    parser.add_argument("--keep_ratio", type=float, help="share of tokens kept, in (0, 1]; default: as saved")
    parser.add_argument("--picture", help="image file to write: the tokens that were kept of the first video")
    return parser.parse_args(arguments)


def kept_tokens(
    model: VideoMSForVideoClassification, processor, views: Tensor, output: VideoMSForVideoClassificationOutput
):
    """Picture of the first view of `views` (1, views, T, C, H, W), with frame selection of the frames it drew."""
    clips, config = views[0], model.config
    if output.slice_ids is not None:
        clips = gather_slices(clips, output.slice_ids, config.tubelet_size)
    importance = None if output.importance is None else output.importance[0]
    frames = frames_from_pixel_values(clips[0], *pixel_statistics(processor))
    return draw_kept_tokens(frames, output.kept_ids[0], config.tubelet_size, config.patch_size, importance)


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 if some videos cannot be classified; each is named and the others are classified."""
    args, status = parse(arguments), 0
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    model = load_classifier(args.model, keep_ratio=args.keep_ratio).to(device)
    processor, names = load_processor(args.model), class_names(model)
    for number, video in enumerate(args.videos):
        try:
            views = video_views(processor, video, args.num_segments, args.num_crops).to(device)
        except (VideoDecodeError, OSError, ValueError) as error:
            print(printable(f"{video} cannot be classified: {getattr(error, 'reason', error)}"), file=sys.stderr)
            status = 2
            continue
        with torch.inference_mode():
            output = model(views)
        probabilities, classes = output.logits[0].float().softmax(dim=-1).topk(min(args.top_k, len(names)))
        print(printable(video))
        for probability, class_id in zip(probabilities.tolist(), classes.tolist(), strict=True):
            print(f"  {probability:7.2%}  {printable(names[class_id])}")
        if number == 0 and args.picture:
            Path(args.picture).parent.mkdir(parents=True, exist_ok=True)
            kept_tokens(model, processor, views, output).save(args.picture)
            print(f"  kept tokens: {args.picture}")
    return status


if __name__ == "__main__":
    sys.exit(run(main))
