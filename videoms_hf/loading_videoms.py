# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Whether a checkpoint is VideoMS's: what is another program's would be loaded by half, the rest drawn at random."""

import os
import re
from collections.abc import Iterable

from transformers import PreTrainedConfig


# Names of transformers' VideoMAE and of the official code.
FOREIGN_WEIGHT = re.compile(r"^videomae\.|\.[qv]_bias$|(^|\.)blocks\.\d+\.")


class OwnCheckpointsOnly:
    """Before `PreTrainedModel` in a class's bases: `from_pretrained` refuses what it would load by half."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """As transformers', for checkpoints of this model; those of others are refused with what to do."""
        check_source(pretrained_model_name_or_path, cls.config_class, kwargs)
        wants_report = kwargs.pop("output_loading_info", False)
        model, report = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
        )
        check_weights(pretrained_model_name_or_path, report["unexpected_keys"])
        return (model, report) if wants_report else model


def check_source(source: str | os.PathLike | None, config_class: type[PreTrainedConfig], options: dict) -> None:
    """Raise if `source` is a checkpoint of another model, or neither a folder nor on the Hub.

    `options` are those of `from_pretrained`, for the Hub.

    Raises:
        ValueError: it is another model; for VideoMAE's the message has the command that converts it.
        OSError: there is no such folder; the message says what the Hub needs, and how to make the folder.
    """
    if source is None:
        return
    source = os.fspath(source)
    names = ("cache_dir", "local_files_only", "token", "revision", "subfolder")
    try:
        fields, _ = config_class.get_config_dict(source, **{name: options[name] for name in names if name in options})
    except OSError as error:
        if os.path.exists(source):
            return  # what is wrong with it, transformers says
        if "/" in source or os.sep in source:
            reason = str(error).splitlines()[0]
            raise OSError(f"there is no folder {source!r} here, and the Hub gave no such model: {reason}") from error
        raise OSError(
            f"there is no folder {source!r} here, and on the Hub a name needs its owner: 'someone/{source}'. The "
            "folder is made from a checkpoint of the authors by `pip install videoms_hf`, then videoms convert "
            f"--checkpoint checkpoint.pth --output_dir {source} --labels UCF101 (or HMDB51, Kinetics-400, SSv2, OSCC, "
            "or a file)"
        ) from error
    kind = fields.get("model_type", config_class.model_type)
    if kind == "videomae":
        raise ValueError(_advice(source, "is a model of transformers' VideoMAE"))
    if kind != config_class.model_type:
        raise ValueError(f"{source} is a {kind!r} model; it must be a {config_class.model_type!r} one")


def check_weights(source: str | os.PathLike | None, unexpected: Iterable[str]) -> None:
    """Raise `ValueError` if names that a model did not expect are those of another program."""
    if foreign := sorted(filter(FOREIGN_WEIGHT.search, unexpected)):
        raise ValueError(_advice(source, f"has weights under other names ({len(foreign)}, the first is {foreign[0]})"))


def _advice(source: str | os.PathLike | None, reason: str) -> str:
    return (
        f"{source} {reason}; here it would be loaded by half. Convert it and load the resulting folder: "
        f"pip install videoms_hf, then videoms convert --checkpoint {source} --output_dir videoms-converted"
    )
