"""A training run of a second: clips in memory, a tiny network. Also a program for torchrun (test_distributed.py)."""

import json
import os
import sys
from pathlib import Path

import torch
import transformers
from packaging.version import Version
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import Dataset
from transformers import TrainerCallback, set_seed

from videoms_hf import VideoMSConfig, VideoMSForPreTraining, VideoMSForVideoClassification
from videoms_hf.data.dataset import ViewDataset
from videoms_hf.data.tables import make_table
from videoms_hf.evaluation.classifier import load_classifier, load_processor
from videoms_hf.evaluation.metrics import compute_accuracies
from videoms_hf.evaluation.prediction import evaluation_views, predict_views, start_accelerator
from videoms_hf.training.optimization import parameter_groups
from videoms_hf.training.runs import leave_processes
from videoms_hf.training.trainer import VideoMSTrainer
from videoms_hf.training.training_arguments import FineTuningArguments, PreTrainingArguments


NUM_CLASSES = 3
# Older ones ask torch for the device "cpu:0" when they load the optimiser's state, which torch does not know.
CAN_GO_ON = Version(transformers.__version__) >= Version("5.24")


class ClipsInMemory(Dataset):
    """Clips (T, 3, 16, 16) of noise whose class is the direction in which it rolls; in training with random noise."""

    def __init__(self, num_clips: int, is_training: bool, with_labels: bool, num_frames: int = 8):
        self.num_clips, self.is_training, self.with_labels = num_clips, is_training, with_labels
        self.num_frames = num_frames

    def __len__(self) -> int:
        return self.num_clips

    def __getitem__(self, i: int) -> dict:
        label = i % NUM_CLASSES
        picture = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(i))
        clip = torch.stack([picture.roll(t * (label - 1) * 2, dims=-1) for t in range(self.num_frames)])
        if self.is_training:
            clip = clip + 0.1 * torch.randn(())
        return {"pixel_values": clip, **({"labels": label} if self.with_labels else {})}


class Losses(TrainerCallback):
    """Every logged loss of this start."""

    def __init__(self):
        self.values: list[float] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.values.append(logs["loss"])


def tiny_model(stage: str, **fields) -> VideoMSForPreTraining | VideoMSForVideoClassification:
    config = VideoMSConfig(
        **{
            "image_size": 16,
            "patch_size": 4,
            "num_frames": 8,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "decoder_hidden_size": 12,
            "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 3,
            "decoder_intermediate_size": 20,
            "num_labels": NUM_CLASSES,
            "problem_type": "single_label_classification",
            "head_init_scale": 1.0,
            "mask_ratio": 0.8,
            **fields,
        }
    )
    set_seed(0)
    return (VideoMSForPreTraining if stage == "pretrain" else VideoMSForVideoClassification)(config)


def tiny_trainer(stage: str, folder, model_fields: dict | None = None, clips: int = 11, **options) -> VideoMSTrainer:
    """Trainer of a run of 3 epochs of 5 steps of 2 clips, that evaluates 7 clips and saves at every epoch's end."""
    kind, with_labels = (PreTrainingArguments, False) if stage == "pretrain" else (FineTuningArguments, True)
    args = kind(
        **{
            "output_dir": str(folder),
            "num_train_epochs": 3,
            "per_device_train_batch_size": 2,
            "per_device_eval_batch_size": 2,
            "base_learning_rate": 1.0,
            "warmup_epochs": 1,
            "logging_steps": 1,
            "eval_strategy": "epoch",
            "save_strategy": "epoch",
            "dataloader_num_workers": 0,
            "use_cpu": True,
            "disable_tqdm": True,
            **options,
        }
    )
    model = tiny_model(stage, **(model_fields or {}))
    num_frames = model.config.num_candidate_frames
    return VideoMSTrainer(
        model,
        args,
        train_dataset=ClipsInMemory(clips, is_training=True, with_labels=with_labels, num_frames=num_frames),
        eval_dataset=ClipsInMemory(7, is_training=False, with_labels=with_labels, num_frames=num_frames),
        compute_metrics=compute_accuracies if with_labels else None,
        callbacks=[Losses()],
    )


def losses(trainer: VideoMSTrainer) -> list[float]:
    return next(c for c in trainer.callback_handler.callbacks if isinstance(c, Losses)).values


def weights(trainer: VideoMSTrainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.bare_model().state_dict().items()}


def sharded_steps(rank: int | None, world_size: int | None) -> dict:
    """What 4 steps on 4 clips come to with the weights in shards, or on one process with whole ones (rank `None`)."""
    model = tiny_model("finetune")
    if rank is not None:
        for layer in model.videoms.encoder.layer:
            fully_shard(layer)
        fully_shard(model)
    groups = parameter_groups(model, 2, 1e-2, weight_decay=0.05, layer_decay=0.75)
    optimizer = torch.optim.AdamW(groups)
    clips = ClipsInMemory(4, is_training=False, with_labels=True)
    rows = range(4) if rank is None else range(rank, 4, world_size)
    pixels = torch.stack([clips[i]["pixel_values"] for i in rows])
    labels = torch.tensor([clips[i]["labels"] for i in rows])
    losses = []
    for _ in range(4):
        loss = model(pixels, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if rank is not None:
            torch.distributed.all_reduce(loss := loss.detach())
            loss /= world_size
        losses.append(loss.item())
    state = {name: getattr(value, "full_tensor", value.clone)() for name, value in model.state_dict().items()}
    return {
        "losses": losses,
        "weights": {name: value.detach() for name, value in state.items()},
        "groups": [(group["layer"], group["lr"], group["weight_decay"], len(group["params"])) for group in groups],
        "sharded": all(isinstance(parameter, DTensor) for parameter in model.parameters()),
        "world_size": world_size,
    }


def scores_where_videos_differ(folder: Path) -> dict:
    """What evaluation makes of videos of which each process sees an own copy, in a folder called by its number.

    In addition to the scores, what becomes of lists that differ.
    """
    accelerator = start_accelerator()
    model, processor = load_classifier(folder / "model"), load_processor(folder / "model")
    rank, before = accelerator.process_index, Path.cwd()
    os.chdir(folder / str(rank))
    names = [f"clip {i}.mp4" for i in range(5)]
    try:
        table = make_table(names, [i % 3 for i in range(5)], ["wave", "hop", "spin"])
        views = evaluation_views(table, model, processor, 2, 1, skip_broken=True)
        (predictions,) = predict_views(model, views, accelerator, batch_size=3, skip_broken=True)
        try:
            ViewDataset(table.select(range(5 - rank)), 8, 2, size=32, skip_broken=True)
        except ValueError as error:
            print(f"process {rank} was refused: {error}")
    finally:
        os.chdir(before)
    return predictions._asdict()


def gloo_threads() -> set[str]:
    """Names of this process's threads that talk to other processes."""
    names = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
    return {name for name in names if "gloo" in name}


def leave(trainer: VideoMSTrainer) -> None:
    """End as training scripts do, and say which of gloo's threads were there before and which are after."""
    before = gloo_threads()
    leave_processes(trainer)
    print(f"process {trainer.args.process_index} talked by {len(before)} kinds of threads, now by {gloo_threads()}")


def main() -> None:
    """For every job of the JSON file that is the only argument: train, evaluate, write what came out."""
    torch.set_num_threads(1)
    for job in json.loads(Path(sys.argv[1]).read_text()):
        result = job.pop("result")
        resume = job.pop("resume", False)
        if job["stage"] in ("sharded", "views"):
            rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
            is_sharded = job["stage"] == "sharded"
            found = sharded_steps(rank, world_size) if is_sharded else scores_where_videos_differ(Path(job["folder"]))
            if rank == 0:
                torch.save(found, result)
            print(f"process {rank} of {world_size} has done its job")
            continue
        trainer = tiny_trainer(**job)
        trainer.train(resume_from_checkpoint=resume)
        metrics = trainer.evaluate()
        if trainer.is_world_process_zero():
            found = {"world_size": trainer.args.world_size, "losses": losses(trainer), "metrics": metrics}
            found["log_history"] = trainer.state.log_history
            torch.save(found | {"weights": weights(trainer)}, result)
        print(f"process {trainer.args.process_index} of {trainer.args.world_size} has done its job")
        trainer.accelerator.wait_for_everyone()
    leave(trainer)


if __name__ == "__main__":
    main()
