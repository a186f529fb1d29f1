# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""A model folder as a repository on the Hub: what belongs to it, checked, and uploaded in one commit."""

import json
import os
import re
import shutil
from pathlib import Path

import yaml
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HFValidationError

from ..files import atomic_path
from .card import write_card
from .model_folder import (
    EVALUATION_FILE,
    RECIPE_FILE,
    check_report,
    read_config,
    read_json,
    repository_files,
    run_records,
)


# Files of an earlier upload that would contradict this one, if this one does not have them.
OURS = re.compile(
    r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?|\w+_videoms\.py|recipe\.yaml|(training_log|evaluation)\.json"
)


class UploadError(RuntimeError):
    """An upload that failed; files of a repository change all at once or not at all."""


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
    """The commit that made `repo_id` hold what `folder` holds: weights, processor, code, card, recipe, log, scores.

    The card is written into the folder first ([`write_card`], which `facts` go to). The repository is made if there is
    none. All files appear in it at once; files of an earlier upload that this one lacks are removed. Checkpoints,
    optimiser states and pickles stay where they are.

    Args:
        evaluation: `evaluation.json` of this model, copied into the folder.
        local_paths: publish recipe, log and evaluation with the local paths in them; by default only the last part of
            each stays, in what is uploaded and in the card.
        private: whether a new repository is private, by default as the account has it.
        revision: branch that is committed to, by default main.

    Raises:
        FileNotFoundError: Something is missing in the folder; all of it is named.
        ValueError: A file is not what its name says, or the repository's name is none.
        UploadError: The Hub refused or could not be reached.
    """
    folder = Path(folder)
    if evaluation is not None:
        adopt_evaluation(folder, Path(evaluation))
    repository_files(folder)  # complete?
    write_card(folder, name=repo_id, local_paths=local_paths, **facts)
    api = HfApi(token=token)
    try:
        full_name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if full_name != repo_id:  # given without the account's name
            write_card(folder, name=full_name, local_paths=local_paths)
        added = contents(folder, local_paths)
        names = {operation.path_in_repo for operation in added}
        there = api.list_repo_files(full_name, revision=revision)
        stale = [name for name in there if OURS.fullmatch(name) and name not in names]
        return api.create_commit(
            full_name,
            [*added, *(CommitOperationDelete(name) for name in stale)],
            commit_message=commit_message,
            revision=revision,
        )
    except HFValidationError:
        raise  # the name is none
    except Exception as error:  # the client has errors of its own, of its transport and of the system
        raise UploadError(_failure(error, folder, repo_id)) from error


def contents(folder: Path, local_paths: bool = False) -> list[CommitOperationAdd]:
    """Every file to publish: the folder's own, or a text of its own where local paths were taken out."""
    before, after = run_records(folder, local_paths=True), run_records(folder, local_paths)
    texts = {
        name: yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        if name == RECIPE_FILE
        else json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        for name, content in after.items()
        if content != before[name]
    }
    return [
        CommitOperationAdd(name, texts[name].encode() if name in texts else folder / name)
        for name in repository_files(folder)
    ]


def adopt_evaluation(folder: Path, evaluation: Path) -> None:
    """Copy an evaluation's file into the folder of its model.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no evaluation, or one of another model.
    """
    report = read_json(evaluation)
    if report is None:
        raise FileNotFoundError(f"{evaluation} does not exist; it must be the evaluation.json of scripts/evaluate.py")
    check_report(report, read_config(folder), evaluation, folder)
    if evaluation.resolve() != (folder / EVALUATION_FILE).resolve():
        with atomic_path(folder / EVALUATION_FILE) as partial:
            shutil.copyfile(evaluation, partial)


def _failure(error: Exception, folder: Path, repo_id: str) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    reason = re.sub(r"For more information check: \S+", "", str(cause))
    status = getattr(getattr(cause, "response", None), "status_code", None)
    advice = "run the same again, large files that have arrived are not sent twice"
    if status in (401, 403):
        advice = "log in (`hf auth login`, or HF_TOKEN) as somebody who may write there, and run the same again"
    return (
        f"the upload of {folder} to {repo_id} failed: {' '.join(reason.split())}. Files there change all at once or "
        f"not at all; {advice}"
    )
