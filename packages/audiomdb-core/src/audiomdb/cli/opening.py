"""From what the user typed to a dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiomdb.cli.arguments import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from audiomdb.shards import DatasetReader

__all__ = ["folder_of", "open_dataset"]


def folder_of(dataset: str) -> Path:
    """The dataset's folder.

    Raises:
        UsageError: for a URL.
    """
    from pathlib import Path

    if "://" in dataset:
        raise UsageError(
            f"{dataset} is a URL, and this command reads folders; download the dataset first"
        )
    return Path(dataset)


def open_dataset(dataset: str) -> DatasetReader:
    """Open a dataset in a folder.

    Raises:
        UsageError: for a URL.
        DatasetError: when there is no dataset, or its metadata is damaged.
    """
    from audiomdb.shards import DatasetReader

    return DatasetReader.open(folder_of(dataset))
