"""Explain which repository, revision or file is missing on the Hub, and what there is instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING

from audiomdb._hf import error_names, request_errors
from audiomdb._hf_url import HubFolder
from audiomdb.errors import DatasetNotFoundError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["missing_error"]

_METADATA_FILE = "metadata.json"

_MOST_FILES = 10_000
"""Most files that are searched for datasets in other folders."""


def missing_error(
    error: Exception, path: str, folder: HubFolder, *, commit: str | None, token: str | bool | None
) -> DatasetNotFoundError | None:
    """Return the error for a missing repository, revision or file; None for other errors.

    Asks the Hub for names that exist, to suggest them.

    Args:
        error: Error of the Hub's client.
        path: The file that was asked for, relative to the folder.
        folder: Folder of the dataset.
        commit: The commit that is read, if it is known.
        token: Token for the Hub, as its client takes it.
    """
    names = error_names(error)
    if "GatedRepoError" in names:
        return None
    if "RepositoryNotFoundError" in names:
        return DatasetNotFoundError(
            f"there is no dataset repository {folder.repo_id!r}, or the token may not see it: "
            "check the name; for a private repository, log in (hf auth login), or give token="
        )
    revision = commit or folder.revision

    def branches_and_tags(api: HfApi) -> Iterable[str]:
        refs = api.list_repo_refs(folder.repo_id, repo_type="dataset")
        return (ref.name for ref in (*refs.branches, *refs.tags))

    def datasets(api: HfApi) -> Iterable[str]:
        entries = api.list_repo_tree(
            folder.repo_id, recursive=True, repo_type="dataset", revision=revision
        )
        for entry in islice(entries, _MOST_FILES):
            parent, _, name = entry.path.rpartition("/")
            if name == _METADATA_FILE:
                yield parent

    if "RevisionNotFoundError" in names:
        advice = _may_be("revision", branches_and_tags, folder, token)
        return DatasetNotFoundError(
            f"datasets/{folder.repo_id} has no revision {revision!r}{advice}"
        )
    if "EntryNotFoundError" not in names:
        return None
    if path != _METADATA_FILE:
        place = folder.name(path, commit=commit)
        return DatasetNotFoundError(f"no {place}; upload the dataset again")
    advice = _may_be("subdir", datasets, folder, token) or (
        ": HFRetriever reads what HFUploader uploaded; HFConverter converts other datasets"
    )
    place = folder.name(commit=commit)
    return DatasetNotFoundError(f"no dataset in {place}, {path} is missing{advice}")


def _may_be(
    option: str,
    look: Callable[[HfApi], Iterable[str]],
    folder: HubFolder,
    token: str | bool | None,
) -> str:
    """Return a hint with the names that exist; empty if there are none, or the Hub fails."""
    from huggingface_hub import HfApi

    errors: tuple[type[Exception], ...] = (*request_errors(), ValueError)
    try:
        listed = ", ".join(map(repr, look(HfApi(endpoint=folder.endpoint, token=token))))
    except errors:
        return ""
    return f"; {option}= may be {listed}" if listed else ""
