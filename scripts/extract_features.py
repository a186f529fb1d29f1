"""Write the features of frozen encoders for every video of a list: of clips, time steps or tokens, with the kept ids.

python scripts/extract_features.py --model runs/ucf101/pretrain --data my/list.csv --level clip --output_dir features
torchrun --nproc_per_node 8 scripts/extract_features.py --model ... --data ... --format safetensors
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from videoms_hf.command_line import parse_recipe, run
from videoms_hf.data.annotations import read_videos
from videoms_hf.evaluation.features import LEVELS, encode_views, write_features
from videoms_hf.evaluation.models import load_encoder, load_processor
from videoms_hf.evaluation.prediction import evaluation_views, start_accelerator
from videoms_hf.training import leave_processes


@dataclass
class ExtractionArguments:
    """Which encoder, which videos, which features."""

    model: str = field(metadata={"help": "Pre-trained or fine-tuned model, a folder or a Hub name."})
    data: str = field(metadata={"help": "List of videos, folder, parquet ...; labels are passed on."})
    data_root: str | None = field(default=None, metadata={"help": "Folder that the list's paths start from."})
    output_dir: str = field(default="runs/features", metadata={"help": "Folder of features-*."})
    level: str = field(default="clip", metadata={"help": "What a feature is of.", "choices": list(LEVELS)})
    format: str = field(default="parquet", metadata={"help": "Of the files.", "choices": ["parquet", "safetensors"]})
    num_segments: int = field(default=1, metadata={"help": "Temporal positions of the views; 1: the middle."})
    num_crops: int = field(default=1, metadata={"help": "Crops of each, along the longer side."})
    keep_ratio: float | None = field(default=None, metadata={"help": "Share of tokens kept; default: as saved."})
    frame_stride: int | None = field(default=None, metadata={"help": "Take every n-th frame; default: as saved."})
    batch_size: int = field(default=8, metadata={"help": "Clips at once, on each process."})
    num_workers: int = field(default=2, metadata={"help": "Decoding processes beside each process."})
    mixed_precision: str = field(default="no", metadata={"help": "Precision.", "choices": ["no", "bf16", "fp16"]})
    skip_broken: bool = field(default=False, metadata={"help": "Leave broken videos out and name them."})


def main(arguments: Sequence[str] | None = None) -> None:
    (args,) = parse_recipe(ExtractionArguments, arguments=arguments)
    accelerator = start_accelerator(args.mixed_precision)
    encoder = load_encoder(args.model, keep_ratio=args.keep_ratio)
    table = read_videos(args.data, args.data_root)
    processor = load_processor(args.model, args.frame_stride)
    views = evaluation_views(table, encoder, processor, args.num_segments, args.num_crops, args.skip_broken)
    batches = encode_views(encoder, views, accelerator, args.level, args.batch_size, args.num_workers)
    facts = {**asdict(args), "keep_ratio": encoder.config.keep_ratio, "class_names": table.features["label"].names}
    path = write_features(batches, views, args.output_dir, args.format, accelerator, facts)
    leave_processes()
    accelerator.print(f"{args.level} features of {len(views)} views of {len(views.rows)} videos: {path.parent}")


if __name__ == "__main__":
    sys.exit(run(main))
