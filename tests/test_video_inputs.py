"""What people give to the processor and the pipeline: every kind of frames and sources, or an error in words."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoVideoProcessor, pipeline

from tests.evaluation_files import NUM_FRAMES, STRIDE, save_classifier, write_noise
from tests.video_files import write_ramp
from videoms_hf import VideoMSVideoProcessor
from videoms_hf.decoding_videoms import VideoDecodeError, decode_frames


SMALL = {"size": {"shortest_edge": 20}, "crop_size": {"height": 18, "width": 18}}
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (4, 24, 30, 3), dtype=np.uint8)
GREY = RGB[..., :1].repeat(3, axis=-1)
BLACK_AND_WHITE = (GREY > 127).astype(np.uint8) * 255
ALPHA = np.concatenate([RGB, RNG.integers(0, 256, (4, 24, 30, 1), dtype=np.uint8)], axis=-1)
PALETTE = [Image.fromarray(frame).quantize(16) for frame in RGB]
PALETTE_RGB = np.stack([np.array(frame.convert("RGB")) for frame in PALETTE])


def pixels(frames, **options) -> torch.Tensor:
    return VideoMSVideoProcessor(**SMALL)(frames, return_tensors="pt", **options)["pixel_values"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return write_noise(tmp_path_factory.mktemp("videos") / "v.mp4", 40, seed=0)


@pytest.fixture(scope="module")
def classify(folder):
    return pipeline("video-classification", model=str(folder), device="cpu")


@pytest.mark.parametrize(
    "frames, rgb",
    [
        pytest.param(list(GREY[..., 0]), GREY, id="grey arrays (H, W)"),
        pytest.param(GREY[..., :1], GREY, id="grey array (T, H, W, 1)"),
        pytest.param([Image.fromarray(f) for f in GREY[..., 0]], GREY, id="grey pictures"),
        pytest.param([Image.fromarray(f).convert("1") for f in BLACK_AND_WHITE[..., 0]], BLACK_AND_WHITE, id="1 bit"),
        pytest.param(BLACK_AND_WHITE[..., :1] > 0, BLACK_AND_WHITE, id="booleans"),
        pytest.param([Image.fromarray(f).convert("LA") for f in GREY[..., 0]], GREY, id="grey pictures with alpha"),
        pytest.param(PALETTE, PALETTE_RGB, id="palette pictures"),
        pytest.param([Image.fromarray(f) for f in ALPHA], RGB, id="RGBA pictures"),
        pytest.param(ALPHA, RGB, id="RGBA array"),
        pytest.param(list(ALPHA.transpose(0, 3, 1, 2)), RGB, id="RGBA arrays (C, H, W)"),
        pytest.param(torch.from_numpy(ALPHA), RGB, id="RGBA tensor"),
        pytest.param(RGB[:, ::-1, ::-1, ::-1][:, ::-1, ::-1, ::-1], RGB, id="turned twice"),
        pytest.param(np.ascontiguousarray(RGB[..., ::-1])[..., ::-1], RGB, id="negative stride"),
        pytest.param([f[:, :, ::-1] for f in np.ascontiguousarray(RGB[..., ::-1])], RGB, id="negative strides, list"),
        pytest.param(RGB.astype(np.float32) / 255, RGB, id="float32 in [0, 1]"),
        pytest.param((RGB / 255).astype(">f8"), RGB, id="float64, big endian, in [0, 1]"),
        pytest.param((RGB.astype(np.float32) / 255).astype(np.float16), RGB, id="float16 in [0, 1]"),
        pytest.param(torch.from_numpy(RGB).permute(0, 3, 1, 2) / 255, RGB, id="float tensor in [0, 1]"),
        pytest.param(RGB.astype(np.float64) / 255 * 1.000001, RGB, id="floats in [0, 1] but for rounding"),
        pytest.param([Image.fromarray(RGB[0]), *RGB[1:]], RGB, id="pictures and arrays"),
        pytest.param(np.broadcast_to(RGB[:1], RGB.shape), RGB[[0, 0, 0, 0]], id="read-only"),
    ],
)
def test_every_kind_of_frames_gives_the_pixels_of_its_rgb_frames(frames, rgb):
    assert pixels(frames).equal(pixels(rgb))
    assert pixels([frames, frames]).equal(pixels([rgb, rgb]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint16, np.int64])
def test_numbers_in_0_to_255_keep_their_scale(dtype):
    torch.testing.assert_close(pixels(RGB.astype(dtype)).float(), pixels(RGB), atol=0.036, rtol=0)  # two levels


def test_frames_that_are_scaled_already_stay_so_without_rescaling():
    scaled = (RGB / 255).astype(np.float32)
    torch.testing.assert_close(pixels(scaled, do_rescale=False), pixels(RGB), atol=0.036, rtol=0)
    negative = pixels(scaled * 2 - 1, do_rescale=False, do_normalize=False)
    assert -1 <= negative.min() < -0.1 and 0.1 < negative.max() <= 1
    sixteen = pixels(RGB.astype(np.float32) * 257, rescale_factor=1 / 65535)
    torch.testing.assert_close(sixteen, pixels(RGB), atol=0.036, rtol=0)


@pytest.mark.parametrize(
    "frames, message",
    [
        (RGB.astype(np.uint16) * 257, r"frames of uint16 have values from 0 to 65535; they must be in \[0, 255\]"),
        ([Image.fromarray(f) for f in GREY[..., 0].astype(np.uint16) * 257], "frames of uint16 have values"),
        (RGB / np.float32(127.5) - 1, "frames of float32 have values from -1 to 1;"),
        (np.full_like(RGB, np.nan, dtype=np.float32), "from nan to nan"),
        (RGB.astype(np.float32) * 4, "from 0 to 1020"),
        (RGB.astype(np.int16) - 128, "frames of int16 have values from -128 to 127"),
        (RGB.astype(str), "frames are arrays of <U3; they must hold numbers"),
        (RGB[..., [0, 1]], r"frames of shape \(24, 30, 2\) have no axis of 1, 3 or 4 channels"),
        ([RGB[0], RGB[1, :12]], r"shapes \[\(3, 12, 30\), \(3, 24, 30\)\] \(C, H, W\); they must have one"),
        (RGB[0], r"a ndarray of shape \(24, 30, 3\) is 1 frame; motion needs at least 2.*one array \(T, H, W, C\)"),
        (Image.fromarray(RGB[0]), r"a Image of 30 x 24 is 1 frame; .* \[\[frame, ...\]\]"),
        (RGB[:1], r"a video of shape \(1, 3, 24, 30\) has 1 frame; motion needs at least 2"),
        ([RGB, RGB[:1]], "has 1 frame; motion needs at least 2"),
        ([RGB, RGB[0]], r"shape \(24, 30, 3\) is 1 frame"),
        (RGB[:0], "has no frame"),
        ([], "an empty list is not a video. A video is a path, an address"),
        (None, "a NoneType is not a video"),
        ({"video": "a.mp4"}, r"a mapping with \['video'\] names no video; it must have path or bytes"),
        ([RGB, "a.mp4"], "files and frames were given in one list"),
        (io.StringIO("text"), "an open file of text is not a video; open it in binary mode"),
    ],
)
def test_what_is_not_a_video_is_refused_in_words(frames, message):
    with pytest.raises(ValueError, match=message):
        pixels(frames)


def test_a_flat_list_is_one_video_of_frames_and_a_list_of_lists_several_videos():
    assert pixels(list(RGB)).shape[:2] == (1, 4)
    assert pixels([list(RGB), list(RGB[:2])], do_sample_frames=True, num_frames=2).shape[:2] == (2, 2)
    assert pixels([[RGB, RGB], [RGB]]).shape[:2] == (3, 4)
    first, last = pixels([RGB.transpose(0, 3, 1, 2), RGB])  # each of a layout of its own
    assert first.equal(last)


class Pipe(io.BytesIO):
    """A stream that can be read once, as an answer of a server."""

    def seekable(self) -> bool:
        return False

    def seek(self, *arguments):
        raise io.UnsupportedOperation("seek")


def test_a_video_is_read_from_every_source(classify, video):
    content = video.read_bytes()
    wanted, answer = pixels(str(video)), classify(str(video))
    with open(video, "rb") as file:
        for source in (
            video,
            content,
            bytearray(content),
            file,
            io.BytesIO(content),
            Pipe(content),
            {"path": str(video), "bytes": None},
            {"path": "name in a table.mp4", "bytes": content},
        ):
            assert pixels(source).equal(wanted), source
            if not isinstance(source, Pipe):
                assert pixels([source, str(video)]).equal(torch.cat([wanted, wanted]))
                assert classify(source) == answer and classify([source]) == [answer]
    with pytest.raises(VideoDecodeError, match="broken.mp4"):
        pixels({"path": "broken.mp4", "bytes": b"no video"})


def test_a_single_frame_is_refused_by_processor_and_pipeline(classify, tmp_path):
    still = write_ramp(tmp_path / "still.mp4", num_frames=1)
    Image.fromarray(RGB[0]).save(tmp_path / "a.png")
    for path in (still, tmp_path / "a.png"):
        for call in (pixels, classify):
            with pytest.raises(VideoDecodeError, match=f"{path.name}: has 1 frame; motion needs at least 2"):
                call(str(path))
    for given in (still.read_bytes(), RGB[:1], [[RGB[0]]]):
        with pytest.raises((VideoDecodeError, ValueError), match="has 1 frame; motion needs at least 2"):
            classify(given)
    with pytest.raises(ValueError, match=r"is 1 frame; .* give it the frames of one as one array, or as \[\[frame"):
        classify([Image.fromarray(frame) for frame in RGB])  # a pipeline takes a list for several videos


def test_pipelines_batch(classify, folder, tmp_path):
    videos = [str(write_noise(tmp_path / f"{i}.mp4", 30 + i, seed=i)) for i in range(5)]
    wanted, sizes = [classify(name) for name in videos], []
    hook = classify.model.register_forward_pre_hook(
        lambda _, given, named: sizes.append(len(named["pixel_values"])), with_kwargs=True
    )
    try:
        found = classify(videos, batch_size=2)
    finally:
        hook.remove()
    assert sizes == [2, 2, 1]
    assert [[r["label"] for r in row] for row in found] == [[r["label"] for r in row] for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert [r["score"] for r in one] == pytest.approx([r["score"] for r in other], abs=1e-6)
    assert list(classify((name for name in videos), batch_size=2)) == found
    frames = [decode_frames(name, range(30)).permute(0, 2, 3, 1).numpy() for name in videos[:2]]
    assert len(classify([list(frames[0]), frames[1]], batch_size=2)) == 2


def test_a_pipeline_refuses_several_videos_that_it_would_answer_as_one(classify, video):
    for given in ((str(video), str(video)), [[str(video), str(video)]]):
        with pytest.raises(ValueError, match="2 videos were given as one; a pipeline takes several as a list"):
            classify(given)


@pytest.mark.parametrize("rate", [1, 4])
def test_the_pipelines_frame_sampling_rate_is_the_stride(folder, classify, video, rate):
    def scores(stride):
        pixel_values = classify.video_processor(str(video), frame_stride=stride, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            return sorted(classify.model(pixel_values).logits.softmax(-1)[0].tolist(), reverse=True)

    def found(answers):
        return [answer["score"] for answer in answers]

    wanted = scores(rate)
    assert wanted != pytest.approx(scores(STRIDE), abs=1e-4)
    assert found(classify(str(video), frame_sampling_rate=rate)) == pytest.approx(wanted, abs=1e-6)
    for row in classify([str(video)] * 2, frame_sampling_rate=rate, batch_size=2):
        assert found(row) == pytest.approx(wanted, abs=1e-6)
    strided = pipeline("video-classification", model=str(folder), frame_sampling_rate=rate)
    assert found(strided(str(video))) == pytest.approx(wanted, abs=1e-6)
    assert found(classify(str(video))) == pytest.approx(scores(STRIDE), abs=1e-6)
    with pytest.raises(ValueError, match="frame_stride is 0; it must be at least 1"):
        classify(str(video), frame_sampling_rate=0)


@pytest.mark.parametrize("auto", [AutoImageProcessor, AutoFeatureExtractor])
def test_the_auto_classes_of_older_tutorials_give_the_video_processor(folder, tmp_path, auto):
    processor = auto.from_pretrained(folder)
    assert type(processor) is VideoMSVideoProcessor
    assert processor.to_dict() == AutoVideoProcessor.from_pretrained(folder).to_dict()
    processor.num_frames = 4
    processor.save_pretrained(tmp_path)
    assert auto.from_pretrained(tmp_path).num_frames == AutoVideoProcessor.from_pretrained(tmp_path).num_frames == 4
    text = json.loads((folder / "preprocessor_config.json").read_text())
    assert set(text) == {"image_processor_type", "feature_extractor_type", "auto_map"}  # options stand in one file
    assert processor.num_frames != NUM_FRAMES
