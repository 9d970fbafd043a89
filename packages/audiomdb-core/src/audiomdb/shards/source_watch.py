"""Tell a source that has gone, such as a disk that was unmounted, from a file that is missing."""

from __future__ import annotations

import os
from collections.abc import Mapping

from audiomdb.errors import SourceError
from audiomdb.sample import SourceSample
from audiomdb.shards.describe import source_file
from audiomdb.shards.journal import Rejection

__all__ = ["SourceWatch"]


_MOST_TRIES = 1000
"""If this many files cannot be opened here, they are probably those of other machines."""


class SourceWatch:
    """Knows a file of the source that this machine could open. Not thread-safe.

    An executor's workers may be on machines that have other disks: without such a file, nothing
    follows from one that cannot be opened here.
    """

    def __init__(self) -> None:
        self._known: str | None = None
        self._tries = 0

    def see(self, sample: SourceSample) -> None:
        """Take note of a sample's file, before any worker reads it, if none is known yet."""
        if self._known is None and self._tries < _MOST_TRIES and isinstance(sample, Mapping):
            file = source_file(sample)
            if file is not None:
                self._tries += 1
                self._known = file if _opens(file) else None

    def stored(self, file: str | None) -> None:
        """Take note of a file that a worker has read: the first one may be gone by intention."""
        if self._known is not None and file is not None:
            self._known = file

    def refuse_if_gone(self, rejection: Rejection) -> None:
        """Let a rejection pass that is not due to the source having gone.

        Raises:
            SourceError: when its file cannot be opened, nor can any more the one that is known.
        """
        known, file = self._known, rejection.source
        if known is None or file is None or _opens(file) or _opens(known):
            return
        raise SourceError(
            f"sample {rejection.key!r}: {rejection.reason}. Nor can {known}, which was there "
            "before: the source has gone, such as a disk that was unmounted. Run the same "
            "conversion again once it is back"
        )


def _opens(path: str) -> bool:
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for its writer.
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except (OSError, ValueError):
        return False
    return True
