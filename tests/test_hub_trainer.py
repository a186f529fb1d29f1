"""What the trainer hands over to be published, whoever calls it (test_hub_upload.py has a whole run)."""

import inspect
import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import Trainer
from transformers.trainer_utils import HubStrategy

from tests.tiny_run import tiny_trainer, weights
from videoms_hf import VideoMSVideoProcessor
from videoms_hf.training import VideoMSTrainer, begin_run
from videoms_hf.training import trainer as trainer_module


@pytest.fixture
def published(monkeypatch) -> list[dict]:
    """What `publish` was called with, and the weights that then lay in the folder."""
    calls = []

    def publish(folder, repo_id, **options):
        calls.append({"repo_id": repo_id, "weights": load_file(Path(folder) / "model.safetensors"), **options})
        return "the commit"

    monkeypatch.setattr(trainer_module, "publish", publish)
    return calls


def test_averaged_weights_are_published_when_the_user_pushes_after_training(published, tmp_path):
    trainer = tiny_trainer("finetune", tmp_path / "my-run", save_strategy="no", ema_decay=0.5)
    trainer.processing_class = VideoMSVideoProcessor()
    trainer.train()
    assert trainer.push_to_hub(data="Tiny motions", token="hf_mine", private=True) == "the commit"
    (call,) = published
    assert call["repo_id"] == "my-run"
    assert "| Data | Tiny motions |" in (tmp_path / "my-run" / "README.md").read_text()
    assert (call["token"], call["private"], call["commit_message"]) == ("hf_mine", True, "End of training")
    assert all(call["weights"][name].equal(value) for name, value in trainer.average.average.items())
    own = weights(trainer)
    assert not all(torch.equal(call["weights"][name], value) for name, value in own.items())  # and training can go on
    log = json.loads((tmp_path / "my-run" / "training_log.json").read_text())
    assert log["log_history"] == trainer.state.log_history and log["bad_videos"] == []
    assert (tmp_path / "my-run" / "video_preprocessor_config.json").exists()


def test_a_token_does_not_get_into_the_recipe_that_is_published(tmp_path):
    args = tiny_trainer("finetune", tmp_path / "run").args
    begin_run("finetune", args, {"learning_rate": 0.1, "hub_token": "hf_secret", "push_to_hub": True})
    for path in (tmp_path / "run").iterdir():
        assert "hf_secret" not in path.read_text()
    assert "push_to_hub: true" in (tmp_path / "run" / "recipe.yaml").read_text()


def test_a_push_in_the_background_is_a_future(published, tmp_path):
    trainer = tiny_trainer("pretrain", tmp_path, save_strategy="no", hub_model_id="someone/mine", hub_revision="dev")
    assert trainer.push_to_hub(blocking=False).result() == "the commit"
    assert (published[0]["repo_id"], published[0]["revision"]) == ("someone/mine", "dev")


def test_the_trainer_writes_our_card(tmp_path):
    trainer = tiny_trainer("finetune", tmp_path, save_strategy="no")
    trainer.save_model()
    trainer.create_model_card(model_name="someone/mine", data="Tiny motions")
    text = (tmp_path / "README.md").read_text()
    assert 'repo = "someone/mine"' in text and "| Data | Tiny motions |" in text and "moving tokens" in text
    with pytest.raises(TypeError, match="colour"):
        trainer.create_model_card(colour="red")


def test_trainers_own_arguments_reach_the_card(published, tmp_path):
    trainer = tiny_trainer("finetune", tmp_path / "run", save_strategy="no")
    facts = {"language": "en", "license": "mit", "finetuned_from": "someone/base", "tasks": "video-classification"}
    facts |= {"dataset_tags": ["someone/videos"], "dataset": ["UCF101", "HMDB51"], "dataset_args": "split 1"}
    trainer.model.add_model_tags("own")
    trainer.push_to_hub("message", True, None, tags="sports", model_name="named", **facts)
    assert (published[0]["commit_message"], published[0]["repo_id"]) == ("message", "named")
    text = (tmp_path / "run" / "README.md").read_text()
    data = ModelCard(text).data
    assert {"videoms", "sports", "own"} <= set(data.tags) and data.language == "en" and data.license == "mit"
    assert data.base_model == "someone/base" and data.datasets == ["someone/videos"]
    assert "| Data | UCF101, HMDB51 |" in text
    trainer.create_model_card("fr", "apache-2.0", ["more"], "other")  # by position, as Trainer has them
    data = ModelCard((tmp_path / "run" / "README.md").read_text()).data
    assert (data.language, data.license) == ("fr", "apache-2.0") and "more" in data.tags


@pytest.mark.parametrize("name", ["create_model_card", "push_to_hub"])
def test_trainers_signatures_hold(name):
    theirs, ours = (inspect.signature(getattr(cls, name)).parameters for cls in (Trainer, VideoMSTrainer))
    names = [part for part in theirs if part != "kwargs"]
    assert list(ours)[: len(names)] == names
    assert all(ours[part].default == theirs[part].default for part in names)


def test_a_run_is_published_once_at_its_end_unless_told_otherwise(tmp_path):
    assert tiny_trainer("finetune", tmp_path / "a").args.hub_strategy == HubStrategy.END
    assert tiny_trainer("finetune", tmp_path / "b", hub_strategy="every_save").args.hub_strategy == "every_save"
