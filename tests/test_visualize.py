"""Views of clips, animations and `videoms visualize`: every frame of a video with the tokens of its own clip."""

import runpy
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.evaluation_files import save_classifier, write_noise
from tests.video_files import write_video
from videoms_hf import VideoMSForPreTraining, VideoMSForVideoClassification, VideoMSModel
from videoms_hf.decoding_videoms import decode_frames
from videoms_hf.readers import open_video
from videoms_hf.tubelets_videoms import gather_slices, gather_tubelets, pixel_targets, split_tubelets
from videoms_hf.visualization.animation import write_animation
from videoms_hf.visualization.clips import (
    _restored,
    animate_clips,
    clip_rows,
    clip_tokens,
    clip_windows,
    describe_motion,
    motion_summary,
    view_of,
    view_windows,
)
from videoms_hf.visualization.drawings import frames_from_pixel_values

from .conftest import randomize


SCRIPT = Path(__file__).parents[1] / "scripts" / "visualize.py"


def moving_square(num_frames: int = 8, size: int = 32) -> np.ndarray:
    """Grey frames, uint8 (T, H, W, 3), on which a white square jumps along the first row of patches."""
    frames = np.full((num_frames, size, size, 3), 60, dtype=np.uint8)
    for i in range(num_frames):
        column = i // 2 % 4
        frames[i, :8, 8 * column : 8 * column + 8] = 255
    return frames


def normalised(frames: np.ndarray) -> torch.Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = torch.from_numpy(frames).float() / 255
    return ((pixels - mean) / std).permute(0, 3, 1, 2)


# --- clips -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length, num_frames, stride", [(64, 8, 2), (50, 8, 4), (10, 4, 2), (7, 4, 4), (3, 4, 4)])
def test_windows_show_every_frame_of_a_video(length, num_frames, stride):
    windows = clip_windows(length, num_frames, stride)
    assert sorted({int(number) for window in windows for number in window.flat}) == list(range(length))
    steps = {int(step) for window in windows for step in np.diff(window, axis=1).flat}
    assert steps == {min(stride, max(length // num_frames, 1))} or length < num_frames


def test_windows_are_the_ones_of_the_example():
    assert [window.tolist() for window in clip_windows(10, 4, 2)] == [
        [[0, 2, 4, 6], [1, 3, 5, 7]],
        [[2, 4, 6, 8], [3, 5, 7, 9]],
    ]


@pytest.mark.parametrize("cls", [VideoMSForVideoClassification, VideoMSModel, VideoMSForPreTraining])
def test_tokens_are_those_that_the_model_says(tiny_config, cls):
    model = randomize(cls(tiny_config(pretraining_keep_ratio=0.5, mask_ratio=0.8))).eval()
    clips = torch.randn(2, 8, 3, 32, 32)
    outputs = model(clips)
    for i, look in enumerate(clip_tokens(model, clips)):
        ids = {"visible": outputs.get("kept_ids"), "target": outputs.get("target_ids")}
        ids["visible"] = outputs.visible_ids if ids["visible"] is None else ids["visible"]
        for name, wanted in ids.items():
            found = getattr(look, name).nonzero().flatten().tolist()
            assert found == ([] if wanted is None else wanted[i].tolist())
        torch.testing.assert_close(look.importance, outputs.importance[i])
        assert look.chosen.all() and look.grid == (4, 4, 4)
        assert (look.restored is None) == (cls is not VideoMSForPreTraining)
    assert model.config.token_selection == "motion"


@pytest.mark.parametrize("cls", [VideoMSForVideoClassification, VideoMSForPreTraining])
def test_with_frame_selection_tokens_are_placed_among_all_candidates(tiny_config, cls):
    model = randomize(cls(tiny_config(candidate_ratio=1.5, pretraining_keep_ratio=0.5, mask_ratio=0.8))).eval()
    clips = torch.randn(1, 12, 3, 32, 32)
    outputs, (look,) = model(clips), clip_tokens(model, clips)
    assert look.chosen.nonzero().flatten().tolist() == outputs.slice_ids[0].tolist() and len(look.chosen) == 6
    ids = outputs.visible_ids if outputs.kept_ids is None else outputs.kept_ids
    expected = torch.zeros(6, 16, dtype=torch.bool)
    for token in ids[0].tolist():
        expected[outputs.slice_ids[0, token // 16], token % 16] = True
    assert torch.equal(look.visible.view(6, 16), expected)
    assert not look.kept.view(6, 16)[~look.chosen].any()


@pytest.mark.parametrize("candidate_ratio", [1.0, 1.5])
def test_the_reconstruction_of_a_perfect_prediction_is_the_input(tiny_config, candidate_ratio):
    config = tiny_config(candidate_ratio=candidate_ratio, pretraining_keep_ratio=0.5, mask_ratio=0.8)
    clip = normalised(np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8))
    clip = clip[: config.num_candidate_frames]
    outputs = VideoMSForPreTraining(config).eval()(clip[None])
    slices = torch.arange(len(clip) // 2)[None] if outputs.slice_ids is None else outputs.slice_ids
    tubelets = split_tubelets(gather_slices(clip[None], slices, 2), config)
    perfect = pixel_targets(gather_tubelets(tubelets, outputs.target_ids), normalize=True)
    restored = _restored(config, clip, slices[0], perfect[0], outputs.target_ids[0])
    assert torch.equal(restored, frames_from_pixel_values(clip))
    wrong = _restored(config, clip, slices[0], perfect[0] + 1, outputs.target_ids[0])
    changed = (wrong != restored).any(dim=1).unflatten(2, (4, 8)).unflatten(1, (4, 8)).unflatten(0, (-1, 2))
    (look,) = clip_tokens(VideoMSForPreTraining(config).eval(), clip[None])
    assert changed.any(dim=5).any(dim=3).any(dim=1).sum() == look.target.sum()  # and the others are the input


def test_a_patch_that_moves_is_bright_and_the_still_ones_are_dim(tiny_config):
    """At every step the square is at one patch and has left another; 8 of 64 tokens move, for the first step too."""
    model = VideoMSForVideoClassification(tiny_config(keep_ratio=8 / 64)).eval()
    view = view_of(model, normalised(moving_square()))
    clip, heat, kept = clip_rows(view, 2, ("clip", "importance", "kept"), frame_width=160)
    for i in range(8):
        step = i // 2
        moving = {step, step - 1} if step else {0, 1}  # the first step takes the importance of the second
        for place in range(16):
            row, column = place // 4 * 40, place % 4 * 40
            part = (slice(row + 8, row + 32), slice(column + 8, column + 32))
            if place in moving:
                assert (kept.frames[i][part] == clip.frames[i][part]).all() and heat.frames[i][part].mean() > 150
            else:
                assert kept.frames[i][part].max() < 60 and heat.frames[i][part].mean() < 30


def test_selections_are_compared_on_the_same_clip(tiny_config, tmp_path):
    model = VideoMSForVideoClassification(tiny_config(keep_ratio=0.25, id2label={0: "a", 1: "b"})).eval()
    processor = runpy.run_path(str(SCRIPT))["load_processor"](str(save_classifier(tmp_path)))
    with open_video(moving_square()) as video:
        names = ["motion", "random", "tube"]
        ((view,),) = view_windows(video, clip_windows(8, 8, 1), model, processor, names)
        assert len(list(animate_clips([[view]], 2, 8.0, 0.25))) == 8
    kept = {name: look.kept.view(4, 16) for name, look in view.looks.items()}
    assert list(kept) == names and all(look.sum() == 16 for look in kept.values())
    assert (kept["tube"] == kept["tube"][0]).all() and not (kept["random"] == kept["random"][0]).all()
    assert kept["motion"][1, :2].all() and model.config.token_selection == "motion"
    captions = [row.caption for row in clip_rows(view, 2)]
    assert [caption.split(",")[0] for caption in captions[2:]] == ["Motion", "Random", "Tube"]
    assert view.gmacs["motion"] == pytest.approx(model.flops() / 1e9)


# --- summary ---------------------------------------------------------------------------------------------------------


def test_the_summary_equals_a_count_by_hand():
    maps = [torch.tensor([[[4.0, 0], [0, 0]], [[2, 2], [0, 0]]]), torch.tensor([[[0.0, 1], [1, 0]], [[6, 0], [0, 0]]])]
    found = motion_summary(maps, [np.array([0.0, 1.0]), np.array([0.5, 1.5])], num_ratios=8)
    assert found.seconds.tolist() == [0, 0.5, 1, 1.5]
    assert found.over_time.tolist() == [1, 0.5, 1, 1.5]  # a quarter of 4, 2, 4, 6
    np.testing.assert_allclose(found.over_space, np.array([[12, 3], [1, 0]]) / 16)
    # Of 8 tokens each: 4 2 2 0 ... and 6 1 1 0 ...
    np.testing.assert_allclose(found.kept_motion, np.array([10, 13, 16, 16, 16, 16, 16, 16]) / 16)
    assert (found.ratio_for(0.6), found.ratio_for(0.9)) == (1 / 8, 3 / 8)
    text = describe_motion(found)
    assert (
        "0.0 s |*-*@| 1.5 s" in text
        and "motion       62%   62%   81%  100%" in text
        and "50% in 12% and 90% in 38%" in text
    )


def test_moments_that_two_clips_show_are_averaged():
    maps = [torch.ones(2, 2, 2), torch.full((2, 2, 2), 3.0)]
    found = motion_summary(maps, [np.array([0.0, 1.0]), np.array([1.0, 2.0])])
    assert found.seconds.tolist() == [0, 1, 2] and found.over_time.tolist() == [1, 2, 3]


def test_a_still_video_has_a_summary():
    found = motion_summary([torch.zeros(2, 2, 2)], [np.arange(2.0)])
    assert found.kept_motion.tolist() == [0.0] * 100 and "0.0 s |  | 1.0 s" in describe_motion(found)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["gif", "webp", "mp4"])
def test_animations_open_with_every_frame_and_their_duration(ending, tmp_path):
    pictures = [np.full((21, 33, 3), 20 * i, dtype=np.uint8) for i in range(12)]
    write_animation(iter(pictures), tmp_path / f"a.{ending}", fps=30)
    if ending == "mp4":
        with av.open(str(tmp_path / "a.mp4")) as container:
            stream = container.streams.video[0]
            assert stream.average_rate == 30 and (stream.height, stream.width) == (22, 34)
        levels = decode_frames(tmp_path / "a.mp4")[:, 0, 10, 10].tolist()
    else:
        with Image.open(tmp_path / f"a.{ending}") as image:
            assert image.n_frames == 12 and image.size == (33, 21) and image.info["loop"] == 0
            levels, durations = [], []
            for i in range(12):
                image.seek(i)
                levels.append(image.convert("RGB").getpixel((10, 10))[0])
                durations.append(image.info["duration"])
            assert sum(durations) == pytest.approx(400, abs=1) and max(durations) - min(durations) <= 10
    if ending != "webp":  # FFmpeg does not read animated ones
        with av.open(str(tmp_path / f"a.{ending}")) as container:
            assert sum(1 for _ in container.decode(video=0)) == 12
    np.testing.assert_allclose(levels, 20 * np.arange(12), atol=4)


def test_a_fast_gif_omits_frames_and_keeps_its_duration(tmp_path):
    write_animation((np.full((8, 8, 3), 8 * i, dtype=np.uint8) for i in range(24)), tmp_path / "a.gif", fps=120)
    with Image.open(tmp_path / "a.gif") as image:
        durations = []
        for i in range(image.n_frames):
            image.seek(i)
            durations.append(image.info["duration"])
    assert len(durations) == 8 and sum(durations) == 200 and min(durations) >= 20


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A video of 21 frames, a classifier, the same with frame selection, and a pre-training checkpoint."""
    folder = tmp_path_factory.mktemp("visualize")
    write_noise(folder / "a.mp4", 21, seed=0)
    save_classifier(folder / "classifier")
    save_classifier(folder / "selecting", candidate_ratio=1.5)
    pretrained = save_classifier(folder / "pretrained", pretraining_keep_ratio=0.5, mask_ratio=0.8)
    config = VideoMSForVideoClassification.from_pretrained(pretrained).config
    randomize(VideoMSForPreTraining(config)).save_pretrained(pretrained)
    return folder


def visualize(*words: object) -> None:
    runpy.run_path(str(SCRIPT))["main"]([str(word) for word in words])


@pytest.mark.parametrize("model", ["selecting", "pretrained"])
def test_an_animation_has_every_frame_at_the_videos_own_rate(folder, model, tmp_path, capsys):
    output = tmp_path / "new" / "out.mp4"
    visualize(folder / "a.mp4", "--model", folder / model, "--output", output)
    with open_video(output) as video:
        assert len(video) == 21 and video.info.fps == pytest.approx(25)
    assert "Share of the total motion" in capsys.readouterr().out
    with Image.open(tmp_path / "new" / "out-motion.png") as chart:
        assert chart.width > 900


def test_a_still_needs_no_model_and_takes_any_shape(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    visualize(folder / "a.mp4", "--output", tmp_path / "a.png", "--num_frames", 4, "--image_size", 64, 96)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 1000 and picture.height > 1000


def test_rows_part_and_selections_can_be_chosen(folder, tmp_path):
    words = [folder / "a.mp4", "--model", folder / "classifier", "--start", 0.2, "--seconds", 0.4, "--rows", "kept"]
    visualize(*words, "--output", tmp_path / "one.gif")
    visualize(*words, "--output", tmp_path / "three.webp", "--compare", "motion,random,tube", "--fps", 5)
    with Image.open(tmp_path / "one.gif") as one, Image.open(tmp_path / "three.webp") as three:
        assert one.n_frames == three.n_frames == 10 and three.width > 2 * one.width
        three.load()
        assert three.info["duration"] == 200


@pytest.mark.parametrize(
    "words, message",
    [
        (["--output", "a.txt"], "must end in one of .png"),
        (["--output", "a.png", "--compare", "motion,luck"], "compare has 'luck'; it must be some of motion,random"),
        (["--output", "a.png", "--keep_ratio", "1.5"], r"keep_ratio is 1.5; it must be in \(0, 1\]"),
        (["--output", "a.png", "--image_size", "1", "2", "3"], "one number or two"),
    ],
)
def test_options_that_do_not_fit_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        visualize("a.mp4", *words)


def test_rows_that_the_model_does_not_have_are_refused(folder, tmp_path):
    words = [folder / "a.mp4", "--model", folder / "classifier", "--rows", "reconstruction", "frames"]
    with pytest.raises(ValueError, match="rows are reconstruction, frames, which this model does not have"):
        visualize(*words, "--output", tmp_path / "a.png")


def test_a_video_too_long_for_an_image_file_is_refused(tmp_path, folder, monkeypatch):
    write_video(tmp_path / "long.mp4", np.zeros((1001, 16, 16, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"1001 frames, too many for \.gif: give a part with --start"):
        visualize(tmp_path / "long.mp4", "--model", folder / "classifier", "--output", tmp_path / "a.gif")


# --- README's picture ------------------------------------------------------------------------------------------------


def test_the_readmes_animation_is_small_and_shows_kept_tokens_in_colour():
    root = SCRIPT.parents[1]
    assert "docs/kept_tokens.webp" in (root / "README.md").read_text(encoding="utf-8").split("\n## ")[0]
    assert (root / "docs" / "kept_tokens.webp").stat().st_size < 2e6
    module = runpy.run_path(str(root / "scripts" / "benchmarks" / "kept_tokens.py"))
    frame, kept = torch.full((3, 448, 448), 200, dtype=torch.uint8), torch.zeros(14, 14, dtype=torch.bool)
    frame[1], kept[3, 5] = 20, True
    picture = module["picture"](frame, kept)
    with Image.open(root / "docs" / "kept_tokens.webp") as image:
        assert image.n_frames == module["NUM_FRAMES"] and image.size == picture.shape[1::-1]
    panel = picture[module["TOP"] : module["TOP"] + 448, -448 - module["MARGIN"] : -module["MARGIN"]]
    middles = panel[16::32, 16::32]  # of the tokens
    assert middles[3, 5].tolist() == [200, 20, 200] and (middles.max(axis=2) > 50).sum() == 1


def test_a_model_that_keeps_a_number_of_tokens_is_drawn(tmp_path):
    video = write_noise(tmp_path / "a.mp4", 20, 0)
    folder, output = save_classifier(tmp_path / "model", num_kept_tokens=8), tmp_path / "a.png"
    runpy.run_path(str(SCRIPT))["main"]([str(video), "--model", str(folder), "--output", str(output)])
    with Image.open(output) as picture:
        assert picture.width > 100
    predict = SCRIPT.with_name("predict.py")
    words = [str(video), "--model", str(folder), "--num_workers", "0", "--picture", str(tmp_path / "kept.png")]
    assert not runpy.run_path(str(predict))["main"](words) and (tmp_path / "kept.png").is_file()
