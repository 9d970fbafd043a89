"""What each reader of a cache needs and reads next, for all processes of the node to see.

A reader's file is flocked by its process for as long as it reads. A file whose lock can be had is
a dead reader's and is removed. Files are made, changed and removed under `budget.lock`; only what
is done is written without it, 4 or 8 bytes in place: read half written they would mislead one
choice of a victim, and nothing else.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np

from audiomdb.cache.budget import DONE, Reading
from audiomdb.cache.lock import Held, is_at, try_exclusive, try_shared

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Registration", "live_readings", "registration_bytes"]

_HEAD = struct.Struct("<8sQQQ")
_MAGIC = b"AMDBRDR1"
_DONE_AT = 16


def registration_bytes(visits: int) -> int:
    """Size of a reader's file."""
    return _HEAD.size + 4 * visits


class Registration:
    """This process's entry among the readers. Made and changed under `budget.lock`.

    Threads share it.

    Args:
        folder: Of all readers.
        needs: Bytes of shards it must be able to hold at once.
        capacity: Visits that it will publish at most; the file has its final size from the start,
            because it counts.
    """

    def __init__(self, folder: Path, needs: int, capacity: int = 0) -> None:
        self._folder = folder
        self._needs = needs
        self._capacity = capacity
        # The file may be exchanged for another one while threads note what is done. In a forked
        # child, where a thread may have left the lock locked, the file is closed and nobody asks.
        self._lock = threading.Lock()
        self.path, self._held = self._new_file(self._content(np.empty(0, np.int32)))

    def publish(self, visits: NDArray[np.int32]) -> None:
        """Say what is read from now on, in order."""
        content = self._content(visits[: self._capacity])
        with self._lock:
            os.pwrite(self._held.fd, content, 0)

    def advance(self, done: int) -> None:
        """Say how many of the published visits lie behind. Needs no lock."""
        self._note(struct.pack("<Q", done), _DONE_AT)

    def strike(self, visit: int) -> None:
        """Say that one of the published visits is done, though others before it are not."""
        if 0 <= visit < self._capacity:
            self._note(struct.pack("<i", DONE), registration_bytes(visit))

    def is_there(self) -> bool:
        """Whether its file is still among the readers'; so it is of one that is closed."""
        if self._held.fd < 0:
            return True
        with self._lock:
            return self._held.fd < 0 or is_at(self._held.fd, self.path)

    def enter_again(self) -> None:
        """Enter it again, with all it has said, where somebody has deleted its file."""
        with self._lock:
            if self._held.fd < 0 or is_at(self._held.fd, self.path):
                return
            content = os.pread(self._held.fd, registration_bytes(self._capacity), 0)
            deleted = self._held
            # By another name: whatever may lie at the old one now is not ours.
            self.path, self._held = self._new_file(content)
            deleted.release()

    def close(self) -> None:
        """End it. May be called twice."""
        if self._held.fd < 0:
            return
        with self._lock:
            if self._held.fd >= 0:
                self.path.unlink(missing_ok=True)
                self._held.release()

    def _content(self, visits: NDArray[np.int32]) -> bytes:
        head = _HEAD.pack(_MAGIC, self._needs, 0, len(visits))
        return head + visits.astype("<i4").tobytes()

    def _note(self, content: bytes, at: int) -> None:
        if self._held.fd < 0:
            return
        # What cannot be written misleads a choice of victims; it is no reason to end a training.
        with self._lock, suppress(OSError):
            if self._held.fd >= 0:
                os.pwrite(self._held.fd, content, at)

    def _new_file(self, content: bytes) -> tuple[Path, Held]:
        path = self._folder / f"{os.getpid()}-{uuid4().hex[:12]}"
        held = try_exclusive(path, new=True)
        if held is None:
            # Under budget.lock nobody touches a new reader's file, unless that lock is deleted too.
            raise FileNotFoundError(errno.ENOENT, "somebody has deleted it", str(path))
        try:
            os.ftruncate(held.fd, registration_bytes(self._capacity))
            os.pwrite(held.fd, content, 0)
        except BaseException:
            path.unlink(missing_ok=True)
            held.release()
            raise
        return path, held


def live_readings(folder: Path) -> Iterator[tuple[Reading, int]]:
    """All live readers with the size of their files; dead ones are removed on the way."""
    for path in sorted(folder.iterdir()):
        held: Held | None = try_shared(path)
        if held is not None:
            path.unlink(missing_ok=True)
            held.release()
            continue
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue
        if len(content) < _HEAD.size or not content.startswith(_MAGIC):
            continue
        _, needs, done, count = _HEAD.unpack_from(content)
        whole = min(count, (len(content) - _HEAD.size) // 4)
        visits = np.frombuffer(content, "<i4", whole, _HEAD.size)
        yield Reading(needs, visits, done), len(content)
