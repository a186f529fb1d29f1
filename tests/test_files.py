"""Files and folders appear complete or not at all, with the permissions of the umask."""

import os
import stat

import pytest
import torch

from videoms_hf.data.preparation import prepare_dataset, write_list
from videoms_hf.data.tables import make_table
from videoms_hf.data.transcoding import Encoding
from videoms_hf.experiments.synthetic import render_motion_dataset
from videoms_hf.files import PARTIAL_NAME, atomic_path, write_json, write_text
from videoms_hf.training.optimization import WeightAverage

from .video_files import write_ramp


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_an_old_file_stays_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with atomic_path(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old" and partial.parent == tmp_path and PARTIAL_NAME.fullmatch(partial.name)
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["x.txt"]


def test_a_failure_leaves_the_old_file_or_no_folder(tmp_path):
    write_text(tmp_path / "x.txt", "old")
    for name in ("x.txt", "folder"):
        with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / name) as partial:
            if name == "folder":
                partial.mkdir()
                (partial / "a").write_text("half")
            else:
                partial.write_text("half")
            raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["x.txt"] and (tmp_path / "x.txt").read_text() == "old"


def test_two_writers_of_one_file_do_not_share_a_temporary_one(tmp_path):
    with atomic_path(tmp_path / "x") as one, atomic_path(tmp_path / "x") as other:
        one.write_text("one"), other.write_text("other")
    assert (tmp_path / "x").read_text() == "one" and os.listdir(tmp_path) == ["x"]


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path):
    write_text(tmp_path / ("ü" * 127), "x")
    assert os.listdir(tmp_path) == ["ü" * 127]


def test_whatever_is_written_has_the_permissions_of_the_umask(tmp_path, umask):
    video = write_ramp(tmp_path / "a.mp4", num_frames=3)
    table = make_table([str(video)], [0], ["a"])
    for form in ("csv", "tar", "parquet"):
        prepare_dataset({"train": table}, tmp_path / form, form, Encoding())
    write_list(table, tmp_path, "list")
    write_json({"x": [1]}, tmp_path / "report/x.json")
    render_motion_dataset(tmp_path / "motion", num_train=1, num_val=1, num_test=1, image_size=32, num_frames=2)
    WeightAverage(torch.nn.Linear(2, 2), 0.5).save(tmp_path / "average.safetensors")
    found = list(tmp_path.rglob("*"))
    assert len(found) > 30
    for path in found:
        wanted = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.stat().st_mode) == wanted & ~umask, path
