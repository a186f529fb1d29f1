# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Publishing a model folder on the Hub: its files, checked, in one commit."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HFValidationError

from ..files import atomic_path, shipped
from .card import write_card
from .model_folder import (
    EVALUATION_FILE,
    RECIPE_FILE,
    check_report,
    read_config,
    read_record,
    repository_files,
    run_records,
)


# Files of an earlier upload that are removed if this one lacks them: they would contradict it.
OURS = re.compile(
    r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?|\w+_videoms\.py|recipe\.yaml|(training_log|evaluation)\.json|"
    r"training_log\.png"
)
OF_SPACE = re.compile(r"videoms_hf/.*")


class UploadError(RuntimeError):
    """An upload failed; the repository is unchanged."""


def publish(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    evaluation: str | os.PathLike | None = None,
    local_paths: bool = False,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload model",
    **facts,
) -> CommitInfo:
    """The commit that uploads `folder` to `repo_id`: weights, processor, code, card, recipe, log and scores.

    The card is written into the folder first ([`write_card`] takes `facts`), and a missing repository is created. All
    files change in one commit, which also removes files of an earlier upload that this one lacks. Checkpoints,
    optimiser states and pickles are not uploaded.

    Args:
        evaluation: `evaluation.json` of this model, which is copied into the folder.
        local_paths: publish the local paths in recipe, log, evaluation and card; by default only their last part.
        private: whether a new repository is private, by default as the account has it.
        revision: branch to commit to, by default main.

    Raises:
        FileNotFoundError: Files are missing in the folder; all are named.
        ValueError: A file has other content than its name says, or the name of the repository is invalid.
        UploadError: The Hub refused or could not be reached.
    """
    folder = Path(folder)
    if evaluation is not None:
        adopt_evaluation(folder, Path(evaluation))
    repository_files(folder)  # complete?
    write_card(folder, name=repo_id, local_paths=local_paths, **facts)
    api = HfApi(token=token)
    with _upload(folder, repo_id):
        full_name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if full_name != repo_id:  # given without the account's name
            write_card(folder, name=full_name, local_paths=local_paths)
        files = contents(folder, local_paths)
        return _commit(api, full_name, files, OURS, commit_message, repo_type="model", revision=revision)


def publish_space(repo_id: str, model: str, private: bool | None = None, token: str | None = None) -> CommitInfo:
    """The commit that uploads the demo of `model`, a name on the Hub, to the Space `repo_id`.

    A missing Space is created. The files are those of [`space_contents`], unchanged: the Space reads the model's name
    from a variable.

    Raises:
        ValueError: The name of the Space is invalid.
        UploadError: The Hub refused or could not be reached.
    """
    api = HfApi(token=token)
    with _upload("the demo", repo_id):
        options = {"repo_type": "space", "space_sdk": "gradio", "private": private, "exist_ok": True}
        full_name = api.create_repo(repo_id, **options).repo_id
        api.add_space_variable(full_name, "VIDEOMS_MODEL", model)
        return _commit(api, full_name, space_contents(), OF_SPACE, f"Demo of {model}", repo_type="space")


def space_contents() -> list[CommitOperationAdd]:
    """Every file of a Space: `scripts/space` as it is, and this package, which no index may have."""
    package = Path(__file__).parents[1]
    files = {path.name: path for path in shipped("scripts/space").iterdir() if path.is_file()}
    for path in package.rglob("*"):
        name = path.relative_to(package.parent)
        if path.suffix in (".py", ".txt") and name.parts[1] not in ("scripts", "model_cards"):
            files[name.as_posix()] = path
    return [CommitOperationAdd(name, files[name]) for name in sorted(files)]


def _commit(
    api: HfApi, repo_id: str, added: list[CommitOperationAdd], ours: re.Pattern, message: str, **place
) -> CommitInfo:
    """One commit that adds files and removes those of an earlier upload (`ours`) that are not among them."""
    names = {operation.path_in_repo for operation in added}
    there = api.list_repo_files(repo_id, **place)
    stale = [CommitOperationDelete(name) for name in there if ours.fullmatch(name) and name not in names]
    return api.create_commit(repo_id, [*added, *stale], commit_message=message, **place)


def contents(folder: Path, local_paths: bool = False) -> list[CommitOperationAdd]:
    """Every file to publish: the folder's own, or a new text where local paths were removed."""
    before, after = run_records(folder, local_paths=True), run_records(folder, local_paths)
    operations = []
    for name in repository_files(folder):
        source = folder / name
        if name in after and after[name] != before[name]:
            if name == RECIPE_FILE:
                text = yaml.safe_dump(after[name], sort_keys=False, allow_unicode=True)
            else:
                text = json.dumps(after[name], indent=1, ensure_ascii=False) + "\n"
            source = text.encode()
        operations.append(CommitOperationAdd(name, source))
    return operations


def adopt_evaluation(folder: Path, evaluation: Path) -> None:
    """Copy an evaluation into its model's folder; `ValueError` if it is not an evaluation of this model."""
    if not evaluation.exists():
        raise FileNotFoundError(f"{evaluation} does not exist; it must be the evaluation.json of `videoms evaluate`")
    check_report(read_record(evaluation), read_config(folder), evaluation, folder)
    if evaluation.resolve() != (folder / EVALUATION_FILE).resolve():
        with atomic_path(folder / EVALUATION_FILE) as partial:
            shutil.copyfile(evaluation, partial)


@contextmanager
def _upload(what: Path | str, repo_id: str) -> Iterator[None]:
    """Turns the client's errors, those of its transport and of the system into `UploadError`."""
    try:
        yield
    except HFValidationError:
        raise  # the name is invalid
    except Exception as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        reason = re.sub(r"For more information check: \S+", "", str(cause))
        advice = "run the same again; large files that have arrived are not sent twice"
        if getattr(getattr(cause, "response", None), "status_code", None) in (401, 403):
            advice = "log in (`hf auth login`, or HF_TOKEN) as somebody who may write there, and run the same again"
        raise UploadError(
            f"the upload of {what} to {repo_id} failed: {' '.join(reason.split())}. Files there change all at once or "
            f"not at all; {advice}"
        ) from error
