"""A run that is killed and started again by the same command ends with the weights of one that was not, to the bit."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from tests.processes import killed_on_failure, run_forked
from tests.tiny_run import losses, tiny_trainer, weights
from videoms_hf.data.tables import make_table
from videoms_hf.training import checkpoints
from videoms_hf.training.checkpoints import (
    all_checkpoints,
    mark_complete,
    newest_complete_checkpoint,
    remove_old_checkpoints,
    set_incomplete_aside,
    what_is_missing,
)
from videoms_hf.training.runs import begin_run, claim_output_dir, record_data


# Everything that a checkpoint has to bring back: the generators (dropout, stochastic depth, frames), the average, the
# schedules of rate and decay, and the place in the middle of an epoch.
OPTIONS = {
    "model_fields": {"hidden_dropout_prob": 0.1, "drop_path_rate": 0.2},
    "ema_decay": 0.8,
    "weight_decay_end": 0.5,
    "save_strategy": "steps",
    "save_steps": 3,
    "save_total_limit": 2,
}


class KilledAtStep(TrainerCallback):
    """Kills the process, as `kill -9` does, between a backward pass and the optimiser's step."""

    def __init__(self, step: int):
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            kill()


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in_step(trainer) -> None:
    trainer.add_callback(KilledAtStep(8))


def kill_in_save(trainer) -> None:
    """Dies with half of the second checkpoint's optimiser written; the weights are there already."""
    save = torch.save

    def half_a_file(content, path, *args, **kwargs):
        if str(path).endswith("checkpoint-6/optimizer.pt"):
            save(content, path)
            with open(path, "r+b") as file:
                file.truncate(os.path.getsize(path) // 2)
            kill()
        return save(content, path, *args, **kwargs)

    torch.save = half_a_file


def kill_in_evaluation(trainer) -> None:
    step = trainer.prediction_step

    def second_epoch(*args, **kwargs):
        return kill() if trainer.state.global_step == 10 else step(*args, **kwargs)

    trainer.prediction_step = second_epoch


def kill_at_the_end_of_a_save(trainer) -> None:
    """Dies when Trainer has written the second checkpoint, and only the average and the mark are lacking."""

    def on_train_begin(args, state, control, **kwargs):
        save = trainer.average.save
        trainer.average.save = lambda path: kill() if "checkpoint-6" in str(path) else save(path)

    callback = TrainerCallback()
    callback.on_train_begin = on_train_begin
    trainer.add_callback(callback)


def run(stage: str, folder: Path, sabotage=None, result: Path | None = None, **options) -> None:
    """What the same command does, once."""
    torch.set_num_threads(1)
    budgets = {"keep_ratios": [0.15, 0.6, 1.0]} if stage == "finetune" else {}
    trainer = tiny_trainer(stage, folder, **(OPTIONS | budgets | options))
    if sabotage is not None:
        sabotage(trainer)
    trainer.train(resume_from_checkpoint=True)
    trainer.save_model()
    if result is not None:
        average = trainer.average.average
        torch.save({"weights": weights(trainer), "average": average, "losses": losses(trainer)}, result)


def assert_same_run(found: Path, wanted: Path) -> None:
    found, wanted = torch.load(found), torch.load(wanted)
    for part in ("weights", "average"):
        assert found[part].keys() == wanted[part].keys()
        for name, value in wanted[part].items():
            assert torch.equal(found[part][name], value), f"{part}: {name} differs"
    assert found["losses"] == wanted["losses"][-len(found["losses"]) :]


@pytest.mark.parametrize(
    "stage, sabotage, last_good, save_steps",
    [
        ("pretrain", kill_in_step, 6, 3),
        ("finetune", kill_in_save, 3, 3),
        ("finetune", kill_in_evaluation, 9, 3),
        ("pretrain", kill_in_evaluation, 10, 5),  # its last step has been saved, so it is not evaluated again
    ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(stage, sabotage, last_good, save_steps, tmp_path):
    options = {"save_steps": save_steps}
    assert run_forked(run, stage, tmp_path / "whole", result=tmp_path / "whole.pt", **options) == 0
    assert run_forked(run, stage, tmp_path / "killed", sabotage, **options) == -signal.SIGKILL
    assert newest_complete_checkpoint(tmp_path / "killed").name == f"checkpoint-{last_good}"
    assert run_forked(run, stage, tmp_path / "killed", result=tmp_path / "killed.pt", **options) == 0
    assert_same_run(tmp_path / "killed.pt", tmp_path / "whole.pt")
    assert len(torch.load(tmp_path / "killed.pt")["losses"]) == 15 - last_good
    assert (tmp_path / "killed" / "incomplete-checkpoint-6").is_dir() == (sabotage is kill_in_save)


def test_the_only_complete_checkpoint_stays_until_the_next_is_complete(tmp_path):
    options = {"save_total_limit": 1}
    assert run_forked(run, "pretrain", tmp_path, kill_at_the_end_of_a_save, **options) == -signal.SIGKILL
    assert [path.name for path in all_checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-6"]
    assert newest_complete_checkpoint(tmp_path).name == "checkpoint-3"
    assert run_forked(run, "pretrain", tmp_path, **options) == 0
    assert [path.name for path in all_checkpoints(tmp_path)] == ["checkpoint-15"]


def test_decoding_processes_do_not_change_a_resumed_run(tmp_path):
    assert run_forked(run, "pretrain", tmp_path / "whole", result=tmp_path / "whole.pt") == 0
    assert run_forked(run, "pretrain", tmp_path / "killed", kill_in_step, dataloader_num_workers=2) == -signal.SIGKILL
    again = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    assert run_forked(run, "pretrain", tmp_path / "killed", result=tmp_path / "killed.pt", **again) == 0
    assert_same_run(tmp_path / "killed.pt", tmp_path / "whole.pt")


def test_a_finished_run_is_left_as_it_is(tmp_path):
    assert run_forked(run, "finetune", tmp_path / "run", result=tmp_path / "first.pt") == 0
    assert run_forked(run, "finetune", tmp_path / "run", result=tmp_path / "second.pt") == 0
    assert torch.load(tmp_path / "second.pt")["losses"] == []
    first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("first", "second"))
    assert all(torch.equal(first["average"][name], second["average"][name]) for name in first["average"])


def write_checkpoint(folder: Path, step: int) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    (checkpoint / "global_step").mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"12345")
    (checkpoint / "global_step" / "shard.pt").write_bytes(b"123")
    mark_complete(checkpoint)
    return checkpoint


def test_a_checkpoint_is_complete_only_with_all_its_files_at_their_sizes(tmp_path):
    checkpoint = write_checkpoint(tmp_path, 5)
    assert what_is_missing(checkpoint) is None
    (checkpoint / "global_step" / "shard.pt").write_bytes(b"12")
    assert what_is_missing(checkpoint) == "global_step/shard.pt has 2 bytes instead of 3"
    (checkpoint / "global_step" / "shard.pt").unlink()
    assert what_is_missing(checkpoint) == "global_step/shard.pt has no bytes instead of 3"
    (checkpoint / checkpoints.MANIFEST).write_text('{"model.sa')
    assert "complete.json cannot be read" in what_is_missing(checkpoint)
    (checkpoint / checkpoints.MANIFEST).unlink()
    assert what_is_missing(checkpoint) == "saving it was not finished"


def test_the_newest_is_the_one_with_the_most_steps_and_incomplete_ones_are_set_aside(tmp_path):
    for step in (900, 1000, 1100):
        write_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-1100" / "model.safetensors").unlink()
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-2000").write_text("a file")
    assert newest_complete_checkpoint(tmp_path).name == "checkpoint-1000"
    assert [path.name for path in set_incomplete_aside(tmp_path)] == ["incomplete-checkpoint-1100"]
    assert [path.name for path in all_checkpoints(tmp_path)] == ["checkpoint-900", "checkpoint-1000"]
    assert newest_complete_checkpoint(tmp_path / "nothing here") is None


def test_old_checkpoints_go_and_the_best_stays(tmp_path):
    paths = [write_checkpoint(tmp_path, step) for step in (8, 9, 10, 11)]
    remove_old_checkpoints(tmp_path, keep=2, best=paths[0])
    assert [path.name for path in all_checkpoints(tmp_path)] == ["checkpoint-8", "checkpoint-10", "checkpoint-11"]
    remove_old_checkpoints(tmp_path, keep=None, best=None)
    assert len(all_checkpoints(tmp_path)) == 3


def test_an_explicit_checkpoint_must_be_complete(tmp_path):
    trainer = tiny_trainer("pretrain", tmp_path / "run")
    (tmp_path / "checkpoint-5").mkdir()
    with pytest.raises(ValueError, match="checkpoint-5 is not a complete checkpoint .*: saving it was not finished"):
        trainer.train(resume_from_checkpoint=tmp_path / "checkpoint-5")


def test_a_checkpoint_without_optimiser_is_not_gone_on_from(tmp_path):
    options = {"save_only_model": True, "num_train_epochs": 1}
    tiny_trainer("pretrain", tmp_path, **options).train()
    with pytest.raises(ValueError, match="checkpoint-5 has no state of the optimiser"):
        tiny_trainer("pretrain", tmp_path, **options).train(resume_from_checkpoint=True)


def test_a_full_disk_is_an_error_that_names_the_last_good_checkpoint_and_keeps_it(tmp_path):
    class FillDisk(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 6:  # no file of this process may be longer from now on
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    options = {"save_total_limit": 1, "ema_decay": 0.9, "logging_strategy": "no", "eval_strategy": "no"}
    trainer = tiny_trainer("finetune", tmp_path, **options)
    trainer.add_callback(FillDisk())
    try:
        with pytest.raises(RuntimeError, match="checkpoint-10 could not be saved .* resumes from .*checkpoint-5"):
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert newest_complete_checkpoint(tmp_path).name == "checkpoint-5"
    tiny_trainer("finetune", tmp_path, **options).train(resume_from_checkpoint=True)
    assert newest_complete_checkpoint(tmp_path).name == "checkpoint-15"


def test_a_folder_belongs_to_one_run(tmp_path):
    options = {"train_data": "a.csv", "num_frames": 8, "logging_steps": 5}
    assert claim_output_dir(tmp_path / "run", "pretrain", 16, options) is False
    write_checkpoint(tmp_path / "run", 5)
    # The same command, and one that differs in what does not matter to the weights.
    assert claim_output_dir(tmp_path / "run", "pretrain", 16, options) is True
    assert claim_output_dir(tmp_path / "run", "pretrain", 16, options | {"logging_steps": 1, "save_steps": 7})
    for script, batch, changed, message in (
        ("finetune", 16, {}, "script was 'pretrain', now 'finetune'"),
        ("pretrain", 32, {}, "total_batch_size was 16, now 32"),
        ("pretrain", 16, {"num_frames": 4}, "num_frames was 8, now 4"),
        ("pretrain", 16, {"seed": 1}, "seed was 'not set', now 1"),
    ):
        with pytest.raises(FileExistsError, match=message):
            claim_output_dir(tmp_path / "run", script, batch, options | changed)


def test_a_start_that_failed_or_was_killed_at_once_does_not_block_the_folder(tmp_path):
    (tmp_path / ".run.json.partial").write_text("{")
    assert claim_output_dir(tmp_path, "pretrain", 16, {"warmup_epochs": 40}) is False
    (tmp_path / "recipe.yaml").write_text("warmup_epochs: 40")
    assert claim_output_dir(tmp_path, "pretrain", 16, {"warmup_epochs": 1}) is False
    write_checkpoint(tmp_path, 5)
    with pytest.raises(FileExistsError, match="warmup_epochs was 1, now 2"):
        claim_output_dir(tmp_path, "pretrain", 16, {"warmup_epochs": 2})


def test_training_longer_than_planned_gets_the_exact_command(tmp_path):
    run = tmp_path / "run"
    options = {"train_data": "a.csv", "num_train_epochs": 2.0}
    claim_output_dir(run, "finetune", 16, options)
    write_checkpoint(run, 5)
    command = f"videoms finetune {run}/recipe.yaml --output_dir {run}-longer --model_name_or_path {{}} "
    for weights_in in (run / "checkpoint-5", run):  # while it lasts, and after its end
        with pytest.raises(FileExistsError, match="num_train_epochs was 2.0, now 4.0") as error:
            claim_output_dir(run, "finetune", 16, options | {"num_train_epochs": 4.0})
        assert str(error.value).endswith(command.format(weights_in) + "--num_train_epochs 4.0")
        (run / "config.json").write_text("{}")


def table_of(names, labels, classes=("walk", "wave")):
    return make_table(names, labels, classes)


def test_a_run_says_that_its_videos_have_changed_and_keeps_its_classes(tmp_path, caplog):
    args = tiny_trainer("finetune", tmp_path / "run").args
    begin_run("finetune", args, {"train_data": "l.csv"})
    started = ("a.mp4", "b.mp4"), (0, 1)

    def record(table) -> str:
        caplog.clear()
        with caplog.at_level("WARNING", "videoms_hf"):
            record_data(args, "train_data", "l.csv", table, table.features["label"].names)
        return caplog.text

    assert record(table_of(*started)) == record(table_of(*started)) == ""
    write_checkpoint(tmp_path / "run", 5)
    assert begin_run("finetune", args, {"train_data": "l.csv"})  # the data are no option
    assert "l.csv has changed since the run" in record(table_of(["a.mp4", "b.mp4", "c.mp4"], [0, 1, 1]))
    assert record(table_of(["a.mp4", "b.mp4", "c.mp4"], [0, 1, 1])) == ""  # said once
    assert "3 videos then, 3 now (others, or with other labels)" in record(
        table_of(["a.mp4", "b.mp4", "c.mp4"], [1, 1, 1])
    )
    for classes, message in (
        (["walk", "jump"], "class 1 was 'wave', now 'jump'"),
        (["walk", "wave", "jump"], "2, where l.csv has 3, and class 2 was None, now 'jump'"),
    ):
        with pytest.raises(FileExistsError, match=message):
            record(table_of(*started, classes))


def test_resuming_is_asked_for_as_in_transformers_scripts(tmp_path):
    assert tiny_trainer("finetune", tmp_path, resume_from_checkpoint="true").args.resume_from_checkpoint is True
    for path in (tmp_path / "nothing" / "checkpoint-9", tmp_path):
        args = tiny_trainer("finetune", tmp_path / "run", resume_from_checkpoint=str(path)).args
        wanted = "saving it was not finished" if path.exists() else "there is no such folder"
        with pytest.raises(ValueError, match=f"{path} is not a complete checkpoint of this trainer: {wanted}"):
            begin_run("finetune", args, {})
    write_checkpoint(tmp_path / "run", 5)
    args = tiny_trainer("finetune", tmp_path / "run", resume_from_checkpoint="False").args
    with pytest.raises(ValueError, match="resume_from_checkpoint is false, but .* has checkpoints"):
        begin_run("finetune", args, {})


@pytest.mark.parametrize("run_file", [None, "not a run", "[1]"])
def test_a_folder_with_something_else_is_left_alone(run_file, tmp_path):
    (tmp_path / "other.txt").write_text("precious")
    if run_file is not None:
        (tmp_path / "run.json").write_text(run_file)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(FileExistsError, match="has other files than a run; give another"):
        claim_output_dir(tmp_path, "pretrain", 16, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    with pytest.raises(FileExistsError, match="other.txt is a file"):
        claim_output_dir(tmp_path / "other.txt", "pretrain", 16, {})


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_ten_kills_of_either_stage_at_random_moments_change_nothing(stage, tmp_path):
    """Real processes, killed after a random time; whatever they were doing, the weights come out the same."""
    code = (
        "import sys, time, pathlib; from tests import test_resume as t; from transformers import TrainerCallback\n"
        "class Slow(TrainerCallback):\n"
        "    def on_step_end(self, *args, **kwargs): time.sleep(0.05)\n"
        "t.run(sys.argv[1], pathlib.Path(sys.argv[2]), lambda trainer: trainer.add_callback(Slow()),"
        " pathlib.Path(sys.argv[3]), num_train_epochs=8)"
    )

    def start(stage, name):
        arguments = [sys.executable, "-c", code, stage, str(tmp_path / name), str(tmp_path / f"{name}.pt")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
        return subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    begin = time.monotonic()
    process = start(stage, f"{stage}-whole")
    with killed_on_failure(process.pid):
        assert process.wait() == 0
    seconds = time.monotonic() - begin
    kills = 0
    draw = random.Random(stage)
    while True:
        process = start(stage, f"{stage}-killed")
        try:
            # Mostly after the imports, so that there is something to kill.
            with killed_on_failure(process.pid):
                code_returned = process.wait(draw.uniform(0.5, 1.0) * seconds if kills < 10 else None)
        except subprocess.TimeoutExpired:
            process.wait()
            kills += 1
            continue
        assert code_returned == 0
        if kills >= 10:
            break
        shutil.rmtree(tmp_path / f"{stage}-killed")  # it got through: once more from the beginning
    killed, whole = torch.load(tmp_path / f"{stage}-killed.pt"), torch.load(tmp_path / f"{stage}-whole.pt")
    for part in ("weights", "average"):
        assert all(torch.equal(killed[part][name], value) for name, value in whole[part].items())
