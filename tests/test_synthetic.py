"""The rendered data set: real video files, complete or absent, in which only motion tells the classes apart."""

import json

import av
import numpy as np
import pytest
import torch

from videoms_hf.experiments import synthetic
from videoms_hf.experiments.synthetic import MOTIONS, motion_places, render_motion_clip, render_motion_dataset


NAMES = list(MOTIONS)
SMALL = {"num_train": 16, "num_val": 8, "num_test": 9, "image_size": 32, "num_frames": 6}


@pytest.fixture(scope="module")
def small_dataset(tmp_path_factory):
    return render_motion_dataset(tmp_path_factory.mktemp("synthetic") / "motion", seed=3, **SMALL)


@pytest.fixture(scope="module")
def clips():
    """30 clips of each class, 32 x 32 x 12 frames: grey values (240, 12, 32, 32) and labels."""
    rendered = [render_motion_clip(NAMES[i % 8], 32, 12, np.random.default_rng([7, i])) for i in range(240)]
    return torch.stack(rendered).float().mean(dim=2), torch.arange(240) % 8


def decode(path):
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context.name
        return codec, np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def rows_of(table):
    return [line.rsplit(maxsplit=1) for line in table.read_text().splitlines()]


def test_every_listed_file_decodes_to_the_frames_that_were_asked_for(small_dataset):
    videos = [path for split in ("train", "val", "test") for path, _ in rows_of(small_dataset / f"{split}.csv")]
    assert len(videos) == 33 == len(list(small_dataset.rglob("*.mp4"))) + len(list(small_dataset.rglob("*.avi")))
    for path in videos:
        codec, frames = decode(small_dataset / path)
        assert codec == {"mp4": "h264", "avi": "mpeg4"}[path[-3:]]
        assert frames.shape == (6, 32, 32, 3)
        assert np.abs(frames[-1].astype(int) - frames[0]).max() > 20, f"nothing moves in {path}"


def test_an_encoded_file_shows_the_rendered_frames(small_dataset):
    for number, name in enumerate(["left/0000.mp4", "right/0000.avi"]):
        clip = render_motion_clip(name.split("/")[0], 32, 6, np.random.default_rng([3, 0, number]))
        difference = decode(small_dataset / "train" / name)[1] - clip.permute(0, 2, 3, 1).numpy().astype(float)
        assert np.abs(difference).mean() < 8, f"{name} shows something else"


def test_tables_have_the_official_form_and_even_classes(small_dataset):
    assert (small_dataset / "classes.txt").read_text().splitlines() == NAMES
    for split, count in (("train", 16), ("val", 8), ("test", 9)):
        rows = rows_of(small_dataset / f"{split}.csv")
        assert len(rows) == count
        assert all(path.split("/")[:2] == [split, NAMES[int(label)]] for path, label in rows)
        counts = np.bincount([int(label) for _, label in rows], minlength=8)
        assert counts.max() - counts.min() <= 1
    pretraining = rows_of(small_dataset / "pretrain.csv")
    assert [path for path, _ in pretraining] == [path for path, _ in rows_of(small_dataset / "train.csv")]
    assert {label for _, label in pretraining} == {"-1"}


def test_both_containers_are_equally_frequent_in_every_class(small_dataset):
    for name in NAMES:
        assert sorted(path.suffix for path in (small_dataset / "train" / name).iterdir()) == [".avi", ".mp4"]


def test_the_same_seed_gives_the_same_files_and_another_one_others(small_dataset, tmp_path):
    again = render_motion_dataset(tmp_path / "again", seed=3, **SMALL)
    other = render_motion_dataset(tmp_path / "other", seed=4, **SMALL)
    for path, _ in rows_of(small_dataset / "train.csv"):
        pixels = decode(small_dataset / path)[1]
        assert np.array_equal(pixels, decode(again / path)[1])
        assert not np.array_equal(pixels, decode(other / path)[1])


@pytest.mark.parametrize("encoding", synthetic.ENCODINGS, ids=lambda encoding: encoding[0])
def test_a_clip_is_encoded_to_the_same_bytes_whatever_was_in_memory(encoding, tmp_path):
    codec, suffix, options = encoding
    rng = np.random.default_rng(0)
    for name in NAMES[:3]:
        clip, files = render_motion_clip(name, 80, 40, np.random.default_rng(5)), set()
        for _ in range(20):
            sizes, levels = rng.integers(100, 300_000, 200), rng.integers(256, size=200)
            old = [np.full(size, level, np.uint8) for size, level in zip(sizes, levels, strict=True)]
            del old  # freed memory full of other numbers
            synthetic.encode_video(clip, tmp_path / f"clip{suffix}", codec, options)
            files.add((tmp_path / f"clip{suffix}").read_bytes())
        assert len(files) == 1


def test_train_and_test_videos_differ(small_dataset):
    train, test = decode(small_dataset / "train/up/0000.mp4")[1], decode(small_dataset / "test/up/0000.mp4")[1]
    assert not np.array_equal(train, test)


def test_rendering_leaves_the_global_random_states_alone():
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    render_motion_clip("left", 32, 2, np.random.default_rng(0))
    assert torch.equal(torch.get_rng_state(), states[0]) and np.array_equal(np.random.get_state()[1], states[1])


@pytest.mark.parametrize("motion", NAMES)
def test_the_place_is_uniform_at_every_frame_of_every_class(motion):
    rng = np.random.default_rng(0)
    places = np.stack([motion_places(motion, 12, rng) for _ in range(4000)])
    assert places.min() >= 0 and places.max() < 1
    steps = np.arange(1, 4001)[:, None, None] / 4000
    distance = np.abs(np.sort(places, axis=0) - steps).max(axis=0)  # Kolmogorov-Smirnov
    assert distance.max() < 0.035  # 0.1 % of uniform samples are above 1.95 / sqrt(4000) = 0.031


@pytest.mark.parametrize("motion", NAMES)
def test_a_class_moves_in_one_direction_at_a_constant_speed(motion):
    places = motion_places(motion, 9, np.random.default_rng(1))
    steps = (np.diff(places, axis=0) + 0.5) % 1 - 0.5
    speeds = np.hypot(*steps.T)
    assert np.ptp(speeds) < 1e-9 and synthetic.SPEEDS[0] <= speeds[0] <= synthetic.SPEEDS[1]
    np.testing.assert_allclose(steps / speeds[:, None], [MOTIONS[motion]] * 8, atol=1e-9)


def ridge_accuracy(features, labels, num_train, penalty):
    """Share of the later rows that a linear classifier, fitted to the first `num_train`, gets right."""
    features = torch.cat([features, torch.ones(len(features), 1)], dim=1).double()
    targets = torch.nn.functional.one_hot(labels, 8).double()
    train, test = slice(0, num_train), slice(num_train, None)
    gram = features[train].T @ features[train] + penalty * torch.eye(features.shape[1])
    scores = features[test] @ torch.linalg.solve(gram, features[train].T @ targets[train])
    return (scores.argmax(dim=1) == labels[test]).double().mean().item()


@pytest.mark.parametrize("frame", [0, 6, 11])
def test_single_frames_are_near_chance(clips, frame):
    grey, labels = clips
    pixels = torch.nn.functional.avg_pool2d(grey[:, frame], 2).flatten(1)
    pixels = (pixels - pixels.mean(dim=1, keepdim=True)) / pixels.std(dim=1, keepdim=True)
    # 120 guesses at 1 in 8: 15 +- 3.6 right.
    assert ridge_accuracy(pixels, labels, 120, penalty=30.0) < 0.23


def flow(clip):
    """Least-squares motion of what changes, in columns and rows, from brightness constancy."""
    change, middle = clip[1:] - clip[:-1], (clip[1:] + clip[:-1]) / 2
    slopes = torch.stack([(middle.roll(-1, dim) - middle.roll(1, dim)) / 2 for dim in (2, 1)], dim=-1)
    votes = [
        torch.linalg.lstsq(slope.flatten(0, 1), -step.flatten()[:, None]).solution[:, 0]
        for slope, step in zip(slopes, change, strict=True)
    ]
    return torch.stack(votes).median(dim=0).values


def test_motion_between_frames_tells_the_classes_apart(clips):
    grey, labels = clips
    flows = torch.stack([flow(clip) for clip in grey])
    guesses = (flows @ torch.tensor(list(MOTIONS.values())).T).argmax(dim=1)
    assert (guesses == labels).double().mean() > 0.95


def test_a_complete_data_set_is_reused_without_rendering(small_dataset, monkeypatch):
    monkeypatch.setattr(synthetic, "_render", lambda *_: pytest.fail("rendered again"))
    assert render_motion_dataset(small_dataset, seed=3, **SMALL) == small_dataset


def test_other_settings_are_refused_and_nothing_is_changed(small_dataset):
    before = sorted(small_dataset.rglob("*"))
    with pytest.raises(FileExistsError, match="'seed': 3.*'seed': 5"):
        render_motion_dataset(small_dataset, seed=5, **SMALL)
    assert sorted(small_dataset.rglob("*")) == before


def test_a_folder_with_other_content_is_refused_and_nothing_is_deleted(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not a rendered motion data set"):
        render_motion_dataset(tmp_path, **SMALL)
    assert (tmp_path / "thesis.txt").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_a_data_set_that_lost_a_video_is_refused(tmp_path):
    folder = render_motion_dataset(tmp_path / "motion", **SMALL)
    (folder / "val/down/0000.avi").unlink()
    with pytest.raises(FileExistsError, match="0000.avi is missing"):
        render_motion_dataset(folder, **SMALL)


def test_an_empty_folder_is_filled(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    assert (render_motion_dataset(folder, **SMALL) / "train.csv").is_file()


def test_an_interrupted_rendering_leaves_nothing_behind(tmp_path, monkeypatch):
    encode = synthetic.encode_video
    written = []

    def interrupted(clip, path, *args):
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(path)
        encode(clip, path, *args)

    monkeypatch.setattr(synthetic, "encode_video", interrupted)
    with pytest.raises(KeyboardInterrupt):
        render_motion_dataset(tmp_path / "motion", **SMALL)
    assert len(written) == 5 and not list(tmp_path.iterdir())


def test_the_rendered_folder_is_renamed_as_a_whole(tmp_path, monkeypatch):
    render, inodes = synthetic._render, []

    def watched(partial, settings):
        render(partial, settings)
        assert not (tmp_path / "motion").exists()
        inodes.append(partial.stat().st_ino)

    monkeypatch.setattr(synthetic, "_render", watched)
    assert [render_motion_dataset(tmp_path / "motion", **SMALL).stat().st_ino] == inodes


def test_a_data_set_that_another_process_finished_meanwhile_is_taken(tmp_path, monkeypatch):
    render = synthetic._render

    def slow(partial, settings):
        render(partial, settings)
        monkeypatch.setattr(synthetic, "_render", render)
        render_motion_dataset(tmp_path / "motion", **SMALL)

    monkeypatch.setattr(synthetic, "_render", slow)
    folder = render_motion_dataset(tmp_path / "motion", **SMALL)
    assert json.loads((folder / "dataset.json").read_text())["num_test"] == 9
    assert [path.name for path in tmp_path.iterdir()] == ["motion"]


@pytest.mark.parametrize(
    "field, value, wanted",
    [("num_train", 0, "at least 1"), ("image_size", 33, "even"), ("image_size", 16, "32"), ("num_frames", 1, "2")],
)
def test_numbers_out_of_range_are_refused(tmp_path, field, value, wanted):
    with pytest.raises(ValueError, match=f"{field} is {value}.*{wanted}"):
        render_motion_dataset(tmp_path / "motion", **{**SMALL, field: value})
    assert not list(tmp_path.iterdir())


def test_a_moving_camera_moves_the_background_and_the_class_is_the_motion_over_it(tmp_path, monkeypatch):
    paths, paste, pans, background = [], synthetic._paste, [], synthetic._panned_background
    monkeypatch.setattr(synthetic, "_paste", lambda *args: paths.append(args[2]) or paste(*args))
    monkeypatch.setattr(synthetic, "_panned_background", lambda *args: pans.append(args[1]) or background(*args))
    still, moving = (
        render_motion_clip("left", 32, 6, np.random.default_rng(1), moving_camera).float()
        for moving_camera in (False, True)
    )
    assert ((moving[-1] - moving[0]).abs().mean(dim=0) > 4).float().mean() > 0.6
    assert ((still[-1] - still[0]).abs().mean(dim=0) > 4).float().mean() < 0.6
    assert 0.01 <= np.hypot(*(pans[0][1] - pans[0][0])) <= 0.03
    # In the picture the object moves by its own motion less that of the camera, on the torus.
    np.testing.assert_allclose((paths[0] - paths[1] - pans[0] + 0.5) % 1, 0.5)
    folder = render_motion_dataset(tmp_path / "motion", moving_camera=True, **SMALL)
    assert json.loads((folder / synthetic.SETTINGS_FILE).read_text())["moving_camera"] is True
    with pytest.raises(FileExistsError, match="wanted is"):
        render_motion_dataset(folder, **SMALL)
