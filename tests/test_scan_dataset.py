"""Every broken, short and odd video is found with its reason and line, and so is what lists have in common."""

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videoms_hf.data.annotations import read_videos
from videoms_hf.data.scanning import scan_summary, scan_tables
from videoms_hf.data.tables import make_table

from .odd_files import write_file, write_numbered
from .video_files import write_ramp, write_sound, write_video


SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Good and bad videos by name."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("good", "v_Wave_g01_c01", "v_Wave_g01_c02", "v_Wave_g12_c01", "abcdefghijk_000001_000011"):
        write_ramp(folder / f"{name}.mp4", num_frames=20 + len(list(folder.iterdir())), step=5)
    write_ramp(folder / "short.mp4", num_frames=15)
    write_ramp(folder / "slow.mp4", num_frames=20, fps=2)
    write_ramp(folder / "flat.mp4", num_frames=20, height=32, width=160)
    write_ramp(folder / "tiny.mp4", num_frames=20, height=16, width=16)
    write_ramp(folder / "one.mp4", num_frames=1)
    write_video(folder / "still.mp4", np.full((20, 32, 48, 3), 90, dtype=np.uint8))
    write_sound(folder / "sound.mp4")
    noise = np.random.default_rng(0).integers(0, 256, (30, 32, 48, 3), dtype=np.uint8)
    whole = write_video(folder / "whole.avi", noise, codec="mpeg4").read_bytes()
    (folder / "cut.avi").write_bytes(whole[: len(whole) * 3 // 4])
    (folder / "text.mp4").write_text("no video")
    (folder / "pictures").mkdir()
    for i in range(16):
        Image.new("L", (48, 32), 10 * i).save(folder / f"pictures/{i}.png")
    return folder


def listed(folder, path, *names):
    path.write_text("".join(f"{folder}/{name} {i % 2}\n" for i, name in enumerate(names)))
    return path


EXPECTED = {
    "broken": {
        "one.mp4": "has 1 frame; motion needs at least 2",
        "sound.mp4": "no video stream",
        "text.mp4": "cannot read it",
        "gone.mp4": "No such file",
    },
    "short": {"short.mp4": "has 15 frames, fewer than 16"},
    "odd": {
        "slow.mp4": "2 frames per second",
        "flat.mp4": "frames of 160 x 32",
        "tiny.mp4": "frames of 16 x 16",
        "still.mp4": "it does not move",
        "cut.avi": "its header promises 30 frames",
    },
}


def test_what_is_wrong_is_found_with_reason_and_line(folder, tmp_path):
    names = ["good.mp4", "pictures", "whole.avi", *(name for found in EXPECTED.values() for name in found)]
    path = listed(folder, tmp_path / "train.csv", *names)
    path.write_text("\n" + path.read_text())  # lines are counted in the file, empty ones too
    table = read_videos(path, allow_missing=True)
    report, rows = scan_tables({"train": table})
    found = report["tables"]["train"]
    for kind, expected in EXPECTED.items():
        assert [Path(entry["video"]).name for entry in found[kind]] == list(expected)
        for entry, reason in zip(found[kind], expected.values(), strict=True):
            assert reason in entry["reason"]
            assert entry["line"] == names.index(Path(entry["video"]).name) + 2 == entry["row"] + 2
        assert rows["train"][kind] == {entry["row"] for entry in found[kind]}
    assert found["videos"] == 13 and report["leaks"] == []
    said = scan_summary(report)
    assert "train: 13 videos" in said and "4 broken, 1 short, 5 odd" in said
    assert f"{folder}/gone.mp4 (line 8): cannot be read (No such file or directory)" in said
    with pytest.raises(ValueError, match="line 8: there is no file"):
        read_videos(path)


def test_totals_are_those_of_the_files(folder):
    table = make_table([str(folder / "good.mp4"), str(folder / "short.mp4")], [0, 0], ["a"])
    found = scan_tables({"train": table})[0]["tables"]["train"]
    assert found["frames"] == 35 and found["hours"] == pytest.approx(35 / 25 / 3600)
    assert found["bytes"] == sum((folder / name).stat().st_size for name in ("good.mp4", "short.mp4"))


def test_frames_that_an_edit_list_hides_are_not_called_cut(tmp_path):
    path = write_file(tmp_path, "h264 edit list.mp4")
    found = scan_tables({"train": make_table([str(path)], [0], ["a"])}, min_frames=4)[0]["tables"]["train"]
    assert found["odd"] == found["broken"] == [] and found["frames"] == 19


def test_hours_count_from_the_first_frame(tmp_path):
    late = [10_000 + 40 * i for i in range(25)]
    paths = [
        write_numbered(tmp_path / name, "libx264", "yuv420p", {"bf": "2", "g": "8"}, pts=late, num_frames=25)
        for name in ("late.ts", "late.mkv")
    ]
    found = scan_tables({"train": make_table(map(str, paths), [0, 0], ["a"])})[0]["tables"]["train"]
    assert found["hours"] == pytest.approx(2 / 3600, rel=0.02) and found["odd"] == []


def test_leaks_are_files_content_groups_and_origins_that_lists_share(folder, tmp_path):
    copy = shutil.copy(folder / "whole.avi", tmp_path / "renamed.avi")
    (tmp_path / "link.mp4").symlink_to(folder / "good.mp4")
    other = shutil.copy(folder / "short.mp4", tmp_path / "abcdefghijk_000050_000060.mp4")
    train = [
        folder / name for name in ("good.mp4", "v_Wave_g01_c01.mp4", "whole.avi", "abcdefghijk_000001_000011.mp4")
    ]
    test = [folder / "v_Wave_g12_c01.mp4", tmp_path / "link.mp4", folder / "v_Wave_g01_c02.mp4", copy, other]
    tables = {
        name: make_table(map(str, videos), [0] * len(videos), ["a"])
        for name, videos in {"train": train, "test": test}.items()
    }
    report, rows = scan_tables(tables)
    assert {(leak["kind"], *map(len, leak["videos"].values())) for leak in report["leaks"]} == {
        ("file", 1, 1),
        ("content", 1, 1),
        ("UCF101 group", 1, 1),
        ("YouTube video", 1, 1),
    }
    (group,) = (leak for leak in report["leaks"] if leak["kind"] == "UCF101 group")
    assert group["what"] == "Wave_g01"
    assert group["videos"] == {"train": [str(train[1])], "test": [str(test[2])]}
    assert rows["train"]["leaks"] == {0, 1, 2, 3} and rows["test"]["leaks"] == {1, 2, 3, 4}
    assert "LEAK: train and test have 1 times the same UCF101 group" in scan_summary(report)


def test_windows_of_one_recording_are_a_leak_between_lists_and_none_within(folder):
    def windows(starts, video):
        ends = [start + 0.4 for start in starts]
        data = {"start_seconds": starts, "end_seconds": ends}
        return make_table([str(video)] * len(starts), [0] * len(starts), ["a"], windows=data)

    tables = {"train": windows([0.0, 0.4], folder / "good.mp4"), "val": windows([0.2], folder / "good.mp4")}
    report, rows = scan_tables(tables, min_frames=4)
    (leak,) = report["leaks"]
    assert leak["kind"] == "recording" and leak["what"] == str(folder / "good.mp4")
    assert rows["train"]["leaks"] == {0, 1} and rows["val"]["leaks"] == {0}
    tables["val"] = windows([0.0], folder / "v_Wave_g01_c01.mp4")
    assert scan_tables(tables, min_frames=4)[0]["leaks"] == []
    late = scan_tables({"train": windows([0.4, 5.0], folder / "good.mp4")}, min_frames=4)[0]["tables"]["train"]
    assert late["hours"] == pytest.approx(0.4 / 3600)
    assert "no frame can be decoded" in late["broken"][0]["reason"]


def test_embedded_videos_are_scanned_too(folder):
    names = ["good.mp4", "text.mp4", "still.mp4"]
    content = [{"path": name, "bytes": (folder / name).read_bytes()} for name in names]
    one, other = (make_table(rows, [0] * len(rows), ["a"]) for rows in (content, content[:1]))
    report, rows = scan_tables({"train": one, "val": other})
    assert rows["train"]["broken"] == {1} and rows["train"]["odd"] == {2}
    assert report["tables"]["train"]["broken"][0]["video"] == "text.mp4"
    assert [leak["kind"] for leak in report["leaks"]] == ["content"]


def test_the_script_leaves_a_report_and_lists_without_what_is_wrong(folder, tmp_path, capsys):
    train = listed(
        folder, tmp_path / "train.csv", "good.mp4", "text.mp4", "still.mp4", "v_Wave_g01_c01.mp4", "gone.mp4"
    )
    test = listed(folder, tmp_path / "test.csv", "v_Wave_g01_c02.mp4", "whole.avi")
    (tmp_path / "classes.txt").write_text("wave\nclap\n")
    main = runpy.run_path(str(SCRIPTS / "scan_dataset.py"))["main"]
    options = ["--output_dir", str(tmp_path / "scan"), "--num_workers", "0"]
    main(["--data", str(train), str(test), *options])
    said = capsys.readouterr().out
    assert "train: 5 videos" in said and f"{tmp_path}/scan/train.csv: 3 of 5 videos" in said
    report = json.loads((tmp_path / "scan/scan.json").read_text())
    assert len(report["tables"]["train"]["broken"]) == 2 and len(report["leaks"]) == 1
    cleaned = read_videos(tmp_path / "scan/train.csv")
    assert [Path(video).name for video in cleaned["video"]] == ["good.mp4", "still.mp4", "v_Wave_g01_c01.mp4"]
    assert cleaned["label"][:] == [0, 0, 1] and cleaned.features["label"].names == ["wave", "clap"]
    main(["--data", str(train), str(test), *options, "--drop", "broken", "odd", "leaks"])
    assert [Path(video).name for video in read_videos(tmp_path / "scan/train.csv")["video"]] == ["good.mp4"]
    assert len(read_videos(tmp_path / "scan/test.csv")) == 2
    with pytest.raises(ValueError, match="two of the lists are called"):
        main(["--data", str(train), str(train), str(train), *options])


def test_a_scan_that_finds_no_video_fails_and_writes_no_empty_list(folder, tmp_path, capsys):
    good, bad = listed(folder, tmp_path / "good.csv", "good.mp4"), listed(folder, tmp_path / "bad.csv", "gone.mp4")
    main = runpy.run_path(str(SCRIPTS / "scan_dataset.py"))["main"]
    with pytest.raises(ValueError, match=r"no video is left of bad \(all 1\)"):
        main(["--data", str(bad), str(good), "--output_dir", str(tmp_path / "scan"), "--num_workers", "0"])
    assert "gone.mp4 (line 1): cannot be read" in capsys.readouterr().out
    assert not (tmp_path / "scan/bad.csv").exists() and len(read_videos(tmp_path / "scan/good.csv")) == 1
    assert json.loads((tmp_path / "scan/scan.json").read_text())["tables"]["bad"]["broken"]


def test_the_real_clips_are_sound_and_their_lists_share_nothing(shared_data):
    tables = {
        name: read_videos(shared_data / "weizmann" / f"{name}.csv").select(range(0, 10, 3))
        for name in ("train", "val")
    }
    report, rows = scan_tables(tables)
    assert report["leaks"] == [] and not any(found for part in rows.values() for found in part.values())
