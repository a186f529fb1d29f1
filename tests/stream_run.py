"""A training run of a second on streamed shards. Also a program for torchrun (test_streaming.py)."""

import json
import sys
from functools import partial
from pathlib import Path

import torch

from tests.tiny_run import Losses, leave, losses, tiny_model, weights
from videoms_hf.data.collate import collate_clips
from videoms_hf.data.shards import Shards
from videoms_hf.data.streaming import ClipStream
from videoms_hf.data.transforms import PretrainingTransform
from videoms_hf.sampling_videoms import pretraining_clip
from videoms_hf.training.trainer import VideoMSTrainer
from videoms_hf.training.training_arguments import PreTrainingArguments


class RecordingTrainer(VideoMSTrainer):
    """Trainer that keeps the numbers of the videos of each batch in `seen`."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.__dict__.setdefault("seen", []).append(inputs["video_id"].tolist())
        return super().training_step(model, inputs, num_items_in_batch)


def streaming_trainer(shards, folder, **options) -> RecordingTrainer:
    """Pre-training of 2 epochs on the shards of a folder, in batches of 2 clips."""
    args = PreTrainingArguments(
        **{
            "output_dir": str(folder),
            "num_train_epochs": 2,
            "per_device_train_batch_size": 2,
            "base_learning_rate": 1.0,
            "warmup_epochs": 1,
            "logging_steps": 1,
            "eval_strategy": "no",
            "save_strategy": "no",
            "dataloader_num_workers": 0,
            "use_cpu": True,
            "disable_tqdm": True,
            **options,
        }
    )
    clips = ClipStream(
        Shards(shards),
        partial(pretraining_clip, num_frames=8, stride=1),
        PretrainingTransform(16),
        with_labels=False,
        seed=None,
    )
    return RecordingTrainer(
        tiny_model("pretrain"), args, train_dataset=clips, data_collator=collate_clips, callbacks=[Losses()]
    )


def main() -> None:
    """For every job of the JSON file that is the only argument: train, write what came out on each process."""
    torch.set_num_threads(1)
    for job in json.loads(Path(sys.argv[1]).read_text()):
        result, resume = job.pop("result"), job.pop("resume", None)
        trainer = streaming_trainer(**job)
        trainer.train(resume_from_checkpoint=resume)
        process = trainer.args.process_index
        found = {"world_size": trainer.args.world_size, "seen": trainer.seen, "losses": losses(trainer)}
        torch.save(found | {"weights": weights(trainer)}, f"{result}.{process}.pt")
        trainer.accelerator.wait_for_everyone()
    leave(trainer)


if __name__ == "__main__":
    main()
