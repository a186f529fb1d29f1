"""Clips are normalised and sized as the model's own processor says, in every script."""

import json
import runpy
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from tests.evaluation_files import NUM_FRAMES, SIZE, STRIDE, save_classifier, write_labelled_videos
from tests.test_training_scripts import words
from videoms_hf import VideoMSConfig, VideoMSForPreTraining, VideoMSForVideoClassification, VideoMSModel
from videoms_hf.data.annotations import read_videos
from videoms_hf.data.collate import collate_clips
from videoms_hf.data.dataset import ViewDataset
from videoms_hf.data.transforms import erase_box, normalize, pixel_statistics
from videoms_hf.training import FineTuningArguments, VideoMSTrainer
from videoms_hf.tubelets_videoms import pixel_targets, split_tubelets
from videoms_hf.video_processing_videoms import VideoMSVideoProcessor
from videoms_hf.visualization.drawings import frames_from_pixel_values


SCRIPTS = Path(__file__).parents[1] / "scripts"
MEAN, STD = [0.2, 0.5, 0.9], [0.5, 0.25, 0.1]
TRAINING = {
    "num_train_epochs": 1,
    "warmup_epochs": 0,
    "per_device_train_batch_size": 2,
    "dataloader_num_workers": 0,
    "use_cpu": True,
    "disable_tqdm": True,
}


def run(name: str, **options) -> None:
    runpy.run_path(str(SCRIPTS / f"{name}.py"))["main"](words(options))


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    return write_labelled_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A classifier whose processor, not its configuration, has other statistics than ImageNet's."""
    folder = save_classifier(tmp_path_factory.mktemp("model"))
    VideoMSVideoProcessor.from_pretrained(folder, image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clips(model, videos) -> torch.Tensor:
    paths = [str(videos.parent / f"clip {i}.mp4") for i in range(5)]
    return VideoMSVideoProcessor.from_pretrained(model)(paths, return_tensors="pt")["pixel_values"]


def test_evaluation_and_features_normalise_as_the_processor_does(model, videos, clips, tmp_path):
    views = {"model": model, "data": videos, "output_dir": tmp_path, "num_segments": 1, "num_crops": 1}
    run("evaluate_model", **views, num_workers=0)
    run("extract_features", **views, num_workers=0)
    with torch.no_grad():
        expected = VideoMSForVideoClassification.from_pretrained(model).eval()(clips).logits.softmax(-1)
        encoder = VideoMSModel.from_pretrained(model).eval()
        features = encoder.get_clip_features(clips)
    report = json.loads((tmp_path / "evaluation.json").read_text())
    found = torch.tensor([video["probabilities"] for video in report["videos"]])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found = pq.read_table(tmp_path / "features-00000-of-00001.parquet")["feature"].to_pylist()
    torch.testing.assert_close(torch.tensor(found), features, rtol=1e-4, atol=1e-5)


def test_prediction_and_probes_normalise_as_the_processor_does(model, videos, clips, tmp_path):
    paths = [str(videos.parent / f"clip {i}.mp4") for i in range(5)]
    predict = runpy.run_path(str(SCRIPTS / "predict.py"))["main"]
    predict([*paths, "--model", str(model), "--output", str(tmp_path / "out.json"), "--num_workers", "0"])
    probe, features = runpy.run_path(str(SCRIPTS / "probe.py"))["main"], []
    fit = probe.__globals__["linear_probe"]
    probe.__globals__["linear_probe"] = lambda *inputs: features.append(inputs[2]) or fit(*inputs)
    lists = {"train_data": videos, "test_data": videos, "output_dir": tmp_path}
    probe([*words({"model": model, **lists, "num_workers": 0}), "--probes", "linear"])
    with torch.no_grad():
        wanted = VideoMSForVideoClassification.from_pretrained(model).eval()(clips).logits.softmax(-1)
        means = VideoMSModel.from_pretrained(model).eval().get_clip_features(clips)
    found = [list(row["probabilities"].values()) for row in json.loads((tmp_path / "out.json").read_text())]
    torch.testing.assert_close(torch.tensor(found), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features[0], means, rtol=1e-4, atol=1e-5)


def test_a_trainer_normalises_as_its_processor_does_and_writes_it_into_the_configuration(
    model, videos, clips, tmp_path
):
    classifier = VideoMSForVideoClassification.from_pretrained(model)
    trainer = VideoMSTrainer(
        classifier,
        FineTuningArguments(output_dir=str(tmp_path), eval_strategy="no", **TRAINING),
        eval_data_collator=collate_clips,
        processing_class=VideoMSVideoProcessor.from_pretrained(model),
    )
    predicted = trainer.predict(ViewDataset(read_videos(videos), NUM_FRAMES, STRIDE, size=SIZE)).predictions
    with torch.no_grad():
        expected = classifier.eval()(clips).logits
    torch.testing.assert_close(torch.tensor(predicted), expected, rtol=1e-4, atol=1e-4)
    trainer.save_model()
    config = VideoMSConfig.from_pretrained(tmp_path)
    assert (config.image_mean, config.image_std) == (MEAN, STD)


def test_fine_tuning_takes_clips_and_normalisation_from_the_checkpoint(model, videos, tmp_path, capsys):
    """Not 16 frames of 224 x 224 by ImageNet's statistics; what is set otherwise is said."""
    run("finetune", model_name_or_path=model, train_data=videos, output_dir=tmp_path / "a", **TRAINING)
    said = capsys.readouterr().out
    assert f"{NUM_FRAMES} frames of {SIZE}x{SIZE}" in said and "other clips" not in said
    processor = VideoMSVideoProcessor.from_pretrained(tmp_path / "a")
    assert (processor.num_frames, processor.frame_stride, processor.crop_size.height) == (NUM_FRAMES, STRIDE, SIZE)
    assert (list(processor.image_mean), list(processor.image_std)) == (MEAN, STD)
    options = {"frame_stride": 1, "image_size": 16, "candidate_ratio": 1.5}
    run("finetune", model_name_or_path=model, train_data=videos, output_dir=tmp_path / "b", **TRAINING, **options)
    said = capsys.readouterr().out
    for name, number, own in (("frame_stride", 1, STRIDE), ("image_size", 16, SIZE), ("candidate_ratio", 1.5, 1.0)):
        assert f"clips differ from the checkpoint's: {name} {number}, not {own}" in said
    assert "num_frames" not in said
    assert VideoMSVideoProcessor.from_pretrained(tmp_path / "b").candidate_ratio == 1.5


def test_targets_noise_and_pictures_undo_the_models_own_normalisation(tiny_config):
    frames = torch.randint(0, 256, (2, 8, 3, 32, 32), dtype=torch.uint8)
    config = tiny_config(image_mean=MEAN, image_std=STD, norm_pix_loss=False)
    clips = normalize(frames, MEAN, STD)
    tubelets = split_tubelets(clips, config).flatten(1, 3)
    pixels = split_tubelets(frames / 255, config).flatten(1, 3)
    expected = pixels.flatten(3).transpose(2, 3).flatten(2)
    torch.testing.assert_close(pixel_targets(tubelets, False, MEAN, STD), expected, rtol=1e-4, atol=1e-5)
    outputs = VideoMSForPreTraining(config).eval()(clips)
    ids = outputs.target_ids[..., None].expand(-1, -1, expected.shape[-1])
    loss = (outputs.logits - expected.gather(1, ids)).square().mean()
    torch.testing.assert_close(outputs.loss, loss, rtol=1e-4, atol=1e-5)
    assert torch.equal(frames_from_pixel_values(clips[0], MEAN, STD), frames[0])
    grey = torch.full((8, 3, 32, 32), 7, dtype=torch.uint8)
    noise = torch.cat([(erased := erase_box(grey, [0.5] * 3, [0.1] * 3))[erased != 7] for _ in range(20)]) / 255
    assert noise.mean().item() == pytest.approx(0.5, abs=0.02) and noise.std().item() == pytest.approx(0.1, abs=0.02)


def test_what_a_processor_does_to_pixels_is_a_mean_and_a_deviation():
    frames = torch.randint(0, 256, (4, 3, 224, 224), dtype=torch.uint8)
    for options in ({}, {"image_mean": 0.4, "image_std": 0.3}, {"do_normalize": False}, {"rescale_factor": 1 / 127.5}):
        processor = VideoMSVideoProcessor(num_frames=4, **options)
        expected = processor(frames, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(normalize(frames, *pixel_statistics(processor)), expected, rtol=1e-4, atol=1e-5)
