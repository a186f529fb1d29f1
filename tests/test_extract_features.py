"""Features on their way to files: those of the model, at every level, with what they were kept from."""

import runpy
from pathlib import Path

import pytest
import torch
from datasets import Dataset, concatenate_datasets, load_dataset
from safetensors import safe_open
from safetensors.torch import load_file

from tests.conftest import randomize
from tests.evaluation_files import NUM_FRAMES, SIZE, STRIDE, save_classifier, write_labelled_videos
from tests.processes import run_torchrun
from tests.test_training_scripts import words
from videoms_hf import VideoMSForPreTraining, VideoMSForVideoClassification, VideoMSModel
from videoms_hf.data.annotations import read_videos
from videoms_hf.data.dataset import ViewDataset
from videoms_hf.data.transforms import normalize
from videoms_hf.evaluation.classifier import load_encoder
from videoms_hf.evaluation.features import pool_features


EXTRACT = Path(__file__).parents[1] / "scripts" / "extract_features.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Folder with a model in `model` and videos listed in `test.csv`."""
    folder = tmp_path_factory.mktemp("features")
    save_classifier(folder / "model")
    write_labelled_videos(folder)
    return folder


def extract(folder: Path, output: Path, **options) -> None:
    common = {"model": folder / "model", "data": folder / "test.csv", "output_dir": output, "num_workers": 0}
    runpy.run_path(str(EXTRACT))["main"](words({**common, "batch_size": 2, **options}))


def reference(folder: Path, level: str, segments: int = 2):
    """Features and kept ids of every view, one view at a time, by the model's own functions."""
    model = VideoMSModel.from_pretrained(folder / "model").eval()
    table = read_videos(folder / "test.csv")
    views = ViewDataset(table, NUM_FRAMES, STRIDE, segments, 1, SIZE)
    features, kept = [], []
    with torch.no_grad():
        for i in range(len(views)):
            clip = views[i]["pixel_values"][None]
            clip = clip if clip.is_floating_point() else normalize(clip)
            functions = {"clip": model.get_clip_features, "time_step": model.get_time_step_features}
            by_token = lambda clip: model(clip).last_hidden_state  # noqa: E731
            features.append(functions.get(level, by_token)(clip)[0])
            kept.append(model(clip).kept_ids[0])
    return torch.stack(features), torch.stack(kept)


@pytest.mark.parametrize("level", ["clip", "time_step", "token"])
def test_a_parquet_row_has_a_views_features_and_the_tokens_they_come_from(level, folder, tmp_path, capsys):
    extract(folder, tmp_path, level=level, num_segments=2)
    assert f"{level} features of 10 views of 5 videos" in capsys.readouterr().out
    table = load_dataset("parquet", data_files=str(tmp_path / "features-00000-of-00001.parquet"), split="train")
    features, kept = reference(folder, level)
    torch.testing.assert_close(torch.tensor(table["feature"][:]), features, rtol=1e-4, atol=1e-5)
    assert torch.equal(torch.tensor(table["kept_ids"][:]), kept) and kept.shape == (10, 38)
    assert table["view"][:] == [0, 1] * 5 and table["label"][:] == [i % 3 for i in range(5) for _ in range(2)]
    assert table["video"][2] == str(folder / "clip 1.mp4") and table["video_id"][2] == 1


def test_safetensors_hold_the_same_and_say_where_it_comes_from(folder, tmp_path):
    extract(folder, tmp_path, level="time_step", num_segments=2, format="safetensors")
    found = load_file(tmp_path / "features-00000-of-00001.safetensors")
    features, kept = reference(folder, "time_step")
    torch.testing.assert_close(found["features"], features, rtol=1e-4, atol=1e-5)
    assert torch.equal(found["kept_ids"], kept) and found["video_ids"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert found["labels"].tolist() == [0, 0, 1, 1, 2, 2, 0, 0, 1, 1]
    with safe_open(tmp_path / "features-00000-of-00001.safetensors", "pt") as file:
        assert file.metadata()["level"] == "time_step" and file.metadata()["keep_ratio"] == "0.6"
    assert {path.name for path in tmp_path.iterdir()} == {"features-00000-of-00001.safetensors"}


def test_another_share_of_tokens_and_the_frame_selection_are_taken_over(folder, tmp_path):
    extract(folder, tmp_path / "a", level="token", keep_ratio=0.25)
    table = Dataset.from_parquet(str(tmp_path / "a" / "features-00000-of-00001.parquet"))
    assert torch.tensor(table["feature"][:]).shape == (5, 16, 16)
    selecting = save_classifier(tmp_path / "model", candidate_ratio=1.5)
    extract(folder, tmp_path / "b", model=selecting, level="time_step")
    table = Dataset.from_parquet(str(tmp_path / "b" / "features-00000-of-00001.parquet"))
    assert torch.tensor(table["feature"][:]).shape == (5, 4, 16)  # of the 4 steps that were drawn out of 6


def test_every_kind_of_model_gives_its_encoder(folder, tiny_config, tmp_path):
    classifier = VideoMSForVideoClassification.from_pretrained(folder / "model").eval()
    clip = torch.rand(1, NUM_FRAMES, 3, SIZE, SIZE)
    found = load_encoder(str(folder / "model"))(clip).last_hidden_state
    assert load_encoder(str(folder / "model")).layernorm is None
    torch.testing.assert_close(found, classifier.videoms(clip).last_hidden_state)
    pretraining = randomize(VideoMSForPreTraining(tiny_config())).eval()
    pretraining.save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path), keep_ratio=0.5)
    assert not any(parameter.requires_grad for parameter in encoder.parameters()) and not encoder.training
    wanted = pretraining.videoms(clip, keep_ratio=0.5).last_hidden_state
    torch.testing.assert_close(encoder(clip).last_hidden_state, wanted)


def test_a_checkpoint_without_its_encoder_and_words_that_mean_nothing_are_refused(folder, tmp_path):
    model = VideoMSForPreTraining.from_pretrained(folder / "model")
    state = {name: value for name, value in model.state_dict().items() if "layer.1." not in name}
    model.save_pretrained(tmp_path / "cut", state_dict=state)
    with pytest.raises(ValueError, match="[0-9]+ missing keys of VideoMSModel"):
        load_encoder(str(tmp_path / "cut"))
    with pytest.raises(ValueError, match="level is 'clips'; it must be one of clip, time_step, token"):
        pool_features(torch.rand(1, 2, 3), torch.zeros(1, 2), (1, 1, 2), "clips")
    with pytest.raises(ValueError, match="--format.*invalid choice: 'csv'"):
        extract(folder, tmp_path / "out", format="csv")


@pytest.mark.slow
def test_two_processes_write_parts_that_make_the_whole(folder, tmp_path):
    extract(folder, tmp_path / "one", num_segments=2)
    common = {"model": folder / "model", "data": folder / "test.csv", "output_dir": tmp_path / "two", "num_workers": 0}
    run_torchrun([EXTRACT, *words({**common, "num_segments": 2, "batch_size": 2})])
    parts = sorted((tmp_path / "two").iterdir())
    assert [part.name for part in parts] == [f"features-0000{i}-of-00002.parquet" for i in (0, 1)]
    tables = [
        Dataset.from_parquet(str(part)) for part in (*parts, tmp_path / "one" / "features-00000-of-00001.parquet")
    ]
    assert len(tables[0]) == len(tables[1]) == 5
    whole = concatenate_datasets(tables[:2])
    for name in ("video", "label", "view", "kept_ids"):
        assert whole[name][:] == tables[2][name][:]
    torch.testing.assert_close(torch.tensor(whole["feature"][:]), torch.tensor(tables[2]["feature"][:]))
