"""What is published of a run: true of the weights, of this model, and nothing private."""

import json
import re
import runpy
import socket
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from tests.evaluation_files import CLASSES, save_classifier
from tests.test_hub_upload import evaluation_of
from tests.tiny_run import tiny_trainer
from videoms_hf import VideoMSForVideoClassification, VideoMSVideoProcessor
from videoms_hf.data import preparation
from videoms_hf.evaluation.classifier import load_classifier, load_encoder
from videoms_hf.evaluation.results import weights_digest
from videoms_hf.files import write_json
from videoms_hf.hub import publish, write_card
from videoms_hf.hub.privacy import without_private
from videoms_hf.hub.publish import contents
from videoms_hf.training.reporting import write_training_log


ROOT = Path(__file__).parents[1]
HOME = "/home/Jane Doe/my project"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A model's folder with records that are full of private things."""
    folder = save_classifier(tmp_path / "model")
    recipe = {
        "train_data": f"{HOME}/train.csv",
        "data_root": "../jane/videos",
        "run_name": f"{socket.gethostname()}-1",
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "model_name_or_path": "someone/pretrained"}))
    video = {"path": f"{HOME}/a b.mp4", "reason": f"{HOME}/a b.mp4: cut off", "row": 0, "line": 1, "num_draws": 1}
    write_json(
        {"log_history": [{"loss": 1.5, "step": 3, "epoch": 1}], "bad_videos": [video]}, folder / "training_log.json"
    )
    report = evaluation_of(folder)
    report["arguments"] = {"data": f"{HOME}/test.csv", "model": str(folder)}
    report["command"] = f"python '{HOME}/scripts/evaluate_model.py' '--model={folder}' --token hf_abcdefghijklmnop"
    report["videos"] = [{"video": "https://me:pw@host.org/a.mp4?X-Amz-Signature=123", "label": 0}]
    write_json(report, folder / "evaluation.json")
    return folder


PRIVATE = ("Jane", "my project", "/home", "jane", "hf_abcdefghijklmnop", "me:pw", "Signature")


def uploaded(folder, **options) -> dict[str, bytes]:
    """What is committed, by name."""
    write_card(folder, name="someone/model", **options)
    found = {}
    for operation in contents(folder, **options):
        with operation.as_file() as file:
            found[operation.path_in_repo] = file.read()
    return found


def test_nothing_private_is_published_unless_asked(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    found = uploaded(folder)
    for name, content in found.items():
        for private in (*PRIVATE, str(folder.parent)):
            assert private.encode() not in content, (name, private)
    assert {"README.md", "recipe.yaml", "training_log.json", "evaluation.json"} <= set(found)
    recipe = yaml.safe_load(found["recipe.yaml"])
    assert (recipe["train_data"], recipe["run_name"]) == ("train.csv", "<private>-1")
    report = json.loads(found["evaluation.json"])
    assert report["class_names"] == CLASSES and report["arguments"]["data"] == "test.csv"
    assert "| Training videos | `train.csv` |" in found["README.md"].decode()
    assert all((folder / name).read_bytes() == content for name, content in before.items())  # here all stays
    assert HOME in uploaded(folder, local_paths=True)["README.md"].decode()


def test_what_is_not_local_stays_as_it_is():
    content = {"a": "data/ucf101/train.csv", "b": "someone/model", "c": "https://huggingface.co/a/b", "d": 1.5}
    content |= {"e": "16 x 4, 3/4 of and/or", "f": "2026-01-02T03:04:05+00:00", "class_names": ["/etc/x"], "g": None}
    content |= {
        "h": "videoms evaluate --data=data/a.csv",
        "i": [True, "rand-m7-n4-mstd0.5-inc1", "~ 3"],
    }
    assert without_private(content) == content


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("C:\\Users\\jane\\a.csv", "a.csv"),
        ("stream:/mnt/jane/shards", "stream:shards"),
        ("~/videos/a.csv", "a.csv"),
        ("--data=/mnt/jane/a.csv --x", "--data=a.csv --x"),
        ("/mnt/jane/a.mp4: frame 1/2", "a.mp4: frame 1/2"),
        ("/mnt/jane/runs/", "runs"),
    ],
)
def test_of_a_local_path_the_last_part_stays(text, wanted):
    assert without_private({"x": [text]}) == {"x": [wanted]}


def test_a_dry_run_lists_every_file_that_is_uploaded(folder, capsys):
    main = runpy.run_path(str(ROOT / "scripts" / "push_to_hub.py"))["main"]
    main([str(folder), "someone/model", "--dry_run"])
    listed = re.findall(r"^  (\S+)(.*)$", capsys.readouterr().out, re.M)
    assert {name for name, _ in listed} == set(uploaded(folder))
    marked = {name for name, remark in listed if remark == " (without local paths)"}
    assert marked == {"recipe.yaml", "training_log.json", "evaluation.json"}


def test_an_evaluation_of_other_weights_with_the_same_classes_is_refused(folder, tmp_path):
    other = save_classifier(tmp_path / "other")
    model = VideoMSForVideoClassification.from_pretrained(other)
    model.classifier.bias.data.fill_(3)
    model.save_pretrained(other)
    with pytest.raises(ValueError, match=r"evaluation.json is about other weights than those in .*other"):
        publish(other, "someone/other", evaluation=folder / "evaluation.json")
    assert not (other / "evaluation.json").exists()


def test_weights_have_one_digest_in_one_file_in_shards_and_in_memory(folder):
    model = VideoMSForVideoClassification.from_pretrained(folder)
    digest = weights_digest(model.state_dict().items())
    assert digest == weights_digest(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    write_card(folder)  # which compares it
    assert weights_digest(model.bfloat16().state_dict().items()) != digest


def trained(tmp_path, **options):
    trainer = tiny_trainer("finetune", tmp_path / "run", clips=4, num_train_epochs=6, save_total_limit=None, **options)
    trainer.processing_class = VideoMSVideoProcessor()
    trainer.train()
    return trainer


def training_section(trainer) -> str:
    trainer.save_model()
    write_training_log(trainer)
    return write_card(trainer.args.output_dir).read_text()


def test_a_run_that_logs_seldom_is_told_at_its_full_length(tmp_path):
    text = training_section(trained(tmp_path, logging_steps=25, eval_strategy="no", save_strategy="no"))
    assert "| Length | 12 steps, 6 epochs |" in text and " at step 1 |" in text


def test_one_step_is_singular(tmp_path):
    trainer = trained(tmp_path, max_steps=1, eval_strategy="no", save_strategy="no", warmup_epochs=0)
    assert "| Length | 1 step, 0.5 epochs |" in training_section(trainer)


def test_the_card_of_the_best_weights_has_their_step_loss_and_score(tmp_path):
    options = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    trainer = trained(tmp_path, **options)  # the worst is the "best": an early one
    history, best = trainer.state.log_history, trainer.state.best_global_step
    assert best < 12
    text = training_section(trainer)
    assert "| Length | 12 steps, 6 epochs |" in text
    assert f"| Weights | those of step {best}, the best of the evaluations in training |" in text
    loss = [entry["loss"] for entry in history if "loss" in entry and entry["step"] == best][0]
    assert f"| Loss | {loss:.4g} at step {best} |" in text
    score = [entry["eval_top1"] for entry in history if "eval_top1" in entry and entry["step"] == best][0]
    assert f"of each video | {score:.2%} |" in text


def test_names_and_records_of_others_are_text_in_the_card(folder):
    html = "<script>alert(1)</script> [x](javascript:y) | ```"
    (folder / "recipe.yaml").write_text(
        yaml.safe_dump({"note": "```\n</code>\n<img src=x>\n````", "train_data": f"a`|{html}"})
    )
    report = json.loads((folder / "evaluation.json").read_text())
    report |= {"date": html, "command": f"python `{html}", "keep_ratio": html}
    report["machine"]["processor"] = html
    write_json(report, folder / "evaluation.json")
    text = write_card(folder, name='a"b/c', data=f"{html}\n# title\x1b[2J", license=html, origin=html).read_text()
    body = text.split("\n---\n", 1)[1].replace("Generated by", "")
    fenced = re.search(r"^(`{5,})yaml\n.*?^\1$", body, re.M | re.S)
    assert fenced  # a longer fence than any inside
    outside = re.sub(r"`[^`\n]+`", "", body.replace(fenced[0], ""))
    assert "<script" not in outside and "<img" not in outside and "\x1b" not in text
    assert not re.search(r"(?<!\\)\[x\]", outside) and "\n# title" not in body
    for row in re.findall(r"^\| (?:Data|Hardware|Training videos) .*$", body, re.M):
        assert len(re.findall(r"(?<!\\)\|", row)) == 3, row
    compile(re.search(r"```python\n(.*?)```", body, re.S)[1], "card", "exec")
    assert ModelCard(text).data.license == html


def test_a_class_name_cannot_leave_the_folder_of_prepared_videos(tmp_path):
    for name in ("..", "../../x", "/etc", "a/../../b", "\x1b[2J"):
        path = preparation._target("a.mp4", {"label": 0}, ("a.mp4",), tmp_path / "out", [name], {})
        assert path.resolve().parents[1] == tmp_path / "out" / "videos" and path.parent.name.isprintable()


def test_a_model_whose_configuration_brings_code_does_not_run_it(tmp_path):
    folder = save_classifier(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "other", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    for load in (load_classifier, load_encoder):
        with pytest.raises(ValueError, match="is a 'other' model; it must be a 'videoms' one"):
            load(str(folder))
    assert not (tmp_path / "ran").exists()
