# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Loading a classifier that has learned to classify, its processor and its class names."""

from ..modeling_videoms import VideoMSForVideoClassification
from ..video_processing_videoms import VideoMSVideoProcessor


def load_classifier(model: str, **config_fields) -> VideoMSForVideoClassification:
    """The saved classifier `model` (a folder or a Hub name) in evaluation mode.

    `config_fields` (for example `keep_ratio=0.4`) replace those that were saved; `None` leaves them as they are.

    Raises:
        ValueError: The checkpoint lacks weights of the classifier (a pre-training checkpoint has no head, a VideoMAE
            one has other names), so that they would be random; or it gives several labels or a number, not one class.
        OSError: There is no such checkpoint.
    """
    fields = {name: value for name, value in config_fields.items() if value is not None}
    classifier, loading = VideoMSForVideoClassification.from_pretrained(model, output_loading_info=True, **fields)
    missing = sorted(loading["missing_keys"])
    if missing:
        shown = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
        raise ValueError(
            f"{model} lacks {len(missing)} weights of a classifier ({shown}): they would be random and so would every "
            "answer. Fine-tune it first (scripts/finetune.py) and give the folder that fine-tuning wrote"
        )
    problem_type = classifier.config.problem_type
    if problem_type not in (None, "single_label_classification"):
        raise ValueError(
            f"{model} was trained with problem_type {problem_type!r}; it must be 'single_label_classification', one "
            "class a video"
        )
    return classifier.eval()


def load_processor(
    model: str, frame_stride: int | None = None, image_size: int | None = None
) -> VideoMSVideoProcessor:
    """The processor that was saved with `model`, with another stride or size (height and width) where given."""
    fields = {}
    if frame_stride is not None:
        fields["frame_stride"] = frame_stride
    if image_size is not None:
        fields["size"] = {"shortest_edge": image_size}
        fields["crop_size"] = {"height": image_size, "width": image_size}
    return VideoMSVideoProcessor.from_pretrained(model, **fields)


def class_names(classifier: VideoMSForVideoClassification) -> list[str]:
    """Names of the classes in the order of their numbers."""
    return [classifier.config.id2label[i] for i in range(classifier.config.num_labels)]
