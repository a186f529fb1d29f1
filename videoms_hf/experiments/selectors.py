# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Laboratory: selections that are compared with those of the package."""

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


def _select_by_pixels(model: VideoMSPreTrainedModel) -> None:
    model.config.motion_score = "pixel"


def _select_static(model: VideoMSPreTrainedModel) -> None:
    getattr(model, model.base_model_prefix, model).embeddings.__class__ = StaticEmbeddings


# Name -> what changes a model that selects by motion.
SELECTORS = {
    "pixel": _select_by_pixels,
    "static": _select_static,
    "camera": select_for_moving_camera,
    "camera+10%": partial(select_for_moving_camera, reference_share=0.1),
    "camera+20%": partial(select_for_moving_camera, reference_share=0.2),
    "motion+10%": partial(select_for_moving_camera, compensate=False, reference_share=0.1),
    "motion+20%": partial(select_for_moving_camera, compensate=False, reference_share=0.2),
}


def with_selector(model: VideoMSPreTrainedModel, name: str) -> VideoMSPreTrainedModel:
    """`model` itself, which from now on selects by one of `SELECTORS`, or as configured for any other name."""
    if name in SELECTORS:
        SELECTORS[name](model)
    return model


def configured_selection(name: str) -> str:
    """The `token_selection` of a model that [`with_selector`] changes."""
    return "motion" if name in SELECTORS else name
