"""Ego4D's state changes from the annotation JSON and a long recording to the accuracy and the submission."""

import json
import os
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.test_training_scripts import script, words
from videoms_hf.data.annotations import read_oscc, read_videos
from videoms_hf.data.dataset import ViewDataset
from videoms_hf.data.tables import OSCC_CLASSES
from videoms_hf.decoding_videoms import decode_frames
from videoms_hf.evaluation.prediction import ViewPredictions
from videoms_hf.evaluation.results import state_change_accuracy, state_change_predictions, submission_accuracy

from .video_files import write_video


SCRIPTS = Path(__file__).parents[1] / "scripts"
FPS, WINDOW = 5, 4  # frames a second, seconds of a window
RECORDINGS = {"0d4efcc9-a336-46f9-a1db-0623b5be2869": 12, "77cc4654-4eec-44c6-af05-dbdf71f9a401": 8}  # windows each


@pytest.fixture(scope="module")
def ego4d(tmp_path_factory) -> Path:
    """A folder in Ego4D's form: two recordings whose every second window moves, and files of train, val and test."""
    folder = tmp_path_factory.mktemp("ego4d")
    (folder / "full_scale").mkdir()
    rng = np.random.default_rng(0)
    clips = []
    for uid, num_windows in RECORDINGS.items():
        frames = np.full((num_windows * WINDOW * FPS, 32, 32, 3), 90, dtype=np.uint8)
        for number in range(num_windows):
            begin, end = number * WINDOW, (number + 1) * WINDOW
            clip = {
                "unique_id": f"{uid}-{number:03}",
                "video_uid": uid,
                "parent_start_sec": float(begin),
                "parent_end_sec": end + 0.03,  # the annotators' times are not the frames'
                "parent_start_frame": begin * FPS,
                "parent_end_frame": end * FPS,
                "clip_uid": None,
            }
            if number % 2:
                block = rng.integers(0, 256, (WINDOW * FPS, 4, 4, 3), dtype=np.uint8)
                frames[begin * FPS : end * FPS] = block.repeat(8, axis=1).repeat(8, axis=2)
                clip |= {"state_change": True, "parent_pnr_frame": begin * FPS + 9}
            elif number % 4 == 0:
                clip |= {"state_change": None, "parent_pnr_frame": None}
            elif number % 8 == 2:
                clip |= {"state_change": False}
            clips.append(clip)
        write_video(folder / "full_scale" / f"{uid}.mp4", frames, fps=FPS, g="10", bf="2")
    split = {"train": clips[:12], "val": clips[12:], "test_unannotated": [dict(clip) for clip in clips[12:]]}
    for clip in split["test_unannotated"]:
        clip.pop("state_change", None), clip.pop("parent_pnr_frame", None)
    for name, part in split.items():
        content = {"version": "v2", "date": "220217", "split": name, "clips": part}
        (folder / f"fho_oscc-pnr_{name}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def lists(ego4d) -> dict:
    recordings = ego4d / "full_scale"
    train, val = (ego4d / f"fho_oscc-pnr_{name}.json" for name in ("train", "val"))
    return {"train_data": train, "eval_data": val, "data_root": recordings}


@pytest.fixture(scope="module")
def classifier(lists, tmp_path_factory) -> Path:
    """A tiny classifier that was fine-tuned on the windows, choosing its 8 frames out of 12."""
    folder = tmp_path_factory.mktemp("runs") / "finetune"
    options = {"num_train_epochs": 8, "warmup_epochs": 0, "base_learning_rate": 1.0, "candidate_ratio": 1.5}
    plain = {"rand_augment": "", "min_crop_area": 1, "random_erasing": 0.0, "layer_decay": 1.0}
    script("finetune", **lists, **options, **plain, output_dir=folder)
    return folder


def test_windows_have_recordings_labels_times_and_names(ego4d):
    table = read_oscc(ego4d / "fho_oscc-pnr_train.json", ego4d / "full_scale")
    assert table.column_names == ["video", "label", "start_seconds", "end_seconds", "line", "unique_id"]
    assert table.features["label"].names == OSCC_CLASSES
    uid = next(iter(RECORDINGS))
    assert table[3] == {
        "video": os.path.abspath(ego4d / "full_scale" / f"{uid}.mp4"),
        "label": 1,
        "start_seconds": 12.0,
        "end_seconds": 16.03,
        "line": 4,
        "unique_id": f"{uid}-003",
    }
    written = json.loads((ego4d / "fho_oscc-pnr_train.json").read_text())["clips"]
    kinds = {
        repr(clip.get("state_change", "absent")): label for clip, label in zip(written, table["label"], strict=True)
    }
    assert kinds == {"True": 1, "False": 0, "None": 0, "'absent'": 0}


def test_a_list_that_is_json_is_read_with_the_folder_of_its_recordings(ego4d, lists):
    table = read_videos(lists["eval_data"], lists["data_root"], require_labels=True)
    assert len(table) == 8 and table["label"][:] == [0, 1] * 4
    with pytest.raises(ValueError, match="no window has state_change, but a label is needed here"):
        read_videos(ego4d / "fho_oscc-pnr_test_unannotated.json", lists["data_root"], require_labels=True)
    assert set(read_videos(ego4d / "fho_oscc-pnr_test_unannotated.json", lists["data_root"])["label"]) == {-1}


def test_what_is_wrong_with_the_annotations_is_named(ego4d, tmp_path):
    clips = json.loads((ego4d / "fho_oscc-pnr_val.json").read_text())["clips"]
    clips[1]["video_uid"] = "gone"
    clips[2]["parent_end_sec"] = 1.0
    del clips[3]["parent_start_sec"]
    (tmp_path / "a.json").write_text(json.dumps({"clips": clips}))
    with pytest.raises(ValueError) as error:
        read_oscc(tmp_path / "a.json", ego4d / "full_scale")
    for words_wanted in (
        "has 3 problems:",
        f"there is no recording {ego4d / 'full_scale' / 'gone.mp4'}",
        f"window 3 ({clips[2]['unique_id']}) goes from 8.0 to 1.0 s; it must end after it begins",
        f"window 4 ({clips[3]['unique_id']}) has no parent_start_sec",
    ):
        assert words_wanted in str(error.value)
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(ValueError, match="b.json is not an OSCC file"):
        read_oscc(tmp_path / "b.json", ego4d)
    with pytest.raises(ValueError, match="there are 3 classes"):
        read_oscc(ego4d / "fho_oscc-pnr_val.json", ego4d / "full_scale", ["a", "b", "c"])


def test_the_frames_of_a_window_are_its_own_also_at_the_end_of_the_recording(ego4d, lists):
    table = read_videos(lists["eval_data"], lists["data_root"])
    views = ViewDataset(table, num_frames=8, stride=2, size=32)
    for row in (0, 3, 7):  # the last one ends with the recording
        number = int(table[row]["unique_id"][-3:])
        whole = decode_frames(table[row]["video"], range(number * WINDOW * FPS, (number + 1) * WINDOW * FPS))
        window = decode_frames(table[row]["video"], range(WINDOW * FPS), start_seconds=number * WINDOW)
        assert torch.equal(window, whole)
        moves = (views[row]["pixel_values"].diff(dim=0).abs() > 0.2).any()
        assert bool(moves) == bool(table[row]["label"])


def test_the_whole_task_from_annotations_to_accuracy_and_submission(ego4d, lists, classifier, tmp_path, capsys):
    run = {"model": classifier, "num_crops": 1, "num_workers": 0}
    evaluate = {"data": lists["eval_data"], "data_root": lists["data_root"], "output_dir": tmp_path, "num_segments": 1}
    runpy.run_path(str(SCRIPTS / "evaluate_model.py"))["main"](words({**run, **evaluate}))
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert report["class_names"] == OSCC_CLASSES and report["accuracies"]["num_videos"] == 8

    predict = runpy.run_path(str(SCRIPTS / "predict_state_changes.py"))["main"]
    common = {**run, "videos": lists["data_root"]}
    predict(words({**common, "annotations": lists["eval_data"], "output": tmp_path / "val.json"}))
    said = capsys.readouterr().out
    submission = json.loads((tmp_path / "val.json").read_text())
    clips = json.loads(lists["eval_data"].read_text())["clips"]
    assert [set(answer) for answer in submission] == [{"unique_id", "state_change"}] * 8
    assert [answer["unique_id"] for answer in submission] == [clip["unique_id"] for clip in clips]
    wanted = {clip["unique_id"]: bool(clip.get("state_change")) for clip in clips}
    accuracy = state_change_accuracy({answer["unique_id"]: answer["state_change"] for answer in submission}, wanted)
    assert accuracy == report["accuracies"]["video_top1"] and f"accuracy {accuracy:.2%}" in said
    assert accuracy == 1.0, "still and moving windows are told apart by anything that learns"

    test = {"annotations": ego4d / "fho_oscc-pnr_test_unannotated.json", "output": tmp_path / "test.json"}
    predict(words({**common, **test}))
    assert "accuracy" not in capsys.readouterr().out
    assert json.loads((tmp_path / "test.json").read_text()) == submission


def test_pretraining_runs_on_the_windows(lists, tmp_path, capsys):
    options = {"num_train_epochs": 1, "candidate_ratio": 1.5, "mask_ratio": 0.8, "decoder_num_hidden_layers": 1}
    decoder = {"decoder_hidden_size": 12, "decoder_num_attention_heads": 3, "decoder_intermediate_size": 20}
    data = {name: lists[name] for name in ("train_data", "data_root")}
    script("pretrain", **data, **options, **decoder, output_dir=tmp_path / "run")
    assert "3 steps, 1 epochs" in capsys.readouterr().out


def test_every_window_needs_an_answer_and_ties_say_no(ego4d, lists):
    table = read_videos(lists["eval_data"], lists["data_root"])
    logits = np.zeros((8, 2), dtype=np.float32)
    logits[1, 1] = 0.1
    labels = np.array(table["label"][:])
    whole = state_change_predictions(ViewPredictions(logits, np.arange(8), labels, []), table)
    assert [answer["state_change"] for answer in whole] == [False, True] + [False] * 6
    assert submission_accuracy(whole, table) == 5 / 8
    with pytest.raises(ValueError, match="1 of 8 windows have no prediction"):
        state_change_predictions(ViewPredictions(logits[:7], np.arange(7), labels[:7], []), table)
