"""Uploads by the real client to a hub on this machine: what arrives, what a stranger loads, what a failure leaves."""

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from tests.evaluation_files import CLASSES, save_classifier, write_noise
from tests.hub_server import TOKEN, running_hub
from tests.processes import run_program
from tests.test_remote_code import MODEL_CODE, PROCESSOR_CODE, WITHOUT_PACKAGE
from videoms_hf import VideoMSForVideoClassification, VideoMSVideoProcessor
from videoms_hf.evaluation.results import weights_digest
from videoms_hf.experiments.synthetic import render_motion_dataset
from videoms_hf.files import write_json
from videoms_hf.hub.model_folder import run_records


ROOT = Path(__file__).parents[1]
PROCESSOR_FILES = {"video_preprocessor_config.json", "preprocessor_config.json"}
MODEL_FILES = {"config.json", "model.safetensors"} | PROCESSOR_FILES | MODEL_CODE | PROCESSOR_CODE

# Publishes in every way. The address of the hub must be set before the client is imported, hence a process of its own.
PUBLISHER = """
import contextlib, io, json, runpy, sys
from videoms_hf.command_line import run
from videoms_hf.hub import UploadError, publish
from videoms_hf import VideoMSForVideoClassification, VideoMSVideoProcessor
import torch

job = json.loads(sys.argv[1])
main = runpy.run_path(job["scripts"] + "/push_to_hub.py")["main"]
push = lambda words: run(main, list(map(str, words)))
finetune = runpy.run_path(job["scripts"] + "/finetune.py")["main"]
found = {}

def said_by(call, *arguments):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = call(*arguments)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}

words = [job["model"], "first", "--evaluation", job["evaluation"], "--data", "Tiny motions", "--license", "mit"]
found["dry run"] = said_by(push, [*words, "--space", "demo", "--dry_run"])
found["first"] = said_by(push, [*words, "--space", "demo"])

# The same name again, with weights of another shape in shards, and without the evaluation.
found["before"] = said_by(push, [job["other"], "someone/changed", "--evaluation", job["evaluation of the other"]])
found["changed"] = said_by(push, [job["sharded"], "someone/changed"])

# Failures: of the server while weights arrive, of the server at the commit, of the login, of the name.
for name in ("lost-weights", "lost-commit"):
    found[name] = [said_by(push, [job[name], f"someone/{name}"]) for _ in range(2)]
try:
    publish(job["other"], "someone/forbidden", token="hf_wrong")
except UploadError as error:
    found["forbidden"] = str(error)
try:
    publish(job["other"], "no/name/at-all")
except ValueError as error:
    found["name"] = str(error)

# transformers' own push, and back from a cache that has never seen it.
VideoMSForVideoClassification.from_pretrained(job["model"]).push_to_hub("someone/plain")
VideoMSVideoProcessor.from_pretrained(job["model"]).push_to_hub("someone/plain")
with torch.no_grad():
    back = VideoMSForVideoClassification.from_pretrained("someone/plain").eval()
    found["plain"] = back(torch.load(job["pixels"])).logits

finetune(job["finetune"])
torch.save(found, job["result"])
"""

STRANGER = (
    WITHOUT_PACKAGE
    + """
import torch
from transformers import AutoModelForVideoClassification, AutoVideoProcessor, pipeline

job = json.loads(sys.argv[1])
pixels, found = torch.load(job["pixels"]), {}
for name in ("tester/first", "someone/changed", "someone/lost-weights", "someone/trained"):
    model = AutoModelForVideoClassification.from_pretrained(name, trust_remote_code=True).eval()
    with torch.no_grad():
        found[name] = model(pixels).logits
classify = pipeline("video-classification", model="tester/first", trust_remote_code=True)
found["pipeline"] = classify(job["video"])
found["processor"] = type(AutoVideoProcessor.from_pretrained("someone/trained", trust_remote_code=True)).__name__
torch.save(found, job["result"])
"""
)


def run(code: str, job: dict, hub, cache: Path) -> dict:
    """What a process saves as `job["result"]`, with the client pointed at the hub and a cache of its own."""
    variables = {**os.environ, "HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HOME": str(cache)}
    # The client's newer transfer, Xet, is a service of its own; without it the client sends large files by LFS.
    variables |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, json.dumps(job, default=str)]
    done = run_program(command, cwd=cache.parent, env=variables)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(job["result"], weights_only=True)


def evaluation_of(model: Path) -> dict:
    """A report in the form of `videoms evaluate` (its own test makes a real one)."""
    shares = {"video_top1": 0.8, "video_top5": 1.0, "video_top1_low": 0.38, "video_top1_high": 0.96}
    return {
        "accuracies": {**shares, "clip_top1": 0.6, "clip_top5": 1.0, "num_videos": 5, "num_clips": 30},
        **{"chance_top1": 1 / 3, "chance_top5": 1.0, "class_names": CLASSES, "num_segments": 3, "num_crops": 2},
        "weights_sha256": weights_digest(load_file(model / "model.safetensors").items()),
        **{"num_frames": 8, "frame_stride": 2, "image_size": 32, "keep_ratio": 0.6, "gflops_per_clip": 0.1},
        **{"gflops_per_video": 0.6, "arguments": {"data": "tiny/test.csv", "model": str(model)}, "seconds": 3.0},
        **{"date": "2026-01-02T03:04:05+00:00", "command": "videoms evaluate"},
        "machine": {"processor": "a processor", "threads": 2, "accelerator": None, "processes": 1},
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Hub, folders and what two processes found: one that published, one that had never seen the package."""
    folder = tmp_path_factory.mktemp("world")
    sizes = {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 3}  # 3.6 MB of weights
    job = {name: save_classifier(folder / name, **sizes) for name in ("model", "other", "sharded")}
    job |= {name: save_classifier(folder / name) for name in ("lost-weights", "lost-commit")}
    for seed, name in enumerate(("other", "lost-weights", "lost-commit", "sharded")):  # so that no two are the same
        model = VideoMSForVideoClassification.from_pretrained(job[name])
        with torch.no_grad():
            model.classifier.bias.fill_(seed)
        (job[name] / "model.safetensors").unlink()
        model.save_pretrained(job[name], **({"max_shard_size": "1MB"} if name == "sharded" else {}))
    (job["model"] / "recipe.yaml").write_text("train_data: tiny/train.csv\n")
    write_json({"log_history": [{"loss": 1.25, "step": 7, "epoch": 3.5}]}, job["model"] / "training_log.json")
    (job["model"] / "training_args.bin").write_bytes(b"a pickle")
    (job["model"] / "checkpoint-7").mkdir()
    (job["model"] / "checkpoint-7" / "optimizer.pt").write_bytes(b"states")
    write_json(evaluation_of(job["model"]), folder / "evaluation.json")
    write_json(evaluation_of(job["other"]), folder / "other.json")
    videos = render_motion_dataset(folder / "videos", num_train=8, num_val=8, num_test=1, image_size=40, num_frames=12)
    pixels = torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.save(pixels, folder / "pixels.pt")
    options = {"train_data": videos / "train.csv", "eval_data": videos / "val.csv", "output_dir": folder / "trained"}
    options |= {"model_size": "small", "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2}
    options |= {"num_attention_heads": 2, "intermediate_size": 24, "num_frames": 8, "frame_stride": 1}
    options |= {"image_size": 32, "per_device_train_batch_size": 4, "num_train_epochs": 2, "warmup_epochs": 0}
    options |= {"dataloader_num_workers": 0, "use_cpu": True, "disable_tqdm": True, "logging_steps": 1}
    options |= {"ema_decay": 0.5, "push_to_hub": True, "hub_model_id": "someone/trained"}
    job |= {
        "scripts": ROOT / "scripts",
        "evaluation": folder / "evaluation.json",
        "evaluation of the other": folder / "other.json",
        "video": write_noise(folder / "video.mp4", 40, seed=0),
        "pixels": folder / "pixels.pt",
        "finetune": [f"--{name}={value}" for name, value in options.items()],
        "result": folder / "result.pt",
    }
    with running_hub() as hub:
        weights = hashlib.sha256((job["lost-weights"] / "model.safetensors").read_bytes()).hexdigest()
        hub.fail("PUT", f"/large/{weights}", 507)
        hub.fail("POST", "/api/models/someone/lost-commit/commit/", 500)
        found = run(PUBLISHER, job, hub, folder / "cache of the publisher")
        stranger = run(STRANGER, job, hub, folder / "cache of a stranger")
    return {"hub": hub, "job": job, "found": found, "stranger": stranger, "pixels": pixels, "folder": folder}


def check_contents(files: dict[str, bytes], folder: Path) -> None:
    """Byte for byte those of the folder, but for local paths."""
    for name, content in files.items():
        if name in ("recipe.yaml", "training_log.json", "evaluation.json"):
            assert yaml.safe_load(content) == run_records(folder)[name], name
        elif name != ".gitattributes":
            assert content == (folder / name).read_bytes(), name


def logits(world, folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return VideoMSForVideoClassification.from_pretrained(folder).eval()(world["pixels"]).logits


def test_the_script_publishes_all_that_belongs_to_a_model_and_nothing_else(world):
    assert world["found"]["first"]["code"] == 0, world["found"]["first"]
    files = world["hub"].files("tester/first")
    extras = {"README.md", "recipe.yaml", "training_log.json", "evaluation.json"}
    assert set(files) == MODEL_FILES | extras | {".gitattributes"}
    check_contents(files, world["job"]["model"])
    assert f"Published: {world['hub'].address}/tester/first/commit/" in world["found"]["first"]["out"]
    assert len(world["hub"].repositories["tester/first"].commits) == 2  # the empty one and ours


def test_the_script_publishes_a_space_as_it_is_with_the_package_and_the_models_name(world):
    assert "Space demo: " in world["found"]["dry run"]["out"]
    space, files = world["hub"].repositories["spaces/tester/demo"], world["hub"].files("spaces/tester/demo")
    assert f"Published: {world['hub'].address}/spaces/tester/demo/commit/" in world["found"]["first"]["out"]
    assert space.variables == {"VIDEOMS_MODEL": "tester/first"} and len(space.commits) == 2
    expected = {path.name: path for path in (ROOT / "scripts" / "space").iterdir() if path.is_file()}
    assert {"app.py", "README.md", "requirements.txt"} <= expected.keys()
    package = ROOT / "videoms_hf"
    expected |= {f"videoms_hf/{path.relative_to(package)}": path for path in package.rglob("*.py")}
    expected |= {f"videoms_hf/{path.relative_to(package)}": path for path in package.rglob("*.txt")}
    assert files.keys() == expected.keys() | {".gitattributes"}
    assert all(files[name] == path.read_bytes() for name, path in expected.items())


def test_large_weights_go_by_lfs_and_small_files_with_the_commit(world):
    hub = world["hub"]
    stored = hub.repositories["tester/first"].commits[-1][1]
    assert stored["model.safetensors"].is_large and len(stored["model.safetensors"].content) > 3_000_000
    assert not any(stored[name].is_large for name in MODEL_FILES - {"model.safetensors"})
    assert any(method == "PUT" and status == 200 for method, _, status in hub.calls)


def test_the_published_card_has_the_full_name_the_scores_and_the_licence(world):
    text = world["hub"].files("tester/first")["README.md"].decode()
    assert 'repo = "tester/first"' in text  # the account's name, which was not given
    card = ModelCard(text)
    assert card.data.license == "mit" and card.data.pipeline_tag == "video-classification"
    assert [(r.dataset_name, r.metric_value) for r in card.data.eval_results] == [("Tiny motions", 0.8)] + [
        ("Tiny motions", 1.0)
    ]
    assert "7 steps, 3.5 epochs" in text


@pytest.mark.parametrize(
    "repository, folder",
    [
        ("tester/first", "model"),
        ("someone/changed", "sharded"),
        ("someone/lost-weights", "lost-weights"),
        ("someone/trained", "trained"),
    ],
)
def test_a_stranger_loads_the_same_model_by_its_name(world, repository, folder):
    assert world["stranger"][repository].equal(logits(world, world["folder"] / folder))


def test_a_stranger_classifies_a_video_by_the_name_of_the_repository(world):
    model, processor = (
        cls.from_pretrained(world["job"]["model"]) for cls in (VideoMSForVideoClassification, VideoMSVideoProcessor)
    )
    with torch.no_grad():
        scores = model.eval()(**processor(str(world["job"]["video"]), return_tensors="pt")).logits.softmax(-1)[0]
    found = {answer["label"]: answer["score"] for answer in world["stranger"]["pipeline"]}
    assert found == pytest.approx(dict(zip(CLASSES, scores.tolist(), strict=True)))


def test_transformers_own_push_comes_back_with_the_same_logits(world):
    assert world["found"]["plain"].equal(logits(world, world["job"]["model"]))
    files = set(world["hub"].files("someone/plain"))
    assert files >= MODEL_FILES


def test_files_of_an_earlier_upload_do_not_stay_behind(world):
    assert world["found"]["before"]["code"] == world["found"]["changed"]["code"] == 0
    hub = world["hub"]
    (_, _), (_, before), (_, after) = hub.repositories["someone/changed"].commits
    assert {"model.safetensors", "evaluation.json"} <= set(before)
    assert "model.safetensors" not in after and "evaluation.json" not in after
    assert "model.safetensors.index.json" in after
    assert "None was measured" in after["README.md"].content.decode()


def test_an_upload_that_fails_at_the_weights_changes_nothing_says_why_and_works_again(world):
    first, again = world["found"]["lost-weights"]
    assert first["code"] == 2 and again["code"] == 0
    message = first["err"]
    assert f"the upload of {world['job']['lost-weights']} to someone/lost-weights failed: " in message
    assert "507" in message and "all at once or not at all; run the same again" in message
    assert "Traceback" not in first["err"]
    assert len(world["hub"].repositories["someone/lost-weights"].commits) == 2
    assert set(world["hub"].files("someone/lost-weights")) == MODEL_FILES | {"README.md", ".gitattributes"}


def test_an_upload_that_fails_at_the_commit_sends_the_weights_once_only(world):
    first, again = world["found"]["lost-commit"]
    assert first["code"] == 2 and again["code"] == 0
    assert "500" in first["err"] and "the server has a bad day" in first["err"]
    content = (world["job"]["lost-commit"] / "model.safetensors").read_bytes()
    sent = f"/large/{hashlib.sha256(content).hexdigest()}"
    calls = [call for call in world["hub"].calls if call[1] in (sent, "/api/models/someone/lost-commit/commit/main")]
    commit = "/api/models/someone/lost-commit/commit/main"
    assert calls == [("PUT", sent, 200), ("POST", commit, 500), ("POST", commit, 200)]
    assert world["hub"].files("someone/lost-commit")["model.safetensors"] == content


def test_a_login_that_may_not_write_is_told_to_log_in(world):
    assert "someone/forbidden failed: " in world["found"]["forbidden"]
    assert "401" in world["found"]["forbidden"] and "hf auth login" in world["found"]["forbidden"]
    assert "someone/forbidden" not in world["hub"].repositories
    assert "no/name/at-all" in world["found"]["name"]


def test_the_trainer_publishes_the_same_files_of_the_averaged_weights(world):
    files = world["hub"].files("someone/trained")
    run_files = {"README.md", "recipe.yaml", "training_log.json", "training_log.png", ".gitattributes"}
    assert set(files) == MODEL_FILES | run_files
    folder = world["folder"] / "trained"
    check_contents(files, folder)
    assert yaml.safe_load(files["recipe.yaml"])["train_data"] == "train.csv"  # without its folder
    averaged = load_file(folder / "checkpoint-4" / "average.safetensors")
    own = load_file(folder / "checkpoint-4" / "model.safetensors")
    published = load_file(folder / "model.safetensors")
    assert all(published[name].equal(value) for name, value in averaged.items())
    assert not all(published[name].equal(own[name]) for name in averaged)
    assert yaml.safe_load(files["recipe.yaml"])["ema_decay"] == 0.5
    card = files["README.md"].decode()
    history = json.loads(files["training_log.json"])["log_history"]
    assert f"| {[entry for entry in history if 'eval_top1' in entry][-1]['eval_top1']:.2%} |" in card
    assert 'repo = "someone/trained"' in card and "4 steps, 2 epochs" in card
    assert len(world["hub"].repositories["someone/trained"].commits) == 2
