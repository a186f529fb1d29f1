"""Two processes give what one gives with the same total batch: losses, weights, evaluation; and go on after a stop."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from tests.evaluation_files import save_classifier, write_labelled_videos
from tests.processes import run_program, run_torchrun
from tests.tiny_run import CAN_GO_ON, losses, sharded_steps, tiny_trainer, weights
from videoms_hf.data.annotations import read_videos
from videoms_hf.evaluation.classifier import load_classifier, load_processor
from videoms_hf.evaluation.prediction import evaluation_views, predict_views, start_accelerator


ROOT = Path(__file__).parents[1]
# 17 videos in total batches of 4: the last one is dropped. 7 videos are evaluated in batches of 2: the last round of
# two processes lacks one.
STAGES = {
    "pretrain": {"stage": "pretrain", "clips": 17},
    "pretrain_tube": {"stage": "pretrain", "clips": 17, "model_fields": {"token_selection": "tube"}},
    "finetune": {"stage": "finetune", "clips": 17, "ema_decay": 0.9, "keep_ratios": [0.3, 1.0]},
    "frames": {"stage": "finetune", "clips": 17, "model_fields": {"candidate_ratio": 1.5}},
}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    """Folder with what every job came to, run by torchrun in two processes that talk by gloo."""
    folder = tmp_path_factory.mktemp("distributed")
    options = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": None}
    jobs = [
        {**job, **options, "folder": str(folder / name), "result": str(folder / f"{name}.pt")}
        for name, job in STAGES.items()
    ]
    accumulated = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    jobs.append(jobs[2] | accumulated | {"folder": str(folder / "acc"), "result": str(folder / "accumulated.pt")})
    # Checkpoint 6 lies in the middle of the second epoch of 4 steps.
    resumed = {"result": str(folder / "resumed.pt"), "resume": str(folder / "finetune" / "checkpoint-6")}
    if CAN_GO_ON:
        jobs.append(jobs[2] | resumed)
    vain = {"stage": "finetune", "fsdp": True, "max_steps": 2, "eval_strategy": "no", "save_strategy": "no"}
    jobs.append(vain | {"folder": str(folder / "vain"), "result": str(folder / "vain.pt")})
    jobs.append({"stage": "sharded", "folder": "unused", "result": str(folder / "sharded.pt")})
    # The second process cannot read a video that the first one can.
    save_classifier(folder / "views" / "model")
    for process in ("0", "1"):
        (folder / "views" / process).mkdir()
        write_labelled_videos(folder / "views" / process)
    (folder / "views" / "1" / "clip 1.mp4").write_bytes(b"")
    jobs.append({"stage": "views", "folder": str(folder / "views"), "result": str(folder / "views.pt")})
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = run_torchrun(["-m", "tests.tiny_run", folder / "jobs.json"])
    (folder / "stderr.txt").write_text(done.stderr)
    (folder / "stdout.txt").write_text(done.stdout)
    for process in (0, 1):
        assert done.stdout.count(f"process {process} of 2 has done its job") == len(jobs)
    return folder


@pytest.mark.parametrize("name", STAGES)
def test_two_processes_learn_what_one_learns(name, two_processes, tmp_path):
    two = torch.load(two_processes / f"{name}.pt")
    assert two["world_size"] == 2
    one = tiny_trainer(folder=tmp_path, per_device_train_batch_size=4, save_strategy="no", **STAGES[name])
    one.train()
    metrics = one.evaluate()
    assert two["losses"] == pytest.approx(losses(one), rel=1e-5) and len(two["losses"]) == 12
    for part, value in weights(one).items():
        torch.testing.assert_close(two["weights"][part], value, atol=1e-5, rtol=1e-4)
    assert two["metrics"]["eval_loss"] == pytest.approx(metrics["eval_loss"], rel=1e-5)
    importance = [
        [entry["mean_importance"] for entry in history if "mean_importance" in entry]
        for history in (two["log_history"], one.state.log_history)
    ]
    assert importance[0] == pytest.approx(importance[1], abs=2e-4)  # of all processes
    if STAGES[name]["stage"] == "finetune":
        assert two["metrics"]["eval_top1"] == metrics["eval_top1"]


def test_accumulated_batches_on_two_processes_are_the_same_run(two_processes):
    accumulated, plain = (torch.load(two_processes / f"{name}.pt") for name in ("accumulated", "finetune"))
    assert accumulated["losses"] == pytest.approx(plain["losses"], rel=1e-5)
    for name, value in plain["weights"].items():
        torch.testing.assert_close(accumulated["weights"][name], value, atol=1e-5, rtol=1e-4)


def test_weights_in_shards_learn_what_whole_ones_learn(two_processes):
    """FSDP2 as scripts/accelerate/fsdp2.yaml has it, without accelerate, which shards on accelerators only."""
    two = torch.load(two_processes / "sharded.pt")
    assert two["sharded"] and two["world_size"] == 2
    one = sharded_steps(None, None)
    assert one["losses"][0] > one["losses"][-1] and not one["sharded"]
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert two["groups"] == one["groups"]
    for name, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], value, atol=1e-5, rtol=1e-4)


def test_sharding_that_is_asked_for_in_vain_is_said(two_processes):
    said = (two_processes / "stderr.txt").read_text()
    assert "fsdp is set, but nothing is sharded" in said and (two_processes / "vain.pt").exists()


@pytest.mark.skipif(not CAN_GO_ON, reason="transformers before 5.24 cannot resume on several CPU processes")
def test_two_processes_go_on_from_the_middle_of_an_epoch(two_processes):
    """Accelerate tells the epoch to no sampler that both skips batches and is shared out to processes."""
    resumed, plain = (torch.load(two_processes / f"{name}.pt") for name in ("resumed", "finetune"))
    assert resumed["losses"] == plain["losses"][6:]
    assert all(torch.equal(resumed["weights"][name], value) for name, value in plain["weights"].items())
    assert resumed["metrics"]["eval_loss"] == plain["metrics"]["eval_loss"]


def test_one_process_goes_on_from_what_two_began(two_processes, tmp_path):
    job = STAGES["finetune"] | {"folder": tmp_path, "per_device_train_batch_size": 4, "save_strategy": "no"}
    one = tiny_trainer(**job)
    one.train(resume_from_checkpoint=two_processes / "finetune" / "checkpoint-6")
    two = torch.load(two_processes / "finetune.pt")
    assert losses(one) == pytest.approx(two["losses"][6:], rel=1e-5)
    for name, value in weights(one).items():
        torch.testing.assert_close(two["weights"][name], value, atol=1e-5, rtol=1e-4)


def test_a_video_that_one_process_cannot_read_shifts_no_score_to_another(two_processes):
    """The first process looks at the videos for both; the score of a video that fails later is left out whole."""
    found = torch.load(two_processes / "views.pt", weights_only=False)
    model = load_classifier(two_processes / "views" / "model")
    table = read_videos(two_processes / "views" / "0" / "test.csv")
    processor = load_processor(two_processes / "views" / "model")
    (one,) = predict_views(model, evaluation_views(table, model, processor, 2, 1), start_accelerator())
    kept = one.video_ids != 1
    assert [bad.row for bad in found["broken"]] == [1]
    assert found["video_ids"].tolist() == one.video_ids[kept].tolist() == [0, 0, 2, 2, 3, 3, 4, 4]
    assert found["labels"].tolist() == one.labels[kept].tolist()
    assert torch.tensor(found["logits"]).allclose(torch.tensor(one.logits[kept]), atol=1e-5)


def test_processes_with_different_lists_of_videos_are_refused(two_processes):
    said = (two_processes / "stdout.txt").read_text()
    for process in (0, 1):
        assert f"process {process} was refused: the processes read different lists of 5, 4 videos" in said


LEFT_ALONE = """
import os, sys, torch
from videoms_hf.training import leave_processes
is_peer = os.fork() == 0
torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=int(is_peer), world_size=2)
torch.distributed.all_reduce(torch.ones(1))
if is_peer:
    os._exit(7)
os.wait()
leave_processes()
print("initialised:", torch.distributed.is_initialized())
"""


def test_a_process_does_not_wait_for_one_that_died(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = run_program([sys.executable, "-c", LEFT_ALONE, str(tmp_path / "store")], seconds=60, env=environment)
    assert (done.returncode, done.stdout) == (0, "initialised: False\n"), done.stderr[-3000:]
    assert "Another process did not finish" in done.stderr


def test_processes_draw_differently_where_clips_do_not_decide(two_processes):
    """Dropout and stochastic depth draw from the processes' own generators."""
    states = [
        torch.load(two_processes / "finetune" / "checkpoint-2" / f"rng_state_{i}.pth", weights_only=False)
        for i in (0, 1)
    ]
    assert not torch.equal(states[0]["cpu"], states[1]["cpu"])
