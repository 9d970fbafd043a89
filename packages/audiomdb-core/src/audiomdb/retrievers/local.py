"""Datasets in a folder, read in place."""

from __future__ import annotations

import os
from pathlib import Path

from audiomdb.retrievers.base import BaseRetriever
from audiomdb.shards import DatasetReader

__all__ = ["LocalRetriever"]


class LocalRetriever(BaseRetriever):
    """A dataset in a folder.

        retriever = LocalRetriever("speech")
        len(retriever), retriever.metadata.duration, retriever.open()["clip-0"]

    Nothing is copied: shards are mapped where they lie.

    Args:
        path: The dataset's folder. A relative one is looked up from the working directory of the
            process that opens it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def reader(self) -> DatasetReader:
        """Open the dataset in the folder."""
        return DatasetReader.open(self.path)

    def __repr__(self) -> str:
        return f"LocalRetriever({str(self.path)!r})"
