"""Locks that end with their process: flock, and what has to be known about it.

- A lock belongs to the *open file description*. Two threads that share a descriptor share the lock,
  so a file is opened anew for every acquisition.
- A fork shares descriptions. Unlocking in a child would take the parent's lock away, closing does
  not; so a child only ever closes, which a hook does right after the fork. The owner unlocks
  before it closes, because a copy in some child would otherwise keep the lock.
- Turning a shared lock into an exclusive one can lose both: that is never done.
- A lock on a deleted file is granted: whoever gets one looks whether the file is still there.
- POSIX record locks (`lockf`) vanish when any descriptor of the file is closed: never used here.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

__all__ = ["Held", "exclusive", "is_at", "map_held", "try_exclusive", "try_shared"]

_all_held: weakref.WeakSet[Held] = weakref.WeakSet()


class Held:
    """A file that is open and locked, until `release` or the end of the process.

    Made by `try_exclusive`, `try_shared` and `exclusive`. In a forked child it is closed.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._owner = os.getpid()
        _install_fork_hook()
        _all_held.add(self)

    def downgrade(self) -> None:
        """Make an exclusive lock shared.

        Not atomic: done under `budget.lock`, without which nobody takes a whole shard's lock
        exclusively.
        """
        fcntl.flock(self.fd, fcntl.LOCK_SH)

    def release(self) -> None:
        """Unlock and close. May be called twice, and after a fork."""
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        if os.getpid() == self._owner:
            fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def try_exclusive(path: Path, *, create: bool = False, new: bool = False) -> Held | None:
    """Open a file for reading and writing and lock it, if nobody else has a lock on it.

    Args:
        path: The file.
        create: Make it where it is missing.
        new: Make it, and fail where it exists.

    Returns:
        None when it is missing, locked, or was replaced meanwhile.

    Raises:
        FileExistsError: with `new`.
    """
    flags = os.O_RDWR | (os.O_CREAT if create or new else 0) | (os.O_EXCL if new else 0)
    return _try(path, flags, fcntl.LOCK_EX)


def try_shared(path: Path, *, create: bool = False) -> Held | None:
    """Open a file for reading and share a lock on it, if nobody has it exclusively.

    Returns:
        None when it is missing, locked exclusively, or was replaced meanwhile.
    """
    return _try(path, os.O_RDONLY | (os.O_CREAT if create else 0), fcntl.LOCK_SH)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Wait for a lock that others hold for moments only."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    held = Held(fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        held.release()


def is_at(fd: int, path: Path) -> bool:
    """Whether an open file is the one that a path leads to."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def map_held(held: Held) -> memoryview:
    """Map a locked file; its lock ends when the last view of the mapping is gone.

    This is the lease of a shard: what is being read cannot be evicted, and no code has to
    remember to give anything back.
    """
    try:
        mapping = mmap.mmap(held.fd, 0, access=mmap.ACCESS_READ)
    except BaseException:
        held.release()
        raise
    weakref.finalize(mapping, held.release).atexit = False
    return memoryview(mapping)


def _try(path: Path, flags: int, operation: int) -> Held | None:
    try:
        fd = os.open(path, flags, 0o644)
    except FileNotFoundError:
        return None
    held = Held(fd)
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        held.release()
        return None
    except BaseException:
        held.release()
        raise
    if not is_at(fd, path):
        held.release()
        return None
    return held


@cache
def _install_fork_hook() -> None:
    os.register_at_fork(after_in_child=_close_all)


def _close_all() -> None:
    for held in list(_all_held):
        held.release()
