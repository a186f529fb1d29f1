# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Checks that a checkpoint is VideoMS's own, before and after transformers loads it.

transformers loads the parameters whose names match and initialises the others at random. Of checkpoints of VideoMAE
and the official code only some match, so these are rejected, with the command that converts them.
"""

import os
import re

from transformers import PreTrainedConfig


# Parameter names of transformers' VideoMAE and of the official code.
FOREIGN_WEIGHT = re.compile(r"^videomae\.|\.[qv]_bias$|(^|\.)blocks\.\d+\.")


class OwnCheckpointsOnly:
    """Mixin for a `PreTrainedModel`, listed first, whose `from_pretrained` rejects checkpoints of other models."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """As in transformers; a checkpoint of another model raises `ValueError`, see [`check_source`]."""
        source, wants_report = pretrained_model_name_or_path, kwargs.pop("output_loading_info", False)
        check_source(source, cls.config_class, kwargs)
        model, report = super().from_pretrained(source, *model_args, output_loading_info=True, **kwargs)
        if foreign := sorted(filter(FOREIGN_WEIGHT.search, report["unexpected_keys"])):
            raise ValueError(_advice(source, f"has {len(foreign)} parameters with other names, such as {foreign[0]}"))
        return (model, report) if wants_report else model


def check_source(source: str | os.PathLike | None, config_class: type[PreTrainedConfig], options: dict) -> None:
    """Check the configuration in a folder or a repository on the Hub; `options` are those of `from_pretrained`.

    Raises:
        ValueError: It is that of another model; for VideoMAE the message says how to convert it.
        OSError: It was not found; the message says what the Hub requires and how to make the folder.
    """
    if source is None:
        return
    source = os.fspath(source)
    names = ("cache_dir", "local_files_only", "token", "revision", "subfolder")
    try:
        fields, _ = config_class.get_config_dict(source, **{name: options[name] for name in names if name in options})
    except OSError as error:
        if os.path.exists(source):
            return  # transformers says what is wrong with it
        if "/" in source or os.sep in source:
            reason = str(error).splitlines()[0]
            raise OSError(f"there is no folder {source!r}, and the Hub has no such model: {reason}") from error
        raise OSError(
            f"there is no folder {source!r}, and models on the Hub are named owner/{source}. To convert an official "
            "checkpoint: pip install videoms_hf, then videoms convert --checkpoint checkpoint.pth "
            f"--output_dir {source} --labels UCF101 (or HMDB51, Kinetics-400, SSv2, OSCC, or a file)"
        ) from error
    kind = fields.get("model_type", config_class.model_type)
    if kind == "videomae":
        raise ValueError(_advice(source, "is a VideoMAE model"))
    if kind != config_class.model_type:
        raise ValueError(f"{source} is a {kind!r} model; it must be a {config_class.model_type!r} one")


def _advice(source: str | os.PathLike | None, reason: str) -> str:
    return (
        f"{source} {reason}; only a part of it would be loaded. Convert it first: pip install videoms_hf, then "
        f"videoms convert --checkpoint {source} --output_dir videoms-converted"
    )
