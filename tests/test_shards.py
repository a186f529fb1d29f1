"""Shards: what their files hold, by number; tar files of other writers; and files that claim what is not so."""

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest

import videoms_hf.data.shards as shards_module
import videoms_hf.data.streaming as streaming
from videoms_hf.data.annotations import read_videos
from videoms_hf.data.shards import INDEX_FILE, Shards, add_video, tar_writer
from videoms_hf.data.streaming import VideoStream
from videoms_hf.data.tables import video_name

from .shard_files import SIZES


def test_shards_hold_the_videos_by_number_with_bytes_and_labels(shard_folder, contents):
    shards = Shards(shard_folder, require_labels=True)
    assert len(shards) == 28 and [shard.num_videos for shard in shards.shards] == SIZES
    assert shards.class_names == shards.features["label"].names == ["wave", "clap", "jump"]
    for number, row in enumerate(shards):
        assert row["video"]["bytes"] == contents[number] and row["label"] == number % 3
        assert f"{number:06d}.avi" in video_name(row)
    rows = shards.read([27, 0, 11, 11])
    assert [row["video"]["bytes"] for row in rows] == [contents[i] for i in (27, 0, 11, 11)]
    with pytest.raises(IndexError, match="from 0 to 27"):
        shards[28]


def test_shards_may_be_read_as_a_table_and_have_the_classes_of_another(shard_folder, contents):
    table = read_videos(shard_folder)
    assert [row["bytes"] for row in table["video"]] == contents
    assert table["label"][:] == [i % 3 for i in range(28)] and table.features["label"].names == [
        "wave",
        "clap",
        "jump",
    ]
    shards = Shards(shard_folder, class_names=["jump", "clap", "run", "wave"])
    assert [row["label"] for row in shards.read(range(3))] == [3, 1, 0]
    with pytest.raises(ValueError, match="has the classes 'jump', not among 'clap', 'wave'"):
        Shards(shard_folder, class_names=["clap", "wave"])


def write_tar(path, **files):
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("__", "."))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path.parent


def test_labels_of_other_writers_of_tar_files_are_read(tmp_path, contents):
    v = contents[0]
    files = {
        "a__mp4": v,
        "a__cls": b"1\n",
        "b__cls": b"wave",
        "b__mp4": v,
        "c__json": b'{"label": "clap"}',
        "c__mp4": v,
    }
    folder = write_tar(tmp_path / "x.tar", **files, d__mp4=v)
    assert [row["label"] for row in Shards(folder)] == [-1, -1, -1, -1]
    with pytest.raises(ValueError, match="does not say what its classes are called; put a classes.txt"):
        Shards(folder, require_labels=True)
    shards = Shards(folder, class_names=["wave", "clap"], require_labels=True)
    assert [row["label"] for row in shards.read(range(3))] == [1, 0, 1]
    with pytest.raises(ValueError, match="video 3 of .*x.tar has no label; it must be a number from 0 to 1 or one of"):
        shards[3]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a__mp4": b"x", "a__avi": b"y"}, "has 2 videos of the name a; it must have one"),
        ({"a__cls": b"1"}, "has 0 videos of the name a"),
        ({"a__mp4": b"x", "a__json": b"{"}, "what it says about a cannot be read"),
    ],
)
def test_a_tar_file_of_another_form_is_refused_by_name(tmp_path, files, message):
    shards = Shards(write_tar(tmp_path / "x.tar", **files))
    with pytest.raises(ValueError, match=f"x.tar.*{message}"):
        shards[0]


def test_a_cut_shard_is_refused_by_name_and_an_empty_folder_too(tars, tmp_path):
    (tmp_path / "cut.tar").write_bytes((tars / "0.tar").read_bytes()[:-30000])
    with pytest.raises(ValueError, match="cut.tar cannot be read"):
        Shards(tmp_path)
    (tmp_path / "cut.tar").unlink()
    with pytest.raises(ValueError, match="holds no shard"):
        Shards(tmp_path)


def write_index(folder):
    shards = Shards(folder).shards
    index = {Path(path).name: {"num_videos": count, "num_bytes": os.path.getsize(path)} for path, count, _ in shards}
    (folder / INDEX_FILE).write_text(json.dumps(index))


def test_an_index_saves_counting_unless_a_shard_has_changed(tars, tmp_path, monkeypatch):
    for path in tars.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write_index(tmp_path)
    counted = []
    count = shards_module.count_videos
    monkeypatch.setattr(shards_module, "count_videos", lambda path: counted.append(path) or count(path))
    assert len(Shards(tmp_path)) == 28 and counted == []
    (tmp_path / "4.tar").write_bytes((tars / "0.tar").read_bytes())
    assert len(Shards(tmp_path)) == 29 and counted == [str(tmp_path / "4.tar")]
    (tmp_path / INDEX_FILE).write_text("[]")
    with pytest.raises(ValueError, match="shards.json is not an index of shards"):
        Shards(tmp_path)


def pax(body):
    """A pax header for the member behind it."""
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, len(body)
    return member.tobuf(tarfile.USTAR_FORMAT) + body.ljust(512, b"\0")


def member(name="a.mp4", size=4, type=tarfile.REGTYPE, linkname=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, type, linkname
    return info.tobuf(tarfile.GNU_FORMAT) + b"data".ljust(512, b"\0") * (type == tarfile.REGTYPE)


HOSTILE = {
    "symbolic link": member(type=tarfile.SYMTYPE, size=0, linkname="/etc/passwd"),
    "hard link": member(type=tarfile.LNKTYPE, size=0, linkname="../secret.mp4"),
    "device": member(type=tarfile.CHRTYPE, size=0),
    "pipe": member(type=tarfile.FIFOTYPE, size=0),
    "sparse": pax(b"22 GNU.sparse.major=0\n22 GNU.sparse.minor=1\n30 GNU.sparse.size=1000000000000\n") + member(),
    "larger than its archive": member(size=1 << 40),
    "larger than memory": member(size=1 << 80),
    "negative": member(size=-1024),
    "negative by pax": pax(b"14 size=-1024\n") + member(),
    "headers without end": pax(b"12 comment=x\n") * 3000 + member(),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_tar_file_that_is_more_than_plain_files_is_refused_by_name(tmp_path, kind):
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/x.tar").write_bytes(member("first.mp4") + HOSTILE[kind] + member("last.mp4") + bytes(1024))
    for read in (Shards, read_videos):
        with pytest.raises(ValueError, match=r"shards/x.tar cannot be read"):
            read(tmp_path / "shards")


@pytest.mark.parametrize("name", ["/etc/passwd", "../../escaped.mp4", "a/../../../escaped.mp4", "x\\..\\y.mp4"])
def test_names_in_a_tar_file_are_names_only(tmp_path, name):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/x.tar").write_bytes(member(name) + bytes(1024))
    (row,) = Shards(tmp_path / "shards")
    assert row["video"]["bytes"] == b"data" and row["video"]["path"].startswith(f"{tmp_path}/shards/x.tar/")
    assert os.listdir(tmp_path) == ["shards"]


@pytest.mark.parametrize("count", [-1, "7", None, 10**12])
def test_an_index_that_miscounts_is_refused(shard_folder, tmp_path, count):
    shard = next(shard_folder.glob("0.*"))
    shutil.copy(shard, tmp_path)
    index = {shard.name: {"num_videos": count, "num_bytes": os.path.getsize(shard)}}
    (tmp_path / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="shards.json.*; remove it"):
        Shards(tmp_path)[0]


def test_an_epoch_reads_the_headers_of_each_shard_once(contents, tmp_path, monkeypatch):
    num_shards = streaming.LANES + 8
    for shard in range(num_shards):
        with tar_writer(tmp_path / f"{shard:03d}.tar") as tar:
            for number in range(4):
                add_video(tar, str(number), "avi", contents[number], {})
    write_index(tmp_path)
    shards_module._tar_starts.cache_clear()
    videos = VideoStream(Shards(tmp_path))
    assert len(list(videos)) == 4 * num_shards
    assert shards_module._tar_starts.cache_info().misses == num_shards
