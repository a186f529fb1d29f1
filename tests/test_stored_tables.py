"""Tables that datasets stores, in files, shards and on the Hub, with the videos inside or next to them."""

import os
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest

from tests.processes import run_program
from videoms_hf.data.annotations import read_videos
from videoms_hf.data.dataset import ClipDataset, ViewDataset
from videoms_hf.data.tables import make_table, video_name, video_names
from videoms_hf.decoding_videoms import VideoDecodeError

from . import hub_server
from .video_files import write_ramp


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """Three real videos, and a table of their bytes and names."""
    folder = tmp_path_factory.mktemp("embedded")
    videos = [write_ramp(folder / f"v{i}.mp4", num_frames=6 + i) for i in range(3)]
    content = [{"path": video.name, "bytes": video.read_bytes()} for video in videos]
    return videos, make_table(content, [1, 0, -1], ["wave", "clap"])


def lengths(table):
    clips = ClipDataset(table, lambda length, rng: np.full(2, length - 1), lambda frames: frames, with_labels=False)
    return [int(clips[i]["pixel_values"][0, 0, 0, 0] / 20 + 1.5) for i in range(len(table))]


@pytest.mark.parametrize("form", ["parquet", "shards", "saved", "saved splits", "repository"])
def test_embedded_videos_are_read_from_every_form_that_datasets_stores(embedded, tmp_path, form):
    _, table = embedded
    path = tmp_path / "data"
    if form == "parquet":
        path = tmp_path / "data.parquet"
        table.to_parquet(path)
    elif form == "shards":
        path.mkdir()
        table.select([0]).to_parquet(path / "0.parquet"), table.select([1, 2]).to_parquet(path / "1.parquet")
    elif form == "saved":
        table.save_to_disk(path)
    elif form == "saved splits":
        datasets.DatasetDict({"train": table, "test": table.select([1])}).save_to_disk(path)
        with pytest.raises(ValueError, match="has the splits 'train', 'test', one must be chosen; write .*:train"):
            read_videos(path)
        assert read_videos(f"{path}:test")["label"][:] == [0]
        path = f"{path}:train"
    else:
        (path / "data").mkdir(parents=True)
        table.to_parquet(path / "data" / "train-00000-of-00001.parquet")
    read = read_videos(path)
    assert read.features["label"].names == ["wave", "clap"] and read["label"][:] == [1, 0, -1]
    assert video_names(read) == ["v0.mp4", "v1.mp4", "v2.mp4"] == [video_name(row) for row in read]
    assert lengths(read) == [6, 7, 8]
    with pytest.raises(ValueError, match="1 labels that cannot be used:\n  row 2: the video has no label"):
        read_videos(path, require_labels=True)
    other = read_videos(path, class_names=["jump", "clap", "wave"])
    assert other["label"][:] == [1, 2, -1] and other.features["label"].names == ["jump", "clap", "wave"]
    with pytest.raises(ValueError, match="row 0: the label is 'clap'; it must be one of 'wave'"):
        read_videos(path, class_names=["wave"])


def test_a_stored_table_of_paths_keeps_its_windows_and_misses_no_file_unseen(embedded, tmp_path):
    videos, _ = embedded
    data = {
        "clip": [str(videos[0]), videos[1].name],
        "label": ["wave", "clap"],
        "end_seconds": [0.1, None],
        "caption": ["a", "b"],
    }
    path = videos[0].parent / "paths.parquet"
    datasets.Dataset.from_dict(data).to_parquet(path)
    with pytest.raises(ValueError, match="has no column of videos; call it 'video'. It has 'clip', 'label'"):
        read_videos(path)
    data["video"] = data.pop("clip")
    datasets.Dataset.from_dict(data).to_parquet(path)
    table = read_videos(path)
    assert table.column_names == ["video", "label", "end_seconds"]
    assert table["video"][:] == [str(videos[0]), str(videos[1])]
    assert table["label"][:] == [1, 0] and table.features["label"].names == ["clap", "wave"]
    assert lengths(table) == [3, 7]  # 0.1 s of 25 frames a second
    with pytest.raises(ValueError, match="names 1 videos that cannot be used:\n  row 1: there is no file .*v1.mp4"):
        read_videos(path, root=tmp_path)


@pytest.mark.parametrize("name", ["path", "video", "Video Path", "filename"])
@pytest.mark.parametrize(
    ("column", "labels", "expected"),
    [
        ("label", [0.0, 1.0], [0, 1]),
        ("labels", [1, 0], [1, 0]),
        ("class", ["wave", "clap"], [1, 0]),
        ("label", ["1", "0"], [1, 0]),
        ("label", [float("nan"), 0.0], [-1, 0]),
        ("target", [True, False], [1, 0]),
    ],
)
def test_parquet_is_read_as_pandas_writes_it(embedded, tmp_path, name, column, labels, expected):
    pandas = pytest.importorskip("pandas")
    videos = [str(video) for video in embedded[0][:2]]
    pandas.DataFrame({name: videos, column: labels}).to_parquet(tmp_path / "t.parquet")
    table = read_videos(tmp_path / "t.parquet", require_labels=-1 not in expected)
    assert list(zip(table["video"], table["label"], strict=True)) == list(zip(videos, expected, strict=True))


def test_stored_rows_without_a_video_or_with_several_labels_are_named(embedded, tmp_path):
    def read(**columns):
        datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "t.parquet")
        return read_videos(tmp_path / "t.parquet", require_labels=True)

    videos, table = [str(video) for video in embedded[0][:2]], embedded[1]
    with pytest.raises(ValueError, match="row 1: the label is .1.; each video must have one label"):
        read(video=videos, label=[[0, 1], [1]])
    with pytest.raises(ValueError, match="1 videos that cannot be used:\n  row 1: there is neither a path nor bytes"):
        read(video=[videos[0], None], label=[0, 1])
    empty = {"path": None, "bytes": None}
    with pytest.raises(ValueError, match="1 videos that cannot be used:\n  row 1: there is neither a path nor bytes"):
        read(video=[table[0]["video"], empty, table[1]["video"]], label=[0, 1, 1])
    with pytest.raises(ValueError, match="column 'video' of .* has neither paths nor bytes"):
        read(video=[1, 2], label=[0, 1])
    with pytest.raises(ValueError, match="no column of labels; call it 'label'. It has .*'kind'"):
        read(video=videos, kind=[0, 1])


def test_a_name_that_neither_disk_nor_hub_knows_is_refused_with_both(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither a file nor a folder someone/videos, and no dataset"):
        read_videos("someone/videos")
    with pytest.raises(FileNotFoundError):
        read_videos("lists/train.csv")


def test_a_broken_embedded_video_is_named(embedded):
    _, table = embedded
    rows = [table[0]["video"], {"path": "corrupt.mp4", "bytes": b"no video"}, {"path": None, "bytes": b"x"}]
    clips = ClipDataset(
        make_table(rows, [0, 0, 0], ["a"]), lambda length, rng: np.zeros(2, int), lambda f: f, max_bad_share=1
    )
    for i in range(3):
        assert clips[i]["pixel_values"].shape[0] == 2
    assert [bad.path for bad in clips.bad_videos()] == ["corrupt.mp4", "video of 1 bytes"]
    with pytest.raises(VideoDecodeError, match="^corrupt.mp4: FFmpeg cannot read it"):
        ViewDataset(clips.table, 2, 1)[1]


READ_FROM_HUB = """
import sys
from videoms_hf.data.annotations import read_videos
from videoms_hf.data.dataset import ViewDataset
for name in ("tester/clips:train", "tester/clips:test"):
    table = read_videos(name, require_labels=True)
    print(table.features["label"].names, table["label"][:], len(ViewDataset(table, 2, 1, size=16)))
    print(tuple(ViewDataset(table, 2, 1, size=16)[0]["pixel_values"].shape))
try:
    read_videos("tester/clips")
except ValueError as error:
    print(error)
"""


@pytest.mark.slow  # a fresh process, for the client reads the Hub's address when it is imported
def test_a_data_set_of_the_hub_is_read_by_its_name(embedded, tmp_path, monkeypatch):
    _, table = embedded
    name = hub_server.NAME
    monkeypatch.setattr(
        hub_server,
        "ROUTES",
        [
            *hub_server.ROUTES,
            (f"/api/datasets/{name}(?:/revision/([^/]+))?", hub_server.Request.info),
            (f"/api/datasets/{name}/tree/([^/]+)(?:/(.+))?", hub_server.Request.tree),
            (f"/api/datasets/{name}/paths-info/([^/]+)", hub_server.Request.paths),
            (f"/datasets/{name}/resolve/([^/]+)/(.+)", hub_server.Request.resolve),
        ],
    )
    files = {}
    for split, rows in {"train": [0, 1], "test": [1]}.items():
        table.select(rows).to_parquet(tmp_path / "x.parquet")
        files[f"{split}.parquet"] = hub_server.Stored((tmp_path / "x.parquet").read_bytes(), True)
    with hub_server.running_hub() as hub:
        hub.repositories["tester/clips"] = hub_server.Repository()
        hub.repositories["tester/clips"].add(files)
        environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")}
        environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        done = run_program(
            [sys.executable, "-c", READ_FROM_HUB],
            env=environment,
            cwd=Path(__file__).parents[1],
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[:4] == [
        "['wave', 'clap'] [1, 0] 2",
        "(2, 3, 16, 16)",
        "['wave', 'clap'] [0] 1",
        "(2, 3, 16, 16)",
    ]
    assert "has the splits 'train', 'test', one must be chosen; write tester/clips:train" in done.stdout
