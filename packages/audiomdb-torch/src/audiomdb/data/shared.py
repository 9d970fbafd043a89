"""A small note that a training process and its DataLoader workers share."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import tempfile
import threading
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing import context, reduction
from typing import Any

import msgspec
from torch.utils.data import get_worker_info

__all__ = ["SharedNote", "training_process"]


class SharedNote:
    """Plain data in a file without a name, under a lock that the kernel takes back.

    Whoever forks, and whoever is started by spawn or forkserver, sees the same note; pickled
    otherwise, it becomes another with the same contents. Holds one file descriptor.

    Args:
        contents: What it says at first.
        file: Open descriptor of the file of a note that there is already.
    """

    def __init__(self, contents: dict[str, Any], *, file: int | None = None) -> None:
        self._file = _nameless_file() if file is None else file
        weakref.finalize(self, os.close, self._file)
        self._lock = os.getpid(), threading.Lock()
        if file is None:
            self._put(msgspec.json.encode(contents))

    def __reduce__(self) -> tuple[Any, ...]:
        # No fallback: a process that is being started inherits the descriptor, and only that does.
        if context.get_spawning_popen() is not None:
            return _attach, (reduction.DupFd(self._file),)
        with self.changing() as contents:
            return SharedNote, (contents,)

    @contextmanager
    def changing(self) -> Generator[dict[str, Any], None, None]:
        """Give the contents, for nobody else at the time; what is changed in them is kept."""
        with self._threads():
            # A record lock belongs to the process: unlike flock's, it is not shared with forked
            # children, although they share the open file.
            fcntl.lockf(self._file, fcntl.LOCK_EX)
            try:
                octets = os.pread(self._file, os.fstat(self._file).st_size, 0)
                contents = msgspec.json.decode(octets)
                yield contents
                if (changed := msgspec.json.encode(contents)) != octets:
                    self._put(changed)
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _threads(self) -> threading.Lock:
        """This process's lock: one that a thread held during a fork stays locked in the child."""
        if self._lock[0] != os.getpid():
            self._lock = os.getpid(), threading.Lock()
        return self._lock[1]

    def _put(self, octets: bytes) -> None:
        os.pwrite(self._file, octets, 0)
        os.ftruncate(self._file, len(octets))


def training_process() -> int:
    """The process that trains: this one, or the one that made this worker."""
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
