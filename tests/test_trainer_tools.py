"""What users know from Trainer works on: loggers, the search for hyper-parameters; folders that cannot be written."""

import json
import os
import sqlite3
import tempfile
from pathlib import Path

import pytest
import torch
import transformers
from transformers import TrainerCallback, set_seed

from tests.processes import run_forked
from tests.tiny_run import ClipsInMemory, losses, tiny_model, tiny_trainer
from videoms_hf.evaluation.metrics import compute_accuracies
from videoms_hf.training import training_arguments
from videoms_hf.training.runs import claim_output_dir
from videoms_hf.training.trainer import VideoMSTrainer
from videoms_hf.training.training_arguments import FineTuningArguments


LOGGED = {
    "loss",
    "grad_norm",
    "learning_rate",
    "clips_per_second",
    "data_wait_share",
    "peak_memory_gib",
    "kept_tokens",
}
SELECTION = {"mean_importance", "kept_motion_share", "lowest_learning_rate"}


class LogWatcher(TrainerCallback):
    """Keeps loss and rate of every log."""

    def __init__(self, logs: list):
        self.logs = logs

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.logs.append((logs["loss"], logs["learning_rate"]))


def test_tensorboard_gets_everything_that_is_logged(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tiny_trainer("finetune", tmp_path, report_to=["tensorboard"], num_train_epochs=1).train()
    (file,) = tmp_path.rglob("events.out.tfevents.*")
    found = EventAccumulator(str(file.parent)).Reload()
    assert {f"train/{name}" for name in {*LOGGED, *SELECTION}} <= set(found.Tags()["scalars"])
    assert len(found.Scalars("train/loss")) == 5 and len(found.Scalars("eval/top1")) == 1


@pytest.mark.slow
def test_trackio_gets_everything_that_is_logged(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    pytest.importorskip("trackio")
    tiny_trainer("finetune", tmp_path / "run", report_to=["trackio"], num_train_epochs=1).train()
    (file,) = tmp_path.glob("*.db")
    with sqlite3.connect(file) as database:
        rows = [json.loads(text) for (text,) in database.execute("select metrics from metrics order by step")]
    assert {f"train/{name}" for name in {*LOGGED, *SELECTION}} <= set(rows[0])
    assert sum("train/loss" in row for row in rows) == 5 and sum("eval/top1" in row for row in rows) == 1


@pytest.mark.slow
def test_weights_and_biases_get_everything_that_is_logged(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    trainer = tiny_trainer("finetune", tmp_path / "run", report_to=["wandb"], num_train_epochs=1)
    trainer.train()
    assert {f"train/{name}" for name in LOGGED} <= set(dict(wandb.run.summary))
    wandb.finish()


def test_a_search_trains_every_trial_from_the_same_weights_with_its_own_rates(tmp_path):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def make_model():
        set_seed(0)
        return tiny_model("finetune")

    args = FineTuningArguments(
        output_dir=str(tmp_path),
        num_train_epochs=1,
        per_device_train_batch_size=2,
        warmup_epochs=0,
        save_strategy="no",
        logging_steps=1,
        dataloader_num_workers=0,
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = VideoMSTrainer(
        args=args,
        model_init=make_model,
        train_dataset=ClipsInMemory(11, is_training=True, with_labels=True),
        eval_dataset=ClipsInMemory(7, is_training=False, with_labels=True),
        compute_metrics=compute_accuracies,
    )
    logs: list[tuple[float, float]] = []
    trainer.add_callback(LogWatcher(logs))
    rates = {0: 1e-3, 1: 4e-3}
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": rates[trial.number]},
        compute_objective=lambda metrics: metrics["eval_loss"],
        n_trials=2,
        backend="optuna",
    )
    assert best.run_id in ("0", "1") and len(logs) == 10
    assert [logs[0][1], logs[5][1]] == pytest.approx([1e-3, 4e-3])  # each trial begins with its own peak ...
    assert logs[0][0] == logs[5][0] and logs[4][0] != logs[9][0]  # ... and the same weights, and learns otherwise


def without_privileges(task, *args) -> int:
    """Exit code of a process that runs `task` as a user who may not write everywhere."""

    def run():
        if os.geteuid() == 0:
            os.setgroups([]), os.setgid(65534), os.setuid(65534)
        torch.set_num_threads(1)
        task(*args)

    return run_forked(run)


def claim_in_vain(folder: Path) -> None:
    with pytest.raises(
        OSError, match=r"run cannot be written to \(.*[Pp]ermission denied.*\); give another --output_dir"
    ):
        claim_output_dir(folder, "pretrain", 16, {})


def save_in_vain(folder: Path) -> None:
    trainer = tiny_trainer("finetune", folder, num_train_epochs=1, report_to="none")
    with pytest.raises(RuntimeError, match="checkpoint-5 could not be saved .* resumes from the beginning"):
        trainer.train()


@pytest.mark.parametrize("task", [claim_in_vain, save_in_vain])
def test_a_folder_that_cannot_be_written_is_named(task):
    # Not in tmp_path: pytest closes the folders above it to other users.
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o755)
        folder = Path(parent) / "run"
        folder.mkdir()
        folder.chmod(0o555)
        assert without_privileges(task, folder) == 0


@pytest.mark.parametrize("options, wanted", [({}, True), ({"fp16": True}, False), ({"bf16": False}, False)])
def test_bfloat16_is_the_default_where_an_accelerator_has_it(options, wanted, tmp_path, monkeypatch):
    monkeypatch.setattr(training_arguments, "is_torch_bf16_gpu_available", lambda: True)
    monkeypatch.setattr(transformers.TrainingArguments, "__post_init__", lambda self: None)  # there is no GPU here
    monkeypatch.setattr(FineTuningArguments, "total_batch_size", 256)
    assert FineTuningArguments(output_dir=str(tmp_path), **options).bf16 is wanted
    assert FineTuningArguments(output_dir=str(tmp_path), use_cpu=True).bf16 is False


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_bfloat16_learns_as_float32_does(stage, tmp_path):
    options = {"num_train_epochs": 1, "save_strategy": "no", "eval_strategy": "no", "base_learning_rate": 0.1}
    half, whole = (tiny_trainer(stage, tmp_path, bf16=bf16, **options) for bf16 in (True, False))
    half.train(), whole.train()
    assert losses(half) == pytest.approx(losses(whole), rel=0.02) and losses(half) != losses(whole)
    assert {value.dtype for value in half.model.state_dict().values()} == {torch.float32}
