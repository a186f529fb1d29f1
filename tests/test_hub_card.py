"""Model cards: every figure from a file of the run, none without one, nothing of the publisher's own overwritten."""

import json
import math
import re
import runpy
import shutil
from functools import partial
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from tests.evaluation_files import save_classifier, write_labelled_videos
from tests.tiny_run import tiny_trainer
from videoms_hf import VideoMSForPreTraining, VideoMSForVideoClassification, VideoMSModel, VideoMSVideoProcessor, files
from videoms_hf.command_line import run
from videoms_hf.conversion.models import weight_files
from videoms_hf.hub import card, write_card
from videoms_hf.hub.model_folder import repository_files
from videoms_hf.training.reporting import write_training_log


ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path) -> Path:
    return save_classifier(tmp_path / "videoms-tiny")


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """Folder of a classifier with the report of a real evaluation and the log of a real training next to it."""
    folder = save_classifier(tmp_path_factory.mktemp("runs") / "videoms-measured")
    videos = write_labelled_videos(tmp_path_factory.mktemp("videos"))
    words = {"model": folder, "data": videos, "output_dir": folder, "num_segments": 3, "num_crops": 2}
    words |= {"num_workers": 0, "keep_ratio": 0.5}
    runpy.run_path(str(ROOT / "scripts" / "evaluate_model.py"))["main"](
        [f"--{name}={value}" for name, value in words.items()]
    )
    trainer = tiny_trainer("finetune", folder / "training", save_strategy="no", max_steps=4, warmup_epochs=0)
    trainer.train()
    trainer.evaluate()
    write_training_log(trainer)
    shutil.copy(folder / "training" / "training_log.json", folder)
    recipe = {"train_data": "data/tiny/train.csv", "model_name_or_path": "someone/pretrained", "learning_rate": 0.1}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def test_a_number_of_tokens_stands_where_the_share_would(measured, tmp_path):
    folder = save_classifier(tmp_path / "model", num_kept_tokens=20)
    assert "of them 20 encoded (`num_kept_tokens` 20)" in write_card(folder).read_text()
    folder = shutil.copytree(measured, tmp_path / "measured")
    report = json.loads((folder / "evaluation.json").read_text()) | {"keep_ratio": None, "num_kept_tokens": 9}
    (folder / "evaluation.json").write_text(json.dumps(report))
    text = write_card(folder, data="Tiny").read_text()
    assert "Tokens kept: 9; 8 frames" in text and "3 x 2 views, tokens kept 9" in text


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+\.\d+|\d+", text))


def section(text: str, name: str) -> str:
    return re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", text, re.M | re.S)[1]


def test_scores_stand_in_table_and_model_index_as_they_were_measured(measured):
    text = write_card(measured, name="someone/videoms-measured", data="Tiny motions").read_text()
    report = json.loads((measured / "evaluation.json").read_text())
    accuracies, scores = report["accuracies"], section(text, "Scores")
    low, high = accuracies["video_top1_low"], accuracies["video_top1_high"]
    assert f"| 5 test videos, 3 x 2 views (95 % interval) | **{accuracies['video_top1']:.2%}** ({low:.2%} to" in scores
    assert f"to {high:.2%}) | {accuracies['video_top5']:.2%} |" in scores
    assert f"| Its single views | {accuracies['clip_top1']:.2%} |" in scores
    assert "| Chance | 33.33% | 100.00% |" in scores
    for part in ("Share of tokens kept: 0.5; 8 frames at stride 2, 32 x 32", report["date"]):
        assert part in scores
    one, all_views = report["gflops_per_clip"], report["gflops_per_video"]
    assert all_views == pytest.approx(6 * one)
    assert f"GMACs: {one:.3g} a clip, {all_views:.3g} a video" in scores
    results = ModelCard(text).data.eval_results
    assert [(r.metric_name, r.metric_value) for r in results] == [
        ("top-1, 3 x 2 views, keep ratio 0.5", pytest.approx(accuracies["video_top1"], abs=1e-6)),
        ("top-3, 3 x 2 views, keep ratio 0.5", pytest.approx(accuracies["video_top5"], abs=1e-6)),
    ]
    assert {(r.task_type, r.dataset_name, r.dataset_type, r.dataset_split, r.metric_type) for r in results} == {
        ("video-classification", "Tiny motions", "tiny-motions", "test", "accuracy")
    }
    assert ModelCard(text).data.model_name == "videoms-measured"


def test_training_is_told_from_log_and_recipe(measured):
    text = write_card(measured).read_text()
    training = section(text, "Training")
    log = json.loads((measured / "training_log.json").read_text())
    steps = [entry for entry in log["log_history"] if "loss" in entry]
    final = [entry for entry in log["log_history"] if "eval_top1" in entry][-1]
    assert "| Length | 4 steps, 0.8 epochs |" in training
    assert f"| Loss | {steps[-1]['loss']:.4g} at step 4 |" in training
    speeds = sorted(entry["clips_per_second"] for entry in steps)
    assert f"| Speed | {(speeds[1] + speeds[2]) / 2:.3g} clips a second, median of the log |" in training
    assert f"| Hardware | 1 x {log['machine']['processor']}, {log['machine']['threads']} threads |" in training
    assert f"torch {log['versions']['torch']}" in training
    assert "| Training videos | `data/tiny/train.csv` |" in training and "learning_rate: 0.1" in training
    validation = f"| Validation while training, the middle clip of each video | {final['eval_top1']:.2%} |"
    assert validation in section(text, "Scores")
    assert "Training started from the weights of `someone/pretrained`, whose terms hold" in section(text, "Licence")


def test_what_was_not_measured_does_not_appear(folder):
    """All digits of such a card come from the configuration, the weights and the fixed text."""
    text = write_card(folder).read_text()
    assert "None was measured: run `videoms evaluate`" in section(text, "Scores")
    assert numbers(section(text, "Scores")) == set()
    assert "This repository has no record of the training." in section(text, "Training")
    assert numbers(section(text, "Training")) == set()
    assert ModelCard(text).data.eval_results is None and "model-index" not in text
    assert "accuracy" not in text
    weights = load_file(folder / "model.safetensors")
    assert f", {sum(w.numel() for w in weights.values()):,} parameters |" in text


def test_the_card_counts_tokens_parameters_and_multiply_adds(folder, tiny_config, tmp_path):
    model = VideoMSForVideoClassification.from_pretrained(folder)
    about = section(write_card(folder).read_text(), "Model")
    assert f"| GMACs | {model.flops() / 1e9:.3g} a clip, forward (papers call them GFLOPs) |" in about
    assert "| Tokens | 64, of them 38 encoded (`keep_ratio` 0.6), selection: motion |" in about
    assert "| Clip | 8 frames of 32 x 32, tubelets of 2 x 8 x 8 |" in about
    pretraining = VideoMSForPreTraining(tiny_config(candidate_ratio=1.5))
    pretraining.save_pretrained(tmp_path / "pretraining")
    text = write_card(tmp_path / "pretraining").read_text()
    about = section(text, "Model")
    # 0.3 of 64 are kept, 0.1 of 64 of these are visible
    assert (
        "| Tokens | 64, of them 6 encoded and 13 predicted (`mask_ratio` 0.9, `pretraining_keep_ratio` 0.3)" in about
    )
    assert "8 frames of 32 x 32, drawn from 12" in about
    assert f"| GMACs | {pretraining.flops() / 1e9:.3g} a clip" in about
    assert "fine-tune it first" in text and ModelCard(text).data.pipeline_tag is None
    VideoMSModel(tiny_config(token_selection="none")).save_pretrained(tmp_path / "features")
    assert "64, of them 64 encoded" in write_card(tmp_path / "features").read_text()
    VideoMSModel(tiny_config(token_selection="tube")).save_pretrained(tmp_path / "tube")
    assert "64, of them 36 encoded" in write_card(tmp_path / "tube").read_text()  # floor(0.6 * 16) places in 4 steps


def test_the_ten_lines_of_the_card_run(folder, tmp_path, monkeypatch, capsys):
    write_labelled_videos(tmp_path)
    (tmp_path / "clip 4.mp4").rename(tmp_path / "video.mp4")
    model = VideoMSForPreTraining(VideoMSForVideoClassification.from_pretrained(folder).config)
    model.save_pretrained(tmp_path / "pretraining")
    VideoMSVideoProcessor.from_pretrained(folder).save_pretrained(tmp_path / "pretraining")
    monkeypatch.chdir(tmp_path)
    for path, said in ((folder, "% hop"), (tmp_path / "pretraining", "tensor(")):
        code = re.search(r"```python\n(.*?)```", write_card(path, name=str(path)).read_text(), re.S)[1]
        assert len(code.splitlines()) <= 10
        exec(compile(code, "card", "exec"), {})
        assert said in capsys.readouterr().out


def test_converted_weights_keep_their_origins_terms_also_when_the_card_is_written_anew(folder):
    write_card(folder, origin="the authors' fine-tuned checkpoint", license="cc-by-nc-4.0", data="UCF101")
    text = write_card(folder, name="someone/else").read_text()
    assert "The weights keep the terms of their origin (cc-by-nc-4.0)." in text
    assert "converted from the authors' fine-tuned checkpoint, tensor by tensor" in text
    assert "# else" in text and "| Data | UCF101 |" in text
    assert ModelCard(text).data.license == "cc-by-nc-4.0"
    shutil.rmtree(folder)
    save_classifier(folder)
    text = write_card(folder, origin="a file").read_text()
    assert "keep the terms of their origin; look them up there" in text
    assert ModelCard(text).data.to_dict()["license_name"] == "terms-of-the-origin"


def test_somebodys_own_card_is_left_as_it_is(folder):
    (folder / "README.md").write_text("# My words\n")
    assert write_card(folder, data="UCF101").read_text() == "# My words\n"


def test_an_evaluation_of_another_model_is_refused(folder, measured):
    shutil.copy(measured / "evaluation.json", folder)
    report = json.loads((folder / "evaluation.json").read_text())
    (folder / "evaluation.json").write_text(json.dumps(report | {"class_names": ["a", "b"]}))
    with pytest.raises(
        ValueError, match=r"is about 2 classes, \['a', 'b'\] \.\.\., the model knows 3, \['wave', 'hop'\]"
    ):
        write_card(folder)
    (folder / "evaluation.json").write_text(json.dumps({"accuracies": {}}))
    with pytest.raises(ValueError, match="lacks chance_top1, chance_top5, class_names"):
        write_card(folder)
    (folder / "evaluation.json").write_text("{")
    with pytest.raises(ValueError, match=r"evaluation.json is not JSON"):
        write_card(folder)


def test_a_recipe_with_a_token_is_not_published(folder):
    (folder / "recipe.yaml").write_text("learning_rate: 0.1\nhub_token: hf_secret\n")
    with pytest.raises(ValueError, match="recipe.yaml holds hub_token, which is a secret") as raised:
        write_card(folder)
    assert "hf_secret" not in str(raised.value) and not (folder / "README.md").exists()
    with pytest.raises(
        ValueError, match="which is a secret"
    ):  # also next to a card of one's own, which is not written
        repository_files(folder)
    (folder / "recipe.yaml").write_text("- a list\n")
    with pytest.raises(ValueError, match="recipe.yaml holds a list; it must be the mapping"):
        write_card(folder)


def test_a_folder_that_holds_no_model_is_refused_with_the_reason(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="has no config.json; give the folder"):
        write_card(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="lacks weights: model.safetensors"):
        write_card(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["ResNet"]}))
    with pytest.raises(ValueError, match="are \\['ResNet'\\]; the first must be one of VideoMSForPreTraining"):
        write_card(folder)


def test_sharded_weights_are_counted_and_published_whole(folder):
    model = VideoMSForVideoClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    shards = weight_files(folder)
    assert len(shards) > 1
    num_parameters = sum(math.prod(w.shape) for w in model.state_dict().values())
    assert f", {num_parameters:,} parameters |" in write_card(folder).read_text()
    assert {path.name for path in shards} | {"model.safetensors.index.json"} <= set(repository_files(folder))
    shards[0].unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks weights: {shards[0].name}"):
        repository_files(folder)


def test_a_repository_needs_processor_and_code(folder):
    names = repository_files(folder)
    assert {path.name for path in folder.iterdir()} == set(names)
    (folder / "packets_videoms.py").unlink()
    (folder / "video_preprocessor_config.json").unlink()
    (folder / "modeling_videoms.py").unlink()
    with pytest.raises(FileNotFoundError, match="lacks modeling_videoms.py, video_preprocessor_config.json; "):
        repository_files(folder)
    VideoMSForVideoClassification.from_pretrained(folder).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["auto_map"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileNotFoundError, match="the auto_map of config.json"):
        repository_files(folder)


def test_what_ships_with_the_package_is_found_in_a_clone_and_in_an_installation(tmp_path, monkeypatch):
    assert files.shipped(card.TEMPLATE) == ROOT / "model_cards" / "template.md"
    package = tmp_path / "site-packages" / "videoms_hf"
    package.mkdir(parents=True)
    monkeypatch.setattr(files, "__file__", str(package / "files.py"))
    with pytest.raises(FileNotFoundError, match="install videoms_hf again"):
        files.shipped(card.TEMPLATE)
    shutil.copytree(ROOT / "model_cards", package / "model_cards")
    assert files.shipped(card.TEMPLATE) == package / "model_cards" / "template.md"


def test_a_dry_run_writes_the_card_and_names_the_files(folder, measured, capsys):
    main = partial(run, runpy.run_path(str(ROOT / "scripts" / "push_to_hub.py"))["main"])
    words = [str(folder), "someone/tiny", "--evaluation", str(measured / "evaluation.json"), "--dry_run"]
    assert main([*words, "--data", "Tiny motions"]) == 0
    said = capsys.readouterr().out
    assert "Would be published, with the card in" in said and "  model.safetensors\n" in said
    assert "Tiny motions" in (folder / "README.md").read_text()
    assert (folder / "evaluation.json").read_bytes() == (measured / "evaluation.json").read_bytes()
    (folder / "video_preprocessor_config.json").unlink()
    assert main([str(folder), "someone/tiny"]) == 2
    assert "lacks video_preprocessor_config.json" in capsys.readouterr().err
    assert main([str(folder), "someone/tiny", "--evaluation", "absent.json", "--dry_run"]) == 2
    assert "absent.json does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((ROOT / "model_cards").glob("videoms-*.md")), ids=lambda path: path.stem)
def test_a_planned_card_promises_nothing_and_its_metadata_is_sound(path):
    planned = ModelCard.load(path)
    assert planned.data.library_name == "transformers" and planned.data.eval_results is None
    assert "not hosted" in planned.text and "videoms convert" in planned.text
    scores = [
        line for line in planned.text.splitlines() if re.search(r"\d\d\.\d", line) and "arxiv" not in line.lower()
    ]
    assert all("paper" in line for line in scores)


def test_there_is_a_card_for_every_planned_checkpoint():
    assert {path.stem for path in (ROOT / "model_cards").glob("videoms-*.md")} == {
        f"videoms-vit-b-{data}" for data in ("ucf101", "hmdb51", "k400")
    }
