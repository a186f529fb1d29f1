# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""The command `videoms`, also `python -m videoms_hf`: runs the scripts of `scripts/`, which the package has.

`videoms finetune --train_data my/train.csv` does what `python scripts/finetune.py --train_data my/train.csv` does in a
clone. Several processes: `torchrun --nproc_per_node 8 -m videoms_hf finetune ...`.
"""

import ast
import difflib
import runpy
import sys
from collections.abc import Sequence

from .files import shipped


COMMANDS = {  # name: script
    "quickstart": "quickstart",
    "pretrain": "pretrain",
    "finetune": "finetune",
    "evaluate": "evaluate_model",
    "predict": "predict",
    "visualize": "visualize",
    "probe": "probe",
    "features": "extract_features",
    "compare": "compare_selections",
    "prepare": "prepare_dataset",
    "scan": "scan_dataset",
    "convert": "convert_checkpoint",
    "export": "export",
    "publish": "push_to_hub",
    "state_changes": "predict_state_changes",
    "doctor": "doctor",
    "recipes": "list_recipes",
}


def overview() -> str:
    """The help text: every command with the first line of its script's docstring."""
    lines = ["usage: videoms COMMAND [RECIPE] [--option value ...]", "", "commands:"]
    for name, script in COMMANDS.items():
        text = shipped(f"scripts/{script}.py").read_text(encoding="utf-8")
        lines.append(f"  {name:15}{ast.get_docstring(ast.parse(text)).splitlines()[0]}")
    return "\n".join([*lines, "", "`videoms COMMAND --help` lists the options of a command."])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script of the command that comes first, with the other arguments."""
    name, *words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(overview())
        return
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"it must be one of {', '.join(COMMANDS)}"
        print(f"error: there is no command {name!r}; {hint}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"videoms {name}", *words]
    runpy.run_path(str(shipped(f"scripts/{COMMANDS[name]}.py")), run_name="__main__")


if __name__ == "__main__":
    main()
