"""The laboratory's selections: pixel distance and the control that prefers what is still."""

import pytest
import torch

from videoms_hf import VideoMSForPreTraining, VideoMSForVideoClassification
from videoms_hf.experiments.selectors import SELECTORS, configured_selection, with_selector
from videoms_hf.tubelets_videoms import split_tubelets


def moving_square(config) -> torch.Tensor:
    clip = torch.rand(1, 1, config.num_channels, *config.image_shape).repeat(2, config.num_frames, 1, 1, 1)
    clip[:, config.num_frames // 2 :, :, :16, :16] += 1.0
    return clip


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("kind", [VideoMSForVideoClassification, VideoMSForPreTraining])
def test_every_selection_runs_with_and_without_gradients(name, kind, tiny_config):
    torch.manual_seed(0)
    model = with_selector(kind(tiny_config()), name).eval()
    clip = moving_square(model.config)
    out = model(clip)
    with torch.no_grad():
        again = model(clip)
    field = "visible_ids" if kind is VideoMSForPreTraining else "kept_ids"
    assert torch.equal(out[field], again[field])
    assert configured_selection(name) == "motion" and configured_selection("tube") == "tube"


def test_pixel_distance_is_that_of_the_tubelets(tiny_config):
    torch.manual_seed(0)
    model = with_selector(VideoMSForVideoClassification(tiny_config()), "pixel").eval()
    config = model.config
    clip = torch.rand(2, config.num_frames, config.num_channels, *config.image_shape)
    tubelets = split_tubelets(clip, config).flatten(4).flatten(2, 3)
    importance = model(clip).importance.unflatten(1, (tubelets.shape[1], -1))
    for step in range(tubelets.shape[1]):
        other = max(step, 1)
        expected = (tubelets[:, other] - tubelets[:, other - 1]).square().sum(dim=-1).sqrt()
        torch.testing.assert_close(importance[:, step], expected)


def test_static_keeps_what_moves_least(tiny_config):
    torch.manual_seed(0)
    config = tiny_config(keep_ratio=0.5)
    model = VideoMSForVideoClassification(config).eval()
    clip = torch.rand(2, config.num_frames, config.num_channels, *config.image_shape)
    importance = model(clip).importance
    still = with_selector(model, "static")(clip).kept_ids
    least = importance.sort(dim=1).values[:, : still.shape[1]]
    torch.testing.assert_close(importance.gather(1, still).sort(dim=1).values, least)
