"""A folder that one process writes to at a time."""

from __future__ import annotations

import os
from pathlib import Path

from audiomdb.errors import OutputBusyError

__all__ = ["lock_folder"]


def lock_folder(path: Path) -> int:
    """Open a folder and lock it, until the descriptor that is returned is closed.

    The lock (flock) is on the folder itself: it needs no file and ends with its process. Where a
    network's file system knows no locks, there is none.

    Raises:
        OutputBusyError: another process has it.
        OSError: there is no such folder.
    """
    # Not at the top: there is no such module on Windows.
    import fcntl

    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(descriptor)
        raise OutputBusyError(
            f"another process is writing to {path}; wait for it, or use another folder"
        ) from exc
    except OSError:
        pass  # two writers at once do work twice; what they write is in place at once or not at all
    return descriptor
