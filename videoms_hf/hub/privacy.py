# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Records of a run without private parts: local paths, names of users and machines, tokens."""

import getpass
import re
import socket
from contextlib import suppress
from pathlib import Path


# Absolute paths, and those that go up or start at a home folder; group 1 is the last part, which stays.
LOCAL_PATH = re.compile(
    r"(?<![\w./\\~])(?:~[\w-]*/|/(?=[\w.~])|[A-Za-z]:[\\/]|\\\\|(?:\.\./)+)(?:[^\s'\"`/\\:;,<>|]+[/\\])*([^\s'\"`/\\:;,<>|]*)"
)
QUOTED_PATH = re.compile(r"""(['"])([\w-]*=)?/(?:[^'"\n]*/)?([^'"/\n]*)\1""")
TOKEN = re.compile(r"\b(hf_|sk-|ghp_|github_pat_|wandb_v1_)[A-Za-z0-9_-]{8,}")
SECRET_PART_OF_ADDRESS = re.compile(r"(?<=://)[^/\s@]+@|(?<=\w)\?[^\s'\"]*(?:token|sig|key|auth)[^\s'\"]*", re.I)
COMMON_USERS = {"root", "user", "ubuntu", "runner", "admin", "localhost", ""}
PUBLIC = {"class_names", "class_accuracies", "class", "taken_for"}  # part of the model


def without_private(content):
    """A copy of JSON or YAML content without private parts; of a local path only the last part stays."""
    folders = sorted(set(_folders(content)), key=len, reverse=True)
    names = {socket.gethostname()} - COMMON_USERS
    with suppress(OSError, KeyError):  # a container may not know its user
        names |= {getpass.getuser()} - COMMON_USERS
    names = [re.compile(rf"(?<![\w]){re.escape(name)}(?![\w])") for name in names]

    def clean(value):
        if isinstance(value, dict):
            return {key: item if key in PUBLIC else clean(item) for key, item in value.items()}
        if isinstance(value, list):
            return [clean(item) for item in value]
        if not isinstance(value, str):
            return value
        for folder in folders:
            value = value.replace(f"{folder}/", "/")
        if _is_local(value):
            value = re.split(r"[/\\]", value.rstrip("/\\"))[-1]
        value = SECRET_PART_OF_ADDRESS.sub("", TOKEN.sub("<token>", value))
        value = LOCAL_PATH.sub(r"\1", QUOTED_PATH.sub(r"\1\2\3\1", value))
        for name in names:
            value = name.sub("<private>", value)
        return value

    return clean(content)


def _is_local(text: str) -> bool:
    return not re.search(r"\n|: ", text) and bool(re.match(r"/(?!/)|~[\w-]*/|[A-Za-z]:[\\/]|\\\\|\.\./", text))


def _folders(content):
    """Folders of the strings that are whole paths, to be found within other strings even if they have spaces."""
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        for item in content:
            yield from _folders(item)
    elif isinstance(content, str) and content.startswith("/") and _is_local(content) and len(Path(content).parts) > 2:
        yield str(Path(content).parent)
