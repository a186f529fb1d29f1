"""scripts/evaluate_model.py on real, tiny video files, against a plain loop; on one process and on two."""

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from tests.evaluation_files import CLASSES, NUM_FRAMES, SIZE, STRIDE, WIDTH, save_classifier, write_labelled_videos
from tests.processes import run_torchrun
from videoms_hf import VideoMSForPreTraining, VideoMSForVideoClassification
from videoms_hf.command_line import read_recipe
from videoms_hf.decoding_videoms import decode_frames
from videoms_hf.files import write_json


ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "evaluate_model.py"
OPTIONS = {"num_workers": 0, "batch_size": 4, "num_segments": 3, "num_crops": 3, "num_mistakes": 0}


@pytest.fixture(autouse=True, scope="module")
def no_accelerator_of_earlier_tests():
    """Accelerate keeps one state a process and refuses another precision."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def evaluate(output_dir, **options) -> dict:
    """The report of the script, run with tiny defaults."""
    words = [f"--{name}={value}" for name, value in (OPTIONS | options | {"output_dir": output_dir}).items()]
    runpy.run_path(str(SCRIPT))["main"](words)
    return json.loads((Path(output_dir) / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    return write_labelled_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture
def broken(videos, tmp_path) -> Path:
    """The list with a text file and an empty one among its videos."""
    folder = tmp_path / "broken"
    shutil.copytree(videos.parent, folder)
    (folder / "text.mp4").write_text("no video")
    (folder / "empty.mp4").write_bytes(b"")
    lines = (folder / "test.csv").read_text().splitlines()
    (folder / "test.csv").write_text("\n".join([*lines[:2], "text.mp4 1", *lines[2:], "empty.mp4 0"]) + "\n")
    return folder / "test.csv"


def reference_views(path, num_segments: int, num_crops: int, num_frames: int = NUM_FRAMES, stride: int = STRIDE):
    """The official test views of a video whose shorter side is the crop's, written out: clips (V, T, 3, H, W)."""
    clips = []
    for segment in range(num_segments):
        strided = list(range(0, len(decode_frames(path)), stride))
        start = max(segment * (len(strided) - num_frames) // (num_segments - 1), 0)
        chosen = strided[start : start + num_frames]
        frames = decode_frames(path, chosen + [chosen[-1]] * (num_frames - len(chosen))).float() / 255
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        frames = (frames - mean[:, None, None]) / std[:, None, None]
        for crop in range(num_crops):
            left = crop * (WIDTH - SIZE) // (num_crops - 1)
            clips.append(frames[..., left : left + SIZE])
    return torch.stack(clips)


def reference_probabilities(model, path, keep_ratio=None, **views) -> torch.Tensor:
    """Logits of every view (V, L), one forward pass for each view."""
    model = VideoMSForVideoClassification.from_pretrained(model).eval()
    with torch.no_grad():
        return torch.cat(
            [model(clip[None], keep_ratio=keep_ratio).logits for clip in reference_views(path, **views)]
        ).double()


@pytest.fixture(scope="module")
def report(model, videos, tmp_path_factory) -> dict:
    return evaluate(tmp_path_factory.mktemp("report"), model=model, data=videos)


def test_scores_equal_a_plain_loop_over_videos_segments_and_crops(report, model, videos):
    clip_hits, video_hits = [], []
    for i, entry in enumerate(report["videos"]):
        path, label = videos.parent / f"clip {i}.mp4", i % 3
        views = reference_probabilities(model, path, num_segments=3, num_crops=3).softmax(dim=1)
        expected = views.mean(dim=0)
        assert (entry["video"], entry["label"]) == (str(path), label)
        np.testing.assert_allclose(entry["probabilities"], expected, rtol=2e-4)
        assert entry["predicted"] == int(expected.argmax())
        clip_hits += (views.argmax(dim=1) == label).tolist()
        video_hits.append(int(expected.argmax()) == label)
    assert len(report["videos"]) == 5
    accuracies = report["accuracies"]
    assert (accuracies["num_videos"], accuracies["num_clips"]) == (5, 45)
    assert accuracies["clip_top1"] == pytest.approx(np.mean(clip_hits))
    assert accuracies["video_top1"] == pytest.approx(np.mean(video_hits))
    assert accuracies["video_top5"] == accuracies["clip_top5"] == 1  # of three classes
    for number, name in enumerate(CLASSES):
        assert report["class_accuracies"][name] == np.mean(
            [hit for i, hit in enumerate(video_hits) if i % 3 == number]
        )


def test_the_report_holds_what_is_needed_to_repeat_it(report, model):
    assert report["class_names"] == CLASSES and report["broken_videos"] == []
    assert (report["num_segments"], report["num_crops"], report["num_frames"], report["frame_stride"]) == (3, 3, 8, 2)
    assert report["image_size"] == 32 and report["keep_ratio"] == 0.6
    assert report["chance_top1"] == 1 / 3 and report["always_the_most_frequent_class"] == 2 / 5
    assert report["arguments"]["model"] == str(model)
    assert {"torch", "transformers", "av", "python"} <= report["versions"].keys()
    assert report["machine"]["processes"] == 1 and report["seconds"] > 0
    flops = VideoMSForVideoClassification.from_pretrained(model).flops()
    assert report["gflops_per_clip"] == flops / 1e9 and report["gflops_per_video"] == 9 * flops / 1e9


def test_the_results_of_another_model_are_not_overwritten(model, videos, tmp_path):
    (tmp_path / "evaluation.json").write_text(json.dumps({"arguments": {"model": "runs/other"}}))
    with pytest.raises(FileExistsError, match=f"has the results of runs/other, not of {model}; give another"):
        evaluate(tmp_path, model=model, data=videos)
    assert "runs/other" in (tmp_path / "evaluation.json").read_text()
    (tmp_path / "evaluation.json").write_text(json.dumps({"arguments": {"model": f"{model}/"}}))
    assert evaluate(tmp_path, model=model, data=videos)["accuracies"]["num_videos"] == 5  # its own are


def test_the_table_shows_clips_videos_chance_and_cost(model, videos, tmp_path, capsys):
    report = evaluate(tmp_path, model=model, data=videos, num_segments=1, num_crops=1)
    said = capsys.readouterr().out
    assert report["accuracies"]["num_clips"] == 5
    for part in ("top-1    top-3", f"{report['accuracies']['video_top1']:.2%}", "33.33%", "(95 %)", "GMACs per clip"):
        assert part in said
    assert "5 videos, 1 views each, keep ratio 0.6" in said and "evaluation.json" in said


def test_frames_stride_size_and_kept_share_can_be_changed(model, videos, tmp_path):
    report = evaluate(
        tmp_path, model=model, data=videos, keep_ratio=0.25, num_frames=4, frame_stride=3, num_segments=2
    )
    path = videos.parent / "clip 3.mp4"
    views = reference_probabilities(
        model, path, keep_ratio=0.25, num_segments=2, num_crops=3, num_frames=4, stride=3
    ).softmax(dim=1)
    np.testing.assert_allclose(report["videos"][3]["probabilities"], views.mean(dim=0), rtol=2e-4)
    assert (report["keep_ratio"], report["num_frames"], report["frame_stride"]) == (0.25, 4, 3)
    smaller = evaluate(tmp_path, model=model, data=videos, image_size=16, num_segments=1, num_crops=1)
    assert smaller["image_size"] == 16 and smaller["gflops_per_clip"] < report["gflops_per_clip"]
    counted = evaluate(tmp_path, model=model, data=videos, num_kept_tokens=9, num_segments=1, num_crops=1)
    assert (counted["keep_ratio"], counted["num_kept_tokens"]) == (None, 9)
    flops = VideoMSForVideoClassification.from_pretrained(model).flops(num_kept_tokens=9)
    assert counted["gflops_per_clip"] == flops / 1e9


def test_frame_selection_is_given_its_candidates(videos, tmp_path):
    model = save_classifier(tmp_path / "model", candidate_ratio=1.5)
    report = evaluate(tmp_path, model=model, data=videos)
    path = videos.parent / "clip 4.mp4"
    views = reference_probabilities(model, path, num_segments=3, num_crops=3, num_frames=12).softmax(dim=1)
    np.testing.assert_allclose(report["videos"][4]["probabilities"], views.mean(dim=0), rtol=2e-4)


def test_a_recipe_and_the_command_line_go_together(model, videos, tmp_path):
    (tmp_path / "evaluate.yaml").write_text(
        f"model: {model}\ndata: {videos}\nnum_segments: 1\nnum_crops: 1\nnum_workers: 0\noutput_dir: {tmp_path}\n"
    )
    runpy.run_path(str(SCRIPT))["main"]([str(tmp_path / "evaluate.yaml"), "--num_segments", "2"])
    assert json.loads((tmp_path / "evaluation.json").read_text())["accuracies"]["num_clips"] == 10


@pytest.mark.parametrize("name", ["ucf101", "hmdb51", "kinetics400", "ssv2", "oscc"])
def test_every_benchmark_has_a_recipe_that_the_script_understands(name):
    fields = runpy.run_path(str(SCRIPT))["EvaluationArguments"].__dataclass_fields__
    settings = read_recipe(ROOT / "scripts" / "recipes" / name / "evaluate.yaml")
    assert {"model", "data", "num_segments", "num_crops", "output_dir"} <= settings.keys() <= fields.keys()


def test_a_head_that_was_never_trained_is_refused(model, videos, tmp_path):
    classifier = VideoMSForVideoClassification.from_pretrained(model)
    VideoMSForPreTraining(classifier.config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"4 missing keys .*classifier\.bias.*fc_norm\.weight.*videoms finetune"):
        evaluate(tmp_path, model=tmp_path, data=videos)
    assert not (tmp_path / "evaluation.json").exists()


def test_a_model_that_does_not_choose_one_class_is_refused(videos, tmp_path):
    save_classifier(tmp_path, problem_type="multi_label_classification")
    with pytest.raises(ValueError, match="'multi_label_classification'; it must be 'single_label_classification'"):
        evaluate(tmp_path, model=tmp_path, data=videos)


def test_broken_videos_are_an_error_that_names_them_all(model, broken, tmp_path):
    with pytest.raises(ValueError, match=r"2 of 7 videos are corrupt(.|\n)*text\.mp4(.|\n)*empty\.mp4"):
        evaluate(tmp_path, model=model, data=broken)
    assert not (tmp_path / "evaluation.json").exists()


def test_with_skip_broken_they_are_left_out_and_counted(model, broken, report, tmp_path, capsys):
    skipped = evaluate(tmp_path, model=model, data=broken, skip_broken=True)
    assert [Path(bad["video"]).name for bad in skipped["broken_videos"]] == ["text.mp4", "empty.mp4"]
    assert all(bad["reason"] for bad in skipped["broken_videos"]) and skipped["num_broken_videos"] == 2
    assert [entry["probabilities"] for entry in skipped["videos"]] == [e["probabilities"] for e in report["videos"]]
    assert [Path(entry["video"]).name for entry in skipped["videos"]] == [f"clip {i}.mp4" for i in range(5)]
    assert skipped["accuracies"] == report["accuracies"]
    said = capsys.readouterr().out
    assert "2 corrupt videos are NOT included" in said and "text.mp4" in said and "empty.mp4" in said


@pytest.fixture
def damaged_in_the_middle(monkeypatch):
    """Makes clip 2 fail from its second segment on: the first look finds its ends in order."""
    from videoms_hf.decoding_videoms import FileReader, VideoDecodeError

    clips = FileReader.clips

    def decode(video, indices, crops=None):
        if video.name.endswith("clip 2.mp4") and len(indices[0]) > 2 and max(map(max, indices)) > 20:
            raise VideoDecodeError(video.name, "damaged in the middle")
        return clips(video, indices, crops)

    monkeypatch.setattr(FileReader, "clips", decode)


def test_a_video_that_breaks_midway_is_an_error(damaged_in_the_middle, model, videos, tmp_path):
    with pytest.raises(RuntimeError, match=r"clip 2\.mp4: damaged in the middle"):
        evaluate(tmp_path, model=model, data=videos)


def test_with_skip_broken_it_is_left_out_with_all_its_views(damaged_in_the_middle, model, videos, report, tmp_path):
    skipped = evaluate(tmp_path, model=model, data=videos, skip_broken=True)
    assert skipped["broken_videos"] == [
        {"video": str(videos.parent / "clip 2.mp4"), "line": 3, "reason": "damaged in the middle"}
    ]
    assert skipped["accuracies"]["num_clips"] == 36
    expected = [entry["probabilities"] for i, entry in enumerate(report["videos"]) if i != 2]
    for entry, probabilities in zip(skipped["videos"], expected, strict=True):
        np.testing.assert_allclose(entry["probabilities"], probabilities, rtol=2e-5)  # other batches


def test_labels_may_be_names_and_count_the_models_classes(model, videos, report, tmp_path):
    named = "".join(f"clip {i}.mp4 {CLASSES[i % 3]}\n" for i in range(5))
    (tmp_path / "named.csv").write_text(named)
    found = evaluate(tmp_path, model=model, data=tmp_path / "named.csv", data_root=videos.parent)
    assert found["videos"] == report["videos"]


@pytest.mark.parametrize(
    ("lines", "classes", "problem"),
    [
        ("clip 0.mp4 3\n", None, "label is '3'; it must be a number from 0 to 2 or one of 'wave', 'hop', 'spin'"),
        ("clip 0.mp4 jump\n", None, "label is 'jump'"),
        ("clip 0.mp4 -1\n", None, "has no label, but every video needs one"),
        ("clip 0.mp4 1\n", "wave\nspin\nhop\n", "calls class 1 'spin', the model 'hop'"),
        ("clip 0.mp4 1\n", "wave\nhop\n", "names 2 classes, the model knows 3"),
    ],
)
def test_labels_that_are_not_the_models_are_refused(lines, classes, problem, model, videos, tmp_path):
    shutil.copy(videos.parent / "clip 0.mp4", tmp_path)
    (tmp_path / "test.csv").write_text(lines)
    if classes is not None:
        (tmp_path / "classes.txt").write_text(classes)
    with pytest.raises(ValueError, match=problem):
        evaluate(tmp_path, model=model, data=tmp_path / "test.csv")


def test_a_model_without_class_names_takes_those_of_the_list(videos, report, tmp_path):
    model = save_classifier(tmp_path / "model", names=["LABEL_0", "LABEL_1", "LABEL_2"])
    shutil.copytree(videos.parent, tmp_path / "videos")
    (tmp_path / "videos" / "classes.txt").write_text("wave\nhop\nspin\n")
    found = evaluate(tmp_path, model=model, data=tmp_path / "videos" / "test.csv")
    assert [entry["label"] for entry in found["videos"]] == [entry["label"] for entry in report["videos"]]


def test_a_processor_without_a_stride_is_refused_until_one_is_given(videos, report, tmp_path):
    model = save_classifier(tmp_path / "model")
    saved = next(path for path in model.glob("*processor*.json"))
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"frame_stride": None}))
    with pytest.raises(ValueError, match="no frame_stride; .* --frame_stride 4"):
        evaluate(tmp_path, model=model, data=videos)
    assert evaluate(tmp_path, model=model, data=videos, frame_stride=STRIDE)["videos"] == report["videos"]


def test_two_processes_and_their_workers_give_what_one_gives_to_the_last_digit(model, videos, report, tmp_path):
    """45 views in batches of 4: the last batch has one view, and the second process one batch less."""
    options = OPTIONS | {"model": model, "data": videos, "output_dir": tmp_path, "num_workers": 1}
    program = [SCRIPT, *(f"--{name}={value}" for name, value in options.items())]
    done = run_torchrun(program, OMP_NUM_THREADS=str(torch.get_num_threads()), CUDA_VISIBLE_DEVICES="")
    two = json.loads((tmp_path / "evaluation.json").read_text())
    assert two["machine"]["processes"] == 2
    for part in ("videos", "accuracies", "class_accuracies", "broken_videos"):
        assert two[part] == report[part]
    assert done.stdout.count("chance") == 1  # one table


def test_json_keeps_lists_of_numbers_on_a_line_and_text_as_it_is(tmp_path):
    content = {"numbers": [1.5e-7, -2, 3], "text": "a[1,  2]b", "empty": [], "names": ["x", "[\n1]"]}
    write_json(content, tmp_path / "new" / "file.json")
    text = (tmp_path / "new" / "file.json").read_text()
    assert json.loads(text) == content and "[1.5e-07, -2, 3]" in text
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file.json"]
