"""What every retriever is: the way to a dataset, wherever it lies."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import Any, TypeVar

from audiomdb.shards import DatasetReader, Metadata

__all__ = ["BaseRetriever"]

_R = TypeVar("_R", bound="BaseRetriever")


class BaseRetriever(ABC):
    """Base of what leads to a dataset.

    A retriever is described by the arguments it was made with: they are kept before `__init__`
    runs, so a subclass may do there what it likes, in any order. It pickles as these arguments, so
    what a constructor opens (a client, a connection) need not pickle, and in a process that did
    not make the retriever the dataset is opened by a new one, so it is not shared across a fork
    either. Attributes that are changed later do not travel.

    Making a retriever reads nothing; the first use does. Threads may share one.
    """

    _arguments: tuple[tuple[Any, ...], dict[str, Any]]
    _made_in: int
    _opened: tuple[int, DatasetReader] | None

    def __new__(cls: type[_R], *args: Any, **kwargs: Any) -> _R:  # noqa: ANN401, PYI019
        """Keep the arguments."""
        self = super().__new__(cls)
        self._arguments = (args, kwargs)
        self._made_in = os.getpid()
        self._opened = None
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, (type(self), *self._arguments)

    def __len__(self) -> int:
        """Samples in the dataset."""
        return len(self.open())

    @property
    def metadata(self) -> Metadata:
        """What the dataset says of itself."""
        return self.open().metadata

    def open(self) -> DatasetReader:
        """The dataset's reader: one for each process, opened on the first call.

        Raises:
            DatasetNotFoundError: when there is no dataset.
            MetadataError: when its metadata is damaged.
            FormatVersionError: when a newer library wrote it.
        """
        process = os.getpid()
        if self._opened is None or self._opened[0] != process:
            # No lock, which a fork could leave locked for ever: two threads that come first open
            # twice, and one of the readers is dropped.
            source = self if self._made_in == process else _make(type(self), *self._arguments)
            self._opened = (process, source.reader())
        return self._opened[1]

    def close(self) -> None:
        """Let go of the dataset; using the retriever opens it again. May be called twice."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened[1].close()

    @abstractmethod
    def reader(self) -> DatasetReader:
        """Open the dataset.

        Called by `open`, in each process on an object made there; by two threads at once at worst.

        Raises:
            DatasetError: as `open` says.
        """


def _make(
    kind: type[BaseRetriever], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> BaseRetriever:
    return kind(*args, **kwargs)
