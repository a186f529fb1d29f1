"""Frame numbers of clips, against plain loops."""

import math

import numpy as np
import pytest

from videoms_hf.sampling_videoms import (
    finetuning_clip,
    pretraining_clip,
    segment_clip,
    uniform_clip,
    validation_clip,
)


LENGTHS = [1, 2, 3, 4, 5, 9, 15, 16, 31, 32, 33, 63, 64, 65, 66, 100, 301]
CLIPS = [(16, 4), (16, 2), (8, 1), (1, 3), (4, 16), (24, 2)]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def reference_steps(start, video_length, num_frames, stride):
    """Steps of `stride` from `start`; stays where the next step would leave the video."""
    frames = [start]
    while len(frames) < num_frames:
        frames.append(frames[-1] + stride if frames[-1] + stride < video_length else frames[-1])
    return frames


def reference_window(start, video_length, num_frames, stride):
    window = num_frames * stride
    if video_length < window:
        return reference_steps(0, video_length, num_frames, stride)
    positions = np.linspace(start, start + window, num_frames)  # as the official code, with its rounding
    return [min(int(position), start + window - 1) for position in positions]


def check_contract(frames, video_length, num_frames):
    assert frames.dtype == np.int64 and frames.shape == (num_frames,)
    assert frames[0] >= 0 and frames[-1] < video_length
    distinct = sorted(set(frames.tolist()))
    assert frames.tolist() == distinct + [distinct[-1]] * (num_frames - len(distinct)), "only the last may repeat"


@pytest.mark.parametrize("video_length", LENGTHS)
@pytest.mark.parametrize(("num_frames", "stride"), CLIPS)
def test_pretraining_takes_every_stride_th_frame_of_a_random_window(video_length, num_frames, stride, rng):
    starts = set()
    for _ in range(30):
        frames = pretraining_clip(video_length, num_frames, stride, rng)
        check_contract(frames, video_length, num_frames)
        assert frames.tolist() == reference_steps(frames[0], video_length, num_frames, stride)
        starts.add(int(frames[0]))
    assert max(starts) <= max(video_length - num_frames * stride, 0)
    if video_length - num_frames * stride > 10:
        assert len(starts) > 5


@pytest.mark.parametrize("clip", [pretraining_clip, finetuning_clip])
def test_every_window_that_fits_is_drawn_equally_often(clip, rng):
    starts = [int(clip(70, 16, 4, rng)[0]) for _ in range(7000)]
    counts = np.bincount(starts)
    assert len(counts) == 7 and (np.abs(counts - 1000) < 150).all()


@pytest.mark.parametrize("video_length", LENGTHS)
@pytest.mark.parametrize(("num_frames", "stride"), CLIPS)
def test_finetuning_spreads_the_frames_over_a_random_window(video_length, num_frames, stride, rng):
    for _ in range(10):
        frames = finetuning_clip(video_length, num_frames, stride, rng)
        check_contract(frames, video_length, num_frames)
        assert frames.tolist() == reference_window(int(frames[0]), video_length, num_frames, stride)
        assert frames[0] <= max(video_length - num_frames * stride, 0)


def test_a_finetuning_window_is_used_from_its_first_to_its_last_frame(rng):
    expected = [0, 4, 8, 12, 17, 21, 25, 29, 34, 38, 42, 46, 51, 55, 59, 63]
    assert finetuning_clip(64, 16, 4, rng).tolist() == expected
    frames = finetuning_clip(500, 16, 4, rng)
    assert (frames - frames[0]).tolist() == expected


@pytest.mark.parametrize("video_length", LENGTHS)
@pytest.mark.parametrize(("num_frames", "stride"), CLIPS)
def test_validation_is_the_finetuning_window_in_the_middle(video_length, num_frames, stride):
    frames = validation_clip(video_length, num_frames, stride)
    check_contract(frames, video_length, num_frames)
    spare = max(video_length - num_frames * stride, 0)
    assert frames.tolist() == reference_window(spare // 2, video_length, num_frames, stride)


@pytest.mark.parametrize("video_length", LENGTHS)
@pytest.mark.parametrize(("num_frames", "stride"), CLIPS)
def test_segments_start_evenly_over_the_whole_video(video_length, num_frames, stride):
    strided = [frame for frame in range(video_length) if frame % stride == 0]
    while len(strided) < num_frames:
        strided.append(strided[-1])
    for segment, num_segments in [(0, 1), (0, 2), (1, 2), (0, 5), (1, 5), (3, 5), (4, 5), (7, 10), (9, 10)]:
        spare = len(strided) - num_frames
        start = spare // 2 if num_segments == 1 else math.floor(segment * spare / (num_segments - 1))
        frames = segment_clip(video_length, num_frames, stride, segment, num_segments)
        check_contract(frames, video_length, num_frames)
        assert frames.tolist() == strided[start : start + num_frames]


def test_segments_reach_from_the_first_strided_frame_to_the_last():
    assert segment_clip(201, 16, 4, 0, 5)[0] == 0
    assert segment_clip(201, 16, 4, 4, 5)[-1] == 200


@pytest.mark.parametrize("num_frames", [1, 4, 16, 48])
@pytest.mark.parametrize("video_length", LENGTHS)
def test_uniform_frames_are_the_middles_of_equal_parts(video_length, num_frames):
    frames = uniform_clip(video_length, num_frames)
    check_contract(frames, video_length, num_frames)
    if video_length < num_frames:
        assert frames.tolist() == [*range(video_length), *[video_length - 1] * (num_frames - video_length)]
    else:
        assert frames.tolist() == [math.floor((i + 0.5) * video_length / num_frames) for i in range(num_frames)]


@pytest.mark.parametrize(
    "frames_of",
    [
        lambda length: pretraining_clip(length, 16, 4, np.random.default_rng(0)),
        lambda length: finetuning_clip(length, 16, 4, np.random.default_rng(0)),
        lambda length: validation_clip(length, 16, 4),
        lambda length: segment_clip(length, 16, 4, 0, 1),
        lambda length: uniform_clip(length, 16),
    ],
)
@pytest.mark.parametrize("length", [0, -3])
def test_a_video_without_frames_is_refused(frames_of, length):
    with pytest.raises(ValueError, match=f"video_length is {length}; it must be at least 1"):
        frames_of(length)


def test_numbers_below_one_and_segments_that_are_not_there_are_refused(rng):
    with pytest.raises(ValueError, match="num_frames is 0"):
        uniform_clip(5, 0)
    with pytest.raises(ValueError, match="stride is 0"):
        pretraining_clip(5, 2, 0, rng)
    for segment in (-1, 5):
        with pytest.raises(ValueError, match=f"segment is {segment}.* 5"):
            segment_clip(50, 4, 2, segment, 5)
