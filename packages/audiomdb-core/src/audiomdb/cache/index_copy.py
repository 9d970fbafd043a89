"""Keep the index file of a dataset in its cache: fetched once, verified by each process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from audiomdb.cache.eviction import abandon, despite_full_disk, forget, hold_part, is_full_disk
from audiomdb.cache.failures import Failures, Outage
from audiomdb.cache.fetching import Fetching
from audiomdb.cache.layout import CacheLayout, index_name
from audiomdb.cache.opening import PAUSE_S, TRIES, deleted_error, index_lock
from audiomdb.cache.part_file import Delivered, Part
from audiomdb.cache.transfer import RangeTransfer, TransferContext
from audiomdb.errors import CacheFullError, CorruptShardError, MetadataError
from audiomdb.shards.files import sha256_hex, sync, write_atomically
from audiomdb.shards.layout import INDEX_FILE
from audiomdb.shards.mapping import map_file, release_pages
from audiomdb.shards.metadata import IndexEntry

__all__ = ["IndexCopy"]


class IndexCopy:
    """Keeps a dataset's index file in a cache directory. Thread-safe.

    It can be as large as many shards, so its transfer resumes when a connection breaks or the
    process dies, and shards that are not being read are evicted for it. If the disk is still full,
    each process keeps it in memory.

    Args:
        layout: The directory.
        entry: Entry of the file in the metadata.
        transfer: Fetches the file. None: it can only be gathered from the shards.
        failures: Notes of failed fetches.
        fetching: Gives slots for the transfer, which counts like those of shards.
        make_room: Evicts a number of bytes; returns False when nothing can be evicted.
    """

    def __init__(
        self,
        layout: CacheLayout,
        entry: IndexEntry,
        transfer: RangeTransfer | None,
        failures: Failures,
        fetching: Fetching,
        make_room: Callable[[int], bool],
    ) -> None:
        self._layout = layout
        self._entry = entry
        self._transfer = transfer
        self._failures = failures
        self._fetching = fetching
        self._make_room = make_room
        self._outage = Outage(layout.outage)

    def open(self) -> memoryview | None:
        """Map the file, fetching it if it is missing; return None if it cannot be fetched.

        A caller that waits for another fetch raises the error of that fetch.

        Raises:
            MetadataError: the file is not the one described in the metadata.
            DownloadError, Exception: as the source, here or in the process that fetched it.
            CacheError: the directory is deleted over and over.
        """
        # Without a lock: every process verifies the file, which takes seconds if it is large.
        data = self._whole()
        if data is not None or self._transfer is None:
            return data
        try:
            return self._fetched_once(self._transfer)
        except OSError as exc:
            if not is_full_disk(exc):
                raise
            return self._in_memory(self._transfer)

    def keep(self, content: bytes) -> None:
        """Keep an index gathered from shards, if it is the one described in the metadata."""
        if sha256_hex(content) != self._entry.sha256:
            return

        def written() -> None:
            # If the directory is deleted meanwhile, the index is not kept.
            with index_lock(self._layout), suppress(FileNotFoundError):
                write_atomically(self._layout.index, [content])

        with suppress(CacheFullError):
            despite_full_disk(written, lambda: self._make_room(len(content)))

    def _fetched_once(self, transfer: RangeTransfer) -> memoryview:
        known = self._failures.attempt(INDEX_FILE)
        what = f"the index of {self._layout.root}"
        for _ in range(TRIES):
            with index_lock(self._layout):
                data = self._whole()
                if data is None:
                    self._failures.raise_newer(INDEX_FILE, known)
                    # This cannot deadlock: who has a slot never waits for the lock.
                    with self._fetching.wait_for_slot(what, lambda: None):
                        data = self._fetched(transfer)
            if data is not None:
                return data
            time.sleep(PAUSE_S)
        raise deleted_error(self._layout.root)

    def _in_memory(self, transfer: RangeTransfer) -> memoryview:
        content = transfer.whole(INDEX_FILE, self._entry.bytes)
        if content is None:
            raise self._other(f"it has more than {self._entry.bytes} bytes")
        digest = sha256_hex(content)
        if digest != self._entry.sha256:
            raise self._other(f"it arrived with {len(content)} bytes and sha256 {digest}")
        return memoryview(content)

    def _whole(self) -> memoryview | None:
        data = _mapped(self._layout.index)
        if data is None or len(data) != self._entry.bytes:
            return None
        digest = sha256_hex(data)
        release_pages(data)
        return data if digest == self._entry.sha256 else None

    def _fetched(self, transfer: RangeTransfer) -> memoryview | None:
        """Fetch and map the file; return None if it was deleted, or resumed from damaged bytes."""
        part = self._claimed()
        if part is None:
            return None
        with part.held:
            try:
                return self._delivered(part, transfer)
            except Exception as error:
                if isinstance(error, FileNotFoundError) and not part.is_there():
                    return None
                if isinstance(error, OSError) and is_full_disk(error):
                    abandon(self._layout, part)  # each process fetches it into its memory instead
                else:
                    self._report(error)
                raise

    def _claimed(self) -> Part | None:
        name = index_name(self._entry)
        path = self._layout.parts / name
        try:
            self._layout.make()  # all or part of the directory may have been deleted
            held = hold_part(self._layout, path, create=True)
        except FileNotFoundError:
            return None
        return None if held is None else Part(-1, name, path, held)

    def _delivered(self, part: Part, transfer: RangeTransfer) -> memoryview | None:
        left = os.fstat(part.held.fd).st_size
        context = TransferContext(
            lambda: None, self._make_room, self._fetching.slots.extra(ahead=False)
        )
        delivered = transfer.fetch(part, INDEX_FILE, self._entry.bytes, context)
        other = self._another(delivered)
        if other is not None:
            abandon(self._layout, part)
            if left and not delivered.size_reported_by:
                return None
            raise other
        part.path.replace(self._layout.index)
        forget(self._layout, part.name)
        sync(self._layout.root)
        self._failures.forget(INDEX_FILE)
        return _mapped(self._layout.index)

    def _report(self, error: Exception) -> None:
        """Report a failed fetch to those who wait."""
        self._failures.record(INDEX_FILE, error)
        if isinstance(error, ConnectionError | TimeoutError):
            self._outage.begin(str(error))

    def _another(self, delivered: Delivered) -> MetadataError | None:
        """Return the error to raise if what came is not the file of the metadata."""
        wanted = self._entry
        if (delivered.size, delivered.sha256) == (wanted.bytes, wanted.sha256):
            return None
        came = f"it arrived with {delivered.size} bytes and sha256 {delivered.sha256}"
        if delivered.size_reported_by:
            came = f"{delivered.size_reported_by} returned a RemoteFile of size {delivered.size}"
        return self._other(came)

    def _other(self, came: str) -> MetadataError:
        wanted = self._entry
        return MetadataError(
            f"{wanted.path} is not the one of metadata.json, which says {wanted.bytes} bytes and "
            f"sha256 {wanted.sha256}: {came}. Upload the dataset again"
        )


def _mapped(path: Path) -> memoryview | None:
    try:
        return map_file(path)
    except CorruptShardError:
        if path.exists():
            raise
        return None
