"""Fetching a file into a part: resumed where it broke off, hashed as it grows."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any, Protocol

import msgspec

from audiomdb.cache.counters import Counters
from audiomdb.cache.retry import retrying
from audiomdb.cache.room import Delivered, Part
from audiomdb.errors import CacheFullError, DownloadInterruptedError
from audiomdb.shards.metadata import ShardEntry

__all__ = [
    "FULL_DISK",
    "Open",
    "RangeTransfer",
    "RemoteFile",
    "Transfer",
    "fetch_bytes",
    "full_disk_error",
]

_READ_BYTES = 1024 * 1024

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
"""What a full disk is called."""


class RemoteFile(msgspec.Struct, frozen=True):
    """An answer to a request for a file, from some byte on.

    Attributes:
        chunks: The bytes. Closed after use where it can be closed.
        start: Where in the file they begin: the byte asked for, or 0 from a store that ignores
            ranges or has another version of the file than the validator names.
        validator: What names the version of the file (an ETag), to be given back when resuming.
        size: Bytes of the whole file, where the store says so.
    """

    chunks: Iterable[bytes]
    start: int = 0
    validator: str | None = None
    size: int | None = None


class Open(Protocol):
    """Asks a store for a file."""

    def __call__(self, path: str, *, start: int = 0, validator: str | None = None) -> RemoteFile:
        """Open the file at `path`, relative to the dataset, from byte `start` on."""


class Transfer(Protocol):
    """Brings a shard into the cache directory."""

    def __call__(self, part: Part, entry: ShardEntry, *, check: Callable[[], None]) -> Delivered:
        """Fetch the shard of a part.

        Args:
            part: Where to; what an earlier attempt left is in it.
            entry: What metadata says of the shard.
            check: Called now and then; raises when the transfer is to stop.
        """


class RangeTransfer:
    """Fetches shards from a store that reads ranges. Threads share it.

    Args:
        open_remote: Asks the store.
        validators: Path of the file that keeps a part's validator.
        make_room: Called with a number of bytes when the disk is full; False: nothing can go.
        counters: Where bytes and retries are counted.
    """

    def __init__(
        self,
        open_remote: Open,
        *,
        validators: Callable[[str], Path],
        make_room: Callable[[int], bool],
        counters: Counters,
    ) -> None:
        self._open = open_remote
        self._validators = validators
        self._make_room = make_room
        self._counters = counters

    def __call__(self, part: Part, entry: ShardEntry, *, check: Callable[[], None]) -> Delivered:
        """Fetch a shard's file, from where the part ends.

        Raises:
            DownloadError: as the retriever says; of the attempts, the last.
            CacheFullError: the disk is full.
        """
        state = _State(part.held.fd, self._validators(part.name))
        remote_path = f"{entry.path}/data.mdb"

        def attempt() -> None:
            try:
                self._attempt(state, remote_path, entry.bytes, check)
            finally:
                self._counters.add(fetched_bytes=state.take_received())

        while state.size < entry.bytes and not state.wrong_size:
            retrying(attempt, state, counters=self._counters, check=check)
        os.fsync(part.held.fd)
        size = state.wrong_size or state.size
        return Delivered(part.path, part.held, size, state.digest.hexdigest())

    def _attempt(self, state: _State, path: str, size: int, check: Callable[[], None]) -> None:
        state.received = 0
        remote = self._open(path, start=state.size, validator=state.validator())
        with _closing(remote.chunks):
            if remote.size not in (None, size):
                state.wrong_size = remote.size  # not worth fetching
                return
            if remote.start != state.size or remote.validator != state.validator():
                # Another version of the file, or a store that always begins at the beginning.
                if remote.start not in (0, state.size):
                    raise DownloadInterruptedError(
                        f"{path}: asked for bytes from {state.size}, got them from {remote.start}"
                    )
                if remote.start == 0:
                    state.restart()
                state.keep_validator(remote.validator)
            for chunk in remote.chunks:
                check()
                self._write(state, chunk[: size - state.size])
                if state.size == size:
                    return
        if state.received == 0:
            raise DownloadInterruptedError(f"{path}: nothing came after {state.size} bytes")

    def _write(self, state: _State, chunk: bytes) -> None:
        while chunk:
            try:
                chunk = chunk[state.write(chunk) :]
            except OSError as exc:
                if exc.errno not in FULL_DISK:
                    raise
                if not self._make_room(len(chunk)):
                    raise full_disk_error(exc) from exc


class _State:
    """A part file being written: its length, and the digest of it."""

    def __init__(self, fd: int, validator: Path) -> None:
        self.fd = fd
        self.size = 0
        self.received = 0
        self.wrong_size: int | None = None
        self._counted = 0
        self._validator = validator
        import hashlib

        self.digest = hashlib.sha256()
        os.lseek(fd, 0, os.SEEK_SET)
        while chunk := os.read(fd, _READ_BYTES):
            self.digest.update(chunk)
            self.size += len(chunk)

    def validator(self) -> str | None:
        if self.size == 0:
            return None
        try:
            return self._validator.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def keep_validator(self, validator: str | None) -> None:
        # Written before the bytes it is about. Half a validator matches nothing, which costs a
        # fetch from the start and is never wrong.
        if validator is None:
            self._validator.unlink(missing_ok=True)
        else:
            self._validator.write_text(validator, encoding="utf-8")

    def restart(self) -> None:
        os.ftruncate(self.fd, 0)
        os.lseek(self.fd, 0, os.SEEK_SET)
        self.size = 0
        import hashlib

        self.digest = hashlib.sha256()

    def write(self, chunk: bytes) -> int:
        written = os.write(self.fd, chunk)
        self.digest.update(memoryview(chunk)[:written])
        self.size += written
        self.received += written
        self._counted += written
        return written

    def take_received(self) -> int:
        counted, self._counted = self._counted, 0
        return counted


def full_disk_error(error: OSError) -> CacheFullError:
    """What to raise when the disk is full and nothing can be evicted."""
    return CacheFullError(
        error.errno,
        "the disk of the cache is full and nothing in the cache can be evicted; free some space, "
        "or set max_cache_bytes",
    )


def fetch_bytes(open_remote: Open, path: str, *, counters: Counters) -> bytes:
    """Fetch a small file whole.

    Raises:
        DownloadError: as the retriever says.
    """

    def attempt() -> bytes:
        remote = open_remote(path)
        with _closing(remote.chunks):
            return b"".join(remote.chunks)

    content = retrying(attempt, counters=counters, check=lambda: None)
    counters.add(fetched_bytes=len(content))
    return content


def _closing(chunks: Iterable[bytes]) -> AbstractContextManager[Any]:
    return closing(chunks) if hasattr(chunks, "close") else nullcontext()
