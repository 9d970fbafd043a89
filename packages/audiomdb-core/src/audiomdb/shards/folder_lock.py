"""A folder that one process writes to at a time."""

from __future__ import annotations

import os
from pathlib import Path

from audiomdb.errors import OutputBusyError, OutputExistsError, OutputWriteError

__all__ = ["lock_folder"]


def lock_folder(path: Path) -> int:
    """Make a folder where there is none, and lock it until the descriptor returned is closed.

    The lock (flock) is on the folder itself: it needs no file and ends with its process. Where a
    network's file system knows no locks, there is none.

    Raises:
        OutputBusyError: another process has it.
        OutputExistsError: it is a file.
        OutputWriteError: it cannot be made or opened.
    """
    # Not at the top: there is no such module on Windows.
    import fcntl

    try:
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
        pass  # two writers at once do work twice; what they write is in place at once or not at all
    return descriptor
