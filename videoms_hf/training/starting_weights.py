# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""The model of a run: from scratch, or from a checkpoint with a report on every weight.

Checkpoints of VideoMAE and the official code are converted.
"""

import contextlib
import re
from typing import NamedTuple

import torch
from transformers.utils import logging

from ..configuration_videoms import VideoMSConfig, token_counts
from ..conversion.models import build_config, is_foreign, load, read_checkpoint, wanted_shapes
from ..conversion.state_dict import DECODER, FINAL_NORM, HEAD, checkpoint_kind, convert, our_names
from ..data.transforms import pixel_statistics
from ..evaluation.classifier import load_processor
from ..messages import shorten
from ..modeling_videoms import VideoMSForPreTraining, VideoMSForVideoClassification, VideoMSPreTrainedModel
from .arguments import DataArguments, ModelArguments


logger = logging.get_logger(__name__)

CLIPS = {"num_frames": 16, "frame_stride": 4, "image_size": 224}  # from scratch
NUMBER = r"(?<=\.)\d+(?=\.)"  # of a layer


class LoadingReport(NamedTuple):
    """What was loaded of a checkpoint: names in the model, and names in the checkpoint for `dropped`."""

    source: str
    loaded: list[str]
    new: list[str]
    dropped: list[str]
    differences: list[str] = []  # between the clips of the run and the checkpoint, in words

    def __str__(self) -> str:
        counts = f"{len(self.loaded)} loaded, {len(self.new)} newly initialised, {len(self.dropped)} unexpected"
        differences = [f"  clips differ from the checkpoint's: {difference}" for difference in self.differences]
        return "\n".join([f"Weights of {self.source}: {counts}", *differences])

    def details(self) -> str:
        """Every name, in lines."""
        lines = [str(self)]
        for what, names in (("loaded", self.loaded), ("newly initialised", self.new), ("unexpected", self.dropped)):
            lines += [f"  {what}:", *(f"    {name}" for name in fold_numbers(names))]
        return "\n".join(lines)


def fold_numbers(names: list[str]) -> list[str]:
    """Names that differ in one number only as one: layer.0.bias, layer.1.bias -> layer.{0, 1}.bias; sorted."""
    numbers: dict[str, list[int]] = {}
    for name in names:
        pattern = re.sub(NUMBER, "{}", name, count=1)
        numbers.setdefault(pattern, []).extend(map(int, re.findall(NUMBER, name)[:1]))
    folded = []
    for pattern, found in sorted(numbers.items()):
        listed = ", ".join(map(str, sorted(found)))
        folded.append(pattern.replace("{}", listed if len(found) == 1 else f"{{{listed}}}", 1))
    return folded


def pretraining_model(
    model_args: ModelArguments, data_args: DataArguments
) -> tuple[VideoMSForPreTraining, LoadingReport | None]:
    """The model to pre-train and, if it starts from a checkpoint (which must be complete), the report.

    Unset sizes of clips in `data_args` are filled in from the checkpoint, or with the defaults.
    """
    return _build(VideoMSForPreTraining, model_args, data_args)


def classification_model(
    model_args: ModelArguments, data_args: DataArguments, class_names: list[str]
) -> tuple[VideoMSForVideoClassification, LoadingReport | None]:
    """The classifier to fine-tune and, if it starts from a checkpoint, the report.

    From a pre-training checkpoint comes the encoder without its final norm; the decoder is dropped and the head newly
    initialised. A classifier's head is kept if it has as many classes. `data_args` are filled in as for pre-training.

    Raises:
        ValueError: Weights of the encoder are missing, or have another shape; or clips have too few tokens.
    """
    labels = {"id2label": dict(enumerate(class_names)), "label2id": {name: i for i, name in enumerate(class_names)}}
    task = {"problem_type": "single_label_classification"}
    model, report = _build(VideoMSForVideoClassification, model_args, data_args, **labels, **task)
    token_counts(model.config)
    return model, report


def _build(
    kind: type[VideoMSPreTrainedModel], model_args: ModelArguments, data_args: DataArguments, **fields
) -> tuple[VideoMSPreTrainedModel, LoadingReport | None]:
    source, given = model_args.model_name_or_path, model_args.config_fields()
    fields["attn_implementation"] = model_args.attn_implementation
    is_classifier = kind is VideoMSForVideoClassification
    may_be_new = HEAD if is_classifier else ()
    if not source:
        _settle_clips(model_args, data_args, fields)
        return kind(model_args.to_config(**fields)), None
    if is_foreign(source):
        checkpoint = read_checkpoint(source)
        state, no_head = checkpoint.state, []
        if is_classifier and checkpoint_kind(state) == "first_token":
            # Its head was trained on one token after another norm; on the mean of the kept tokens it is useless.
            no_head = [name for name in state if any(ours.startswith(HEAD) for ours in our_names(name) or ())]
            state = {name: value for name, value in state.items() if name not in no_head}
        own = build_config(checkpoint, **(given | {"candidate_ratio": None}))  # heads may have to be given
        differences = _settle_clips(model_args, data_args, fields, own)
        config = build_config(checkpoint, **(fields | given))
        may_be_dropped = (*DECODER, *FINAL_NORM) if is_classifier else ()
        try:
            converted = convert(state, wanted_shapes(kind, config), may_be_new, may_be_dropped)
        except ValueError as error:
            raise ValueError(f"{source} cannot start a {kind.__name__}: {error}") from error
        model = load(kind(config), converted, dtype=torch.float32)
        new, dropped = converted.new, [*converted.dropped, *no_head]
    else:
        stride = None
        with contextlib.suppress(OSError):  # it was saved without a processor
            processor = load_processor(source)
            stride = processor.frame_stride
            fields["image_mean"], fields["image_std"] = pixel_statistics(processor)
        differences = _settle_clips(model_args, data_args, fields, VideoMSConfig.from_pretrained(source), stride)
        with contextlib.ExitStack() as stack:
            stack.callback(logging.set_verbosity, logging.get_verbosity())
            logging.set_verbosity_error()  # our report replaces transformers'
            options = {"output_loading_info": True, "ignore_mismatched_sizes": True, "dtype": torch.float32}
            model, loading = kind.from_pretrained(source, **options, **(fields | given))
        new = {*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])}
        if needed := sorted(name for name in new if not name.startswith(may_be_new)):
            raise ValueError(
                f"{source} lacks {len(needed)} weights of {kind.__name__}, or has them in another shape: "
                f"{shorten(fold_numbers(needed))}; it must be a checkpoint of the same architecture"
            )
        dropped = loading["unexpected_keys"]
    loaded = model.state_dict().keys() - new
    report = LoadingReport(source, sorted(loaded), sorted(new), sorted(dropped), differences)
    logger.info(report.details())
    return model, report


def _settle_clips(
    model_args: ModelArguments,
    data_args: DataArguments,
    fields: dict,
    config: VideoMSConfig | None = None,
    frame_stride: int | None = None,
) -> list[str]:
    """Fill in unset sizes of clips, in `fields` too, from a checkpoint or the defaults; what differs, in words."""
    own = {}
    if config is not None:
        height, width = config.image_shape
        if height != width and data_args.image_size is None:
            raise ValueError(
                f"{model_args.model_name_or_path} takes frames of {height} x {width}, but training crops squares; "
                "give an image_size, for example --image_size 224"
            )
        own = {"num_frames": config.num_frames, "image_size": height, "candidate_ratio": config.candidate_ratio}
        own |= {} if frame_stride is None else {"frame_stride": frame_stride}
    given = vars(data_args) | {"candidate_ratio": model_args.candidate_ratio}
    differences = [
        f"{name} {given[name]}, not {value}" for name, value in own.items() if given[name] not in (None, value)
    ]
    for name, default in CLIPS.items():
        if given[name] is None:
            setattr(data_args, name, own.get(name, default))
    fields |= {"image_size": data_args.image_size, "num_frames": data_args.num_frames}
    return differences
