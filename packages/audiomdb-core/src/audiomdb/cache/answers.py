"""Define a store's answer to a request for a file, and check the answers that backends give.

Without the check, an answer of a wrong type would surface later as an error that names neither
class nor file, or not at all, and the store would be blamed. Exceptions get a note of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import Any, Protocol

import msgspec

from audiomdb.errors import AudioMDBError
from audiomdb.notes import add_note
from audiomdb.shards.layout import METADATA_FILE
from audiomdb.signatures import signature_of

__all__ = ["CheckedOpen", "Open", "RemoteFile", "closing_chunks", "named"]


class RemoteFile(msgspec.Struct, frozen=True):
    """A store's answer to a request for a file, from some byte on.

    It cannot be changed; make another one instead.

    Attributes:
        chunks: The bytes. Closed after use, if it has a `close` method.
        start: Offset of the first byte in the file: the byte asked for, or 0 if the store ignores
            ranges or the file has another version than the validator names.
        validator: Name of the version of the file (an ETag), to be sent back when resuming.
        size: Size of the whole file in bytes, if the store reports it.
    """

    chunks: Iterable[bytes]
    start: int = 0
    validator: str | None = None
    size: int | None = None


class Open(Protocol):
    """Function that requests a file from a store."""

    def __call__(self, path: str, *, start: int = 0, validator: str | None = None) -> RemoteFile:
        """Open the file at `path`, relative to the dataset, from byte `start` on.

        A function that also takes `stop`, the first byte that is not needed, or None, is asked for
        pieces of large files.
        """


class CheckedOpen:
    """Wraps an `open_remote` and checks its answers.

    Args:
        open_remote: The method of a backend.
        whose: Name of the backend in errors. None: that of the method's class.
    """

    def __init__(self, open_remote: Open, whose: str | None = None) -> None:
        self._open: Callable[..., RemoteFile] = open_remote
        owner = getattr(open_remote, "__self__", None)
        self.whose = whose or (type(owner).__name__ if owner is not None else "the retriever")
        """Name of the backend in errors."""
        self.name = f"{self.whose}.open_remote"
        """Name of the method in errors."""
        self.takes_stop = "stop" in signature_of(open_remote).parameters

    def __call__(self, path: str, **request: Any) -> RemoteFile:  # noqa: ANN401
        """Open a file.

        Raises:
            TypeError: the answer has a wrong type; names class, method and path.
            Exception: as the method, with a note of the path.
        """
        doing = f"while {self.whose} fetched {path}"
        with named(doing, path):
            remote = self._open(path, **request)
        called = f"{self.name}({path!r})"
        if not isinstance(remote, RemoteFile):
            raise TypeError(f"{called} returned {_a(remote)}, expected a RemoteFile")
        wrong = _what_is_wrong(remote)
        if wrong:
            with closing_chunks(remote.chunks):
                raise TypeError(f"{called} returned a RemoteFile whose {wrong}")
        chunks = _Chunks(remote.chunks, called, doing, path)
        return RemoteFile(chunks, remote.start, remote.validator, remote.size)


class _Chunks:
    """Iterable of chunks that checks that they are bytes."""

    def __init__(self, chunks: Iterable[bytes], called: str, doing: str, path: str) -> None:
        self._chunks = chunks
        self._called, self._doing, self._path = called, doing, path

    def __iter__(self) -> Iterator[bytes]:
        with named(self._doing, self._path):
            for chunk in self._chunks:
                if not isinstance(chunk, bytes | bytearray | memoryview):
                    raise TypeError(
                        f"{self._called} returned a RemoteFile whose chunks yield {_a(chunk)}, "
                        "expected bytes"
                    )
                yield chunk

    def close(self) -> None:
        """Close the chunks, if they can be closed."""
        with closing_chunks(self._chunks):
            pass


def closing_chunks(chunks: Iterable[bytes]) -> AbstractContextManager[Any]:
    """Return a context manager that closes chunks on exit, if they can be closed."""
    return closing(chunks) if hasattr(chunks, "close") else nullcontext()


@contextmanager
def named(doing: str, what: str) -> Iterator[None]:
    """Add a note to exceptions of a backend's code in a `with` block, saying what it was doing.

    Args:
        doing: The note.
        what: The file that the note names; an error whose message names it gets no note.
    """
    try:
        yield
    except Exception as error:
        # "There is no such bucket" is about the dataset, not about its first file.
        about_all = what == METADATA_FILE and isinstance(error, AudioMDBError)
        if what not in str(error) and not about_all:
            add_note(error, doing)
        raise


def _what_is_wrong(remote: RemoteFile) -> str:
    """Describe the first field of a wrong type, and what is expected; empty if there is none."""
    fields: Any = remote  # made by a backend: its types are not to be trusted
    if isinstance(fields.chunks, bytes | bytearray | memoryview | str):
        return f"chunks are {_a(fields.chunks)}, expected an iterable of bytes, such as [content]"
    if not hasattr(fields.chunks, "__iter__"):
        return f"chunks are {_a(fields.chunks)}, expected an iterable of bytes"
    if not _is_count(fields.start):
        return f"start is {fields.start!r}, expected the number of the first byte that comes"
    if not isinstance(fields.validator, str | None):
        return f"validator is {fields.validator!r}, expected a str or None"
    if fields.size is not None and not _is_count(fields.size):
        return f"size is {fields.size!r}, expected the bytes of the whole file, or None"
    return ""


def _is_count(value: object) -> bool:
    # NumPy's integers are allowed too.
    return hasattr(value, "__index__") and not isinstance(value, bool) and int(value) >= 0


def _a(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
