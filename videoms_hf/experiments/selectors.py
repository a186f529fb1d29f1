# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Laboratory: selections that are compared with each other, some of which the package does not have."""

from functools import partial

from torch import Tensor

from ..modeling_videoms import VideoMSEmbeddings, VideoMSPreTrainedModel
from .camera import select_for_moving_camera


class StaticEmbeddings(VideoMSEmbeddings):
    """Embeddings that prefer the tokens that move least: a control."""

    def importance(self, pixel_values: Tensor) -> Tensor:
        return -super().importance(pixel_values)

    def importance_and_embeddings(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        importance, embeddings = super().importance_and_embeddings(pixel_values)
        return -importance, embeddings


def _select_static(model: VideoMSPreTrainedModel) -> None:
    model.base_model.embeddings.__class__ = StaticEmbeddings


# Name -> what changes a model that selects by motion.
SELECTORS = {
    "static": _select_static,
    "camera": select_for_moving_camera,
    "camera+10%": partial(select_for_moving_camera, reference_share=0.1),
    "camera+20%": partial(select_for_moving_camera, reference_share=0.2),
    "motion+10%": partial(select_for_moving_camera, compensate=False, reference_share=0.1),
    "motion+20%": partial(select_for_moving_camera, compensate=False, reference_share=0.2),
}
SELECTIONS = ("motion", "random", "tube", "pixel", *SELECTORS)


def with_selector(model: VideoMSPreTrainedModel, name: str) -> VideoMSPreTrainedModel:
    """`model` itself, which from now on selects by one of `SELECTORS`, or as configured for any other name."""
    if name in SELECTORS:
        SELECTORS[name](model)
    return model


def configured_selection(name: str) -> dict[str, str]:
    """The fields of the configuration for a selection by `name`, whatever a recipe or checkpoint says."""
    is_known = name != "pixel" and name not in SELECTORS
    score = "pixel" if name == "pixel" else "embedding"
    return {"token_selection": name if is_known else "motion", "motion_score": score}
