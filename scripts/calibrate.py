"""Let each clip keep as many tokens as it needs, a given share on average: few of still clips, many of busy ones.

videoms calibrate --model runs/mine --data my/train.csv --keep_ratio 0.3 --output_dir runs/mine-adaptive
videoms calibrate --model runs/mine --data my/train.csv --keep_ratio 0.3 --min_keep_ratio 0.15 --max_keep_ratio 0.6
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from videoms_hf.command_line import parse_recipe, run
from videoms_hf.configuration_videoms import floor_share
from videoms_hf.data.annotations import read_videos
from videoms_hf.data.collate import collate_clips
from videoms_hf.evaluation.classifier import load_classifier, load_processor
from videoms_hf.evaluation.prediction import evaluation_views, start_accelerator
from videoms_hf.selection_videoms import above_threshold, calibrated_threshold


@dataclass
class CalibrationArguments:
    """Which model, which videos, which shares."""

    model: str = field(metadata={"help": "Fine-tuned classifier: a folder or a Hub name."})
    data: str = field(metadata={"help": "Videos like those to come, such as the training list."})
    keep_ratio: float = field(metadata={"help": "Share of tokens to keep on average."})
    data_root: str | None = field(default=None, metadata={"help": "Folder of the list's relative paths."})
    output_dir: str = field(default="runs/adaptive", metadata={"help": "New folder for the model with its threshold."})
    min_keep_ratio: float = field(default=0.1, metadata={"help": "Least share of a clip's tokens that is kept."})
    max_keep_ratio: float = field(default=1.0, metadata={"help": "Largest share of a clip's tokens that is kept."})
    num_segments: int = field(default=1, metadata={"help": "Temporal positions of the clips in a video (segments)."})
    batch_size: int = field(default=8, metadata={"help": "Clips per batch."})
    num_workers: int = field(default=2, metadata={"help": "Decoding processes."})

    def __post_init__(self):
        if not self.min_keep_ratio < self.keep_ratio < self.max_keep_ratio:
            raise ValueError(
                f"keep_ratio is {self.keep_ratio}; it must lie between min_keep_ratio {self.min_keep_ratio} and "
                f"max_keep_ratio {self.max_keep_ratio}"
            )
        if Path(self.output_dir).exists() and any(Path(self.output_dir).iterdir()):
            raise ValueError(f"output_dir is {self.output_dir}, which is not empty; it must be a new folder")


def main(arguments: Sequence[str] | None = None) -> None:
    (args,) = parse_recipe(CalibrationArguments, arguments=arguments, description=__doc__)
    device = start_accelerator().device
    model = load_classifier(args.model, keep_ratio=args.keep_ratio).to(device)
    processor = load_processor(args.model)
    views = evaluation_views(read_videos(args.data, args.data_root), model, processor, args.num_segments, 1)
    loader = DataLoader(views, args.batch_size, num_workers=args.num_workers, collate_fn=collate_clips)
    parts = []
    with torch.inference_mode():
        for batch in tqdm(loader, desc="Scoring", unit="batch"):
            clips = batch["pixel_values"].to(device)
            clips = clips if clips.is_floating_point() else views.normalize(clips)
            parts.append(model.videoms.embeddings(clips)[1]["importance"].cpu())
    importance = torch.cat(parts)
    config, num_tokens = model.config, importance.shape[1]
    limits = [max(floor_share(ratio, num_tokens), 1) for ratio in (args.min_keep_ratio, args.max_keep_ratio)]
    config.min_keep_ratio, config.max_keep_ratio = args.min_keep_ratio, args.max_keep_ratio
    config.importance_threshold = calibrated_threshold(importance, args.keep_ratio, *limits)
    model.save_pretrained(args.output_dir)
    processor.save_pretrained(args.output_dir)
    counts = above_threshold(importance, config.importance_threshold, *limits).sum(dim=1)
    share = counts.sum() / importance.numel()
    print(f"importance_threshold {config.importance_threshold:.4g} keeps {share:.1%} of the tokens")
    print(f"of {len(counts)} clips, from {counts.min()} to {counts.max()} of {num_tokens}: {args.output_dir}")


if __name__ == "__main__":
    sys.exit(run(main))
