"""Fetch a file into memory: the metadata, or an index that does not fit on the disk.

The metadata of ten thousand shards has three megabytes. If connections break sooner than that, the
download resumes where it stopped, and attempts that make progress are not counted.
"""

from __future__ import annotations

from audiomdb.cache.answers import Open, RemoteFile, closing_chunks
from audiomdb.cache.counters import Counters
from audiomdb.cache.failures import Outage
from audiomdb.cache.retry import Retries
from audiomdb.cache.waiting import ProgressLog
from audiomdb.errors import DownloadInterruptedError

__all__ = ["fetch_bytes"]


def fetch_bytes(
    open_remote: Open, path: str, *, most: int, counters: Counters, outage: Outage
) -> bytes | None:
    """Fetch a whole file into memory.

    Returns:
        None when the file has more than `most` bytes; no more than that are kept in memory.

    Raises:
        DownloadError: as the retriever.
        DownloadInterruptedError: retries did not help; says what was tried.
    """
    file = _Arriving(open_remote, path, most)

    def attempt() -> bytes | None:
        before = file.arrived
        try:
            return file.fetch()
        finally:
            counters.add(fetched_bytes=file.arrived - before)

    retries = Retries(
        path, counters=counters, check=lambda: None, size=most, at_the_start=True, outage=outage
    )
    return retries(attempt, file)


class _Arriving:
    """A file that is being fetched into memory.

    Attributes:
        arrived: Bytes received, including those received again.
        received: Largest number of bytes held so far, see `Progress`. A store that restarts each
            time makes no progress until it gets further.
    """

    def __init__(self, open_remote: Open, path: str, most: int) -> None:
        self.arrived = self.received = 0
        self._open = open_remote
        self._path = path
        self._most = most
        self._content = bytearray()
        self._validator: str | None = None
        self._progress: ProgressLog | None = None

    def fetch(self) -> bytes | None:
        """Fetch what is missing; return the whole content, or None when it is too large."""
        remote = self._ask()
        with closing_chunks(remote.chunks):
            self._begin(remote)
            if (remote.size or 0) > self._most:
                return None
            progress = self._progress = self._progress or self._new_progress(remote)
            for chunk in remote.chunks:
                if len(self._content) + len(chunk) > self._most:
                    return None
                self._content += chunk
                self.arrived += len(chunk)
                self.received = max(self.received, len(self._content))
                progress.tick()
        there = len(self._content)
        if remote.size is not None and there < remote.size:
            raise DownloadInterruptedError(
                f"{self._path}: the answer ended after {there} of {remote.size} bytes"
            )
        return bytes(self._content)

    def _ask(self) -> RemoteFile:
        if self._content and self._validator is not None:
            return self._open(self._path, start=len(self._content), validator=self._validator)
        return self._open(self._path)

    def _begin(self, remote: RemoteFile) -> None:
        there = len(self._content)
        if there and remote.start == there and remote.validator == self._validator:
            return
        self._content.clear()
        self._validator = remote.validator
        if remote.start:
            self._validator = None
            raise DownloadInterruptedError(
                f"{self._path}: asked for bytes from {there}, got other ones from {remote.start}"
            )

    def _new_progress(self, remote: RemoteFile) -> ProgressLog:
        size = self._most if remote.size is None else remote.size
        return ProgressLog(self._path, size, lambda: len(self._content))
