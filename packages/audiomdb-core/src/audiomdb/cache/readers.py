"""Publish what each reader of a cache needs and reads next to all processes of the machine.

A reader's file is flocked by its process for as long as it reads. A file whose lock is free belongs
to a dead reader and is removed. Files are created and changed under `budget.lock`; only progress is
written without it, 4 or 8 bytes in place: a torn read would affect one choice of a victim, and
nothing else.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np

from audiomdb.cache.budget import DONE, Reading
from audiomdb.cache.lock import Held, is_at, try_exclusive, try_shared
from audiomdb.locks import Lock

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Registration", "live_readings", "registration_bytes"]

_HEAD = struct.Struct("<8sQQQ")
_MAGIC = b"AMDBRDR1"
_DONE_AT = 16


def registration_bytes(visits: int) -> int:
    """Return the size in bytes of a reader's file with `visits` visits."""
    return _HEAD.size + 4 * visits


class Registration:
    """The entry of one reader of this process. Created and changed under `budget.lock`.

    Thread-safe.

    Args:
        folder: Folder of all readers' files.
        needs: Bytes of shards it must be able to hold at once.
        capacity: Maximum number of visits that it will publish. The file has its final size from
            the start, because it counts towards the budget.
    """

    def __init__(self, folder: Path, needs: int, capacity: int = 0) -> None:
        self._folder = folder
        self._needs = needs
        self._capacity = capacity
        # The file may be replaced while threads write progress. In a forked child, the lock may be
        # left locked, but the file is closed there, which is checked before the lock is taken.
        self._lock = Lock()
        self.path, self._held = self._new_file(self._content(np.empty(0, np.int32)))

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._held.fd < 0

    def publish(self, visits: NDArray[np.int32]) -> None:
        """Publish the numbers of the shards that are read from now on, in order."""
        content = self._content(visits[: self._capacity])
        with self._lock:
            os.pwrite(self._held.fd, content, 0)

    def advance(self, done: int) -> None:
        """Publish how many of the published visits are over. Needs no lock."""
        self._note(struct.pack("<Q", done), _DONE_AT)

    def mark_done(self, visit: int) -> None:
        """Mark a published visit as over, though earlier ones are not. Needs no lock."""
        if 0 <= visit < self._capacity:
            self._note(struct.pack("<i", DONE), registration_bytes(visit))

    def is_there(self) -> bool:
        """Return whether the reader's file still exists; True if the reader is closed."""
        if self._held.fd < 0:
            return True
        with self._lock:
            return self._held.fd < 0 or is_at(self._held.fd, self.path)

    def enter_again(self) -> None:
        """Create the reader's file again, with its last content, if it was deleted."""
        with self._lock:
            if self._held.fd < 0 or is_at(self._held.fd, self.path):
                return
            content = os.pread(self._held.fd, registration_bytes(self._capacity), 0)
            deleted = self._held
            # Under another name: a file at the old one would belong to another reader.
            self.path, self._held = self._new_file(content)
            deleted.release()

    def close(self) -> None:
        """Remove the entry. May be called twice."""
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
        # A lost write only affects the choice of victims, which is no reason to end a training run.
        with self._lock, suppress(OSError):
            if self._held.fd >= 0:
                os.pwrite(self._held.fd, content, at)

    def _new_file(self, content: bytes) -> tuple[Path, Held]:
        path = self._folder / f"{os.getpid()}-{uuid4().hex[:12]}"
        held = try_exclusive(path, new=True)
        if held is None:
            # Under budget.lock, no process touches a new file, unless that lock was deleted too.
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
    """Yield each live reader with the size of its file; remove the files of dead readers."""
    for path in sorted(folder.iterdir()):
        held: Held | None = try_shared(path)
        if held is not None:
            with held, suppress(OSError):  # a folder that somebody has created stays
                path.unlink()
            continue
        with suppress(FileNotFoundError), path.open("rb", buffering=0) as file:
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size or not head.startswith(_MAGIC):
                continue
            _, needs, done, count = _HEAD.unpack(head)
            # Only what is still to be read: this is done for every reader whenever room is made.
            file.seek(registration_bytes(min(done, count)))
            left = file.read(4 * max(0, count - done))
            visits = np.frombuffer(left, "<i4", len(left) // 4) if count else None
            yield Reading(needs, visits), os.fstat(file.fileno()).st_size
