"""README, docs, cards, recipes and help texts only name commands, options and recipes that exist; code blocks run."""

import re
import runpy
from functools import cache
from pathlib import Path

import pytest

from videoms_hf.__main__ import COMMANDS
from videoms_hf.command_line import CommandParser, recipe_names


ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("model_cards/*.md"),
    *ROOT.glob("scripts/*.py"),
    *ROOT.glob("scripts/recipes/*/*.yaml"),
    *ROOT.glob("scripts/accelerate/*"),
]
ALWAYS = {"--help", "--help_all", "--print_config", "--verbose", "--debug"}


@cache
def options_of(name: str) -> set[str]:
    parse = runpy.run_path(str(ROOT / "scripts" / f"{COMMANDS[name]}.py"))["main"]
    texts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CommandParser, "print_help", lambda self: texts.append(self.format_help()))
        with pytest.raises(SystemExit):
            parse(["--help_all"])
    return set(re.findall(r"^  (--\w+)", texts[0], re.M)) | ALWAYS


def commands_in(text: str) -> list[str]:
    """Command lines of `videoms` in code blocks, code spans, comments and docstrings, without what follows a pipe."""
    text = text.replace("\\\n", " ")
    lines = re.findall(r"^(?:# (?:Run: )?|#   )?(?:torchrun .*-m videoms_hf|.*\| videoms|videoms) (.+)$", text, re.M)
    lines += re.findall(r"`(?:torchrun [^`]*-m videoms_hf|videoms) ([^`\n]+)`", text)
    return [line for line in lines if line.split()[0].isidentifier()]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_documents_exist(path):
    for line in commands_in(path.read_text(encoding="utf-8")):
        name, *words = line.split()
        assert name in COMMANDS, f"{path.name}: videoms {line}"
        options = {word.split("=")[0].rstrip("`.,;:)") for word in words if word.startswith("--")}
        assert options <= options_of(name), f"{path.name}: {options - options_of(name)} of videoms {line}"
        if words and name in ("pretrain", "finetune", "evaluate") and re.fullmatch(r"\w+/\w+", words[0]):
            assert words[0] in recipe_names(), f"{path.name}: {words[0]}"


def test_options_that_pages_mention_without_a_command_exist():
    known = set().union(*map(options_of, COMMANDS)) | {"--nproc_per_node", "--nodes", "--config_file"}
    official = {"--mask_type", "--sampling_rate", "--lr", "--finetune", "--num_sample"}  # of VideoMAE's own scripts
    official |= {"--test_num_segment", "--test_num_crop"}
    for path in sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")}):
        text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
        spans = " ".join(span for span in re.findall(r"`([^`]+)`", text) if ".py " not in span)
        unknown = set(re.findall(r"(?<![\w-])--[a-z]\w+", spans)) - known
        assert unknown <= (official if path.name == "from_videomae.md" else set()), f"{path.name}: {unknown}"


@pytest.mark.parametrize("path", sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")}), ids=lambda path: path.name)
def test_links_and_pictures_in_documents_exist(path):
    text = path.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in re.findall(r"^#+ (.+)$", text, re.M)
    }
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("#"):
            assert link[1:] in headings, link
        elif "://" not in link:
            assert (path.parent / link.split("#")[0]).exists(), link


def test_the_first_python_block_of_the_readme_runs_as_written(capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.S)[1]
    exec(compile(code, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert re.fullmatch(r"loss [0-9.]+: [0-9]+ tokens encoded, [0-9]+ predicted, of 392\n", said)


def test_the_readme_shows_its_commands_and_names_what_tutorials_load():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "bash scripts/quickstart.sh" in text and "bash scripts/test.sh" in text and "AutoImageProcessor" in text
    first_screen = text.split("\n## ")[0]
    for part in (
        "docs/kept_tokens.webp",
        "docs/selectors.png",
        "pip install .",
        "videoms quickstart",
        "I know VideoMAE",
    ):
        assert part in first_screen
    assert "I have a folder of videos" in first_screen and "reproduce the paper" in first_screen


def test_the_columns_that_are_documented_are_those_that_are_read():
    from videoms_hf.data.tables import LABEL_COLUMNS, PATH_COLUMNS

    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    for name, columns in (("path", PATH_COLUMNS), ("label", LABEL_COLUMNS)):
        (line,) = re.findall(rf"^- {name}: (.+)$", text, re.M)
        assert tuple(re.findall(r"`(\w+)`", line)) == tuple(columns)
