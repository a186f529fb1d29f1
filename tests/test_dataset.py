"""Clips from real files: which frames, the same everywhere, and broken files that nobody overlooks."""

import itertools
from functools import partial

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Features, Value
from PIL import Image
from torch.utils.data import DataLoader
from transformers.utils import logging

from videoms_hf.data.collate import MixingCollator, collate_clips
from videoms_hf.data.dataset import ClipDataset, ViewDataset
from videoms_hf.data.scanning import scan_tables
from videoms_hf.data.seeding import SeededClips
from videoms_hf.data.transforms import EvaluationTransform, FinetuningTransform, PretrainingTransform
from videoms_hf.decoding_videoms import FileReader, VideoDecodeError, decode_frames, probe_video
from videoms_hf.sampling_videoms import finetuning_clip, pretraining_clip, segment_clip, validation_clip
from videoms_hf.training import AugmentationArguments, DataArguments, finetuning_clips

from .video_files import write_ramp, write_sound, write_video


CLIP = {"num_frames": 4, "stride": 2}
PRETRAINING, FINETUNING = partial(pretraining_clip, **CLIP), partial(finetuning_clip, **CLIP)
STEP = 9  # grey levels from frame to frame of the videos here: the level tells the number


def keep_frames(frames):
    """No transform, but a draw from torch's generator in the last frame's first pixel."""
    frames = frames.to(torch.float32)
    frames[-1, 0, 0, 0] = torch.rand(())
    return frames


def frame_numbers(clip):
    return (clip[:, 1].mean(dim=(1, 2)) / STEP).round().long().tolist()


def make_table(videos, labels, num_classes=3, **columns):
    names = [f"class_{i}" for i in range(num_classes)]
    features = Features({"video": Value("string"), "label": ClassLabel(names=names)})
    features |= {name: Value("float64") for name in columns}
    data = {"video": [str(video) for video in videos], "label": labels, **columns}
    return datasets.Dataset.from_dict(data, features=Features(features))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three good videos of 26 frames, 32 x 48, 48 x 32 and 32 x 48."""
    folder = tmp_path_factory.mktemp("good videos")
    ramp = partial(write_ramp, num_frames=26, step=STEP)
    return [
        ramp(folder / "a b.mp4"),
        ramp(folder / "c.mkv", height=48, width=32, g="5"),
        ramp(folder / "d.avi", codec="mpeg4", qmin="1", qmax="2"),
    ]


@pytest.fixture(scope="module")
def bad_videos(tmp_path_factory, videos):
    """Files that give no clip, by what is wrong with them."""
    folder = tmp_path_factory.mktemp("bad videos")
    text, empty, cut = folder / "text.mp4", folder / "empty.avi", folder / "cut.mp4"
    text.write_text("This is not a video.")
    empty.touch()
    whole = videos[0].read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    return {
        "text": text,
        "empty": empty,
        "cut": cut,
        "sound": write_sound(folder / "sound.mp4"),
        "one frame": write_ramp(folder / "one.mp4", num_frames=1),
        "missing": folder / "missing.mp4",
    }


@pytest.fixture(scope="module")
def table(videos):
    return make_table(videos * 4, [0, 1, 2] * 4)


@pytest.fixture(scope="module")
def corrupted(videos, bad_videos):
    """120 rows, of which 7, 27, 47 ... are the bad videos: exactly 5 %."""
    rows = list(itertools.islice(itertools.cycle(videos), 120))
    for i, video in enumerate(bad_videos.values()):
        rows[20 * i + 7] = video
    return make_table(rows, [i % 3 for i in range(120)])


@pytest.fixture
def log(caplog):
    """What the library logs."""
    logging.enable_propagation()
    yield caplog
    logging.disable_propagation()


def load(dataset, num_workers=0, **options):
    """All items of a data set, in order, through a loader in batches of 3."""
    loader = DataLoader(dataset, batch_size=3, num_workers=num_workers, collate_fn=list, **options)
    return [item for batch in loader for item in batch]


def same(items, others):
    return len(items) == len(others) and all(
        a.keys() == b.keys() and all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)
        for a, b in zip(items, others, strict=True)
    )


# -- training clips --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choose", [PRETRAINING, FINETUNING])
def test_a_clip_has_the_frames_that_were_chosen_and_its_videos_label(table, choose):
    dataset = ClipDataset(table, choose, keep_frames)
    starts = set()
    for epoch, index in itertools.product(range(4), range(len(dataset))):
        dataset.set_epoch(epoch)
        item = dataset[index]
        assert item["labels"] == index % 3
        numbers = frame_numbers(item["pixel_values"])
        steps = [0, 2, 4, 6] if choose is PRETRAINING else [0, 2, 5, 7]
        assert numbers == [numbers[0] + step for step in steps]
        starts.add(numbers[0])
    assert len(starts) > 10 and max(starts) <= 26 - 8


def test_pretraining_items_have_no_labels_and_need_none(videos):
    unlabelled = make_table(videos, [-1, -1, 0])
    assert ClipDataset(unlabelled, PRETRAINING, keep_frames, with_labels=False)[0].keys() == {"pixel_values"}
    with pytest.raises(ValueError, match="2 of 3 videos are unlabelled, first .*a b.mp4 in row 0"):
        ClipDataset(unlabelled, FINETUNING, keep_frames)


@pytest.mark.parametrize(
    "transform", [PretrainingTransform(16), FinetuningTransform(16), EvaluationTransform(16)], ids=lambda t: type(t)
)
def test_the_package_s_transforms_fit(table, transform):
    items = load(ClipDataset(table, FINETUNING, transform))
    assert all(item["pixel_values"].shape == (4, 3, 16, 16) for item in items)
    assert all(item["pixel_values"].dtype == torch.uint8 for item in items)


def count_decodings(monkeypatch):
    """A list that grows by the wanted frame numbers at every decoding."""
    decoded, clips = [], FileReader.clips

    def count(video, indices, crops=None):
        decoded.append(np.concatenate(indices).tolist())
        return clips(video, indices, crops)

    monkeypatch.setattr(FileReader, "clips", count)
    return decoded


def test_several_samples_of_a_video_come_from_one_decoding_and_make_a_flat_batch(table, monkeypatch):
    decoded = count_decodings(monkeypatch)
    dataset = ClipDataset(table, PRETRAINING, keep_frames, num_samples=3)
    items = [dataset[i] for i in range(4)]
    assert len(decoded) == 4
    for i, item in enumerate(items):
        assert item["pixel_values"].shape[:2] == (3, 4)
        clips = [frame_numbers(clip) for clip in item["pixel_values"]]
        assert sum(clips, []) == decoded[i], "each clip has frames of its own"
        assert len(item["pixel_values"][:, -1, 0, 0, 0].unique()) == 3, "and draws of its own"
        assert same([item], [ClipDataset(table, PRETRAINING, keep_frames, num_samples=3)[i]])
    assert len({tuple(numbers[k : k + 4]) for numbers in decoded for k in (0, 4, 8)}) > 6
    same_size = [items[0], {**items[2], "pixel_values": items[2]["pixel_values"] + 1}]
    batch = collate_clips(same_size)
    assert batch["pixel_values"].shape == (6, 4, 3, 32, 48) and batch["labels"].tolist() == [0, 0, 0, 2, 2, 2]
    assert torch.equal(batch["pixel_values"][4], same_size[1]["pixel_values"][1])
    assert MixingCollator(3, 0.1)(same_size)["labels"].shape == (6, 3)
    with pytest.raises(ValueError, match="num_samples is 0"):
        ClipDataset(table, PRETRAINING, keep_frames, num_samples=0)


def test_a_clip_depends_on_seed_epoch_and_index_alone(table):
    dataset, again = (ClipDataset(table, PRETRAINING, keep_frames, seed=5) for _ in range(2))
    items = load(dataset)
    assert same([again[i] for i in reversed(range(12))][::-1], items)
    torch.manual_seed(99), torch.rand(7)
    assert same(load(dataset), items)
    dataset.set_epoch(1)
    second = load(dataset)
    assert not same(second, items)
    dataset.set_epoch(0)
    assert same(load(dataset), items)
    assert not same(load(ClipDataset(table, PRETRAINING, keep_frames, seed=6)), items)
    noise = torch.stack([item["pixel_values"][-1, 0, 0, 0] for item in items + second])
    assert len(noise.unique()) == 24, "every clip has its own draws"


def test_the_global_random_states_are_left_alone(table):
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    dataset = ClipDataset(table, PRETRAINING, keep_frames)
    for index in range(12):
        dataset[index]
    assert torch.equal(torch.get_rng_state(), states[0]) and np.array_equal(np.random.get_state()[1], states[1])


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_give_the_same_clips_and_hear_of_a_new_epoch(table, context):
    dataset = ClipDataset(table, PRETRAINING, keep_frames)
    expected = []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        expected.append(load(dataset))
    assert not same(expected[0], expected[1])
    loader = DataLoader(
        dataset, 3, num_workers=2, collate_fn=list, persistent_workers=True, multiprocessing_context=context
    )
    for epoch in (0, 2, 1):
        dataset.set_epoch(epoch)
        assert same([item for batch in loader for item in batch], expected[epoch])


def test_without_a_seed_the_clips_are_those_of_torchs_generator(table):
    dataset = ClipDataset(table, PRETRAINING, keep_frames, seed=None)

    def clips(epoch):
        seeded = SeededClips(dataset, seed=3, noise={})
        return [seeded[epoch * len(table) + row]["pixel_values"] for row in range(len(table))]

    first, second = clips(0), clips(1)
    assert all(map(torch.equal, first, clips(0)))
    assert not any(map(torch.equal, first, second))


def test_columns_of_seconds_bound_the_part_that_is_used(videos):
    # 25 frames a second: frames 5 to 14 of the first video, all of the second.
    windows = make_table(videos[:2], [0, 1], start_seconds=[0.2, None], end_seconds=[0.6, None])
    dataset = ClipDataset(windows, PRETRAINING, keep_frames)
    seen = [set(), set()]
    for epoch, row in itertools.product(range(30), range(2)):
        dataset.set_epoch(epoch)
        seen[row] |= set(frame_numbers(dataset[row]["pixel_values"]))
    assert min(seen[0]) == 5 and max(seen[0]) in (13, 14) and max(seen[1]) > 20
    view = ViewDataset(windows, 4, 2, size=16)[0]
    expected = EvaluationTransform(16)(decode_frames(videos[0], 5 + validation_clip(10, 4, 2)))
    assert torch.equal(view["pixel_values"], expected)


def test_indices_and_settings_out_of_range_are_refused(table):
    dataset = ClipDataset(table, PRETRAINING, keep_frames)
    for index in (-1, 12):
        with pytest.raises(IndexError, match=f"index is {index}.* 12"):
            dataset[index]
    with pytest.raises(ValueError, match="max_bad_share is 5"):
        ClipDataset(table, PRETRAINING, keep_frames, max_bad_share=5)
    with pytest.raises(ValueError, match="table has no videos"):
        ClipDataset(table.select([]), PRETRAINING, keep_frames)


# -- bad videos ------------------------------------------------------------------------------------------------------

REASONS = {
    "text": "cannot read it",
    "empty": "file is empty",
    "cut": "cannot read it",
    "sound": "no video stream",
    "one frame": "has 1 frame; motion needs at least 2",
    "missing": "No such file",
}


def test_training_goes_on_without_bad_videos_and_says_which_and_why_once(corrupted, bad_videos, log):
    dataset = ClipDataset(corrupted, PRETRAINING, keep_frames)
    for epoch in range(3):
        dataset.set_epoch(epoch)
        items = load(dataset)
        assert len(items) == 120 and all(len(set(frame_numbers(item["pixel_values"]))) == 4 for item in items)
        if epoch == 0:
            assert len(log.records) == 6
    assert len(log.records) == 6
    found = dataset.bad_videos()
    assert [bad.row for bad in found] == [7, 27, 47, 67, 87, 107]
    for (kind, path), bad, record in zip(bad_videos.items(), found, log.records, strict=True):
        assert bad.path == str(path) and REASONS[kind] in bad.reason
        assert bad.path in record.message and REASONS[kind] in record.message
        assert bad.num_draws >= 3


def test_substitutes_are_the_same_whatever_was_known_before(corrupted):
    dataset = ClipDataset(corrupted, PRETRAINING, keep_frames)
    items = load(dataset)
    assert same(load(dataset), items)
    substitutes = [load(ClipDataset(corrupted, PRETRAINING, keep_frames, seed=seed))[7] for seed in range(8)]
    assert len({tuple(frame_numbers(item["pixel_values"])) for item in substitutes}) > 3
    assert len({item["labels"] for item in substitutes}) > 1, "a substitute brings its own label"


def test_what_workers_find_bad_is_known_to_all(corrupted):
    expected = ClipDataset(corrupted, PRETRAINING, keep_frames)
    items = load(expected)
    dataset = ClipDataset(corrupted, PRETRAINING, keep_frames)
    assert same(load(dataset, num_workers=2), items)
    assert dataset.bad_videos() == expected.bad_videos() != []


@pytest.mark.parametrize("num_workers", [0, 1])
def test_more_bad_videos_than_allowed_are_an_error_that_names_them(corrupted, bad_videos, num_workers):
    dataset = ClipDataset(corrupted, PRETRAINING, keep_frames, max_bad_share=0.03)
    with pytest.raises(ValueError, match="4 of 120 videos are bad.*max_bad_share 0.03") as error:
        load(dataset, num_workers)
    for kind in ("text", "empty", "cut", "sound"):
        assert str(bad_videos[kind]) in str(error.value) and REASONS[kind] in str(error.value)


def test_a_table_of_bad_videos_ends_in_an_error_and_not_in_a_search_for_ever(bad_videos):
    dataset = ClipDataset(make_table([bad_videos["text"]] * 3, [0] * 3), PRETRAINING, keep_frames, max_bad_share=1)
    with pytest.raises(ValueError, match="10 videos were tried.*\n.*text.mp4"):
        dataset[0]
    with pytest.raises(ValueError, match="1 of 3 videos are bad.*\n.*text.mp4"):
        ClipDataset(dataset.table, PRETRAINING, keep_frames)[0]


def test_the_frames_of_a_cut_video_that_can_be_had_are_used(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (26, 32, 48, 3), dtype=np.uint8)
    whole = write_video(tmp_path / "whole.avi", noise, codec="mpeg4", qmin="2", qmax="2")
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    left = probe_video(cut).num_frames
    assert 8 < left < 20
    lengths = []
    dataset = ClipDataset(
        make_table([cut], [0]), lambda length, rng: lengths.append(length) or PRETRAINING(length, rng=rng), keep_frames
    )
    load(dataset)
    assert lengths == [left] and dataset.bad_videos() == []


@pytest.mark.parametrize(
    "transform", [PretrainingTransform(16), FinetuningTransform(16)], ids=["pretrain", "finetune"]
)
@pytest.mark.parametrize("kind", ["video", "pictures"])
def test_a_video_of_one_pixels_height_is_bad_in_training_evaluation_and_scan(videos, tmp_path, transform, kind):
    path = tmp_path / "line.mkv"
    if kind == "video":
        write_ramp(path, num_frames=26, height=1, width=200, codec="ffv1")
    else:
        path.mkdir()
        for i in range(26):
            Image.new("L", (200, 1), i).save(path / f"{i}.png")
    table = make_table([*videos, path], [0, 1, 2, 0])
    clips = ClipDataset(table, PRETRAINING, transform, max_bad_share=0.25)
    assert clips[3]["pixel_values"].shape == (4, 3, 16, 16)
    (bad,) = clips.bad_videos()
    reason = "has frames of 200 x 1; they need at least 2 x 2 pixels"
    assert (bad.row, bad.reason) == (3, reason)
    assert [bad.reason for bad in ViewDataset(table, 4, 2, size=16, skip_broken=True).bad_videos()] == [reason]
    (broken,) = scan_tables({"train": table})[0]["tables"]["train"]["broken"]
    assert (broken["row"], broken["reason"]) == (3, reason)


def test_a_fault_of_the_transform_is_no_bad_video(table):
    def broken(frames):
        raise RuntimeError("no transform")

    with pytest.raises(RuntimeError, match="no transform"):
        ClipDataset(table, PRETRAINING, broken)[0]


# -- views -----------------------------------------------------------------------------------------------------------


def test_views_are_every_segment_and_crop_of_every_video_in_order(table, videos):
    dataset = ViewDataset(table, 4, 2, num_segments=3, num_crops=2, size=16)
    assert len(dataset) == 12 * 6
    expected = []
    for row in range(3):
        for segment in range(3):
            frames = decode_frames(videos[row], segment_clip(26, 4, 2, segment, 3))
            crops = EvaluationTransform(16, 2)(frames)
            expected += [{"pixel_values": crop, "labels": row, "video_id": row} for crop in crops]
    assert same([dataset[i] for i in range(18)], expected)
    assert same([dataset[i] for i in reversed(range(18))][::-1], expected)
    assert same(load(dataset, num_workers=2)[:18], expected)
    assert dataset[71]["video_id"] == 11
    with pytest.raises(IndexError, match="index is 72"):
        dataset[72]


def test_the_views_of_a_batch_are_decoded_video_by_video(table, monkeypatch):
    dataset = ViewDataset(table, 4, 2, num_segments=3, num_crops=2, size=16)
    expected = [dataset[i] for i in range(18)]
    decoded = count_decodings(monkeypatch)
    dataset = ViewDataset(table, 4, 2, num_segments=3, num_crops=2, size=16)
    assert same(dataset.__getitems__(range(18)), expected)
    assert [len(numbers) for numbers in decoded] == [12, 12, 12], "three segments at once"
    decoded.clear()
    assert same(
        [item for start in range(0, 18, 5) for item in dataset.__getitems__(range(18)[start : start + 5])], expected
    )
    # What the previous batch decoded is not decoded again.
    assert sum(len(numbers) for numbers in decoded) == 36
    decoded.clear()
    assert same(dataset.__getitems__([1, 17, 4, 5]), [expected[i] for i in (1, 17, 4, 5)])
    assert [len(numbers) for numbers in decoded] == [4, 4, 4]


def test_an_item_that_is_changed_does_not_change_the_next(table):
    dataset = ViewDataset(table, 4, 2, num_segments=2, num_crops=3, size=16)
    expected = dataset[1]["pixel_values"].clone()
    dataset[1]["pixel_values"].zero_()
    assert torch.equal(dataset[1]["pixel_values"], expected)


def test_a_single_view_is_the_validation_clip_at_the_centre(table, videos):
    dataset = ViewDataset(table, 4, 2, size=16)
    assert len(dataset) == 12
    for row in range(3):
        frames = decode_frames(videos[row], validation_clip(26, 4, 2))
        assert torch.equal(dataset[row]["pixel_values"], EvaluationTransform(16)(frames))


@pytest.mark.parametrize("kind", REASONS)
def test_a_broken_video_is_never_left_out_of_an_evaluation_unasked(videos, bad_videos, kind):
    dataset = ViewDataset(make_table([videos[0], bad_videos[kind]], [0, 1]), 4, 2, size=16)
    assert dataset[0]["video_id"] == 0
    with pytest.raises((VideoDecodeError, FileNotFoundError), match=bad_videos[kind].name) as error:
        dataset[1]
    assert REASONS[kind] in str(error.value)


def test_broken_videos_are_left_out_if_asked_and_reported(corrupted, bad_videos, log):
    dataset = ViewDataset(corrupted, 4, 2, num_crops=2, size=16, skip_broken=True)
    assert len(dataset) == 114 * 2
    assert [(bad.row, bad.path) for bad in dataset.bad_videos()] == [
        (20 * i + 7, str(path)) for i, path in enumerate(bad_videos.values())
    ]
    assert all(REASONS[kind] in record.message for kind, record in zip(REASONS, log.records, strict=True))
    assert [dataset[i]["video_id"] for i in range(12, 18)] == [6, 6, 8, 8, 9, 9]
    assert dataset[14]["labels"] == 8 % 3


def test_an_evaluation_of_nothing_is_refused(bad_videos, table):
    with pytest.raises(ValueError, match="none of 1 videos"):
        ViewDataset(make_table([bad_videos["text"]], [0]), 4, 2, skip_broken=True)
    with pytest.raises(ValueError, match="num_segments is 0"):
        ViewDataset(table, 4, 2, num_segments=0)


def test_odd_real_files_are_read_or_named(shared_clips):
    paths = sorted((shared_clips / "odd").iterdir())
    dataset = ViewDataset(make_table(paths, [0] * len(paths)), 4, 2, size=32, skip_broken=True)
    assert [bad.path for bad in dataset.bad_videos()] == [str(shared_clips / "odd" / "not_a_video.mp4")]
    assert all(item["pixel_values"].shape == (4, 3, 32, 32) for item in load(dataset))


# -- batches ---------------------------------------------------------------------------------------------------------


def test_a_whole_epoch_of_real_clips_makes_batches(table):
    dataset = ClipDataset(table, FINETUNING, FinetuningTransform(16))
    batches = list(DataLoader(dataset, batch_size=4, collate_fn=MixingCollator(3, 0.1), num_workers=1))
    assert [batch["pixel_values"].shape for batch in batches] == [(4, 4, 3, 16, 16)] * 3
    assert all(batch["labels"].shape == (4, 3) for batch in batches)


def test_a_large_picture_is_read_too(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (3, 360, 640, 3), dtype=np.uint8)
    video = write_video(tmp_path / "large.mp4", frames)
    assert ViewDataset(make_table([video], [0]), 2, 1, num_crops=3, size=32)[2]["pixel_values"].shape == (2, 3, 32, 32)


def test_fine_tuning_takes_several_samples_of_a_video_if_told_so(table, tiny_config):
    data_args = DataArguments(train_data="unused.csv", num_frames=8, frame_stride=2, image_size=16)
    clips = finetuning_clips(table, data_args, AugmentationArguments(num_samples=2), tiny_config())
    batch = collate_clips([clips[0], clips[1]])
    assert batch["pixel_values"].shape == (4, 8, 3, 16, 16) and batch["labels"].tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="num_samples is 0"):
        AugmentationArguments(num_samples=0)
