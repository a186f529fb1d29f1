# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""A model folder as a repository on the Hub: what belongs to it, checked, and uploaded in one commit."""

import os
import re
import shutil
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HFValidationError

from ..files import atomic_path
from .card import write_card
from .model_folder import (
    CARD_FILE,
    EVALUATION_FILE,
    LOG_FILE,
    RECIPE_FILE,
    check_report,
    read_config,
    read_json,
    repository_files,
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
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload model",
    **facts: str,
) -> CommitInfo:
    """The commit that made `repo_id` hold what `folder` holds: weights, processor, code, card, recipe, log, scores.

    The card is written into the folder first ([`write_card`], which `facts` go to). The repository is made if there is
    none. All files appear in it at once; files of an earlier upload that this one lacks are removed. Checkpoints,
    optimiser states and pickles stay where they are.

    Args:
        evaluation: `evaluation.json` of this model, copied into the folder.
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
    names = repository_files(folder)
    write_card(folder, name=repo_id, **facts)  # first, for it finds what is wrong with the files
    api = HfApi(token=token)
    try:
        full_name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if full_name != repo_id:  # given without the account's name
            write_card(folder, name=full_name)
        names += [name for name in (CARD_FILE, RECIPE_FILE, LOG_FILE, EVALUATION_FILE) if (folder / name).exists()]
        there = api.list_repo_files(full_name, revision=revision)
        stale = [name for name in there if OURS.fullmatch(name) and name not in names]
        return api.create_commit(
            full_name,
            [
                *(CommitOperationAdd(name, folder / name) for name in names),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message=commit_message,
            revision=revision,
        )
    except HFValidationError:
        raise  # the name is none
    except Exception as error:  # the client has errors of its own, of its transport and of the system
        raise UploadError(_failure(error, folder, repo_id)) from error


def adopt_evaluation(folder: Path, evaluation: Path) -> None:
    """Copy an evaluation's file into the folder of its model.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no evaluation, or one of another model.
    """
    report = read_json(evaluation)
    if report is None:
        raise FileNotFoundError(f"{evaluation} does not exist; it must be the evaluation.json of scripts/evaluate.py")
    check_report(report, read_config(folder), evaluation)
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
