# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Laboratory: selections that are compared with those of the package. Nothing of them is saved with the weights."""

from functools import partial

import torch
from torch import Tensor

from ..modeling_videoms import VideoMSEmbeddings, VideoMSPreTrainedModel
from ..selection_videoms import motion_importance
from ..tubelets_videoms import split_tubelets
from .camera import select_for_moving_camera


class PixelEmbeddings(VideoMSEmbeddings):
    """Embeddings that score tokens by the distance of their pixels, not of their embeddings."""

    @torch.no_grad()
    def importance(self, pixel_values: Tensor) -> Tensor:
        size = self.config.tubelet_size
        changes = split_tubelets(pixel_values[:, size:] - pixel_values[:, :-size], self.config)
        return motion_importance(changes.flatten(4).flatten(2, 3))

    def importance_and_embeddings(self, pixel_values: Tensor) -> tuple[Tensor, None]:
        return self.importance(pixel_values), None


class StaticEmbeddings(VideoMSEmbeddings):
    """Embeddings that prefer the tokens that move least: a control."""

    def importance(self, pixel_values: Tensor) -> Tensor:
        return -super().importance(pixel_values)

    def importance_and_embeddings(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        importance, embeddings = super().importance_and_embeddings(pixel_values)
        return -importance, embeddings


def _select_with(embeddings: type, model: VideoMSPreTrainedModel) -> None:
    getattr(model, model.base_model_prefix, model).embeddings.__class__ = embeddings


# Name -> what changes a model that selects by motion.
SELECTORS = {
    "pixel": partial(_select_with, PixelEmbeddings),
    "static": partial(_select_with, StaticEmbeddings),
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
