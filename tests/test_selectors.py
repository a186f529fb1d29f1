"""The laboratory's selections."""

import pytest
import torch

from videoms_hf import VideoMSForPreTraining, VideoMSForVideoClassification
from videoms_hf.experiments.selectors import SELECTIONS, SELECTORS, configured_selection, with_selector


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


def test_static_keeps_what_moves_least(tiny_config):
    torch.manual_seed(0)
    config = tiny_config(keep_ratio=0.5)
    model = VideoMSForVideoClassification(config).eval()
    clip = torch.rand(2, config.num_frames, config.num_channels, *config.image_shape)
    importance = model(clip).importance
    still = with_selector(model, "static")(clip).kept_ids
    least = importance.sort(dim=1).values[:, : still.shape[1]]
    torch.testing.assert_close(importance.gather(1, still).sort(dim=1).values, least)


def test_the_configuration_of_a_selection_leaves_nothing_to_the_checkpoint():
    fields = {name: tuple(configured_selection(name).values()) for name in SELECTIONS}
    others = dict.fromkeys(SELECTORS, ("motion", "embedding"))
    paper = {name: (name, "embedding") for name in ("motion", "random", "tube")}
    assert fields == {**paper, "pixel": ("motion", "pixel"), **others}
    assert configured_selection("none") == {"token_selection": "none", "motion_score": "embedding"}
