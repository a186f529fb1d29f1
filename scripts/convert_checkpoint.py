"""Convert a checkpoint of the official code (VideoMS/EVEREST, VideoMAE) or of Transformers' VideoMAE.

videoms convert --checkpoint checkpoint.pth --output_dir videoms-vit-b-ucf101 --labels UCF101
videoms convert --checkpoint MCG-NJU/videomae-base --output_dir videomae-base
videoms convert --checkpoint videoms-vit-b-ucf101 --output_dir back --to official
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from videoms_hf.command_line import CommandParser, run
from videoms_hf.configuration_videoms import BUDGETS, TOKEN_SELECTIONS
from videoms_hf.conversion import convert_checkpoint, name_classes, official_weights, read_checkpoint
from videoms_hf.data.tables import known_dataset, read_labels
from videoms_hf.data.transforms import processor_of
from videoms_hf.hub import write_card


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("--checkpoint", required=True, help=".pth or safetensors file, folder or Hub name")
    parser.add_argument("--output_dir", type=Path, required=True, help="new folder for the result")
    parser.add_argument("--labels", help="UCF101, HMDB51, Kinetics-400, SSv2, OSCC, or a file with a class per line")
    parser.add_argument("--to", choices=("videoms", "official"), default="videoms", help="format of the result")
    parser.add_argument("--num_frames", type=int, help="frames per clip; default: the checkpoint's, or 16")
    parser.add_argument("--image_size", type=int, help="height and width in pixels; default: the checkpoint's, or 224")
    parser.add_argument("--frame_stride", type=int, help="default: the checkpoint's, the data set's, or 4")
    parser.add_argument("--token_selection", choices=TOKEN_SELECTIONS, help="none: VideoMAE")
    parser.add_argument("--keep_ratio", type=float, help="fraction of tokens that a classifier keeps, in (0, 1]")
    parser.add_argument("--num_kept_tokens", type=int, help="number of tokens that it keeps, instead of keep_ratio")
    parser.add_argument("--num_attention_heads", type=int, help="needed for widths other than the published ones")
    parser.add_argument("--decoder_num_attention_heads", type=int, help="the same for the decoder")
    parser.add_argument("--license", help="licence of the weights for the card, by its Hub identifier: cc-by-nc-4.0")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    names = ("num_frames", "image_size", "token_selection", *BUDGETS, "num_attention_heads")
    fields = {name: getattr(args, name) for name in (*names, "decoder_num_attention_heads")}
    if args.output_dir.exists() and any(args.output_dir.iterdir()):
        raise ValueError(f"output_dir is {args.output_dir}, which is not empty; it must be a new folder")
    checkpoint = read_checkpoint(args.checkpoint)
    if args.to == "official":
        weights = official_weights(checkpoint, **fields)
        args.output_dir.mkdir(parents=True, exist_ok=True)
        torch.save({"model": weights}, args.output_dir / "checkpoint.pth")
        print(f"{len(weights)} tensors in the official format: {args.output_dir / 'checkpoint.pth'}")
        return
    model, converted = convert_checkpoint(checkpoint, **fields)
    if args.labels:
        name_classes(model, read_labels(args.labels), args.labels)
    _, usual = known_dataset(args.labels or "UCF101") or known_dataset("UCF101")
    stride = args.frame_stride or (checkpoint.arguments or {}).get("sampling_rate") or usual
    processor = processor_of(model.config, stride)
    model.save_pretrained(args.output_dir)
    processor.save_pretrained(args.output_dir)
    base_model = args.checkpoint if checkpoint.is_on_hub else None
    origin = f"`{args.checkpoint if base_model else Path(args.checkpoint).name}`"
    write_card(args.output_dir, origin=origin, license=args.license, base_model=base_model)
    config = model.config
    print(f"{type(model).__name__} of {len(converted.state)} weights: {args.output_dir}")
    if converted.dropped:
        print(f"Dropped without effect: {len(converted.dropped)} key biases")
    print(f"Clips: {config.num_frames} frames at stride {processor.frame_stride}, {config.image_size} pixels")
    print(f"Token selection: {config.token_selection}, {' '.join(map(str, config.budget))}")


if __name__ == "__main__":
    sys.exit(run(main))
