"""Define `SharedNote`, plain data shared by a training process and its DataLoader workers."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import tempfile
import weakref
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import context, reduction
from typing import Any

import msgspec
from torch.utils.data import get_worker_info

from audiomdb.locks import RLock

__all__ = ["SharedNote", "training_process"]


class SharedNote:
    """Plain data in an unnamed file, under a lock that the kernel releases if a process ends.

    Child processes started by fork, spawn or forkserver share the note; pickled for any other
    purpose, it becomes a separate note with the same contents. Holds one file descriptor.

    Args:
        contents: Initial contents.
        file: Open file descriptor of an existing note.
    """

    def __init__(self, contents: dict[str, Any], *, file: int | None = None) -> None:
        self._file = _nameless_file() if file is None else file
        weakref.finalize(self, os.close, self._file)
        # Reentrant, because the garbage collector may end an iteration in the midst of a change.
        self._lock = os.getpid(), RLock()
        if file is None:
            self._put(msgspec.json.encode(contents))

    def __reduce__(self) -> tuple[Any, ...]:
        # Only a process that is being started can inherit the file descriptor.
        if context.get_spawning_popen() is not None:
            return _attach, (reduction.DupFd(self._file),)
        with self.changing() as contents:
            return SharedNote, (contents,)

    @contextmanager
    def changing(self) -> Generator[dict[str, Any], None, None]:
        """Yield the contents under an exclusive lock, and store changes made to them."""
        with self._threads():
            # A record lock belongs to the process: unlike a flock lock, it is not shared with
            # forked children, although they share the open file.
            fcntl.lockf(self._file, fcntl.LOCK_EX)
            try:
                octets = os.pread(self._file, os.fstat(self._file).st_size, 0)
                contents = msgspec.json.decode(octets)
                yield contents
                if (changed := msgspec.json.encode(contents)) != octets:
                    self._put(changed)
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _threads(self) -> AbstractContextManager[object]:
        """Return the lock of this process; a lock held during a fork stays locked in the child."""
        if self._lock[0] != os.getpid():
            self._lock = os.getpid(), RLock()
        return self._lock[1]

    def _put(self, octets: bytes) -> None:
        os.pwrite(self._file, octets, 0)
        os.ftruncate(self._file, len(octets))


def training_process() -> int:
    """Return the process id of the training process: this one, or the parent of this worker."""
    parent = multiprocessing.parent_process()
    if get_worker_info() is not None and parent is not None and parent.pid is not None:
        return parent.pid
    return os.getpid()


def _attach(inherited: Any) -> SharedNote:  # noqa: ANN401 (multiprocessing has no name for it)
    return SharedNote({}, file=inherited.detach())


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("audiomdb-note")
    with tempfile.TemporaryFile(prefix="audiomdb-note-") as file:
        return os.dup(file.fileno())
