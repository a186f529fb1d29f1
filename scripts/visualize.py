"""Draw what a model makes of a video: motion, kept tokens, pre-training's roles, reconstruction, frame selection.

videoms visualize video.mp4 --model runs/mine --output kept_tokens.webp
videoms visualize video.mp4 --compare motion,random,tube --keep_ratio 0.3 --output selectors.gif

Without --model the weights are random, which already select by motion. A .png shows the middle clip, .gif, .webp and
.mp4 the whole video. A summary of the motion is printed, and drawn next to the output.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import set_seed

from videoms_hf import VideoMSConfig, VideoMSForPreTraining, VideoMSVideoProcessor
from videoms_hf.command_line import CommandParser, run
from videoms_hf.configuration_videoms import TOKEN_SELECTIONS
from videoms_hf.data.transcoding import IMAGES_PER_SECOND
from videoms_hf.evaluation.classifier import load_any, load_processor
from videoms_hf.modeling_videoms import VideoMSPreTrainedModel
from videoms_hf.readers import open_video
from videoms_hf.visualization.animation import write_animation
from videoms_hf.visualization.charts import draw_motion, save_chart
from videoms_hf.visualization.clips import (
    ROWS,
    ClipView,
    animate_clips,
    clip_windows,
    describe_motion,
    draw_clip,
    motion_summary,
    usable_length,
    view_windows,
)


STILLS, ANIMATIONS = (".png", ".jpg"), (".gif", ".webp", ".mp4")
IN_MEMORY = 1000  # frames of a GIF or WebP


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("video", help="video file, folder of images, or address")
    parser.add_argument("--model", help="any saved model: a folder or a Hub name; default: random weights")
    parser.add_argument("--output", required=True, type=Path, help="file to write: .png, .gif, .webp or .mp4")
    parser.add_argument("--rows", nargs="+", choices=ROWS, help="what to draw; default: all that the model has")
    parser.add_argument("--compare", default="", help=f"selections to compare, of {','.join(TOKEN_SELECTIONS)}")
    parser.add_argument("--keep_ratio", type=float, help="fraction of tokens kept, in (0, 1]; default: the model's")
    parser.add_argument("--candidate_ratio", type=float, help="frame selection, at least 1; default: the model's")
    parser.add_argument("--num_frames", type=int, help="frames per clip; default: the model's")
    parser.add_argument("--frame_stride", type=int, help="use every n-th frame; default: the model's, or 4")
    parser.add_argument(
        "--image_size", type=int, nargs="+", help="height and width of whole frames; default: the model's crop"
    )
    parser.add_argument("--start", type=float, help="seconds of the video to leave out at its beginning")
    parser.add_argument("--seconds", type=float, help="seconds to draw; default: to the video's end")
    parser.add_argument("--fps", type=float, help="frames per second of the animation; default: the video's own")
    args = parser.parse_args(arguments)
    if args.output.suffix.lower() not in (*STILLS, *ANIMATIONS):
        parser.error(f"output is {args.output}; its name must end in one of {', '.join((*STILLS, *ANIMATIONS))}")
    args.compare = args.compare.split(",") if args.compare else []
    if unknown := set(args.compare) - set(TOKEN_SELECTIONS):
        parser.error(f"compare has {min(unknown)!r}; it must be some of {','.join(TOKEN_SELECTIONS)}")
    if args.image_size and len(args.image_size) > 2:
        parser.error(f"image_size is {args.image_size}; it must be one number or two: height, width")
    return args


def load(args: argparse.Namespace) -> tuple[VideoMSPreTrainedModel, VideoMSVideoProcessor]:
    """The model with its processor, or one with random weights."""
    fields = {"num_frames": args.num_frames, "candidate_ratio": args.candidate_ratio}
    fields |= {"keep_ratio": args.keep_ratio, "pretraining_keep_ratio": args.keep_ratio}
    if args.model is not None:
        return load_any(args.model, **fields), load_processor(args.model)
    set_seed(0)
    fields = {name: value for name, value in fields.items() if value is not None}
    return VideoMSForPreTraining(VideoMSConfig.from_size("small", **fields)).eval(), VideoMSVideoProcessor()


def frame_size(args: argparse.Namespace, config: VideoMSConfig, size: tuple[int, int]) -> tuple[int, int] | None:
    """Height and width to which the video's frames are resized; `None`: as the processor crops them."""
    if args.image_size:
        return args.image_size[0], args.image_size[-1]
    if args.model is not None:
        return None
    scale, patches = config.image_shape[0] / min(size), config.patch_shape
    return tuple(max(round(side * scale / patch), 1) * patch for side, patch in zip(size, patches, strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    model, processor = load(args)
    model = model.to(torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu"))
    config = model.config
    is_pretraining = isinstance(model, VideoMSForPreTraining)
    ratio = config.pretraining_keep_ratio if is_pretraining else config.kept_share
    left_out = () if args.model else ("reconstruction",)
    left_out = ("importance", "reconstruction") if args.compare else left_out
    rows = args.rows or [row for row in ROWS if row not in left_out]
    is_still = args.output.suffix.lower() in STILLS
    maps, seconds = [], []
    with open_video(args.video) as video:
        if args.start is not None or args.seconds is not None:
            start = args.start or 0.0
            video.window(start, None if args.seconds is None else start + args.seconds)
        length = usable_length(video)
        fps = args.fps or video.info.fps or IMAGES_PER_SECOND
        windows = clip_windows(length, config.num_candidate_frames, args.frame_stride or processor.frame_stride or 4)
        size = frame_size(args, config, video.size)
        if is_still:
            windows = [windows[len(windows) // 2][:1]]
        elif args.output.suffix.lower() != ".mp4" and length > IN_MEMORY:
            raise ValueError(
                f"{args.video} has {length} frames, too many for {args.output.suffix}: give a part with --start and "
                "--seconds, or an --output that ends in .mp4"
            )

        def views() -> Iterator[list[ClipView]]:
            for window in tqdm(view_windows(video, windows, model, processor, args.compare, size), total=len(windows)):
                for view in window:
                    look = next(iter(view.looks.values()))
                    maps.append(look.importance.view(look.grid))
                    seconds.append(view.numbers[:: config.tubelet_size] / fps)
                yield window

        args.output.parent.mkdir(parents=True, exist_ok=True)
        if is_still:
            ((view,),) = views()
            answer = next(iter(view.looks.values())).answer if len(view.looks) == 1 else ""
            first, last = (f"{number / fps:.2f}" for number in view.numbers[[0, -1]])
            title = ", ".join(filter(None, [view.heading(ratio), answer, f"{first} to {last} s"]))
            draw_clip(view, config.tubelet_size, title, rows).save(args.output)
        else:
            write_animation(animate_clips(views(), config.tubelet_size, fps, ratio, rows), args.output, fps)
    summary = motion_summary(maps, seconds)
    print(describe_motion(summary))
    chart = args.output.with_name(f"{args.output.stem}-motion.png")
    print(args.output)
    print(save_chart(draw_motion, chart, summary, ratio) or chart)


if __name__ == "__main__":
    sys.exit(run(main))
