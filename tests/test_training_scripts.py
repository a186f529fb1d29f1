"""The scripts from end to end on real, tiny video files: pre-train, fine-tune, go on, refuse."""

import json
import re
import runpy
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.processes import run_torchrun
from videoms_hf import VideoMSForPreTraining, VideoMSForVideoClassification
from videoms_hf.experiments.synthetic import MOTIONS, render_motion_dataset
from videoms_hf.training.checkpoints import MANIFEST, all_checkpoints
from videoms_hf.video_processing_videoms import VideoMSVideoProcessor


ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"
TINY = {
    "model_size": "small",
    "patch_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_frames": 8,
    "frame_stride": 1,
    "image_size": 32,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 3,
    "num_train_epochs": 2,
    "warmup_epochs": 1,
    "logging_steps": 1,
    "dataloader_num_workers": 0,
    "use_cpu": True,
    "disable_tqdm": True,
}
TINY_DECODER = {
    "decoder_hidden_size": 12,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 3,
    "decoder_intermediate_size": 20,
    "mask_ratio": 0.8,
}


def words(options: dict) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]


def script(name: str, **options) -> None:
    runpy.run_path(str(SCRIPTS / f"{name}.py"))["main"](words(TINY | options))


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """A rendered data set: 16 training and 8 validation videos of 8 motions."""
    folder = tmp_path_factory.mktemp("videos") / "data"
    return render_motion_dataset(folder, num_train=16, num_val=8, num_test=1, image_size=40, num_frames=12)


@pytest.fixture(scope="module")
def pretrained(videos, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "pretrain"
    lists = {"train_data": videos / "pretrain.csv", "eval_data": videos / "val.csv"}
    script("pretrain", **lists, output_dir=folder, **TINY_DECODER)
    return folder


@pytest.fixture(scope="module")
def finetuning(videos, pretrained) -> dict:
    lists = {"train_data": videos / "train.csv", "eval_data": videos / "val.csv"}
    return {**lists, "model_name_or_path": pretrained}


def test_pretraining_leaves_a_model_a_processor_a_recipe_and_a_log(pretrained, videos):
    model = VideoMSForPreTraining.from_pretrained(pretrained)
    assert (model.config.num_frames, model.config.image_size, model.config.decoder_hidden_size) == (8, 32, 12)
    processor = VideoMSVideoProcessor.from_pretrained(pretrained)
    assert (processor.num_frames, processor.frame_stride, processor.crop_size.height) == (8, 1, 32)
    video = next((videos / "val").rglob("*.mp4"))
    assert model.eval()(**processor(str(video), return_tensors="pt")).loss.isfinite()
    log = json.loads((pretrained / "training_log.json").read_text())
    assert len([entry for entry in log["log_history"] if "loss" in entry]) == 8
    assert "eval_loss" in log["log_history"][-1] and log["bad_videos"] == [] and "torch" in log["versions"]
    recipe = yaml.safe_load((pretrained / "recipe.yaml").read_text())
    assert recipe["hidden_size"] == 16 and recipe["train_data"] == str(videos / "pretrain.csv")


def test_fine_tuning_starts_from_pretraining_and_counts_what_became_of_the_weights(finetuning, tmp_path, capsys):
    script("finetune", **finetuning, output_dir=tmp_path / "run", base_learning_rate=1e-9, keep_ratio=0.5)
    said = capsys.readouterr().out
    assert "mask_token" not in said  # nor any other name
    for line in (
        "32 loaded, 4 newly initialised, 23 unexpected",
        "4 clips = 4 x 1 processes x 1 accumulated, float32 on cpu",
        "8 steps, 2 epochs of 4 steps and 16 clips",
        "8 validation videos, the middle clip of each:\ntop-1 ",
        "chance 12.50%",
        "0 of 16 training videos were corrupt",
    ):
        assert line in said
    model = VideoMSForVideoClassification.from_pretrained(tmp_path / "run")
    assert list(model.config.id2label.values()) == list(MOTIONS) and model.config.keep_ratio == 0.5
    assert model.config.label2id["down"] == 3 and model.config.problem_type == "single_label_classification"
    before = load_file(finetuning["model_name_or_path"] / "model.safetensors")
    after = load_file(tmp_path / "run" / "model.safetensors")
    name = "videoms.encoder.layer.1.intermediate.dense.weight"
    torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)  # at that rate next to nothing changes
    assert (tmp_path / "run" / "video_preprocessor_config.json").exists()


def test_an_empty_checkpoint_fine_tunes_from_scratch(finetuning, tmp_path, capsys):
    options = finetuning | {"model_name_or_path": "", "mixup": 0.8, "cutmix": 1.0, "max_steps": 4, "ema_decay": 0.9}
    script("finetune", **options, output_dir=tmp_path / "run")
    assert "From scratch: no weights were loaded" in capsys.readouterr().out
    assert VideoMSForVideoClassification.from_pretrained(tmp_path / "run").num_labels == 8


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_the_same_command_goes_on_and_ends_with_the_same_weights(stage, finetuning, pretrained, tmp_path):
    options = finetuning | {"drop_path_rate": 0.3, "mixup": 0.8} if stage == "finetune" else {**TINY_DECODER}
    options |= {"train_data": finetuning["train_data"], "save_strategy": "steps", "save_steps": 1}
    options |= {"save_total_limit": 10, "output_dir": tmp_path / "run"}
    script(stage, **options)
    whole = load_file(tmp_path / "run" / "model.safetensors")
    # As if it had been killed while it saved its sixth step, in the middle of the second epoch.
    for checkpoint in all_checkpoints(tmp_path / "run")[6:]:
        shutil.rmtree(checkpoint)
    (tmp_path / "run" / "checkpoint-6" / MANIFEST).unlink()
    (tmp_path / "run" / "model.safetensors").unlink()
    script(stage, **options | {"dataloader_num_workers": 1})
    again = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    assert (tmp_path / "run" / "incomplete-checkpoint-6").is_dir()


def test_another_run_does_not_write_into_the_folder(pretrained, videos, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in pretrained.rglob("*")}
    options = {"train_data": videos / "pretrain.csv", "output_dir": pretrained, **TINY_DECODER}
    with pytest.raises(FileExistsError, match="frame_stride was 1, now 2"):
        script("pretrain", **options, frame_stride=2)
    with pytest.raises(FileExistsError, match="total_batch_size was 4, now 8"):
        script("pretrain", **options, gradient_accumulation_steps=2)
    with pytest.raises(FileExistsError, match="script was 'pretrain', now 'finetune'"):
        script("finetune", train_data=videos / "train.csv", output_dir=pretrained)
    assert {path: path.stat().st_mtime_ns for path in pretrained.rglob("*")} == before
    with pytest.raises(FileExistsError, match="has other files than a run"):
        script("pretrain", **options | {"output_dir": videos})


def test_broken_videos_are_replaced_and_reported(videos, tmp_path, capsys):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all")
    lines = [f"{videos / line}" for line in (videos / "train.csv").read_text().splitlines()]
    (tmp_path / "train.csv").write_text("\n".join([*lines, f"{broken} 1"]) + "\n")
    shutil.copy(videos / "classes.txt", tmp_path)
    options = {"train_data": tmp_path / "train.csv", "output_dir": tmp_path / "run", "max_bad_share": 0.1}
    script("finetune", **options, num_train_epochs=3)
    said = capsys.readouterr().out
    assert f"1 of 17 training videos were corrupt and replaced by others\n  {broken} (line 17): " in said
    log = json.loads((tmp_path / "run" / "training_log.json").read_text())
    assert [video["path"] for video in log["bad_videos"]] == [str(broken)]
    with pytest.raises(ValueError, match=f"more than max_bad_share .*\n.*{broken}"):
        script("finetune", **options | {"max_bad_share": 0.01, "output_dir": tmp_path / "strict"}, num_train_epochs=3)


def test_bad_lists_fail_before_training(videos, finetuning, tmp_path):
    (tmp_path / "train.csv").write_text(f"{videos}/absent.mp4 0\n")
    with pytest.raises(ValueError, match="line 1: there is no file"):
        script("pretrain", train_data=tmp_path / "train.csv", output_dir=tmp_path / "a", **TINY_DECODER)
    with pytest.raises(ValueError, match="line 1: .* has no label"):
        script("finetune", **finetuning | {"train_data": videos / "pretrain.csv"}, output_dir=tmp_path / "b")
    with pytest.raises(FileNotFoundError):
        script("pretrain", train_data=tmp_path / "absent.csv", output_dir=tmp_path / "c", **TINY_DECODER)


def test_frame_selection_trains_on_more_candidates(finetuning, tmp_path, capsys):
    script("finetune", **finetuning | {"candidate_ratio": 1.5, "num_train_epochs": 1}, output_dir=tmp_path / "run")
    assert "8 frames of 32x32, drawn from 12" in capsys.readouterr().out
    assert VideoMSVideoProcessor.from_pretrained(tmp_path / "run").candidate_ratio == 1.5


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_dry_run_estimates_time_and_memory_and_writes_nothing(
    stage, videos, pretrained, finetuning, tmp_path, capsys
):
    lists = {"train_data": videos / "pretrain.csv", "eval_data": videos / "val.csv", **TINY_DECODER}
    options = (lists if stage == "pretrain" else finetuning) | {"num_train_epochs": 500, "save_steps": 1}
    script(stage, **options, output_dir=tmp_path / "run", dry_run=True)
    said = capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert "2000 steps, 500 epochs" in said and re.search(r"estimated time: [0-9]+ (s|min|h .*) for 2000 steps", said)
    assert float(re.search(r"peak memory: ([0-9.]+) GiB", said)[1]) > 0
    before = {path: path.stat().st_mtime_ns for path in pretrained.rglob("*")}
    script(stage, **options, output_dir=pretrained, dry_run=True)  # another run's folder is left as it is
    assert {path: path.stat().st_mtime_ns for path in pretrained.rglob("*")} == before


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_a_script_stays_short(name):
    assert len((SCRIPTS / f"{name}.py").read_text().splitlines()) <= 80


def test_the_accelerate_configurations_are_understood():
    from accelerate.commands.config.config_args import load_config_from_file

    kinds = {path.stem: load_config_from_file(str(path)) for path in (SCRIPTS / "accelerate").glob("*.yaml")}
    assert {name: kind.distributed_type.value for name, kind in kinds.items()} == {
        "ddp": "MULTI_GPU",
        "fsdp2": "FSDP",
        "deepspeed_zero2": "DEEPSPEED",
        "deepspeed_zero3": "DEEPSPEED",
    }
    assert kinds["fsdp2"].fsdp_config["fsdp_version"] == 2
    wrapped = kinds["fsdp2"].fsdp_config["fsdp_transformer_layer_cls_to_wrap"]
    from videoms_hf import layers_videoms

    assert hasattr(layers_videoms, wrapped)


@pytest.mark.slow
def test_two_processes_run_the_scripts_on_video_files(videos, tmp_path):
    """The commands of the README with torchrun: both stages, workers, broken videos counted over the processes."""
    runs = {}
    for processes, batch in ((1, 4), (2, 2)):
        folder = tmp_path / str(processes)
        common = TINY | {"per_device_train_batch_size": batch, "dataloader_num_workers": 1}
        stages = {
            "pretrain": {"train_data": videos / "pretrain.csv", **TINY_DECODER},
            "finetune": {
                "train_data": videos / "train.csv",
                "eval_data": videos / "val.csv",
                "model_name_or_path": folder / "pretrain",
            },
        }
        for stage, options in stages.items():
            program = [SCRIPTS / f"{stage}.py", *words(common | options), f"--output_dir={folder / stage}"]
            done = run_torchrun(program, processes)
            assert f"{batch} x {processes} processes" in done.stdout
        runs[processes] = load_file(folder / "finetune" / "model.safetensors")
    for name, value in runs[1].items():
        torch.testing.assert_close(runs[2][name], value, atol=1e-5, rtol=1e-4)
