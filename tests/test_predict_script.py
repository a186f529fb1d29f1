"""scripts/predict.py on real, tiny video files, against the model on plainly cut views."""

import csv
import json
import re
import runpy
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Video
from PIL import Image

from tests.evaluation_files import CLASSES, NUM_FRAMES, SIZE, STRIDE, WIDTH, save_classifier, write_noise
from tests.video_files import write_ramp
from videoms_hf import VideoMSForVideoClassification
from videoms_hf.decoding_videoms import decode_frames, probe_video
from videoms_hf.evaluation.inference import find_videos


predict = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "predict.py"))["main"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return write_noise(tmp_path_factory.mktemp("videos") / "a clip.mp4", 40, seed=0)


def strided(start: int) -> list[int]:
    return list(range(start, start + NUM_FRAMES * STRIDE, STRIDE))


def reference_probabilities(model: Path, video: Path, clips: list[list[int]], lefts: list[int], **options) -> dict:
    """Name -> mean probability of the views with these frames and first columns, cut and normalised by hand."""
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    frames = (decode_frames(video, range(40)).float() / 255 - mean) / std
    views = [frames[clip, :, :, x : x + SIZE] for clip in clips for x in lefts]
    classifier = VideoMSForVideoClassification.from_pretrained(model).eval()
    with torch.no_grad():
        scores = classifier(torch.stack(views), **options).logits.softmax(dim=-1).mean(dim=0)
    return dict(zip(CLASSES, scores.tolist(), strict=True))


def printed(text: str) -> dict:
    return {name: float(share) / 100 for share, name in re.findall(r"^ +([0-9.]+)%  (\w+)$", text, re.M)}


def test_the_best_classes_come_first_with_the_probabilities_of_the_middle_clip(model, video, capsys):
    assert predict([str(video), "--model", str(model)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == str(video)
    found = printed(out)
    window = [12, 14, 16, 18, 21, 23, 25, 27]  # 8 frames spread over 16, as evaluation's single view
    wanted = reference_probabilities(model, video, [window], [(WIDTH - SIZE) // 2])
    assert list(found) == sorted(wanted, key=wanted.get, reverse=True)
    assert found == pytest.approx(wanted, abs=1e-4)


def test_views_are_averaged_over_segments_and_crops(model, video, capsys):
    predict([str(video), "--model", str(model), "--num_segments", "3", "--num_crops", "3", "--keep_ratio", "0.3"])
    wanted = reference_probabilities(model, video, [strided(s) for s in (0, 12, 24)], [0, 8, 16], keep_ratio=0.3)
    assert printed(capsys.readouterr().out) == pytest.approx(wanted, abs=1e-4)


def test_a_number_of_tokens_is_in_every_row_and_not_mixed_with_a_share(model, video, tmp_path):
    output = tmp_path / "out.jsonl"
    command = [str(video), "--model", str(model), "--output", str(output)]
    predict([*command, "--num_kept_tokens", "9"])
    row = json.loads(output.read_text())
    assert row["num_kept_tokens"] == 9 and "keep_ratio" not in row
    window = [12, 14, 16, 18, 21, 23, 25, 27]
    wanted = reference_probabilities(model, video, [window], [(WIDTH - SIZE) // 2], num_kept_tokens=9)
    assert row["probabilities"] == pytest.approx(wanted, abs=1e-4)
    with pytest.raises(ValueError, match="keep_ratio is None, not 0.6"):
        predict([*command, "--resume"])
    with pytest.raises(ValueError, match="keep_ratio and num_kept_tokens are both given"):
        predict([*command, "--num_kept_tokens", "9", "--keep_ratio", "0.5"])


def test_top_k_limits_the_list(model, video, capsys):
    predict([str(video), "--model", str(model), "--top_k", "2"])
    assert len(printed(capsys.readouterr().out)) == 2


def test_the_picture_shows_the_kept_tokens(model, video, tmp_path):
    predict([str(video), "--model", str(model), "--picture", str(tmp_path / "new" / "kept.png")])
    with Image.open(tmp_path / "new" / "kept.png") as picture:
        assert picture.width > 8 * SIZE


def test_frame_selection_is_drawn_with_the_frames_that_it_chose(video, tmp_path, capsys):
    selecting = save_classifier(tmp_path / "model", candidate_ratio=1.5)
    predict([str(video), "--model", str(selecting), "--picture", str(tmp_path / "kept.png")])
    assert len(printed(capsys.readouterr().out)) == 3
    assert (tmp_path / "kept.png").exists()


def test_a_broken_video_is_named_and_the_others_are_classified(model, video, tmp_path, capsys):
    (tmp_path / "broken.mp4").write_text("no video")
    missing = tmp_path / "missing.mp4"
    assert predict([str(tmp_path / "broken.mp4"), str(missing), str(video), "--model", str(model)]) == 2
    out, err = capsys.readouterr()
    assert len(printed(out)) == 3
    assert "broken.mp4 cannot be classified" in err and "missing.mp4 cannot be classified" in err


@pytest.mark.parametrize(
    "views", [[], ["--num_crops", "3"], ["--num_segments", "3"], ["--num_segments=2", "--num_crops=3"]]
)
def test_a_folder_of_pictures_is_classified_as_a_video_of_them(model, tmp_path, capsys, views):
    video = write_noise(tmp_path / "v.mp4", 11, seed=3)  # shorter than 8 frames of stride 2
    (tmp_path / "pictures").mkdir()
    for i, frame in enumerate(decode_frames(video, range(11)).permute(0, 2, 3, 1).numpy()):
        Image.fromarray(frame).save(tmp_path / f"pictures/{i}.png")
    assert predict([str(video), str(tmp_path / "pictures"), "--model", str(model), *views]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[4] == str(tmp_path / "pictures") and lines[5:] == lines[1:4]


def test_what_is_not_a_video_is_reported_as_what_it_is(model, tmp_path, capsys):
    write_ramp(tmp_path / "still.mp4", num_frames=1)
    (tmp_path / "pictures").mkdir(), (tmp_path / "empty").mkdir()
    picture = Image.new("RGB", (48, 32))
    picture.save(tmp_path / "a.png"), picture.save(tmp_path / "pictures/a.png")
    names = ["still.mp4", "a.png", "pictures", "empty"]
    assert predict([*(str(tmp_path / name) for name in names), "--model", str(model)]) == 2
    out, err = capsys.readouterr()
    assert not out
    lines = [line.strip() for line in err.splitlines() if "cannot be classified" in line]
    for name, said in zip(names, lines, strict=True):
        reason = said.removeprefix(f"{tmp_path / name} cannot be classified: ")
        assert reason.startswith("holds no image" if name == "empty" else "has 1 frame; motion needs at least 2")


def test_a_model_without_a_trained_head_is_refused(video, tmp_path, tiny_config):
    from videoms_hf import VideoMSForPreTraining

    VideoMSForPreTraining(tiny_config(mask_ratio=0.8)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="run `videoms finetune`"):
        predict([str(video), "--model", str(tmp_path)])


def test_class_names_of_others_do_not_steer_the_terminal(video, tmp_path, capsys):
    model = save_classifier(tmp_path, names=["wave\x1b[2J", "hop\u202e", "spin\nERROR"])
    predict([str(video), "--model", str(model)])
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\u202e" not in out and len(out.splitlines()) == 4
    assert r"wave\x1b[2J" in out


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Videos in a folder and its subfolders, a folder of pictures, and files that are no videos."""
    folder = tmp_path_factory.mktemp("folder")
    for i, name in enumerate(["b.mp4", "a.mp4", "deep/er/c.avi", ".hidden.mp4"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_noise(folder / name, 20 + i, seed=i)
    (folder / "notes.md").write_text("no video")
    (folder / "pictures").mkdir()
    for i in range(4):
        Image.new("RGB", (48, 32), (i, i, i)).save(folder / f"pictures/{i}.png")
    return folder


def relative(videos: list, folder: Path) -> list[str]:
    return [str(Path(video).relative_to(folder)) for video in videos]


def test_folders_patterns_lists_and_standard_input_name_videos(folder, tmp_path):
    everything = ["a.mp4", "b.mp4", "pictures", "deep/er/c.avi"]
    assert relative(find_videos([str(folder)]), folder) == everything
    assert relative(find_videos([f"{folder}/*.mp4"]), folder) == ["a.mp4", "b.mp4"]
    assert relative(find_videos([f"{folder}/**/*.avi", f"{folder}/pictures"]), folder) == ["deep/er/c.avi", "pictures"]
    (tmp_path / "list.csv").write_text(f"{folder}/b.mp4 1\n{folder}/absent.mp4 0\n")
    Dataset.from_dict({"video": [f"{folder}/a.mp4"]}).to_parquet(tmp_path / "table.parquet")
    found = find_videos(
        ["x.mp4", "-", "https://host/a.mp4"], [f"{tmp_path}/list.csv\n", "\n", f"{tmp_path}/table.parquet"]
    )
    assert found == ["x.mp4", f"{folder}/b.mp4", f"{folder}/absent.mp4", f"{folder}/a.mp4", "https://host/a.mp4"]


def test_videos_inside_a_table_are_classified(model, video, tmp_path, capsys):
    table = Dataset.from_dict({"video": [{"path": "inside.mp4", "bytes": video.read_bytes()}]})
    table.cast_column("video", Video(decode=False)).to_parquet(tmp_path / "table.parquet")
    words = [str(video), str(tmp_path / "table.parquet"), "--model", str(model), "--picture", str(tmp_path / "k.png")]
    assert predict(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[4] == "inside.mp4" and lines[1:4] == lines[5:8]


def rows_of(path: Path) -> list[dict]:
    text = path.read_text()
    if path.suffix == ".csv":
        return list(csv.DictReader(text.splitlines()))
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(("suffix", "workers"), [(".json", 0), (".jsonl", 0), (".csv", 0), (".csv", 2)])
def test_the_output_has_a_row_for_each_video_whatever_the_batches(
    model, video, folder, tmp_path, suffix, workers, capsys
):
    path, broken = tmp_path / "new" / f"out{suffix}", tmp_path / "broken.mp4"
    broken.write_text("no video")
    words = [*map(str, (broken, video, folder)), "--model", str(model), "--num_workers", str(workers), "--top_k", "2"]
    assert predict([*words, "--batch_size", "3", "--output", str(path), "--keep_ratio", "0.5"]) == 2
    out, err = capsys.readouterr()
    assert "6 videos, 1 failed" in out and "videos/s" in out and "6/6" in err
    rows = rows_of(path)
    assert [row["path"] for row in rows] == [str(broken), str(video), *map(str, find_videos([str(folder)]))]
    assert {(row["model"], float(row["keep_ratio"])) for row in rows} == {(str(model), 0.5)}
    assert rows[0]["error"] and not any(row["error"] for row in rows[1:])
    wanted = reference_probabilities(model, video, [[12, 14, 16, 18, 21, 23, 25, 27]], [8], keep_ratio=0.5)
    best = max(wanted, key=wanted.get)
    assert float(rows[1]["duration_seconds"]) == pytest.approx(probe_video(video).duration_seconds)
    if suffix == ".csv":
        assert {name: float(rows[1][f"p_{name}"]) for name in CLASSES} == pytest.approx(wanted, abs=1e-5)
        assert (rows[1]["label_1"], float(rows[1]["probability_1"])) == (best, pytest.approx(wanted[best], abs=1e-5))
        assert rows[0]["p_wave"] == rows[0]["label_1"] == "" and "label_3" not in rows[0]
    else:
        assert rows[1]["probabilities"] == pytest.approx(wanted, abs=1e-5) and rows[0]["probabilities"] is None
        assert rows[1]["top"][0] == {"label": best, "probability": rows[1]["probabilities"][best]}
        assert len(rows[1]["top"]) == 2 and rows[0]["top"] == []


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_resume_skips_videos_that_the_output_contains(model, folder, tmp_path, suffix, capsys):
    path = tmp_path / f"out{suffix}"
    words = ["--model", str(model), "--output", str(path), "--num_workers", "0"]
    predict([f"{folder}/a.mp4", *words])
    if suffix != ".json":
        path.write_text(path.read_text() + "{half a line")  # as a killed process leaves it
    before = rows_of(path) if suffix == ".json" else None
    predict([f"{folder}/*.mp4", *words, "--resume"])
    assert "1 videos, 0 failed" in capsys.readouterr().out
    rows = rows_of(path)
    assert [Path(row["path"]).name for row in rows] == ["a.mp4", "b.mp4"]
    assert before is None or rows[:1] == before
    predict([f"{folder}/*.mp4", *words, "--resume"])
    assert rows_of(path) == rows
    with pytest.raises(ValueError, match=r"rows whose keep_ratio is 0\.6, not 0\.3; give another --output"):
        predict([f"{folder}/*.mp4", *words, "--resume", "--keep_ratio", "0.3"])
    assert rows_of(path) == rows
    predict([f"{folder}/b.mp4", *words])  # without it, the output is overwritten
    assert [Path(row["path"]).name for row in rows_of(path)] == ["b.mp4"]


def test_an_output_of_an_unknown_kind_is_refused(model, video, tmp_path):
    with pytest.raises(ValueError, match=r"must end in one of \.json, \.jsonl, \.csv"):
        predict([str(video), "--model", str(model), "--output", str(tmp_path / "a.txt")])
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(ValueError, match="is not an output of `videoms predict`"):
        predict([str(video), "--model", str(model), "--output", str(tmp_path / "a.json"), "--resume"])
    assert (tmp_path / "a.json").read_text() == "[1]"
