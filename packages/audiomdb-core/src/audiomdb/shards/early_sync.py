"""Sending to the disk what a shard holds so far, while the rest of it is being made.

Otherwise the disk would rest until a shard is complete, and the end of a conversion would wait for
it to write the last ones.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["EarlySync"]


class EarlySync:
    """A thread that waits for the disk, so that nobody else has to."""

    def __init__(self) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self._thread = ThreadPoolExecutor(1, "audiomdb-sync")

    def start(self, path: Path) -> Future[None]:
        """Begin to send to the disk what was written to a file.

        Returns:
            Whoever relies on the file has to ask for its result: the system tells of a write that
            failed once, and a sync that comes later may succeed.
        """
        return self._thread.submit(_sync_data, path)

    def close(self) -> None:
        """Drop what was not begun, and wait for the rest. May be called twice."""
        self._thread.shutdown(wait=True, cancel_futures=True)


def _sync_data(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # Without the file's times, which change with every write; macOS has no such call.
        getattr(os, "fdatasync", os.fsync)(descriptor)
    finally:
        os.close(descriptor)
