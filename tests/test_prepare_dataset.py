"""From a benchmark's own files to what training reads: nothing lost, nothing half-written, encoded as asked."""

import json
import os
import runpy
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from videoms_hf.data import preparation
from videoms_hf.data.annotations import read_videos
from videoms_hf.data.preparation import prepare_dataset, summary
from videoms_hf.data.shards import Shards
from videoms_hf.data.tables import make_table, video_names
from videoms_hf.data.transcoding import Encoding, transcode_video
from videoms_hf.decoding_videoms import decode_frames, probe_video

from .test_training_scripts import TINY, TINY_DECODER, words
from .test_transcoding import STEP, frame_levels
from .video_files import write_ramp


SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Nine videos of 12 + i frames, 48 x 32, 25 frames a second; the grey level is 8 times the frame's number."""
    folder = tmp_path_factory.mktemp("videos") / "of #1 (test)"
    folder.mkdir()
    return [write_ramp(folder / f"v {i}.mp4", num_frames=12 + i, step=STEP) for i in range(9)]


@pytest.fixture(scope="module")
def tables(videos):
    train = make_table(map(str, videos[:7]), [0, 1, 0, 1, 0, 1, -1], ["wave", "clap/all"], lines=range(1, 8))
    val = make_table(map(str, videos[7:]), [1, 0], ["wave", "clap/all"], lines=(1, 3))
    return {"train": train, "val": val, "test": val}


# -- lists -----------------------------------------------------------------------------------------------------------


def test_lists_name_the_videos_as_they_are_and_the_report_has_the_totals(tables, tmp_path):
    report = prepare_dataset(tables, tmp_path / "out")
    for name, table in tables.items():
        read = read_videos(tmp_path / "out" / f"{name}.csv")
        assert read["video"][:] == table["video"][:] and read["label"][:] == table["label"][:]
        assert read.features["label"].names == ["wave", "clap/all"]
    frames = [sum(12 + i for i in numbers) for numbers in (range(7), (7, 8))]
    assert report["train"]["videos"] == 7 and report["val"] == report["test"]
    assert report["train"]["hours"] == pytest.approx(frames[0] / 25 / 3600)
    assert report["val"]["bytes"] == sum(os.path.getsize(video) for video in tables["val"]["video"])
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert summary(report).startswith("train: 7 videos, 0.00 h, 0.000 GB; 0 broken ones left out\nval: 2 videos")


def test_broken_videos_are_left_out_and_named_with_line_and_reason(videos, tmp_path):
    (tmp_path / "broken.mp4").write_text("no video")
    paths = [str(videos[0]), str(tmp_path / "broken.mp4"), str(tmp_path / "gone.mp4")]
    report = prepare_dataset({"train": make_table(paths, [0, 0, 0], ["a"], lines=(1, 2, 4))}, tmp_path / "out")
    assert [(bad["video"], bad["place"]) for bad in report["train"]["broken"]] == [
        (paths[1], "line 2"),
        (paths[2], "line 4"),
    ]
    assert "cannot read it" in summary(report) and "No such file" in summary(report)
    assert (tmp_path / "out/train.csv").read_text() == f"{paths[0]} 0\n"
    with pytest.raises(ValueError, match="none of 1 videos of train can be used; the first is .*broken.mp4: FFmpeg"):
        prepare_dataset({"train": make_table(paths[1:2], [0], ["a"])}, tmp_path / "other")


def test_encoded_videos_lie_by_class_and_a_folder_can_be_moved(tables, tmp_path):
    prepare_dataset(tables, tmp_path / "out", encoding=Encoding(short_side=16))
    (tmp_path / "out").rename(tmp_path / "moved")
    table = read_videos(tmp_path / "moved/train.csv")
    assert table["video"][0] == str(tmp_path / "moved/videos/wave/v 0.mp4")
    assert table["video"][1] == str(tmp_path / "moved/videos/clap_all/v 1.mp4")
    assert table["video"][6] == str(tmp_path / "moved/videos/unlabelled/v 6.mp4")
    assert [probe_video(video).num_frames for video in table["video"]] == list(range(12, 19))
    assert probe_video(table["video"][0])[2:4] == (24, 16)


def test_videos_of_one_name_do_not_overwrite_each_other_and_windows_have_names_of_their_own(videos, tmp_path):
    (tmp_path / "other").mkdir()
    twin = write_ramp(tmp_path / "other/v 0.mp4", num_frames=5)
    windows = {"start_seconds": [0.0, 0.2, 0.0], "end_seconds": [0.2, None, None]}
    paths = [str(videos[0]), str(videos[0]), str(twin)]
    prepare_dataset(
        {"train": make_table(paths, [0, 0, 0], ["a"], windows=windows)}, tmp_path / "out", encoding=Encoding()
    )
    table = read_videos(tmp_path / "out/train.csv")
    assert len(set(table["video"])) == 3
    assert [probe_video(video).num_frames for video in table["video"]] == [5, 7, 5]


def test_windows_without_encoding_become_a_table_of_paths(videos, tmp_path):
    windows = {"start_seconds": [0.0, 0.2], "end_seconds": [0.2, None]}
    table = make_table([str(videos[0])] * 2, [0, 1], ["a", "b"], windows=windows)
    report = prepare_dataset({"train": table}, tmp_path / "out")
    read = read_videos(tmp_path / "out/train.parquet")
    assert read.to_dict() == table.to_dict() and read.features["label"].names == ["a", "b"]
    assert report["train"]["hours"] == pytest.approx(12 / 25 / 3600)


def test_a_preparation_goes_on_where_it_was_interrupted(tables, tmp_path, monkeypatch):
    done = []

    def dying(row, path, encoding):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(path)
        transcode_video(row, path, encoding)

    monkeypatch.setattr(preparation, "transcode_video", dying)
    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(tables, tmp_path / "out", encoding=Encoding())

    def noted(row, path, encoding):
        done.append(path)
        transcode_video(row, path, encoding)

    monkeypatch.setattr(preparation, "transcode_video", noted)
    prepare_dataset(tables, tmp_path / "out", encoding=Encoding())
    assert len(done) == len(set(done)) == 9
    with pytest.raises(FileExistsError, match="prepared with other settings .encoding was .*'crf': 20.*'crf': 30"):
        prepare_dataset(tables, tmp_path / "out", encoding=Encoding(crf=30))
    with pytest.raises(FileExistsError, match="holds something else"):
        prepare_dataset(tables, Path(tables["train"]["video"][0]).parent)


# -- shards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_shards_hold_every_video_once_training_ones_shuffled(tables, tmp_path, form, monkeypatch):
    smallest = min(os.path.getsize(video) for video in tables["train"]["video"])
    monkeypatch.setattr(preparation, "MEGABYTE", smallest * 2)
    prepare_dataset(tables, tmp_path / "out", form, shard_megabytes=1)
    train = Shards(tmp_path / "out/train")
    assert len(train.shards) > 2 and len(train) == 7 and train.class_names == ["wave", "clap/all"]
    contents = [row["video"]["bytes"] for row in train]
    originals = [Path(video).read_bytes() for video in tables["train"]["video"]]
    assert contents != originals and sorted(contents) == sorted(originals)
    labels = dict(zip(originals, tables["train"]["label"], strict=True))
    assert [row["label"] for row in train] == [labels[content] for content in contents]
    val = Shards(tmp_path / "out/val")
    assert [row["video"]["bytes"] for row in val] == [Path(v).read_bytes() for v in tables["val"]["video"]]
    table = read_videos(tmp_path / "out/val")
    assert table["label"][:] == [1, 0]
    assert video_names(table)[0].endswith("v 7.mp4" if form == "parquet" else "00000.tar/00000000.mp4")


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_shards_that_exist_are_kept_and_changed_ones_written_anew(tables, tmp_path, form):
    prepare_dataset(tables, tmp_path / "out", form)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob(f"*.{form}")}
    assert len(before) == 3
    cut = tmp_path / "out/train" / f"00000.{form}"
    os.truncate(cut, cut.stat().st_size - 600)
    prepare_dataset(tables, tmp_path / "out", form)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob(f"*.{form}")}
    assert [path for path in before if after[path] != before[path]] == [cut]
    assert len(Shards(tmp_path / "out/train")) == 7


def test_windows_and_names_go_into_shards(videos, tmp_path):
    windows = {"start_seconds": [0.2], "end_seconds": [0.4]}
    table = make_table([str(videos[0])], [0], ["a"], windows=windows)
    for form in ("tar", "parquet"):
        prepare_dataset({"val": table}, tmp_path / form, form)
        (row,) = Shards(tmp_path / form / "val")
        assert (row["start_seconds"], row["end_seconds"]) == (0.2, 0.4)


def test_folders_of_pictures_go_into_shards_encoded_only(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        Image.new("L", (16, 16), 40 * i).save(tmp_path / f"pictures/{i}.png")
    table = make_table([str(tmp_path / "pictures")], [0], ["a"])
    with pytest.raises(ValueError, match="pictures is a folder of images; encode the videos to put them into shards"):
        prepare_dataset({"train": table}, tmp_path / "plain", "tar")
    prepare_dataset({"train": table}, tmp_path / "encoded", "tar", Encoding())
    assert Shards(tmp_path / "encoded/train")[0]["video"]["path"].endswith(".mp4")


def test_embedded_videos_go_into_shards_and_into_lists_encoded_only(videos, tmp_path):
    content = [{"path": "a.mp4", "bytes": videos[0].read_bytes()}, {"path": "b.mp4", "bytes": b"no video"}]
    tables = {"train": make_table(content, [0, 0], ["a"])}
    report = prepare_dataset(tables, tmp_path / "tar", "tar")
    assert [bad["video"] for bad in report["train"]["broken"]] == ["b.mp4"]
    assert Shards(tmp_path / "tar/train")[0]["video"]["bytes"] == content[0]["bytes"]
    with pytest.raises(ValueError, match="a.mp4 is embedded in a table; encode the videos, or choose"):
        prepare_dataset(tables, tmp_path / "csv")
    prepare_dataset(tables, tmp_path / "encoded", encoding=Encoding())
    assert read_videos(tmp_path / "encoded/train.csv")["video"][0].endswith("videos/a/a.mp4")


@pytest.mark.parametrize(("form", "encoding", "reads"), [("tar", None, 2), ("csv", Encoding(), 1)])
def test_embedded_videos_are_read_once_to_look_and_once_to_copy(videos, tmp_path, monkeypatch, form, encoding, reads):
    table = make_table([{"path": "a.mp4", "bytes": videos[0].read_bytes()}] * 3, [0] * 3, ["a"])
    read, get = [], Dataset.__getitem__

    def noted(self, key):
        read.extend([key] if isinstance(key, int) and "video" in self.features else [])
        return get(self, key)

    monkeypatch.setattr(Dataset, "__getitem__", noted)
    monkeypatch.setattr(Dataset, "__iter__", lambda self: (self[i] for i in range(len(self))))
    prepare_dataset({"train": table}, tmp_path / "out", form, encoding)
    assert sorted(read) == sorted([0, 1, 2] * reads)
    read.clear()
    prepare_dataset({"train": table}, tmp_path / "out", form, encoding)
    assert sorted(read) == ([] if encoding else [0, 1, 2]), "nothing is encoded again, so no bytes are needed"


def test_embedded_videos_of_one_name_and_size_are_different_videos(tmp_path):
    for i in range(2):
        write_ramp(tmp_path / f"{i}.mp4", num_frames=4 + i)
    size = max(os.path.getsize(tmp_path / f"{i}.mp4") for i in range(2))
    content = [(tmp_path / f"{i}.mp4").read_bytes() for i in range(2)]
    content = [part + b"\0\0\0\10free" + b"\0" * (size - len(part)) for part in content]
    for name in ("x.mp4", None):
        table = make_table([{"path": name, "bytes": part} for part in content], [0, 0], ["a"])
        prepare_dataset({"train": table}, tmp_path / str(name), encoding=Encoding())
        encoded = read_videos(tmp_path / str(name) / "train.csv")["video"]
        assert [probe_video(video).num_frames for video in encoded] == [4, 5]


@pytest.mark.parametrize(
    "name", ["../../../escaped.mp4", "/etc/escaped.mp4", "a\0b\n.mp4", "ü" * 300 + ".mp4", "..", ""]
)
def test_names_of_videos_and_classes_lead_nowhere_else(videos, tmp_path, name):
    table = make_table([{"path": name, "bytes": videos[0].read_bytes()}] * 2, [0, 1], ["..", "a" * 300])
    prepare_dataset({"train": table}, tmp_path / "out", "tar", Encoding())
    assert len(list((tmp_path / "out/videos").glob("*/*.mp4"))) == 2 and os.listdir(tmp_path) == ["out"]
    assert len(Shards(tmp_path / "out/train")) == 2


def test_an_index_of_shards_has_nothing_else_removed(tables, tmp_path):
    prepare_dataset(tables, tmp_path / "out", "tar")
    index = json.loads((tmp_path / "out/train/shards.json").read_text())
    (tmp_path / "precious.tar").write_text("x"), (tmp_path / "out/train/00009.tar").write_text("x")
    index |= {name: {"num_bytes": 1} for name in ("../../precious.tar", str(tmp_path / "precious.tar"), "00009.tar")}
    (tmp_path / "out/train/shards.json").write_text(json.dumps(index))
    prepare_dataset(tables, tmp_path / "out", "tar")
    assert (tmp_path / "precious.tar").exists() and not (tmp_path / "out/train/00009.tar").exists()


def test_other_forms_and_tables_that_do_not_go_together_are_refused(tables, tmp_path):
    with pytest.raises(ValueError, match="form is 'zip'; it must be one of csv, parquet, tar"):
        prepare_dataset(tables, tmp_path / "out", "zip")
    other = make_table(["x.mp4"], [0], ["b"])
    with pytest.raises(ValueError, match="the classes of val are not those of train"):
        prepare_dataset({"train": tables["train"], "val": other}, tmp_path / "out")


# -- the script ------------------------------------------------------------------------------------------------------


def test_the_script_prepares_ucf101_and_training_streams_what_it_wrote(videos, tmp_path, capsys):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Wave\n2 Clap\n")
    names = [f"{('Wave', 'Clap')[i % 2]}/v_{i}.mp4" for i in range(8)]
    for name, video in zip(names, videos, strict=False):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).write_bytes(video.read_bytes())
    (lists / "trainlist02.txt").write_text("".join(f"{name} {i % 2 + 1}\n" for i, name in enumerate(names[:6])))
    (lists / "testlist02.txt").write_text("".join(f"{name}\n" for name in names[6:]))
    main = runpy.run_path(str(SCRIPTS / "prepare_dataset.py"))["main"]
    options = {"annotations": lists, "videos": tmp_path / "videos", "split": 2, "num_workers": 0}
    main(["ucf101", *words({**options, "output_dir": tmp_path / "out", "form": "tar", "gop": 4})])
    said = capsys.readouterr().out
    assert "train: 6 videos" in said and "val: 2 videos" in said and "test: 2 videos" in said
    assert Shards(tmp_path / "out/train").class_names == ["Wave", "Clap"]
    run = {**TINY, "output_dir": tmp_path / "run", "train_data": f"stream:{tmp_path}/out/train"}
    pretrain = runpy.run_path(str(SCRIPTS / "pretrain.py"))["main"]
    pretrain(words({**run, **TINY_DECODER, "per_device_train_batch_size": 2}))
    said = capsys.readouterr().out
    assert "6 steps, 2 epochs of 3 steps and 6 clips" in said and "0 of 6 training videos were corrupt" in said
    finetune = runpy.run_path(str(SCRIPTS / "finetune.py"))["main"]
    run |= {"eval_data": tmp_path / "out/val", "output_dir": tmp_path / "fine", "per_device_train_batch_size": 3}
    finetune(words({**run, "model_name_or_path": tmp_path / "run"}))
    assert "2 validation videos" in capsys.readouterr().out
    config = json.loads((tmp_path / "fine/config.json").read_text())
    assert config["id2label"] == {"0": "Wave", "1": "Clap"}


def test_the_script_lists_the_downloads_of_kinetics_that_are_missing(videos, tmp_path):
    (tmp_path / "lists").mkdir()
    for name in ("train", "val"):
        lines = [f"a b,abcdefghij{i},{i},1{i},{name}\n" for i in range(5)]
        (tmp_path / f"lists/{name}.csv").write_text("label,youtube_id,time_start,time_end,split\n" + "".join(lines))
    (tmp_path / "videos").mkdir()
    for i in range(1, 5):
        copy = tmp_path / f"videos/abcdefghij{i}_00000{i}_00001{i}.mp4"
        copy.write_bytes(videos[i].read_bytes())
    main = runpy.run_path(str(SCRIPTS / "prepare_dataset.py"))["main"]
    options = {"annotations": tmp_path / "lists", "videos": tmp_path / "videos", "num_workers": 0}
    options["output_dir"] = tmp_path / "out"
    for _ in range(2):
        main(["kinetics", *words(options)])
        assert (tmp_path / "out/missing_train.txt").read_text() == "abcdefghij0_000000_000010\n"
        assert len(read_videos(tmp_path / "out/train.csv")) == 4
    with pytest.raises(ValueError, match="1 of 5 videos are missing, more than max_missing_share 0.1"):
        main(["kinetics", *words({**options, "max_missing_share": 0.1})])
    (tmp_path / "videos/abcdefghij0_000000_000010.mp4").write_bytes(videos[0].read_bytes())
    main(["kinetics", *words(options)])
    assert not (tmp_path / "out/missing_train.txt").exists() and len(read_videos(tmp_path / "out/train.csv")) == 5


def test_ego4ds_windows_become_a_table_or_files_of_their_own(tmp_path):
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    for uid in ("a1", "b2"):
        write_ramp(recordings / f"{uid}.mp4", num_frames=30, step=STEP)
    lists = tmp_path / "lists"
    lists.mkdir()
    windows = [("w1", "a1", 0.0, 0.4, True), ("w2", "a1", 0.4, 0.8, None), ("w3", "b2", 0.2, 1.0, False)]
    clips = [
        {"unique_id": u, "video_uid": v, "parent_start_sec": s, "parent_end_sec": e, "state_change": c}
        for u, v, s, e, c in windows
    ]
    (lists / "fho_oscc-pnr_train.json").write_text(json.dumps({"clips": clips[:2]}))
    (lists / "fho_oscc-pnr_val.json").write_text(json.dumps({"clips": clips[2:]}))
    main = runpy.run_path(str(SCRIPTS / "prepare_dataset.py"))["main"]
    options = {"annotations": lists, "videos": recordings, "num_workers": 0}
    main(["oscc", *words({**options, "output_dir": tmp_path / "table"})])
    table = read_videos(tmp_path / "table/train.parquet")
    assert table["unique_id"][:] == ["w1", "w2"] and table["label"][:] == [1, 0]
    assert (table["start_seconds"][:], table["end_seconds"][:]) == ([0.0, 0.4], [0.4, 0.8])
    assert json.loads((tmp_path / "table/report.json").read_text())["val"]["hours"] == pytest.approx(0.8 / 3600)
    main(["oscc", *words({**options, "output_dir": tmp_path / "files", "encode": True})])
    cut = read_videos(tmp_path / "files/train.csv")
    assert [probe_video(video).num_frames for video in cut["video"]] == [10, 10]
    assert np.abs(frame_levels(cut["video"][1]) - STEP * np.arange(10, 20)).max() < 3


# -- worker processes ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_worker_processes_prepare_what_one_process_does(tables, tmp_path):
    for num_workers in (0, 2):
        prepare_dataset(tables, tmp_path / str(num_workers), "tar", Encoding(gop=4), num_workers)
    one, two = (list(Shards(tmp_path / str(num_workers) / "train")) for num_workers in (0, 2))
    assert [row["label"] for row in one] == [row["label"] for row in two] and len(one) == 7
    for rows in zip(one, two, strict=True):
        # Not to the bit: x264's assembly reads memory that nobody has written, and is too fast to do without.
        first, second = (decode_frames(row["video"]["bytes"]).float() for row in rows)
        assert first.shape == second.shape and (first - second).abs().mean() < 2
