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


class LoadingReport(NamedTuple):
    """What was loaded of a checkpoint: names in the model, and names in the checkpoint for `dropped`."""

    source: str
    loaded: list[str]
    new: list[str]
    dropped: list[str]
    differences: list[str] = []  # between the clips of the run and the checkpoint, in words

    def __str__(self) -> str:
        counts = f"{len(self.loaded)} loaded, {len(self.new)} newly initialised, {len(self.dropped)} unexpected"
        lines = [f"Weights of {self.source}: {counts}"]
        lines += [f"  clips differ from the checkpoint's: {difference}" for difference in self.differences]
        return "\n".join(lines)

    def details(self) -> str:
        """Every name, in lines."""
        lines = [str(self)]
        for what, names in (("loaded", self.loaded), ("newly initialised", self.new), ("unexpected", self.dropped)):
            lines += [f"  {what}:", *(f"    {name}" for name in fold_numbers(names))]
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
    """The model to pre-train and, if it starts from a checkpoint (which must be complete), the report.

    Unset sizes of clips in `data_args` are filled in from the checkpoint, or with the defaults.
    """
    return _build(VideoMSForPreTraining, model_args, data_args, {}, may_be_new=())


def classification_model(
    model_args: ModelArguments, data_args: DataArguments, class_names: list[str]
) -> tuple[VideoMSForVideoClassification, LoadingReport | None]:
    """The classifier to fine-tune and, if it starts from a checkpoint, the report.

    From a pre-training checkpoint comes the encoder without its final norm; the decoder is dropped and the head newly
    initialised. A classifier's head is kept if it has as many classes. `data_args` are filled in as for pre-training.

    Raises:
        ValueError: Weights of the encoder are missing, or have another shape; or clips have too few tokens.
    """
    labels = dict(enumerate(class_names))
    fields = {
        "id2label": labels,
        "label2id": {name: i for i, name in labels.items()},
        "problem_type": "single_label_classification",
    }
    model, report = _build(VideoMSForVideoClassification, model_args, data_args, fields, may_be_new=HEAD)
    token_counts(model.config)
    return model, report


def _settle_clips(
    model_args: ModelArguments, data_args: DataArguments, config: VideoMSConfig | None, frame_stride: int | None = None
) -> list[str]:
    """Fill in unset sizes of clips from a checkpoint (`config`) or the defaults; returns what differs, in words."""
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
    for name, default in (CLIPS | own).items():
        if name in CLIPS and given[name] is None:
            setattr(data_args, name, default)
    return differences


def _clip_fields(data_args: DataArguments) -> dict:
    return {"image_size": data_args.image_size, "num_frames": data_args.num_frames}


def _build(
    kind: type[VideoMSPreTrainedModel],
    model_args: ModelArguments,
    data_args: DataArguments,
    fields: dict,
    may_be_new: tuple[str, ...],
) -> tuple[VideoMSPreTrainedModel, LoadingReport | None]:
    source = model_args.model_name_or_path
    if source is None:
        _settle_clips(model_args, data_args, None)
        config = model_args.to_config(**fields, **_clip_fields(data_args))
        config._attn_implementation = model_args.attn_implementation
        return kind(config), None
    if is_foreign(source):
        return _convert(kind, model_args, data_args, fields, may_be_new)
    stride = None
    with contextlib.suppress(OSError):  # it was saved without a processor
        processor = load_processor(source)
        stride = processor.frame_stride
        fields["image_mean"], fields["image_std"] = pixel_statistics(processor)
    differences = _settle_clips(model_args, data_args, VideoMSConfig.from_pretrained(source), stride)
    fields |= _clip_fields(data_args)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # our report replaces transformers'
    try:
        model, loading = kind.from_pretrained(
            source,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # checked below
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
            f"{source} lacks {len(needed)} weights of {kind.__name__}, or has them in another shape: "
            f"{shorten(fold_numbers(needed))}; it must be a checkpoint of the same architecture"
        )
    loaded = sorted(model.state_dict().keys() - set(new))
    return model, _reported(LoadingReport(source, loaded, new, sorted(loading["unexpected_keys"]), differences))


def _convert(
    kind: type[VideoMSPreTrainedModel],
    model_args: ModelArguments,
    data_args: DataArguments,
    fields: dict,
    may_be_new: tuple[str, ...],
) -> tuple[VideoMSPreTrainedModel, LoadingReport]:
    """`_build` for another program's checkpoint; only fine-tuning may drop decoder, final norm and head."""
    checkpoint = read_checkpoint(model_args.model_name_or_path)
    state, no_head = checkpoint.state, []
    if kind is VideoMSForVideoClassification and checkpoint_kind(state) == "first_token":
        # Its head was trained on one token after another norm; on the mean of the kept tokens it is useless.
        no_head = [name for name in state if any(ours.startswith(HEAD) for ours in our_names(name) or ())]
        state = {name: value for name, value in state.items() if name not in no_head}
    given = model_args.config_fields()
    own = build_config(checkpoint, **(given | {"candidate_ratio": None}))  # heads may have to be given
    differences = _settle_clips(model_args, data_args, own)
    config = build_config(checkpoint, **(fields | _clip_fields(data_args) | given))
    config._attn_implementation = model_args.attn_implementation
    try:
        converted = convert(
            state,
            wanted_shapes(kind, config),
            may_be_new=may_be_new,
            may_be_dropped=(*DECODER, *FINAL_NORM) if may_be_new else (),
        )
    except ValueError as error:
        raise ValueError(f"{checkpoint.source} cannot start a {kind.__name__}: {error}") from error
    model = load(kind(config), converted, dtype=torch.float32)
    dropped = sorted([*converted.dropped, *no_head])
    loaded, new = sorted(converted.state), sorted(converted.new)
    return model, _reported(LoadingReport(checkpoint.source, loaded, new, dropped, differences))


def _reported(report: LoadingReport) -> LoadingReport:
    logger.info(report.details())
    return report
