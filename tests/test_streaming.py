"""Streams of shards: every video once an epoch, whoever reads; random by seed and epoch; runs that go on."""

import json
import pickle
import re
from collections import Counter
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers.utils import logging

import videoms_hf.data.streaming as streaming
from tests.processes import run_torchrun
from tests.stream_run import streaming_trainer
from tests.tiny_run import CAN_GO_ON, losses, weights
from videoms_hf.data.annotations import read_videos
from videoms_hf.data.dataset import ClipDataset
from videoms_hf.data.shards import Shards, add_video, tar_writer
from videoms_hf.data.streaming import ClipStream, VideoStream, epoch_lanes
from videoms_hf.sampling_videoms import pretraining_clip


ROOT = Path(__file__).parents[1]
CHOOSE = partial(pretraining_clip, num_frames=2, stride=1)


def numbers_of(videos, num_workers=0, **options):
    """Numbers of a stream's videos in batches, as a loader gives them."""
    loader = DataLoader(videos, videos.batch_size, num_workers=num_workers, collate_fn=list, **options)
    return [[number for number, _ in batch] for batch in loader]


# -- order -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 0), (2, 0), (5, 0), (1, 2), (3, 2)])
def test_every_video_comes_once_an_epoch_whoever_reads(shard_folder, world_size, num_workers, monkeypatch):
    monkeypatch.setattr(streaming, "LANES", 6)  # several videos in each
    shards = Shards(shard_folder)
    seen = []
    for rank in range(world_size):
        videos = VideoStream(shards, rank=rank, world_size=world_size)
        own = [number for batch in numbers_of(videos, num_workers) for number in batch]
        assert len(own) == len(videos)
        seen += own
    assert sorted(seen) == list(range(28))


def test_rows_belong_to_their_numbers(shard_folder, contents):
    for number, row in VideoStream(Shards(shard_folder), batch_size=4):
        assert row["video"]["bytes"] == contents[number]


def test_all_processes_have_equally_many_full_batches_if_the_last_ones_are_dropped(tars):
    shards = Shards(tars)
    for world_size, batch_size in ((1, 4), (2, 4), (3, 4), (4, 7)):
        batches = [
            numbers_of(VideoStream(shards, 0, rank, world_size, batch_size, drop_last=True))
            for rank in range(world_size)
        ]
        assert {len(own) for own in batches} == {28 // (world_size * batch_size)}
        assert all(len(batch) == batch_size for own in batches for batch in own)
        seen = Counter(number for own in batches for batch in own for number in batch)
        assert set(seen.values()) == {1}
    with pytest.raises(ValueError, match="dataloader_drop_last is false with 2 processes"):
        VideoStream(shards, world_size=2, batch_size=4)
    assert [len(batch) for batch in numbers_of(VideoStream(shards, batch_size=5))] == [5] * 5 + [3]


def test_the_batches_of_a_step_do_not_depend_on_processes_and_workers(tars):
    shards = Shards(tars)
    one = numbers_of(VideoStream(shards, seed=3, batch_size=2, drop_last=True), num_workers=0)
    for num_workers in (1, 2):
        assert numbers_of(VideoStream(shards, seed=3, batch_size=2, drop_last=True), num_workers) == one
    ranks = [numbers_of(VideoStream(shards, 3, rank, 2, 2, True), num_workers=2) for rank in (0, 1)]
    assert [batch for step in zip(*ranks, strict=True) for batch in step] == one


def test_the_order_is_random_and_made_from_seed_and_epoch_alone(shard_folder):
    shards = Shards(shard_folder)

    def order(seed, epoch):
        videos = VideoStream(shards, seed, batch_size=10)
        videos.set_epoch(epoch)
        return [number for batch in numbers_of(videos) for number in batch]

    orders = {(seed, epoch): order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert len({tuple(numbers) for numbers in orders.values()}) == 6
    np.random.seed(5), torch.manual_seed(5)
    assert all(order(*key) == numbers for key, numbers in orders.items())
    assert all(numbers != sorted(numbers) for numbers in orders.values())


def test_shards_and_the_videos_in_them_are_shuffled_anew_each_epoch(shard_folder, monkeypatch):
    monkeypatch.setattr(streaming, "LANES", 1)
    videos = VideoStream(Shards(shard_folder))

    def orders():
        for epoch in range(6):
            videos.set_epoch(epoch)
            yield [number for number, _ in videos]

    third = range(10, 21)  # videos of the third shard
    assert len({tuple(number for number in order if number in third) for order in orders()}) == 6
    monkeypatch.setattr(streaming, "BLOCKS", dict.fromkeys(streaming.BLOCKS, (1, 1)))  # of a video, as it comes
    shards = [np.searchsorted(videos.shards.ends, order, side="right").tolist() for order in orders()]
    orders_of_shards = [tuple(shard for shard, _ in groupby(numbers)) for numbers in shards]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders_of_shards) and len(set(orders_of_shards)) > 4


def test_lanes_hold_every_place_once():
    for num_videos, batch_size, num_lanes in ((100, 3, 8), (7, 2, 48), (1000, 16, 48), (96, 2, 48), (5, 1, 1)):
        lanes = epoch_lanes(num_videos, batch_size, num_lanes)
        assert [place for lane in lanes for place in lane] == list(range(num_videos))
        batches = Counter(number // batch_size % num_lanes for number in range(num_videos))
        assert [len(lane) for lane in lanes] == [batches[lane] for lane in range(num_lanes)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_a_resumed_run_has_seen_is_passed_over_unread(tars, monkeypatch, num_workers):
    shards = Shards(tars)
    videos = VideoStream(shards, 0, 1, 2, 3, drop_last=True)
    whole = numbers_of(videos, num_workers)
    for skip in range(1, len(whole) + 1):
        videos.set_epoch(0, skip)
        loader = DataLoader(videos, 3, num_workers=num_workers, collate_fn=list)
        batches = list(loader)
        assert [[number for number, _ in batch] for batch in batches] == whole
        assert [[row is None for _, row in batch] for batch in batches] == [[i < skip] * 3 for i in range(len(whole))]
    reads = []
    monkeypatch.setattr(Shards, "read", lambda self, numbers: reads.extend(numbers) or [None] * len(numbers))
    videos.set_epoch(0, 3)
    numbers_of(videos)
    assert sorted(reads) == sorted(number for batch in whole[3:] for number in batch)


# -- clips -----------------------------------------------------------------------------------------------------------


def keep_frames(frames):
    return frames.to(torch.float32)


def level(item):
    return round(item["pixel_values"][:, 1].mean().item() / 8)


def test_a_streamed_clip_is_the_clip_of_the_same_number_in_a_table(shard_folder):
    table = ClipDataset(read_videos(shard_folder), CHOOSE, keep_frames, seed=4)
    stream = ClipStream(Shards(shard_folder), CHOOSE, keep_frames, seed=4)
    for epoch in (0, 1):
        table.set_epoch(epoch), stream.set_epoch(epoch)
        items = list(stream)
        assert sorted(map(level, items)) == list(range(28))
        for item in items:
            expected = table[level(item)]
            assert item["labels"] == expected["labels"]
            assert torch.equal(item["pixel_values"], expected["pixel_values"])


@pytest.mark.parametrize(("context", "num_workers"), [("fork", 2), pytest.param("spawn", 1, marks=pytest.mark.slow)])
def test_workers_of_both_kinds_hear_of_a_new_epoch(tars, context, num_workers):
    stream = ClipStream(Shards(tars), CHOOSE, keep_frames)
    loader = DataLoader(
        stream, None, num_workers=num_workers, multiprocessing_context=context, persistent_workers=True
    )
    for epoch in (0, 1):
        stream.set_epoch(epoch)
        expected = [item["pixel_values"] for item in stream]
        found = [item["pixel_values"] for item in loader]
        assert len(found) == 28
        if num_workers == 1:
            assert all(map(torch.equal, found, expected))
        assert sorted(clip.mean().item() for clip in found) == sorted(clip.mean().item() for clip in expected)


def test_a_stream_can_be_sent_to_a_spawned_worker(shard_folder):
    stream = ClipStream(Shards(shard_folder), CHOOSE, keep_frames, seed=4)
    stream.set_epoch(3)
    sent = pickle.loads(pickle.dumps(stream))
    assert all(torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(stream, sent, strict=True))


def test_several_clips_of_a_streamed_video_come_in_one_item(tars):
    stream = ClipStream(Shards(tars), CHOOSE, keep_frames, num_samples=3)
    table = ClipDataset(read_videos(tars), CHOOSE, keep_frames, num_samples=3)
    for (number, _), item in zip(VideoStream(stream.table), stream, strict=True):
        assert item["pixel_values"].shape[0] == 3
        assert torch.equal(item["pixel_values"], table[number]["pixel_values"])


def test_bad_videos_of_a_stream_are_replaced_named_and_counted(tars, contents, tmp_path, caplog):
    with tar_writer(tmp_path / "0.tar") as tar:
        for number in range(20):
            add_video(tar, f"{number:06d}", "avi", b"no video" if number == 7 else contents[number], {})
    logging.enable_propagation()
    try:
        stream = ClipStream(Shards(tmp_path), CHOOSE, keep_frames, with_labels=False)
        items = list(stream) + list(stream)
    finally:
        logging.disable_propagation()
    assert len(items) == 40 and Counter(map(level, items))[7] == 0
    (bad,) = stream.bad_videos()
    assert bad.path == f"{tmp_path}/0.tar/000007.avi" and bad.row == 7 and bad.num_draws == 2
    assert [bad.path in record.message for record in caplog.records] == [True]
    with pytest.raises(ValueError, match="1 of 20 videos are bad, more than max_bad_share 0.01.*\n.*000007.avi"):
        list(ClipStream(stream.table, CHOOSE, keep_frames, with_labels=False, max_bad_share=0.01))


# -- training --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_processes(tars, tmp_path_factory) -> Path:
    """Folder with what two processes came to, which torchrun started and which talk by gloo."""
    folder = tmp_path_factory.mktemp("distributed")
    # 28 videos in total batches of 4: 7 steps an epoch. Checkpoint 10 lies in the middle of the second one.
    saving = {"save_strategy": "steps", "save_steps": 10, "dataloader_num_workers": 2}
    whole = {"shards": str(tars), "folder": str(folder / "run"), "result": str(folder / "whole"), **saving}
    resumed = {"result": str(folder / "resumed"), "resume": str(folder / "run" / "checkpoint-10")}
    (folder / "jobs.json").write_text(json.dumps([whole, whole | resumed] if CAN_GO_ON else [whole]))
    done = run_torchrun(["-m", "tests.stream_run", folder / "jobs.json"])
    (folder / "stdout.txt").write_text(done.stdout)
    return folder


def test_two_processes_see_every_video_once_and_learn_what_one_learns(two_processes, tars, tmp_path):
    found = [torch.load(two_processes / f"whole.{process}.pt") for process in (0, 1)]
    assert [part["world_size"] for part in found] == [2, 2]
    for epoch in (0, 1):
        batches = [part["seen"][7 * epoch : 7 * epoch + 7] for part in found]
        seen = [number for own in batches for batch in own for number in batch]
        assert sorted(seen) == list(range(28))
    one = streaming_trainer(tars, tmp_path, gradient_accumulation_steps=2)
    one.train()
    assert [batch for step in zip(*(part["seen"] for part in found), strict=True) for batch in step] == one.seen
    assert found[0]["losses"] == pytest.approx(losses(one), rel=1e-5) and len(losses(one)) == 14
    for name, value in weights(one).items():
        torch.testing.assert_close(found[0]["weights"][name], value, atol=1e-5, rtol=1e-4)


def test_processes_that_have_left_each_other_have_no_threads_that_talk(two_processes):
    said = (two_processes / "stdout.txt").read_text()
    for process in (0, 1):
        assert re.search(rf"process {process} talked by [1-9] kinds of threads, now by set\(\)", said)


@pytest.mark.skipif(not CAN_GO_ON, reason="transformers before 5.24 cannot resume on several CPU processes")
def test_two_processes_go_on_in_the_middle_of_an_epoch(two_processes):
    for process in (0, 1):
        whole, resumed = (torch.load(two_processes / f"{name}.{process}.pt") for name in ("whole", "resumed"))
        assert resumed["seen"] == whole["seen"][10:] and len(resumed["seen"]) == 4
        assert resumed["losses"] == whole["losses"][10:]
        assert all(torch.equal(resumed["weights"][name], value) for name, value in whole["weights"].items())


def test_a_run_goes_on_only_where_the_rest_of_the_epoch_can_be_told(tars, tmp_path, monkeypatch):
    options = {"per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 10}
    first = streaming_trainer(tars, tmp_path, **options)
    first.train()
    again = streaming_trainer(tars, tmp_path, **options)
    made = []
    clip = ClipDataset.clip
    monkeypatch.setattr(ClipDataset, "clip", lambda self, number, row: made.append(number) or clip(self, number, row))
    again.train(resume_from_checkpoint=tmp_path / "checkpoint-10")
    assert made == [number for batch in again.seen for number in batch], "what was seen before is not decoded again"
    assert first.seen[:7] != first.seen[7:]
    assert again.seen == first.seen[10:] and losses(again) == losses(first)[10:]
    other = streaming_trainer(tars, tmp_path, gradient_accumulation_steps=2)
    with pytest.raises(
        ValueError, match="checkpoint-10 lies in the middle of an epoch .*'batch_size': 4.*'batch_size': 2"
    ):
        other.train(resume_from_checkpoint=tmp_path / "checkpoint-10")
