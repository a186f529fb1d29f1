# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Files and folders that appear complete or not at all, text files as UTF-8, and what ships with the package."""

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


PARTIAL_NAME = re.compile(r"\..*\.partial")  # a killed process may leave such a file or folder behind


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Path of a file or folder to create next to `path`; it replaces `path` when the `with` ends without an error.

    Otherwise it is removed. No other process is given the same one. A file gets the permissions that the umask gives,
    whoever writes it: safetensors' are readable by their owner only.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.partial")
    partial.touch()
    mode = partial.stat().st_mode
    partial.unlink()
    try:
        yield partial
        if partial.is_file() and partial.stat().st_mode != mode:
            partial.chmod(mode)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` to a file as UTF-8; an older file stays complete until the new one is."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(content: dict, path: str | os.PathLike) -> None:
    """Write `content` to the file `path`, whose folder is made; an older file stays whole until the new one is.

    Lists of numbers take one line.
    """
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    # A line break stands between values only: within a string it is written as a backslash and an n.
    text = re.sub(r"\[\n[-+.0-9eE,\s]+\]", lambda numbers: f"[{' '.join(numbers[0][1:-1].split())}]", text)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text + "\n")


def read_text(path: Path) -> str:
    """A file's text, which must be UTF-8; a byte order mark is no part of it."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path} is not UTF-8 text ({error.reason} in line {line}); save it as UTF-8, and rename files whose "
            "names are not UTF-8"
        ) from error


def shipped(path: str) -> Path:
    """A file or folder that ships with the package: inside it if installed, next to it in a clone."""
    package = Path(__file__).resolve().parent
    for folder in (package, package.parent):
        if (folder / path).exists():
            return folder / path
    raise FileNotFoundError(f"there is no {path} in {package} or {package.parent}; install videoms_hf again")
