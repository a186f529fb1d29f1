"""A saved folder without the package: its own code gives the same logits, and is carried on when saved again."""

import ast
import importlib
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from transformers import pipeline

from tests.evaluation_files import save_classifier, write_noise
from tests.processes import run_program
from videoms_hf import VideoMSForPreTraining, VideoMSForVideoClassification, VideoMSModel
from videoms_hf.video_processing_videoms import VideoMSVideoProcessor

from .conftest import randomize


PACKAGE = Path(__file__).parents[1] / "videoms_hf"


def code_of(module: str) -> set[str]:
    """Files of the package that a module is made of: itself, and those that it imports, directly or not."""
    names = [
        node.module
        for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text()))
        if isinstance(node, ast.ImportFrom) and node.level == 1
    ]
    return {f"{module}.py"}.union(*map(code_of, names))


MODEL_CODE = code_of("modeling_videoms")
PROCESSOR_CODE = code_of("video_processing_videoms")

# An editable install puts the package on every path, so a stranger's imports of it are refused.
WITHOUT_PACKAGE = """
import importlib.abc, json, sys

class Refused(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "videoms_hf":
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Refused())
try:
    import videoms_hf
except ModuleNotFoundError:
    pass
else:
    sys.exit("the package can be imported, so this would prove nothing")
"""

STRANGER = (
    WITHOUT_PACKAGE
    + """
import torch
from transformers import (AutoConfig, AutoModel, AutoModelForPreTraining, AutoModelForVideoClassification,
                          AutoFeatureExtractor, AutoImageProcessor, AutoVideoProcessor, pipeline)

job = json.loads(sys.argv[1])
trust = {"trust_remote_code": True}
pixels = torch.load(job["pixels"])
found = {}
with torch.no_grad():
    for name, auto in (("base", AutoModel), ("pretrain", AutoModelForPreTraining)):
        output = auto.from_pretrained(job[name], **trust).eval()(pixels)
        found[name] = output.logits if "logits" in output else output.last_hidden_state
    classifier = AutoModelForVideoClassification.from_pretrained(job["classify"], **trust).eval()
    found["classify"] = classifier(pixels).logits
    # Each kind also from the folder of another kind.
    found["encoder"] = AutoModel.from_pretrained(job["classify"], **trust).eval()(pixels).kept_ids
    found["config"] = type(AutoConfig.from_pretrained(job["pretrain"], **trust)).__module__
processor = AutoVideoProcessor.from_pretrained(job["classify"], **trust)
found["pixels"] = processor(job["video"], num_segments=2, return_tensors="pt")["pixel_values"]
classify = pipeline("video-classification", model=job["classify"], **trust)
found["pipeline"] = classify(job["video"])
with open(job["video"], "rb") as file:
    found["batched"] = classify([{"path": None, "bytes": file.read()}, file], batch_size=2)
found["strides"] = [classify(job["video"], frame_sampling_rate=rate) for rate in (2, 4)]
others = AutoImageProcessor, AutoFeatureExtractor
found["others"] = [str(auto.from_pretrained(job["classify"], **trust)) for auto in others]
found["processor"] = str(processor)
try:
    AutoModelForVideoClassification.from_pretrained(job["classify"], trust_remote_code=False)
except ValueError as error:
    found["untrusted"] = str(error)

# Train a step and save it again, as a user of the Hub would.
classifier.train()
loss = classifier(pixels, labels=torch.tensor([0, 2])).loss
loss.backward()
torch.optim.SGD(classifier.parameters(), lr=0.1).step()
classifier.eval().save_pretrained(job["again"])
processor.save_pretrained(job["again"])
with torch.no_grad():
    found["trained"] = classifier(pixels).logits
again = AutoModelForVideoClassification.from_pretrained(job["again"], **trust).eval()
with torch.no_grad():
    found["again"] = again(pixels).logits
found["imported"] = [name for name in sys.modules if name.partition(".")[0] == "videoms_hf"]
torch.save(found, job["result"])
"""
)


def run_stranger(folder: Path, code: str, job: dict, **environment: str) -> dict:
    """What a process without the package saves as `job["result"]`, started in `folder` with a cache of its own."""
    variables = {**os.environ, "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1", **environment}
    variables.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", code, json.dumps({name: str(value) for name, value in job.items()})]
    done = run_program(command, cwd=folder, env=variables)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(job["result"], weights_only=True)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> dict:
    """What a stranger's process found, with the models, the pixels and the folders it was given."""
    folder = tmp_path_factory.mktemp("stranger")
    save_classifier(folder / "classify", candidate_ratio=1.0)
    classifier = VideoMSForVideoClassification.from_pretrained(folder / "classify").eval()
    models = {
        "classify": classifier,
        "pretrain": randomize(VideoMSForPreTraining(classifier.config), seed=1).eval(),
        "base": randomize(VideoMSModel(classifier.config), seed=2).eval(),
    }
    for name in ("pretrain", "base"):
        models[name].save_pretrained(folder / name)
    video = write_noise(folder / "video.mp4", 40, seed=0)
    pixels = torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.save(pixels, folder / "pixels.pt")
    job = {name: folder / name for name in ("classify", "pretrain", "base", "again")}
    job |= {"video": video, "pixels": folder / "pixels.pt", "result": folder / "result.pt"}
    return {"found": run_stranger(folder, STRANGER, job), "models": models, "clips": pixels, **job}


@pytest.mark.parametrize("name", ["base", "pretrain", "classify"])
def test_every_kind_gives_the_same_logits_without_the_package(stranger, name):
    assert stranger["found"]["imported"] == []
    with torch.no_grad():
        output = stranger["models"][name](stranger["clips"])
    assert stranger["found"][name].equal(output.logits if "logits" in output else output.last_hidden_state)


def test_the_folder_of_one_kind_serves_the_others(stranger):
    with torch.no_grad():
        wanted = VideoMSModel.from_pretrained(stranger["classify"]).eval()(stranger["clips"]).kept_ids
    assert stranger["found"]["encoder"].equal(wanted)
    assert stranger["found"]["config"].startswith("transformers_modules.")


def test_processor_and_pipeline_work_without_the_package(stranger):
    processor = VideoMSVideoProcessor.from_pretrained(stranger["classify"])
    wanted = processor(str(stranger["video"]), num_segments=2, return_tensors="pt")["pixel_values"]
    assert wanted.shape == (1, 2, 8, 3, 32, 32) and stranger["found"]["pixels"].equal(wanted)
    answer = pipeline("video-classification", model=str(stranger["classify"]))(str(stranger["video"]))
    assert stranger["found"]["pipeline"] == answer
    for row in stranger["found"]["batched"]:
        assert [r["score"] for r in row] == pytest.approx([r["score"] for r in answer], abs=1e-6)
    strided = stranger["found"]["strides"]
    assert strided[0] == answer != strided[1]  # the processor's own stride is 2
    assert stranger["found"]["others"] == [stranger["found"]["processor"]] * 2


def test_untrusted_code_is_refused_by_name(stranger):
    assert "trust_remote_code=True" in stranger["found"]["untrusted"]


def test_a_model_trained_from_remote_code_is_saved_with_code_that_loads(stranger):
    found = stranger["found"]
    assert not found["trained"].equal(found["classify"]) and found["again"].equal(found["trained"])
    assert {path.name for path in stranger["again"].glob("*.py")} == MODEL_CODE | PROCESSOR_CODE
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        assert (stranger["again"] / name).read_bytes() == (stranger["classify"] / name).read_bytes()
    for path in stranger["again"].glob("*.py"):
        assert path.read_bytes() == (stranger["classify"] / path.name).read_bytes()
    with torch.no_grad():  # and where the package is
        loaded = VideoMSForVideoClassification.from_pretrained(stranger["again"]).eval()
        assert loaded(stranger["clips"]).logits.equal(found["trained"])


@pytest.mark.parametrize("cls", [VideoMSModel, VideoMSForPreTraining, VideoMSForVideoClassification])
def test_save_pretrained_writes_the_code_and_the_map_of_all_classes(tiny_config, cls, tmp_path):
    cls(tiny_config()).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == MODEL_CODE
    for path in tmp_path.glob("*.py"):
        assert path.read_bytes() == (PACKAGE / path.name).read_bytes()
    classes = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert set(classes) == {"AutoConfig", "AutoModel", "AutoModelForPreTraining", "AutoModelForVideoClassification"}
    for reference in classes.values():
        file, name = reference.split(".")
        assert f"class {name}(" in (tmp_path / f"{file}.py").read_text()


def test_the_map_of_another_repository_is_replaced_by_the_folders_own(tiny_config, tmp_path):
    config = tiny_config()
    config.auto_map = {"AutoModel": "someone/else--modeling_videoms.VideoMSModel"}
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert saved["AutoModel"] == "modeling_videoms.VideoMSModel"


def test_a_class_derived_from_ours_is_saved_under_its_own_name(tiny_config, tmp_path, monkeypatch):
    (tmp_path / "modeling_mine.py").write_text(
        "import videoms_hf\n\n\nclass Mine(videoms_hf.VideoMSForVideoClassification):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("modeling_mine").Mine(tiny_config()).save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())["auto_map"]
    assert saved["AutoModelForVideoClassification"] == "modeling_mine.Mine"
    assert saved["AutoModel"] == "modeling_videoms.VideoMSModel"
    assert (tmp_path / "saved" / "modeling_mine.py").exists()


def test_the_processor_carries_its_own_code(tmp_path):
    VideoMSVideoProcessor().save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == PROCESSOR_CODE
    saved = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    assert saved["auto_map"] == {"AutoVideoProcessor": "video_processing_videoms.VideoMSVideoProcessor"}
