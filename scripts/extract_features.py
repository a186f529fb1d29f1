"""Extract features of clips, time steps or tokens from a frozen encoder to parquet or safetensors files.

videoms features --model runs/ucf101/pretrain --data my/list.csv --level clip --output_dir features
torchrun --nproc_per_node 8 -m videoms_hf features --model runs/mine --data my/list.csv --format safetensors
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from videoms_hf.command_line import parse_recipe, run
from videoms_hf.data.annotations import read_videos
from videoms_hf.evaluation.classifier import load_encoder, load_processor
from videoms_hf.evaluation.features import LEVELS, encode_views, write_features
from videoms_hf.evaluation.prediction import evaluation_views, start_accelerator
from videoms_hf.training import leave_processes


@dataclass
class ExtractionArguments:
    """Which encoder, which videos, which features."""

    model: str = field(metadata={"help": "Pre-trained or fine-tuned model: a folder or a Hub name."})
    data: str = field(metadata={"help": "Videos: a list, folder or table; labels are copied to the output."})
    data_root: str | None = field(default=None, metadata={"help": "Folder of the list's relative paths."})
    output_dir: str = field(default="runs/features", metadata={"help": "Folder for the files features-*."})
    level: str = field(default="clip", metadata={"help": "What one feature describes.", "choices": list(LEVELS)})
    format: str = field(default="parquet", metadata={"help": "File format.", "choices": ["parquet", "safetensors"]})
    num_segments: int = field(default=1, metadata={"help": "Temporal positions (segments); 1: the middle."})
    num_crops: int = field(default=1, metadata={"help": "Crops per segment, along the longer side."})
    keep_ratio: float | None = field(default=None, metadata={"help": "Fraction of tokens kept; default: the model's."})
    num_kept_tokens: int | None = field(default=None, metadata={"help": "Tokens kept, instead of keep_ratio."})
    frame_stride: int | None = field(default=None, metadata={"help": "Use every n-th frame; default: the model's."})
    batch_size: int = field(default=8, metadata={"help": "Clips per batch and process."})
    num_workers: int = field(default=2, metadata={"help": "Decoding processes per process."})
    mixed_precision: str = field(default="no", metadata={"help": "Precision.", "choices": ["no", "bf16", "fp16"]})
    skip_broken: bool = field(default=False, metadata={"help": "Skip broken videos and report them."})


def main(arguments: Sequence[str] | None = None) -> None:
    (args,) = parse_recipe(ExtractionArguments, arguments=arguments, description=__doc__)
    accelerator = start_accelerator(args.mixed_precision)
    encoder = load_encoder(args.model, keep_ratio=args.keep_ratio, num_kept_tokens=args.num_kept_tokens)
    table = read_videos(args.data, args.data_root)
    processor = load_processor(args.model, args.frame_stride)
    views = evaluation_views(table, encoder, processor, args.num_segments, args.num_crops, args.skip_broken)
    batches = encode_views(encoder, views, accelerator, args.level, args.batch_size, args.num_workers)
    facts = {**asdict(args), **dict([encoder.config.budget]), "class_names": table.features["label"].names}
    path = write_features(batches, views, args.output_dir, args.format, accelerator, facts)
    leave_processes()
    accelerator.print(f"{args.level} features of {len(views)} views of {len(views.rows)} videos: {path.parent}")


if __name__ == "__main__":
    sys.exit(run(main))
