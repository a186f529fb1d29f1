"""`videoms export`: onnxruntime gives torch's logits, and a program without torch gives the processor's pixels."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.evaluation_files import CLASSES, save_classifier, write_noise
from tests.odd_files import write_turned
from tests.processes import run_program
from tests.video_files import write_video
from videoms_hf import VideoMSForVideoClassification, VideoMSVideoProcessor
from videoms_hf.conversion import to_onnx


onnxruntime = pytest.importorskip("onnxruntime", reason="an extra: pip install -e .[export]")
pytest.importorskip("onnxscript", reason="an extra: pip install -e .[export]")
SCRIPTS = Path(__file__).parents[1] / "scripts"
EXAMPLE = SCRIPTS / "examples" / "classify_onnx.py"


def export(folder: Path, *words: str, **fields) -> Path:
    """Folder with the exported files of the classifier in `folder / "model"`, which is made."""
    save_classifier(folder / "model", num_hidden_layers=1, **fields)
    command = ["--model", str(folder / "model"), "--output_dir", str(folder / "onnx"), *words]
    runpy.run_path(str(SCRIPTS / "export.py"))["main"](command)
    return folder / "onnx"


def session_of(folder: Path):
    return onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export(tmp_path_factory.mktemp("export"), "--format", "onnx")


def check_logits(folder: Path, num_frames: int, keep_ratios: list[float | None]) -> None:
    model = VideoMSForVideoClassification.from_pretrained(folder.parent / "model").eval()
    clips = torch.randn(5, num_frames, 3, 32, 32)
    clips[1] = clips[1, :1]  # nothing moves: ties everywhere
    for keep_ratio in keep_ratios:
        inputs = {"pixel_values": clips.numpy()}
        if keep_ratio is not None:
            inputs["keep_ratio"] = np.array(keep_ratio)
        logits, kept_ids = session_of(folder).run(["logits", "kept_ids"], inputs)
        with torch.no_grad():
            expected = model(clips, keep_ratio=keep_ratio)
        torch.testing.assert_close(torch.from_numpy(logits), expected.logits, rtol=1e-4, atol=1e-5)
        assert torch.from_numpy(kept_ids).equal(expected.kept_ids)


def test_one_file_serves_any_batch_size_and_keep_ratio(exported):
    session = session_of(exported)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    assert [(part.name, part.shape) for part in inputs] == [
        ("pixel_values", ["batch", 8, 3, 32, 32]),
        ("keep_ratio", []),
    ]
    assert [part.name for part in outputs] == ["logits", "kept_ids"] and outputs[0].shape == ["batch", 3]
    check_logits(exported, 8, [0.1, 0.45, 0.7, 1.0])


def test_the_json_says_how_to_prepare_clips_and_what_was_compared(exported):
    found = json.loads((exported / "preprocessing.json").read_text())
    assert (
        found["classes"] == CLASSES
        and found["keep_ratio"] == 0.6
        and set(found["inputs"]) == {"pixel_values", "keep_ratio"}
    )
    assert found["preprocessing"] == {
        "num_frames": 8,
        "frame_stride": 2,
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
        "rescale_factor": 1 / 255,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    compared = found["compared_with_torch"]
    assert compared["batch_sizes"] == [1, 3] and compared["keep_ratios"] == [0.3, 0.6, 1.0]
    assert 0 <= compared["largest_difference"] < 1e-4


def test_a_model_that_scores_pixels_is_exported(tmp_path):
    check_logits(export(tmp_path, motion_score="pixel"), 8, [0.1, 0.7])


def test_other_weights_than_those_of_the_file_are_an_error(exported):
    model = VideoMSForVideoClassification.from_pretrained(exported.parent / "model").eval()
    with torch.no_grad():
        assert to_onnx.compared(session_of(exported), model, 2, 0.4) < 1e-5
        model.classifier.bias[1] += 0.01
        with pytest.raises(ValueError, match="differ by 0.01 from torch's, at batch size 2 and keep_ratio 0.4"):
            to_onnx.compared(session_of(exported), model, 2, 0.4)


def test_frame_selection_is_exported_and_large_weights_are_stored_next_to_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(to_onnx, "MAX_WEIGHT_BYTES", 0)
    folder = export(tmp_path, candidate_ratio=1.5)
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "model.onnx.data", "preprocessing.json"}
    assert json.loads((folder / "preprocessing.json").read_text())["preprocessing"]["num_frames"] == 12
    check_logits(folder, 12, [0.3, 1.0])


def test_a_model_that_does_not_select_by_motion_has_no_keep_ratio(tmp_path):
    folder = export(tmp_path, token_selection="none")
    assert [part.name for part in session_of(folder).get_inputs()] == ["pixel_values"]
    check_logits(folder, 8, [None])


def test_a_processor_that_the_json_cannot_describe_and_a_folder_with_files_are_refused(tmp_path, exported):
    save_classifier(tmp_path / "model")
    model = VideoMSForVideoClassification.from_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="do_rescale is off"):
        to_onnx.export_onnx(model, VideoMSVideoProcessor(do_rescale=False), tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
    with pytest.raises(ValueError, match="not empty"):
        main = runpy.run_path(str(SCRIPTS / "export.py"))["main"]
        main(["--model", str(tmp_path / "model"), "--output_dir", str(exported)])


# --- without torch --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [{"shortest_edge": 32}, {"height": 32, "width": 40}], ids=["shortest", "both"])
@pytest.mark.parametrize("stride", [None, 2])
@pytest.mark.parametrize("height, width, num_frames", [(48, 64, 30), (70, 46, 30), (20, 28, 30), (32, 50, 11)])
def test_the_example_prepares_the_pixels_of_the_processor(tmp_path, size, stride, height, width, num_frames):
    frames = np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)
    path = write_video(tmp_path / "a.mp4", frames)
    settings = {"num_frames": 8, "frame_stride": stride, "size": size, "crop_size": {"height": 32, "width": 32}}
    processor = VideoMSVideoProcessor(**settings)
    settings |= {name: getattr(processor, name) for name in ("rescale_factor", "image_mean", "image_std")}
    check_pixels(path, processor, settings)


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
def test_the_example_turns_videos_as_the_processor_does(tmp_path, matrix):
    settings = {
        "num_frames": 8,
        "frame_stride": 2,
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
    }
    processor = VideoMSVideoProcessor(**settings)
    settings |= {name: getattr(processor, name) for name in ("rescale_factor", "image_mean", "image_std")}
    check_pixels(write_turned(tmp_path / "turned.mp4", matrix), processor, settings)


def check_pixels(path: Path, processor: VideoMSVideoProcessor, settings: dict) -> None:
    expected = processor(str(path), return_tensors="np")["pixel_values"]
    found = runpy.run_path(str(EXAMPLE))["preprocess"](path, settings)
    is_integer = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 if is_integer else 1 / 255 / 0.224 + 1e-6)
    assert found.dtype == np.float32


def test_the_example_classifies_as_the_model_without_torch_or_transformers(exported, tmp_path, capfd):
    video = write_noise(tmp_path / "a.mp4", 40, seed=3)
    code = (
        "import sys, runpy\n"
        "sys.modules |= dict.fromkeys(['torch', 'transformers', 'videoms_hf', 'torchvision'])\n"
        f"sys.argv = ['classify_onnx.py', {str(exported)!r}, {str(video)!r}]\n"
        f"runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')\n"
    )
    done = run_program([sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr
    model = VideoMSForVideoClassification.from_pretrained(exported.parent / "model").eval()
    pixels = VideoMSVideoProcessor.from_pretrained(exported.parent / "model")(str(video), return_tensors="pt")
    with torch.no_grad():
        probabilities = model(**pixels).logits[0].softmax(dim=0)
    order = probabilities.argsort(descending=True).tolist()
    assert done.stdout.splitlines() == [f"{probabilities[i]:7.2%}  {CLASSES[i]}" for i in order]


def test_a_number_of_kept_tokens_is_exported_as_the_share_that_it_is(tmp_path):
    folder = export(tmp_path, num_kept_tokens=10)
    settings = json.loads((folder / "preprocessing.json").read_text())
    model = VideoMSForVideoClassification.from_pretrained(tmp_path / "model").eval()
    clips = torch.randn(2, model.config.num_frames, 3, 32, 32)
    inputs = {"pixel_values": clips.numpy(), "keep_ratio": np.array(settings["keep_ratio"])}
    (kept_ids,) = session_of(folder).run(["kept_ids"], inputs)
    with torch.no_grad():
        assert kept_ids.shape[1] == 10 and torch.from_numpy(kept_ids).equal(model(clips).kept_ids)
