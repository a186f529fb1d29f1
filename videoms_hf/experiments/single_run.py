# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""One run of a comparison: pre-training, fine-tuning and evaluation of a small network, each step done once."""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as tv
from transformers import set_seed

from ..command_line import parse_recipe, read_recipe
from ..data.collate import MixingCollator, collate_clips
from ..data.tables import open_row, table_fingerprint, video_names
from ..data.transforms import PretrainingTransform, processor_of
from ..evaluation.classifier import class_names, load_classifier, load_processor
from ..evaluation.prediction import evaluation_views, labelled_videos, predict_views, start_accelerator
from ..evaluation.results import evaluation_report
from ..files import write_json
from ..reader_videoms import VideoReader, redraws
from ..sampling_videoms import finetuning_clip, pretraining_clip
from ..training.arguments import AugmentationArguments, DataArguments, ModelArguments
from ..training.clip_datasets import finetuning_transform
from ..training.head_init import init_head
from ..training.starting_weights import classification_model, pretraining_model
from ..training.trainer import VideoMSTrainer
from ..training.training_arguments import FineTuningArguments, PreTrainingArguments
from .selectors import configured_selection, with_selector


# The frames are in memory already, and a run is done again from its beginning.
ALWAYS = {"train_data": "in memory", "dataloader_num_workers": 0, "save_strategy": "no", "disable_tqdm": True}
COST_FILE = "cost.json"  # written last


class ClipsInMemory(Dataset):
    """One random clip of each video of a table: every one is decoded once, on construction, not once per epoch.

    The frames that are kept have a shorter side of `size` pixels at most. Draws come from torch's global generator.
    `choose_frames` and `transform` are those of [`ClipDataset`], and belong to a run.
    """

    def __init__(
        self,
        table: datasets.Dataset,
        with_labels: bool,
        size: int,
        choose_frames: Callable[..., np.ndarray] | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
    ):
        self.table, self.with_labels, self.choose_frames, self.transform = table, with_labels, choose_frames, transform
        self.frames = []
        for row in table:
            with open_row(row) as video:
                self.frames.append(_small_frames(video, size))
        self.labels = table["label"][:]

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict:
        rng = np.random.default_rng(torch.randint(2**62, ()).item())
        frames = self.frames[index]
        clip = self.transform(frames[self.choose_frames(len(frames), rng=rng)])
        return {"pixel_values": clip, **({"labels": self.labels[index]} if self.with_labels else {})}


@redraws
def _small_frames(video: VideoReader, size: int) -> Tensor:
    frames = video.frames()
    return tv.resize(frames, size, antialias=True).contiguous() if min(frames.shape[-2:]) > size else frames


def train_once(recipe: str, clips: ClipsInMemory, folder: Path, selection: str, **options) -> float:
    """Train a model into `folder`, with its processor; returns the seconds of processor time that its steps took.

    Labelled clips are for fine-tuning, others for pre-training; `selection` is one of [`SELECTIONS`] or "none";
    `options` are laid over the recipe's. A finished model is left as it is; `FileExistsError` if it was trained in
    another way.
    """
    options |= configured_selection(selection)
    kinds = (FineTuningArguments, AugmentationArguments) if clips.with_labels else (PreTrainingArguments,)
    words = [f"--{name}={value}" for name, value in (ALWAYS | options).items()]
    made_by = {"recipe": read_recipe(recipe), "options": words, "videos": table_fingerprint(clips.table)}
    made_by |= {"selection": selection}
    if done := _done(folder / COST_FILE, made_by):
        return done["seconds"]
    words = [str(recipe), *words, f"--output_dir={folder}"]
    model_args, data_args, training_args, *augmentation = parse_recipe(
        ModelArguments, DataArguments, *kinds, arguments=words
    )
    set_seed(training_args.seed)
    names, collate = clips.table.features["label"].names, collate_clips
    if not clips.with_labels:
        model, _ = pretraining_model(model_args, data_args)
        choose, clips.transform = pretraining_clip, PretrainingTransform(data_args.image_size)
    else:
        model, _ = classification_model(model_args, data_args, names)
        choose = finetuning_clip
        clips.transform = finetuning_transform(data_args, *augmentation, model.config)
        collate = MixingCollator(len(names), training_args.label_smoothing_factor)
    with_selector(model, selection)
    clips.choose_frames = partial(choose, num_frames=data_args.num_frames, stride=data_args.frame_stride)
    processor = processor_of(model.config, data_args.frame_stride)
    trainer = VideoMSTrainer(
        model, training_args, data_collator=collate, train_dataset=clips, processing_class=processor
    )
    if clips.with_labels and training_args.head_init == "linear_probe":
        init_head(trainer, clips.table, data_args, print)
    start = time.process_time()
    trainer.train()
    seconds = time.process_time() - start
    trainer.save_model()
    write_json({"seconds": seconds, "made_by": made_by}, folder / COST_FILE)
    return seconds


def _done(path: Path, made_by: dict) -> dict | None:
    """What is in a file, or `None` without one; `FileExistsError` if it was made in another way."""
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("made_by") != made_by:
        raise FileExistsError(
            f"{path} was made by other options, another recipe or other videos; give another --output_dir, or remove "
            f"{path.parent} yourself"
        )
    return content


def evaluate_once(folder: Path, selection: str, test_data: str, num_segments: int) -> dict:
    """The report of a fine-tuned model on several views of the test videos; one that is there is read."""
    model = with_selector(load_classifier(str(folder)), selection)
    names = class_names(model)
    table = labelled_videos(test_data, names)
    made_by = {"num_segments": num_segments, "videos": table_fingerprint(table), "selection": selection}
    if done := _done(folder / "evaluation.json", made_by):
        return done
    views = evaluation_views(table, model, load_processor(str(folder)), num_segments, 1)
    (predictions,) = predict_views(model, views, start_accelerator(), 32)
    report = evaluation_report(predictions, video_names(table), names)
    report |= {"gmacs_per_clip": model.flops() / 1e9, "made_by": made_by}
    write_json(report, folder / "evaluation.json")
    return report
