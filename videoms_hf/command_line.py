# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""What all commands share: options from recipes and the command line, help, short errors, quiet libraries."""

import argparse
import dataclasses
import difflib
import json
import logging
import os
import re
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
import yaml
from huggingface_hub.errors import StrictDataclassError
from huggingface_hub.utils import enable_progress_bars
from safetensors import SafetensorError
from transformers import HfArgumentParser
from transformers.utils import logging as transformers_logging

from .files import shipped
from .messages import printable


EPILOG = """All commands also take
  --print_config  print the options that were set, as a recipe, and exit
  --verbose       show the libraries' messages and the names of all weights
  --debug         show the traceback of an error"""
# Options of a help text, by group; required ones are essential. Others come last, Trainer's with --help_all only.
GROUPS = {
    "essentials": re.compile(
        r"(train_|eval_|test_)?data|model(_name_or_path|_size)?|output(_dir)?|num_train_epochs|probes|level|top_k|"
        r"per_device_train_batch_size|learning_rate|resume(_from_checkpoint)?|dry_run|labels|to|.*(pretrain|finetune)_.*"
    ),
    "method": re.compile(
        r".*(ratio|kept_tokens|group|hidden|attention|attn|intermediate|dropout|drop_path|head_init|patch|tubelet|norm_pix).*|"
        r".*(selections?|learning_rate|warmup_epochs|decay|decay_end|smoothing_factor)"
    ),
    "data": re.compile(
        r"data_root|class_names|num_(frames|segments|crops|samples|workers)|frame_stride|image_size|max_bad_share|"
        r"few_shot.*|skip_broken|random_.*|min_crop_area|rand_augment|horizontal_flip|mixup|cutmix|videos|split|cache_.*|batch_size"
    ),
}
MISTAKES = (ValueError, OSError, ImportError, FloatingPointError, StrictDataclassError, SafetensorError)
ALTERNATIVES = ("keep_ratio", "num_kept_tokens")  # one on the command line replaces that of the recipe
MAX_LINES, MAX_WIDTH = 3, 600
# Options by their range, to check before a model is loaded. A name means the same in every command.
RANGES = {
    "at least 1": "num_segments num_crops top_k num_frames frame_stride image_size batch_size num_neighbours few_shot "
    "min_frames shard_megabytes short_side gop pretrain_steps finetune_steps candidate_ratio split num_samples "
    "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps num_kept_tokens patch_size "
    "tubelet_size hidden_size num_hidden_layers num_attention_heads intermediate_size decoder_hidden_size "
    "decoder_num_hidden_layers decoder_num_attention_heads decoder_intermediate_size",
    "at least 0": "num_workers num_mistakes dataloader_num_workers seed seeds few_shot_seed weight_decay mixup cutmix "
    "cache_frames base_min_learning_rate base_warmup_learning_rate warmup_epochs",
    "greater than 0": "fps seconds head_init_scale num_train_epochs logging_steps save_steps base_learning_rate "
    "learning_rate",
    "in (0, 1]": "keep_ratio keep_ratios pretraining_keep_ratio layer_decay min_crop_area",
    "greater than 0 and less than 1": "mask_ratio ema_decay",
    "at least 0 and less than 1": "drop_path_rate adam_beta1 adam_beta2",
    "in [0, 1]": "hidden_dropout_prob attention_probs_dropout_prob classifier_dropout max_missing_share "
    "label_smoothing_factor max_bad_share random_erasing",
    "from 0 to 51": "crf",
}
IS_IN_RANGE = {
    "at least 1": lambda value: value >= 1,
    "at least 0": lambda value: value >= 0,
    "greater than 0": lambda value: value > 0,
    "in (0, 1]": lambda value: 0 < value <= 1,
    "greater than 0 and less than 1": lambda value: 0 < value < 1,
    "at least 0 and less than 1": lambda value: 0 <= value < 1,
    "in [0, 1]": lambda value: 0 <= value <= 1,
    "from 0 to 51": lambda value: 0 <= value <= 51,
}


def run(main: Callable[[Sequence[str]], int | None], arguments: Sequence[str] | None = None) -> int:
    """Exit status of a command: the result of `main`, 2 after a user error, 130 after an interruption.

    A user error takes at most three lines on standard error. Bugs keep their traceback, as does every error with
    `--debug`. Without `--verbose`, the libraries only print errors and the progress of downloads.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    is_debug, is_verbose = (_take_flag(words, flag) for flag in ("--debug", "--verbose"))
    try:
        with _verbosity(is_verbose):
            return main(words) or 0
    except KeyboardInterrupt:
        if is_debug:
            raise
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if is_debug or not _is_mistake(error):
            raise
        print(f"error: {_message(error, is_verbose)}", file=sys.stderr)
        return 2


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package, such as "ucf101/finetune"."""
    folder = shipped("scripts/recipes")
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob("*/*.yaml"))


def recipe_file(recipe: str | os.PathLike) -> Path:
    """The file of a recipe: `recipe` itself, or the shipped one of this name; the error names similar ones."""
    if Path(recipe).is_file():
        return Path(recipe)
    name, names = os.fspath(recipe).removesuffix(".yaml"), recipe_names()
    if name in names:
        return shipped("scripts/recipes") / f"{name}.yaml"
    close = [known for known in names if name in known] or difflib.get_close_matches(name, names)
    hint = f"did you mean {' or '.join(close)}?" if close else "`videoms recipes` lists the recipes"
    raise FileNotFoundError(f"{recipe} is neither a file nor the name of a recipe; {hint}")


def _take_flag(words: list[str], flag: str) -> bool:
    """Whether `flag` is among the words; it is removed from them, but transformers' `--debug VALUE` stays."""
    for i, word in enumerate(words):
        is_transformers = flag == "--debug" and words[i + 1 : i + 2] in (["underflow_overflow"], ["tpu_metrics_debug"])
        if word == flag and not is_transformers:
            del words[i]
            return True
    return False


@contextmanager
def _verbosity(is_verbose: bool) -> Iterator[None]:
    ours, level = logging.getLogger(__package__), transformers_logging.get_verbosity()
    had_bars = transformers_logging.is_progress_bar_enabled()
    with warnings.catch_warnings():
        if is_verbose:
            if os.environ.get("RANK", "0") == "0":
                logging.basicConfig(format="%(message)s")
                ours.setLevel(logging.INFO)
        else:
            if "TRANSFORMERS_VERBOSITY" not in os.environ:
                transformers_logging.set_verbosity_error()
            transformers_logging.disable_progress_bar()
            enable_progress_bars()  # of downloads
            if not sys.warnoptions:
                warnings.filterwarnings("ignore", module=r"(torch|transformers|accelerate|datasets|huggingface_hub)\b")
        try:
            yield
        finally:
            transformers_logging.set_verbosity(level)
            ours.setLevel(logging.NOTSET)
            if had_bars:
                transformers_logging.enable_progress_bar()


def _is_mistake(error: Exception) -> bool:
    """Whether this is a user error, for which a message is enough; torch's internal errors and bugs are not."""
    if isinstance(error, (*MISTAKES, torch.OutOfMemoryError)) or type(error).__module__.startswith(f"{__package__}."):
        return True
    place = traceback.extract_tb(error.__traceback__)[-1]
    if place.filename.endswith(os.path.join("torch", "_utils.py")):  # from a worker, with its traceback in the message
        return re.findall(r"^[\w.]+(?=: )", str(error), re.M)[-1:] == ["videoms_hf.decoding_videoms.VideoDecodeError"]
    was_raised = (place.line or "").startswith("raise") and f"{os.sep}torch{os.sep}" not in place.filename
    return isinstance(error, RuntimeError) and was_raised


def _message(error: Exception, is_long: bool) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"
    if "Original Traceback" in text:
        text = re.split(r"^[\w.]+: ", text, flags=re.M)[-1]
    if isinstance(error, torch.OutOfMemoryError):
        text = f"{text.splitlines()[0]} Lower the batch size."
    lines = [printable(line) for line in text.splitlines() if line.strip()]
    if not is_long:
        if (rest := len(lines) - MAX_LINES) > 0:
            lines[MAX_LINES - 1 :] = [f"  and {rest + 1} more lines; --verbose shows them"]
        lines = [line if len(line) <= MAX_WIDTH else f"{line[:MAX_WIDTH]} ..." for line in lines]
    return "\n".join(lines)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """One name for each option, and defaults where there are any."""

    def _get_default_metavar_for_optional(self, action):
        return {int: "N", float: "X"}.get(action.type, "VALUE")

    def _format_action_invocation(self, action):
        action.option_strings = action.option_strings[:1]
        return super()._format_action_invocation(action)

    def _get_help_string(self, action):
        has_default = action.default not in (None, False, "", []) and "default" not in (action.help or "default")
        return super()._get_help_string(action) if has_default else action.help


class CommandParser(HfArgumentParser):
    """The parser of all commands: help in groups, and errors that are `ValueError`s without the usage.

    The description is a script's docstring.
    """

    def __init__(self, description: str | None, dataclass_types: Sequence[type] = ()):
        self.shows_all = False
        super().__init__(
            dataclass_types, description=description, formatter_class=_HelpFormatter, allow_abbrev=False, epilog=EPILOG
        )

    def error(self, message: str):
        raise ValueError(f"{message}; --help lists the options")

    def parse_known_args(self, args=None, namespace=None):
        if "--help_all" in (args or ()):
            self.shows_all, args = True, ["--help"]
        return super().parse_known_args(args, namespace)

    def format_help(self) -> str:
        trainers = {part.name for part in dataclasses.fields(transformers.TrainingArguments)}
        groups, hidden = {**{title: [] for title in GROUPS}, "other options": []}, 0
        for action in self._actions:
            title = next((title for title, names in GROUPS.items() if names.fullmatch(action.dest)), "other options")
            title = "essentials" if action.required or not action.option_strings else title
            is_negation = action.nargs == 0 and action.const is False  # "--no_x"; "--x false" does the same
            if not self.shows_all and (is_negation or (title == "other options" and action.dest in trainers)):
                hidden += not is_negation
            elif action.dest != "help":
                groups[title].append(action)
        formatter = self._get_formatter()
        formatter.add_text(self.description)
        for title, actions in groups.items():
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        if hidden:
            formatter.add_text(f"--help_all also lists {hidden} options of transformers' Trainer.")
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def parse_args(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """argparse's, which also checks the ranges of numbers."""
        words = list(sys.argv[1:] if arguments is None else arguments)
        prints = _take_flag(words, "--print_config")
        args = super().parse_args(words)
        check_ranges(vars(args))
        if prints:
            _print_config({name: value for name, value in vars(args).items() if value != self.get_default(name)})
        return args


def _print_config(options: dict) -> None:
    plain = {name: os.fspath(value) if isinstance(value, Path) else value for name, value in options.items()}
    print(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True) if plain else "", end="")
    sys.exit(0)


def check_ranges(options: dict) -> None:
    """Raise `ValueError` if a number among the options is out of range, or two alternatives are given."""
    if all(options.get(name) is not None for name in ALTERNATIVES):
        raise ValueError(f"{' and '.join(ALTERNATIVES)} are both given; leave one of them out")
    for wanted, names in RANGES.items():
        for name in names.split():
            values = options.get(name)
            for value in values if isinstance(values, list) else [values]:
                is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
                if is_number and not IS_IN_RANGE[wanted](value):
                    raise ValueError(f"{name} is {value}; it must be {wanted}")


def parse_recipe(
    *dataclass_types: type, arguments: Sequence[str] | None = None, description: str | None = None
) -> tuple:
    """One instance of each dataclass, from the command line: `[recipe] [--key value ...]`.

    A recipe is a YAML file that maps option names to values, or the name of one that ships with the package. It is
    read as if it preceded the command line, which therefore wins. A list is several values, `null` is None, and a
    mapping (such as `fsdp_config`) is passed on as a whole. `description` is for `--help`.

    Raises:
        ValueError: The recipe is not a mapping, or an option is unknown, missing, given twice or out of range; the
            message names file and option.
        FileNotFoundError: There is no such recipe.
        SystemExit: `--help` or `--print_config`.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    prints = _take_flag(words, "--print_config")
    parser, words = _parser_and_words(dataclass_types, words, description)
    *parsed, unknown = parser.parse_args_into_dataclasses(
        words, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        names = _option_names(dataclass_types)
        raise ValueError(f"there is no option {unknown[0]!r}{_suggestion(unknown[0], names)}; --help lists them")
    for part in parsed:
        check_ranges(vars(part))
    if prints:
        given = {word.lstrip("-").split("=")[0].replace("-", "_") for word in words if word.startswith("--")}
        options = given_options(*dataclass_types, arguments=arguments)
        values = vars(parser.parse_known_args(words)[0])
        _print_config({name: values[name] for name in values if name in given or name in options})
    return tuple(parsed)


def given_options(*dataclass_types: type, arguments: Sequence[str] | None = None) -> dict:
    """The options that recipe and command line set to something other than the default, as a recipe of the run."""
    parser, words = _parser_and_words(dataclass_types, sys.argv[1:] if arguments is None else arguments)
    values, plain = vars(parser.parse_known_args(words)[0]), CommandParser(None, dataclass_types)
    for action in plain._actions:
        action.required = False
    defaults = vars(plain.parse_known_args([])[0])  # as their types read them
    return {name: values[name] for name in sorted(values) if values[name] != defaults[name]}


def _parser_and_words(
    dataclass_types: tuple[type, ...], arguments: Sequence[str], description: str | None = None
) -> tuple[CommandParser, list[str]]:
    """The parser, and the command line with the recipe's settings before it."""
    parser, words = CommandParser(description, dataclass_types), list(arguments)
    if not words or words[0].startswith("-"):
        return parser, words
    recipe, words = words[0], words[1:]
    settings = read_recipe(recipe)
    if {word.split("=")[0] for word in words} & {f"--{name}" for name in ALTERNATIVES}:
        settings = {name: value for name, value in settings.items() if name not in ALTERNATIVES}
    names = _option_names(dataclass_types)
    for name in settings:
        if name not in names:
            raise ValueError(f"{recipe}: there is no option {name!r}{_suggestion(name, names)}")
    # argparse has no way to write these two on a command line.
    parser.set_defaults(**{name: value for name, value in settings.items() if value is None or value == []})
    return parser, [word for name, value in settings.items() for word in _as_words(name, value)] + words


def _option_names(dataclass_types: tuple[type, ...]) -> list[str]:
    return [part.name for kind in dataclass_types for part in dataclasses.fields(kind) if part.init]


def read_recipe(path: str | os.PathLike) -> dict:
    """The settings of a recipe (a file or the name of a shipped one), in its order; see [`parse_recipe`]."""
    text = recipe_file(path).read_text(encoding="utf-8")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not a YAML file: {error}") from error
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ValueError(f"{path} is a YAML {type(settings).__name__}; it must be a mapping of options to values")
    for key, times in Counter(key.value for key, _ in root.value).items():
        if times > 1:
            raise ValueError(f"{path} has the option {key!r} {times} times; it must have it once")
    return settings


def _as_words(name: str, value) -> list[str]:
    """A setting as words of a command line."""
    if value is None or isinstance(value, list):
        return [f"--{name}", *map(str, value)] if value else []
    return [f"--{name}={json.dumps(value) if isinstance(value, dict) else value}"]


def _suggestion(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name.lstrip("-").split("=")[0].replace("-", "_"), names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
