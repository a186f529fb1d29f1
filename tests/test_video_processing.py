"""VideoMSVideoProcessor: which frames, which crops, which numbers; and what transformers asks of a processor."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from transformers import AutoVideoProcessor
from transformers.video_utils import VideoMetadata

from tests.video_files import write_ramp, write_video
from videoms_hf import VideoMSVideoProcessor
from videoms_hf import video_processing_videoms as module
from videoms_hf.decoding_videoms import VideoDecodeError, decode_frames


SMALL = {"size": {"shortest_edge": 20}, "crop_size": {"height": 18, "width": 18}}


def clip_of(num_frames: int = 8, height: int = 24, width: int = 30, seed: int = 0) -> np.ndarray:
    """Frames of noise, uint8 (T, H, W, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def levels(pixel_values: torch.Tensor) -> torch.Tensor:
    """Mean red level of each frame, as it was before rescaling and normalisation."""
    return ((pixel_values[..., 0, :, :] * 0.229 + 0.485) * 255).mean(dim=(-2, -1))


@pytest.fixture(scope="module")
def ramp(tmp_path_factory):
    """A video of 60 frames of 32 x 48 whose frame i is grey of level 4 i."""
    return write_ramp(tmp_path_factory.mktemp("ramp") / "ramp.mp4", num_frames=60, step=4, crf="0")


def test_pixels_are_resized_cropped_and_normalised_as_the_definition_says():
    frames = clip_of(height=40, width=64)
    found = VideoMSVideoProcessor(**SMALL)(frames, return_tensors="pt")["pixel_values"]
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    resized = F.interpolate(pixels, size=(20, 32), mode="bilinear", antialias=True, align_corners=False)
    cropped = resized[:, :, 1:19, 7:25]
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    wanted = (cropped / 255 - mean) / std
    assert found.shape == (1, 8, 3, 18, 18) and found.dtype == torch.float32
    # Both passes of the resize round to whole levels, of which one is 0.0175 here.
    torch.testing.assert_close(found[0], wanted, atol=0.018, rtol=0)
    assert (found[0] - wanted).abs().mean() < 0.0087


@pytest.mark.parametrize(
    "options, frames",
    [
        ({"num_frames": 6}, [5, 15, 25, 35, 45, 55]),  # middles of six parts
        ({"num_frames": 4, "frame_stride": 3}, [24, 28, 32, 35]),  # four spread over the twelve in the middle
        ({"num_frames": 4, "frame_stride": 3, "num_segments": 3}, [0, 3, 6, 9, 24, 27, 30, 33, 48, 51, 54, 57]),
        ({"num_frames": 2, "num_segments": 3}, [5, 35, 15, 45, 25, 55]),  # each segment spans the video
        ({"num_frames": 4, "candidate_ratio": 1.5}, [5, 15, 25, 35, 45, 55]),
        ({"num_frames": 5, "frame_stride": 30}, [0, 30, 30, 30, 30]),  # too short: the last one again
        ({"fps": 5}, list(range(2, 60, 5))),  # 60 frames at 25 a second: 2.4 s
    ],
)
def test_frames_of_a_file_are_those_of_the_definition(ramp, options, frames):
    found = VideoMSVideoProcessor(**SMALL)(str(ramp), return_tensors="pt", **options)["pixel_values"]
    torch.testing.assert_close(levels(found).flatten(), 4.0 * torch.tensor(frames), atol=2.5, rtol=0)


def test_views_are_segment_by_segment_and_crop_by_crop(tmp_path):
    """Frame t is t grey levels, darker by column: each crop of each segment tells where it is from."""
    columns = np.linspace(0, 100, 96, dtype=np.uint8)[None, None, :, None]
    frames = np.broadcast_to(columns + np.arange(40, dtype=np.uint8)[:, None, None, None] * 3, (40, 32, 96, 3))
    video = write_video(tmp_path / "v.mp4", frames, crf="0")
    processor = VideoMSVideoProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, num_frames=4)
    views = processor(video, frame_stride=2, num_segments=2, num_crops=3, return_tensors="pt")["pixel_values"]
    assert views.shape == (1, 6, 4, 3, 32, 32)
    for view, (start, left) in enumerate([(s, x) for s in (0, 32) for x in (0, 32, 64)]):
        wanted = torch.tensor([frames[t, 0, left : left + 32, 0].mean() for t in range(start, start + 8, 2)])
        torch.testing.assert_close(levels(views[0, view]), wanted.float(), atol=2.5, rtol=0)
    tall = write_video(tmp_path / "tall.mp4", frames.transpose(0, 2, 1, 3), crf="0")
    turned = processor(tall, frame_stride=2, num_segments=2, num_crops=3, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(levels(turned), levels(views), atol=2.5, rtol=0)


def test_crops_of_given_frames_need_no_sampling():
    views = VideoMSVideoProcessor(**SMALL, num_crops=3)(clip_of(width=60), return_tensors="pt")["pixel_values"]
    assert views.shape == (1, 3, 8, 3, 18, 18)
    single = VideoMSVideoProcessor(**SMALL)(clip_of(width=60), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(views[:, 1], single)  # the middle one


def test_a_path_is_read_in_every_spelling(ramp):
    processor = VideoMSVideoProcessor(**SMALL, num_frames=4)
    wanted = processor(str(ramp), return_tensors="pt")["pixel_values"]
    for spelling in (ramp, [ramp], [str(ramp)]):
        assert processor(spelling, return_tensors="pt")["pixel_values"].equal(wanted)
    pair = processor([ramp, str(ramp)], return_tensors="pt")["pixel_values"]
    assert pair.equal(torch.cat([wanted, wanted]))
    decoded = decode_frames(ramp, range(60))
    assert processor(decoded, do_sample_frames=True, return_tensors="pt")["pixel_values"].equal(wanted)
    whole = processor(str(ramp), do_sample_frames=False, return_tensors="pt")["pixel_values"]
    assert whole.shape[1] == 60


def test_metadata_name_the_frames_that_were_taken(ramp):
    found = VideoMSVideoProcessor(**SMALL, num_frames=6)(str(ramp), return_metadata=True, return_tensors="pt")
    (metadata,) = found["video_metadata"]
    assert metadata.frames_indices.tolist() == [5, 15, 25, 35, 45, 55]
    assert (metadata.total_num_frames, metadata.fps, metadata.height, metadata.width) == (60, 25.0, 32, 48)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_segments": 0}, "num_segments is 0; it must be at least 1"),
        ({"num_crops": -1}, "num_crops is -1; it must be at least 1"),
        ({"num_frames": 0}, "num_frames is 0; it must be at least 1"),
        ({"frame_stride": 0}, "frame_stride is 0; it must be at least 1"),
        ({"candidate_ratio": 0.5}, "candidate_ratio is 0.5; it must be at least 1"),
        ({"fps": 2, "num_segments": 2}, "a clip is the whole video, and num_segments must be 1"),
        ({"num_crops": 3, "do_center_crop": False}, "num_crops is 3 but do_center_crop is off"),
        (
            {"num_crops": 3, "do_resize": False, "crop_size": {"height": 18, "width": 64}},
            "smaller than the crop of 64",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(ramp, options, message):
    with pytest.raises(ValueError, match=message):
        VideoMSVideoProcessor(**SMALL)(str(ramp), **options)


def test_an_option_of_the_wrong_type_or_name_is_refused(ramp):
    with pytest.raises(StrictDataclassError, match="num_segments"):
        VideoMSVideoProcessor(**SMALL)(str(ramp), num_segments="5")
    with pytest.raises(TypeError, match="num_segment"):
        VideoMSVideoProcessor(**SMALL)(str(ramp), num_segment=5)


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "broken.mp4").write_text("no video")
    with pytest.raises(VideoDecodeError, match="broken.mp4"):
        VideoMSVideoProcessor()(str(tmp_path / "broken.mp4"))
    with pytest.raises(FileNotFoundError):
        VideoMSVideoProcessor()(str(tmp_path / "absent.mp4"))


# -- what transformers' own tests ask of a video processor ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pil", "numpy", "torch", "nested"])
def test_every_kind_of_frames_single_and_batched(kind):
    processor = VideoMSVideoProcessor(**SMALL)
    clips = [clip_of(height=24 + i, width=33 - i, seed=i) for i in range(3)]
    given = {
        "pil": lambda clip: [Image.fromarray(frame) for frame in clip],
        "numpy": lambda clip: clip,
        "torch": lambda clip: torch.from_numpy(clip).permute(0, 3, 1, 2),
        "nested": list,
    }[kind]
    wanted = torch.stack([processor(clip, return_tensors="pt")["pixel_values"][0] for clip in clips])
    assert wanted.shape == (3, 8, 3, 18, 18)
    assert processor(given(clips[0]), return_tensors="pt")["pixel_values"].equal(wanted[:1])
    assert processor([given(clip) for clip in clips], return_tensors="pt")["pixel_values"].equal(wanted)


def test_frames_with_transparency_lose_it():
    frames = [Image.fromarray(frame).convert("RGBA") for frame in clip_of()]
    found = VideoMSVideoProcessor(**SMALL)(
        frames, return_tensors="pt", input_data_format="channels_last", image_mean=0.0, image_std=1.0
    )
    assert found["pixel_values"].shape == (1, 8, 3, 18, 18)


def test_given_frames_are_sampled_only_when_told_so():
    processor = VideoMSVideoProcessor(**SMALL)
    clips = [torch.from_numpy(clip_of(seed=i)).permute(0, 3, 1, 2) for i in range(2)]
    assert processor(clips, num_frames=3, return_tensors="pt")["pixel_values"].shape[1] == 8
    processor.do_sample_frames = True
    assert processor(clips[0], num_frames=3, return_tensors="pt")["pixel_values"].shape[1] == 3
    assert processor(clips, num_frames=3, return_tensors="pt")["pixel_values"].shape[1] == 3
    with pytest.raises(ValueError, match="10 frames are to be sampled from a video given as 8 frames"):
        processor(clips[0], num_frames=10)
    for metadata in ({"duration": 2.0, "total_num_frames": 8, "fps": 4},) * 2 + (
        VideoMetadata(duration=2.0, total_num_frames=8, fps=4),
    ):
        found = processor(clips, fps=3, video_metadata=[[metadata]] * 2, return_tensors="pt")
        assert found["pixel_values"].shape[1] == 6
    with pytest.raises(ValueError, match="the video's own rate is not known"):
        processor.sample_frames(metadata=VideoMetadata(total_num_frames=8), fps=3)


def test_results_are_cast_and_moved_as_a_batch():
    found = VideoMSVideoProcessor(**SMALL)(clip_of(), return_tensors="pt")
    assert found.to(torch.float16)["pixel_values"].dtype == torch.float16
    assert found.to("cpu", torch.bfloat16)["pixel_values"].dtype == torch.bfloat16
    assert isinstance(VideoMSVideoProcessor(**SMALL)(clip_of(), return_tensors="np")["pixel_values"], np.ndarray)


def test_a_processor_saves_and_loads_with_every_option(tmp_path):
    options = {**SMALL, "num_frames": 8, "frame_stride": 4, "num_segments": 5, "num_crops": 3, "candidate_ratio": 1.5}
    first = VideoMSVideoProcessor(**options, do_resize=None)
    (path,) = first.save_pretrained(tmp_path)
    text = json.loads(Path(path).read_text())
    assert all(text[name] == value for name, value in options.items()) and text["do_resize"] is None
    for second in (
        VideoMSVideoProcessor.from_pretrained(tmp_path),
        AutoVideoProcessor.from_pretrained(tmp_path),
        VideoMSVideoProcessor.from_json_file(path),
    ):
        assert type(second) is VideoMSVideoProcessor and second.to_dict() == first.to_dict()
        assert second.do_resize is None
    changed = AutoVideoProcessor.from_pretrained(tmp_path, num_segments=2, frame_stride=None)
    assert (changed.num_segments, changed.frame_stride, changed.num_crops) == (2, None, 3)
    sized = VideoMSVideoProcessor.from_dict(first.to_dict(), size=42, crop_size=84)
    assert dict(sized.size) == {"shortest_edge": 42} and dict(sized.crop_size) == {"height": 84, "width": 84}


def test_one_processor_changed_in_place_leaves_others_alone():
    one, other = VideoMSVideoProcessor(), VideoMSVideoProcessor()
    one.size["shortest_edge"] = 7
    assert dict(other.size) == dict(VideoMSVideoProcessor().size) == {"shortest_edge": 224}
    assert tuple(other.image_mean) == (0.485, 0.456, 0.406) and tuple(other.image_std) == (0.229, 0.224, 0.225)


def test_options_are_declared_where_transformers_looks_for_them():
    declared = module.VideoMSVideoProcessorKwargs
    assert VideoMSVideoProcessor.valid_kwargs is declared
    own = {"frame_stride", "num_segments", "num_crops", "candidate_ratio"}
    assert own <= set(declared.__annotations__) and all(hasattr(VideoMSVideoProcessor, name) for name in own)
    assert VideoMSVideoProcessor.model_input_names == ["pixel_values"]
