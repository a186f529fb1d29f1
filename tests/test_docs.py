"""The documentation: its commands are understood by their own parsers, its Python runs, its site builds.

A block of code that is not run says why, in a comment right before it: `<!-- not run: it needs 8 GPUs -->`.
"""

import re
import runpy
import shlex
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from tests.evaluation_files import save_classifier, write_noise
from tests.processes import run_program
from videoms_hf import VideoMSConfig, VideoMSForPreTraining, VideoMSVideoProcessor
from videoms_hf.__main__ import COMMANDS


ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
TUTORIAL = ROOT / "docs" / "tutorial.md"  # test_tutorial.py runs it as a whole
BLOCK = re.compile(r"^(?:<!-- not run: (.+?) -->\n+)?```(\w*)\n(.*?)^```$", re.M | re.S)
OTHER_PROGRAMS = {"cat", "cd", "find", "git", "head", "mkdir", "mkdocs", "pip", "source", "unrar", "unzip"}


class Block(NamedTuple):
    """A block of code of a page; `reason`: why it is not run."""

    reason: str | None
    language: str
    code: str


def blocks(page: Path, *languages: str) -> list[Block]:
    found = [Block(match[1], match[2], match[3]) for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]
    return [block for block in found if block.language in languages]


def commands(code: str) -> list[list[str]]:
    """Words of every command of shell code, without environment variables and redirection, those of a pipe apart."""
    found = []
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for part in " ".join(map(shlex.quote, words)).split(" '|' "):
            part = shlex.split(part.split(" '>' ")[0])
            while part and re.fullmatch(r"[A-Z_]+=.*", part[0]):
                part = part[1:]
            found += [part] if part else []
    return found


@cache
def main_of(name: str):
    return runpy.run_path(str(ROOT / "scripts" / f"{COMMANDS[name]}.py"))["main"]


def check_understood(words: list[str]) -> None:
    """A command exists, and its own parser takes all words; nothing is run."""
    program, *rest = words
    if program in ("torchrun", "accelerate", "sbatch", "python") and "videoms_hf" in rest:
        for word in rest[: rest.index("videoms_hf")]:
            assert not word.startswith("scripts/") or (ROOT / word).is_file(), word
        program, rest = "videoms", rest[rest.index("videoms_hf") + 1 :]
    if program == "videoms":
        assert rest and rest[0] in COMMANDS, words
        with pytest.raises(SystemExit) as end:
            main_of(rest[0])(rest[1:] if "--print_config" in rest else [*rest[1:], "--print_config"])
        assert not end.value.code, words
    elif program in ("python", "bash"):
        assert (ROOT / rest[0]).is_file(), words
    else:
        assert program in OTHER_PROGRAMS, f"{words}: run it, or say why not in a comment before the block"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_is_understood_by_its_own_parser(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("my_recipe.yaml", "mine.yaml"):  # what `videoms recipes ... > mine.yaml` writes
        shutil.copy(ROOT / "scripts" / "recipes" / "small" / "finetune.yaml", name)
    for block in blocks(page, "bash", "sh", "shell", "console"):
        for words in [] if block.reason else commands(block.code):
            check_understood(words)


@pytest.mark.parametrize(
    "line", ["videoms predict a.mp4 --model m --topk 3", "python scripts/nope.py", "videoms explain", "ffprobe a.mp4"]
)
def test_commands_that_do_not_exist_are_noticed(line):
    with pytest.raises((AssertionError, ValueError)):
        check_understood(commands(line)[0])


def test_the_words_of_commands_are_found_in_shell_code():
    code = 'find a -name "*.mp4" | videoms predict - --model m   # comment\nOMP_NUM_THREADS=1 videoms \\\n  doctor\n'
    code += "videoms recipes ucf101/finetune > my.yaml\n"
    assert commands(code) == [
        ["find", "a", "-name", "*.mp4"],
        ["videoms", "predict", "-", "--model", "m"],
        ["videoms", "doctor"],
        ["videoms", "recipes", "ucf101/finetune"],
    ]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """Folder with what the pages call `my/...`, `runs/...` and `my_video.mp4`, all of it tiny."""
    folder = tmp_path_factory.mktemp("workplace")
    classifier = save_classifier(folder / "runs" / "finetune")
    config = VideoMSConfig.from_pretrained(classifier)
    VideoMSForPreTraining(config).save_pretrained(folder / "runs" / "pretrain")
    VideoMSVideoProcessor.from_pretrained(classifier).save_pretrained(folder / "runs" / "pretrain")
    for seed, name in enumerate(("my_video.mp4", "a.mp4", "b.mp4")):
        write_noise(folder / name, 70, seed)
    for split, label in ((split, label) for split in ("train", "val", "test") for label in ("hop", "spin")):
        (folder / "my" / split / label).mkdir(parents=True)
        for i in range(4):
            write_noise(folder / "my" / split / label / f"{i}.mp4", 24, seed=i)
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if page != TUTORIAL], ids=lambda page: page.stem)
def test_python_blocks_run_in_order(page, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    names = {"__name__": "__main__", "frames": list(np.zeros((16, 32, 48, 3), dtype=np.uint8))}
    for number, block in enumerate(blocks(page, "python"), 1):
        code = compile(block.code, f"{page.name}, Python block {number}", "exec")
        if block.reason is None:
            exec(code, names)


def test_every_block_has_a_language_and_every_page_a_title_and_a_place_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        text = page.read_text(encoding="utf-8")
        assert text.startswith("# "), page
        assert len(re.findall(r"^ *```", text, re.M)) == 2 * len(BLOCK.findall(text)), page
        assert all(match[2] for match in BLOCK.finditer(text)), page
        assert re.search(rf"\b{page.stem}\.md$", menu, re.M), f"{page.name} is not in mkdocs.yml"


def test_the_drawings_can_be_made_again(tmp_path):
    pytest.importorskip("matplotlib", reason="an extra: pip install -e .[benchmarks]")
    drawings = runpy.run_path(str(ROOT / "docs" / "drawings.py"))
    drawings["save"].__globals__["DOCS"] = tmp_path
    for name in ("draw_tokens", "draw_networks", "draw_frame_selection"):
        drawings[name]()
    made = sorted(tmp_path.glob("method_*.png"))
    assert [path.name for path in made] == [path.name for path in sorted((ROOT / "docs").glob("method_*.png"))]
    for path in made:
        assert Image.open(path).size == Image.open(ROOT / "docs" / path.name).size


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="an extra: pip install -e .[docs]")
    assert shutil.which("mkdocs", path=str(Path(sys.executable).parent))
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = run_program(command, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    assert "VideoMSForVideoClassification" in page and not re.search("<code>[^<]*`", page)
