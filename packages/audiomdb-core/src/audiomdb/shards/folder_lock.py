"""Lock a folder so that only one process writes to it at a time."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from audiomdb.errors import OutputBusyError, OutputExistsError, OutputWriteError

__all__ = ["lock_folder", "unlock_folder"]


def lock_folder(path: Path) -> tuple[int, bool]:
    """Create a folder if it is missing, and lock it until `unlock_folder`.

    The lock (flock) is on the folder itself: it needs no lock file and ends with its process. On a
    network file system without locks, the folder is not locked.

    Returns:
        A file descriptor, and whether the folder was made. A forked child only closes the
        descriptor: the lock is its parent's.

    Raises:
        OutputBusyError: when another process holds the lock.
        OutputExistsError: when the path is a file.
        OutputWriteError: when the folder cannot be created or opened.
    """
    # Imported here, because Windows has no such module.
    import fcntl

    try:
        made = not path.is_dir()
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY)
    except FileExistsError as exc:
        raise OutputExistsError(f"{path} is a file, expected a folder or nothing") from exc
    except OSError as exc:
        raise OutputWriteError(f"cannot make the folder {path}: {exc.strerror}") from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(descriptor)
        raise OutputBusyError(
            f"another process is writing to {path}; wait for it, or use another folder"
        ) from exc
    except OSError:
        pass  # two concurrent writers would duplicate work, but each publishes files atomically
    return descriptor, made


def unlock_folder(descriptor: int) -> None:
    """Unlock a folder, given the descriptor that `lock_folder` returned."""
    import fcntl

    # Closing alone would not do while a child that was forked meanwhile has the descriptor too.
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)
