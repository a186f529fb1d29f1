"""Clips per second of whole training steps, with decoding and augmentation, and the fraction of time spent on loading.

python scripts/benchmarks/end_to_end.py --size small --workers 0 1 2 --output end_to_end.json

Videos are rendered into a temporary folder and read by the training dataset in DataLoader workers; a step is forward,
backward and AdamW. This is wall-clock time, so run it on an otherwise idle machine. "waiting" is the fraction of it in
which the training loop waits for data.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from contestants import build
from report import add_device, parser, write_report
from torch.utils.data import DataLoader

from videoms_hf.data.collate import collate_clips
from videoms_hf.data.transforms import normalize
from videoms_hf.experiments.synthetic import render_motion_dataset
from videoms_hf.training import DataArguments, pretraining_clips, training_table


def batches(loader: DataLoader) -> Iterator[dict]:
    """The loader's batches, epoch after epoch."""
    while True:
        yield from loader


def train(model, loader: DataLoader, num_steps: int, device: torch.device) -> dict:
    """Train for `num_steps` after two warm-up steps; clips per second, and the fraction of the time spent waiting."""
    autocast = {"device_type": device.type, "dtype": torch.bfloat16, "enabled": device.type == "cuda"}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    waiting, num_clips, source = 0.0, 0, batches(loader)
    for step in range(num_steps + 2):
        if step == 2:
            started, waiting, num_clips = time.perf_counter(), 0.0, 0
        asked = time.perf_counter()
        frames = next(source)["pixel_values"]
        waiting += time.perf_counter() - asked
        clips = normalize(frames.to(device, non_blocking=True))
        with torch.autocast(**autocast):
            loss = model(clips).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # as a trainer that logs would, wait for the device
        num_clips += len(clips)
    elapsed = time.perf_counter() - started
    return {"clips/s": num_clips / elapsed, "waiting": waiting / elapsed}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--size", default="small")
    options.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    options.add_argument("--batch", type=int, default=4)
    options.add_argument("--steps", type=int, default=10)
    options.add_argument("--num_videos", type=int, default=32)
    options.add_argument("--video_size", type=int, default=256, help="height and width of the rendered videos")
    options.add_argument("--image_size", type=int, default=224, help="height and width of the clips")
    add_device(options)
    args = options.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        videos = render_motion_dataset(
            Path(folder) / "videos",
            num_train=args.num_videos,
            num_val=1,
            num_test=1,
            image_size=args.video_size,
            num_frames=64,
        )
        data_args = DataArguments(train_data=str(videos / "pretrain.csv"), frame_stride=4, image_size=args.image_size)
        model = build("videoms", "pretraining", args.size, image_size=args.image_size).to(args.device)
        for num_workers in args.workers:
            loader = DataLoader(
                pretraining_clips(training_table(data_args, require_labels=False), data_args, model.config),
                args.batch,
                shuffle=True,
                drop_last=True,
                num_workers=num_workers,
                persistent_workers=num_workers > 0,
                collate_fn=collate_clips,
            )
            row = {"size": args.size, "batch": args.batch, "workers": num_workers}
            rows.append(row | train(model, loader, args.steps, torch.device(args.device)))
            print(rows[-1], flush=True)
    write_report(rows, args.output, arguments)


if __name__ == "__main__":
    main()
