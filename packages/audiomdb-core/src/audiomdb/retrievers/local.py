"""Retriever for datasets in a folder, which are read in place."""

from __future__ import annotations

import os
from typing import Any

from audiomdb.retrievers.base import BaseRetriever
from audiomdb.shards import DatasetReader
from audiomdb.urls import folder_path, local_path

__all__ = ["LocalRetriever"]


class LocalRetriever(BaseRetriever):
    """Reads a dataset in a folder.

        retriever = LocalRetriever("speech")
        len(retriever), retriever.metadata.duration, retriever.open()["clip-0"]

    Nothing is copied: shards are mapped in place.

    Args:
        path: The dataset's folder. A relative path is resolved against the working directory of the
            process that opens it.

    Raises:
        InvalidURLError: the path is a URL.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = folder_path(
            path, instead="audiomdb.registry.retriever_for and open_dataset take URLs"
        )

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        cache_dir: str | os.PathLike[str] | None = None,  # noqa: ARG003
        max_cache_bytes: int | None = None,  # noqa: ARG003
        prefetch: int | None = None,  # noqa: ARG003
        workers: int | None = None,  # noqa: ARG003
        **options: Any,  # noqa: ANN401
    ) -> LocalRetriever:
        """Make a retriever for a path, or a URL like `file:///data/speech`.

        Options for the cache have no effect, so that the same program reads a remote dataset and a
        copy of it.

        Raises:
            InvalidURLError: the URL is not a path on this machine.
        """
        return cls(local_path(url), **options)

    def make_reader(self) -> DatasetReader:
        """Open the dataset in the folder."""
        return DatasetReader.open(self.path)

    def __repr__(self) -> str:
        return f"LocalRetriever({str(self.path)!r})"
