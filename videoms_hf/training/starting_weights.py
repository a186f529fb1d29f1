# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Building the network of a run: from scratch, or from a checkpoint with a word on every weight."""

import re
from typing import NamedTuple

import torch
from transformers.utils import logging

from ..modeling_videoms import VideoMSForPreTraining, VideoMSForVideoClassification, VideoMSPreTrainedModel
from .arguments import DataArguments, ModelArguments


# What a classifier has and a pre-training checkpoint has not.
HEAD = ("fc_norm.", "classifier.")


class LoadingReport(NamedTuple):
    """What became of a checkpoint's weights: names in the model, or in the checkpoint for those that it dropped."""

    source: str
    loaded: list[str]
    new: list[str]
    dropped: list[str]

    def __str__(self) -> str:
        lines = [f"Weights of {self.source}:"]
        for what, names in (("loaded", self.loaded), ("newly drawn", self.new), ("dropped", self.dropped)):
            lines += [f"  {what}: {len(names)}", *(f"    {name}" for name in fold_numbers(names))]
        return "\n".join(lines)


def fold_numbers(names: list[str]) -> list[str]:
    """Names that differ in one number only as one: layer.0.bias, layer.1.bias -> layer.{0, 1}.bias; sorted."""
    numbers: dict[str, list[str]] = {}
    for name in names:
        number = re.search(r"(?<=\.)\d+(?=\.)", name)
        pattern = name if number is None else f"{name[: number.start()]}{{}}{name[number.end() :]}"
        numbers.setdefault(pattern, []).extend([] if number is None else [number[0]])
    folded = []
    for pattern, found in sorted(numbers.items()):
        found = sorted(found, key=int)
        folded.append(pattern.replace("{}", found[0] if len(found) == 1 else f"{{{', '.join(found)}}}", 1))
    return folded


def pretraining_model(
    model_args: ModelArguments, data_args: DataArguments
) -> tuple[VideoMSForPreTraining, LoadingReport | None]:
    """The model to pre-train and, if it starts from a checkpoint, the report; such a checkpoint must be complete."""
    return _build(VideoMSForPreTraining, model_args, _clip_fields(data_args), may_be_new=())


def classification_model(
    model_args: ModelArguments, data_args: DataArguments, class_names: list[str]
) -> tuple[VideoMSForVideoClassification, LoadingReport | None]:
    """The classifier to fine-tune and, if it starts from a checkpoint, the report.

    Of a pre-training checkpoint the encoder is taken, without its final norm; the decoder is dropped and the head is
    new. A classifier's head is taken over if it has as many classes.

    Raises:
        ValueError: The checkpoint lacks weights of the encoder, or has them in another shape.
    """
    labels = dict(enumerate(class_names))
    fields = _clip_fields(data_args) | {
        "id2label": labels,
        "label2id": {name: i for i, name in labels.items()},
        "problem_type": "single_label_classification",
    }
    return _build(VideoMSForVideoClassification, model_args, fields, may_be_new=HEAD)


def _clip_fields(data_args: DataArguments) -> dict:
    return {"image_size": data_args.image_size, "num_frames": data_args.num_frames}


def _build(
    kind: type[VideoMSPreTrainedModel], model_args: ModelArguments, fields: dict, may_be_new: tuple[str, ...]
) -> tuple[VideoMSPreTrainedModel, LoadingReport | None]:
    source = model_args.model_name_or_path
    if source is None:
        config = model_args.to_config(**fields)
        config._attn_implementation = model_args.attn_implementation
        return kind(config), None
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # transformers' own report says the same, for other readers
    try:
        model, loading = kind.from_pretrained(
            source,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are judged below
            dtype=torch.float32,
            attn_implementation=model_args.attn_implementation,
            **(fields | model_args.config_fields()),
        )
    finally:
        logging.set_verbosity(verbosity)
    new = sorted({*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])})
    needed = [name for name in new if not name.startswith(may_be_new)]
    if needed:
        raise ValueError(
            f"{source} lacks {len(needed)} weights of {kind.__name__} or has them in another shape: "
            f"{', '.join(fold_numbers(needed)[:6])}. It must be a VideoMS checkpoint of the same architecture; "
            "checkpoints of other programs are converted first"
        )
    loaded = sorted(model.state_dict().keys() - set(new))
    return model, LoadingReport(source, loaded, new, sorted(loading["unexpected_keys"]))
