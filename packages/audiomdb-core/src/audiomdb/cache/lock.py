"""Lock files with flock, whose locks are released when their process ends.

- A lock belongs to the *open file description*. Two threads that share a descriptor share the lock,
  so a file is opened anew for every acquisition.
- A fork shares descriptions. Unlocking in a child would release the parent's lock, closing does
  not; so a child only closes, which a hook does right after the fork. The owner unlocks before it
  closes, because a descriptor inherited by a child would otherwise keep the lock. Forks cannot
  happen between opening a file and registering it, so the hook closes all of them.
- Upgrading a shared lock to an exclusive one can lose both, so it is never done.
- A lock on a deleted file is granted, so the path is checked after every acquisition.
- POSIX record locks (`lockf`) vanish when any descriptor of the file is closed, so they are not
  used.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from audiomdb.locks import RLock
from audiomdb.shards.mapping import map_descriptor

__all__ = ["Held", "exclusive", "is_at", "is_held", "map_held", "try_exclusive", "try_shared"]

_all_held: weakref.WeakSet[Held] = weakref.WeakSet()

# Reentrant, because a signal handler may fork too.
_opening = RLock()


class Held:
    """A file that is open and locked until `release`, or until nothing refers to this object.

    Made by `try_exclusive`, `try_shared` and `exclusive`. In a forked child it is closed.

    Attributes:
        fd: File descriptor; -1 once released.
    """

    fd = -1

    def __init__(self, path: Path, flags: int) -> None:
        _install_fork_hook()
        self._owner = os.getpid()
        with _opening:
            # By the umask, users of one group may share a cache.
            self.fd = os.open(path, flags, 0o666)
            _all_held.add(self)

    def lock(self, *, shared: bool = False, wait: bool = False) -> None:
        """Lock the file.

        Raises:
            BlockingIOError: a conflicting lock is held, and `wait` is False.
        """
        # Not at the top: Windows, where only caches are unsupported, does not have this module.
        import fcntl

        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(self.fd, kind if wait else kind | fcntl.LOCK_NB)

    def downgrade(self) -> None:
        """Turn an exclusive lock into a shared one.

        Not atomic. Call this under `budget.lock`, without which no process locks a complete shard
        exclusively.
        """
        self.lock(shared=True, wait=True)

    def release(self) -> None:
        """Unlock and close. May be called twice, and after a fork."""
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        if os.getpid() == self._owner:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)

    def __del__(self, _ending: Callable[[], bool] = sys.is_finalizing) -> None:
        # An interrupt may come before somebody else is responsible. When the interpreter ends,
        # the kernel releases locks.
        if self.fd >= 0 and not _ending():
            self.release()

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def try_exclusive(
    path: Path, *, create: bool = False, new: bool = False, write: bool = False
) -> Held | None:
    """Open a file and lock it exclusively, without waiting.

    Args:
        path: The file.
        create: Create it if it is missing.
        new: Create it for writing, and fail if it exists.
        write: Open it for writing too. Locking does not require this, and files of another user may
            not allow it.

    Returns:
        None when the file is missing, locked, or was replaced meanwhile.

    Raises:
        FileExistsError: the file exists, and `new` is True.
        FileNotFoundError: it cannot be created, because its folder is missing.
        PermissionError: it is another user's, who does not allow this.
    """
    flags = os.O_RDWR if write or new else os.O_RDONLY
    flags |= (os.O_CREAT if create or new else 0) | (os.O_EXCL if new else 0)
    return _try(path, flags, shared=False)


def try_shared(path: Path, *, create: bool = False) -> Held | None:
    """Open a file for reading and take a shared lock on it, without waiting.

    Returns:
        None when the file is missing, locked exclusively, or was replaced meanwhile.

    Raises:
        FileNotFoundError: it cannot be created, because its folder is missing.
    """
    return _try(path, os.O_RDONLY | (os.O_CREAT if create else 0), shared=True)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold an exclusive lock in a `with` block.

    Blocks until the lock is free, so this is for locks that are held only briefly.

    Raises:
        FileNotFoundError: the folder of the lock file is missing.
    """
    while True:
        held = Held(path, os.O_RDONLY | os.O_CREAT)
        try:
            held.lock(wait=True)
            # The file may have been deleted; the next process would then lock a new one.
            if is_at(held.fd, path):
                yield
                return
        finally:
            held.release()


def is_held(path: Path) -> bool:
    """Return whether a file is locked exclusively now.

    Tested with a shared lock, so that concurrent calls do not mistake each other for holders.
    """
    try:
        held = Held(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    with held:
        try:
            held.lock(shared=True)
        except BlockingIOError:
            return True
    return False


def is_at(fd: int, path: Path) -> bool:
    """Return whether an open file is the one at a path."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def map_held(held: Held) -> memoryview:
    """Map a locked file; its lock is released when the last view of the mapping is gone.

    This is the lease of a shard: a shard that is being read cannot be evicted, and callers need
    not release anything.
    """
    try:
        view = map_descriptor(held.fd)
    except BaseException:
        held.release()
        raise
    weakref.finalize(view.obj, held.release).atexit = False
    return view


def _try(path: Path, flags: int, *, shared: bool) -> Held | None:
    try:
        held = Held(path, flags)
    except FileNotFoundError:
        if flags & os.O_CREAT:
            raise  # a missing folder must not look like a lock to callers that wait
        return None
    try:
        held.lock(shared=shared)
        ours = is_at(held.fd, path)
    except BlockingIOError:
        ours = False
    except BaseException:
        held.release()
        raise
    if not ours:
        held.release()
        return None
    return held


@cache
def _install_fork_hook() -> None:
    os.register_at_fork(
        before=_opening.acquire,
        after_in_parent=_opening.release,
        after_in_child=_close_all,
    )


def _close_all() -> None:
    _opening.release()
    for held in list(_all_held):
        held.release()
