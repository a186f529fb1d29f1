"""Auto classes and the pipeline, with the package imported: what they load and which frames they look at."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoVideoProcessor, pipeline

import videoms_hf
from tests.evaluation_files import CLASSES, NUM_FRAMES, STRIDE, save_classifier, write_labelled_videos, write_noise
from tests.video_files import write_ramp
from videoms_hf import VideoMSForPreTraining, VideoMSForVideoClassification, VideoMSModel, VideoMSVideoProcessor
from videoms_hf.decoding_videoms import decode_frames
from videoms_hf.evaluation.metrics import aggregate_views
from videoms_hf.evaluation.prediction import (
    evaluation_views,
    labelled_videos,
    predict_views,
    start_accelerator,
)

from .conftest import randomize


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Folder with five videos of different length and their list."""
    videos = tmp_path_factory.mktemp("videos")
    write_labelled_videos(videos)
    return videos


@pytest.fixture
def address(videos):
    """Makes the http address of a file in `videos`, served for the time of a test."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(videos)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield lambda name: f"http://127.0.0.1:{server.server_port}/{name.replace(' ', '%20')}"
    server.shutdown()
    server.server_close()


def scores(results: list[dict]) -> list[float]:
    """Scores in the order of the classes."""
    assert [result["score"] for result in results] == sorted((r["score"] for r in results), reverse=True)
    return [{r["label"]: r["score"] for r in results}[name] for name in CLASSES]


def test_the_public_names_are_exported():
    for name in videoms_hf.__all__:
        assert getattr(videoms_hf, name).__name__ == name
    assert set(videoms_hf.__all__) == {
        "VideoMSConfig",
        "VideoMSForPreTraining",
        "VideoMSForVideoClassification",
        "VideoMSModel",
        "VideoMSVideoProcessor",
        "VideoDecodeError",
        "open_video",
    }


def test_each_auto_class_loads_its_kind_from_one_folder(folder):
    assert type(AutoConfig.from_pretrained(folder)) is videoms_hf.VideoMSConfig
    assert type(AutoModel.from_pretrained(folder)) is VideoMSModel
    assert type(AutoModelForPreTraining.from_pretrained(folder)) is VideoMSForPreTraining
    processor = AutoVideoProcessor.from_pretrained(folder)
    assert type(processor) is VideoMSVideoProcessor
    assert (processor.num_frames, processor.frame_stride, processor.crop_size.height) == (NUM_FRAMES, STRIDE, 32)


def test_the_video_processor_is_found_by_the_configuration_alone(folder, tmp_path):
    """As in a folder whose processor file names no class."""
    AutoConfig.from_pretrained(folder).save_pretrained(tmp_path)
    (tmp_path / "video_preprocessor_config.json").write_text('{"num_frames": 4}')
    processor = AutoVideoProcessor.from_pretrained(tmp_path)
    assert type(processor) is VideoMSVideoProcessor and processor.num_frames == 4


def test_pipeline_takes_a_path_a_list_an_address_and_frames_alike(folder, videos, address):
    classify = pipeline("video-classification", model=str(folder), device="cpu")
    path = str(videos / "clip 4.mp4")
    expected = scores(classify(path))
    assert sum(expected) == pytest.approx(1)
    assert scores(classify(address("clip 4.mp4"))) == pytest.approx(expected)
    frames = decode_frames(path, range(40))  # (T, C, H, W)
    assert scores(classify(frames)) == pytest.approx(expected)
    assert scores(classify(frames.permute(0, 2, 3, 1).numpy())) == pytest.approx(expected)
    pictures = [Image.fromarray(frame) for frame in frames.permute(0, 2, 3, 1).numpy()]
    assert scores(classify([pictures])[0]) == pytest.approx(expected)
    others = [str(videos / f"clip {i}.mp4") for i in (3, 4)]
    for found, video in zip(classify(others), others, strict=True):
        assert scores(found) == pytest.approx(scores(classify(video)))
    assert scores(classify(others)[0]) != pytest.approx(expected)
    for found, name in zip(classify([address(Path(video).name) for video in others]), others, strict=True):
        assert scores(found) == pytest.approx(scores(classify(name)))
    assert [result["label"] for result in classify(path, top_k=1)] == [CLASSES[int(np.argmax(expected))]]


def test_pipeline_looks_at_the_whole_video_and_not_at_its_beginning(folder, videos):
    """Without a stride of its own the frames are spread evenly from end to end."""
    classify = pipeline(
        "video-classification",
        model=str(folder),
        video_processor=AutoVideoProcessor.from_pretrained(folder, frame_stride=None),
    )
    path = videos / "clip 4.mp4"
    frames = decode_frames(path, [2, 7, 12, 17, 22, 27, 32, 37])  # the middles of eighths of 40 frames
    clip = VideoMSVideoProcessor.from_pretrained(folder)(frames, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        wanted = classify.model(clip).logits.softmax(-1)[0].tolist()
    assert scores(classify(str(path))) == pytest.approx(wanted)
    assert scores(classify(decode_frames(path, range(40)))) == pytest.approx(wanted)


def test_pipeline_takes_a_clip_of_the_right_length_as_it_is(folder, videos):
    """The stride is for whole videos; a clip has been cut with it already."""
    classify = pipeline("video-classification", model=str(folder))
    clip = decode_frames(videos / "clip 4.mp4", [3, 5, 7, 9, 11, 13, 15, 17])
    pixels = classify.video_processor(clip, do_sample_frames=False, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        wanted = classify.model(pixels).logits.softmax(-1)[0].tolist()
    assert scores(classify(clip)) == pytest.approx(wanted)


@pytest.mark.parametrize("num_segments, num_crops", [(1, 1), (1, 3), (4, 1), (3, 3)])
def test_pipeline_with_views_scores_as_evaluation_does(folder, videos, num_segments, num_crops):
    processor = AutoVideoProcessor.from_pretrained(folder, num_segments=num_segments, num_crops=num_crops)
    classify = pipeline("video-classification", model=str(folder), video_processor=processor)
    model = VideoMSForVideoClassification.from_pretrained(folder).eval()
    table = labelled_videos(str(videos / "test.csv"), CLASSES)
    views = evaluation_views(table, model, VideoMSVideoProcessor.from_pretrained(folder), num_segments, num_crops)
    (predictions,) = predict_views(model, views, start_accelerator(), batch_size=4, num_workers=0)
    _, wanted = aggregate_views(predictions.logits, predictions.video_ids)
    for video, row in zip(table["video"], wanted, strict=True):
        assert scores(classify(video)) == pytest.approx(row.tolist(), abs=1e-6)


def test_frame_selection_gets_its_candidates_from_the_pipeline(tmp_path):
    """The pipeline names the model's frames; the processor samples as many more as the model draws from."""
    folder = save_classifier(tmp_path / "model", candidate_ratio=1.5)
    video = write_noise(tmp_path / "v.mp4", 40, seed=1)
    classify = pipeline("video-classification", model=str(folder))
    pixels = classify.video_processor(str(video), return_tensors="pt")["pixel_values"]
    assert pixels.shape[1] == 12 == classify.model.config.num_candidate_frames
    with torch.no_grad():
        wanted = classify.model(pixels).logits.softmax(-1)[0].tolist()
    assert scores(classify(str(video))) == pytest.approx(wanted)


def test_pipeline_runs_in_half_precision(folder, videos):
    classify = pipeline("video-classification", model=str(folder), dtype=torch.bfloat16)
    single = pipeline("video-classification", model=str(folder))
    assert classify.model.dtype == torch.bfloat16
    path = str(videos / "clip 4.mp4")
    assert scores(classify(path)) == pytest.approx(scores(single(path)), abs=0.05)


def test_a_broken_file_is_named_by_the_pipeline(folder, tmp_path):
    (tmp_path / "broken.mp4").write_text("no video")
    classify = pipeline("video-classification", model=str(folder))
    with pytest.raises(RuntimeError, match="broken.mp4: FFmpeg cannot read it"):
        classify(str(tmp_path / "broken.mp4"))


def test_pretraining_loads_by_its_auto_class_and_takes_the_processors_clips(tiny_config, tmp_path):
    model = randomize(VideoMSForPreTraining(tiny_config())).eval()
    model.save_pretrained(tmp_path)
    VideoMSVideoProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, num_frames=8
    ).save_pretrained(tmp_path)
    clip = AutoVideoProcessor.from_pretrained(tmp_path)(
        [write_ramp(tmp_path / "a.mp4"), write_ramp(tmp_path / "b.mp4", num_frames=20, step=10)], return_tensors="pt"
    )
    assert clip["pixel_values"].shape == (2, 8, 3, 32, 32)
    loss = AutoModelForPreTraining.from_pretrained(tmp_path).eval()(**clip).loss
    assert loss.equal(model(**clip).loss)
