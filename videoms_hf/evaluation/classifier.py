# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Loading trained models for evaluation: classifiers, frozen encoders, their processors and class names."""

from ..configuration_videoms import VideoMSConfig
from ..loading_videoms import check_source
from ..messages import shorten
from ..modeling_videoms import KINDS, VideoMSForVideoClassification, VideoMSModel, VideoMSPreTrainedModel
from ..video_processing_videoms import VideoMSVideoProcessor


def load_classifier(model: str, **config_fields) -> VideoMSForVideoClassification:
    """The saved classifier `model` (a folder or a Hub name) in evaluation mode.

    `config_fields` (for example `keep_ratio=0.4`) override the saved ones; `None` keeps them. `ValueError` if keys are
    missing (a pre-training checkpoint has no head), so that weights would be random, or the model predicts several
    labels or a number, not one class; `OSError` if there is no such checkpoint.
    """
    classifier = _load(VideoMSForVideoClassification, model, config_fields)
    problem_type = classifier.config.problem_type
    if problem_type not in (None, "single_label_classification"):
        raise ValueError(
            f"{model} was trained with problem_type {problem_type!r}; it must be 'single_label_classification', one "
            "class a video"
        )
    return classifier


def load_encoder(model: str, **config_fields) -> VideoMSModel:
    """The frozen encoder of any saved model (a folder or a Hub name), in evaluation mode.

    A pre-training checkpoint's encoder ends with the final norm; a classifier's has none, as below its head.
    `config_fields` and errors are those of [`load_classifier`].
    """
    return _load(VideoMSModel, model, config_fields).requires_grad_(False)


def load_any(model: str, **config_fields) -> VideoMSPreTrainedModel:
    """The saved model `model` (a folder or a Hub name) of its own kind, in evaluation mode; see [`load_classifier`].

    `ValueError` if its configuration names none of our classes.
    """
    check_source(model, VideoMSConfig, {})
    classes = {kind.__name__: kind for kind in KINDS.values()}
    (name,) = VideoMSConfig.from_pretrained(model).architectures or [None]
    if name not in classes:
        raise ValueError(
            f"{model} is a {name}; it must be one of {', '.join(classes)}: run `videoms convert` on it and give the "
            "resulting folder"
        )
    return _load(classes[name], model, config_fields)


def _load(model_class: type[VideoMSPreTrainedModel], source: str, fields: dict) -> VideoMSPreTrainedModel:
    fields = {name: value for name, value in fields.items() if value is not None}
    model, loading = model_class.from_pretrained(source, output_loading_info=True, **fields)
    if missing := sorted(loading["missing_keys"]):
        command = "finetune" if model_class is VideoMSForVideoClassification else "convert"
        raise ValueError(
            f"{source} has {len(missing)} missing keys of {model_class.__name__} ({shorten(missing)}), whose weights "
            f"would be random; run `videoms {command}` on it and give the resulting folder"
        )
    return model.eval()


def load_processor(
    model: str, frame_stride: int | None = None, image_size: int | None = None
) -> VideoMSVideoProcessor:
    """The processor that was saved with `model`, with another stride or size (height and width) where given."""
    fields = {} if frame_stride is None else {"frame_stride": frame_stride}
    if image_size is not None:
        fields |= {"size": {"shortest_edge": image_size}, "crop_size": {"height": image_size, "width": image_size}}
    return VideoMSVideoProcessor.from_pretrained(model, **fields)


def class_names(classifier: VideoMSForVideoClassification) -> list[str]:
    """Names of the classes in the order of their numbers."""
    return [classifier.config.id2label[i] for i in range(classifier.config.num_labels)]
