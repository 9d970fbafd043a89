"""Keep the index file of a dataset in its cache: fetched once, verified by each process."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from audiomdb.cache.eviction import despite_full_disk, forget, is_full_disk
from audiomdb.cache.layout import CacheLayout
from audiomdb.cache.lock import is_at, try_exclusive
from audiomdb.cache.opening import PAUSE_S, TRIES, deleted_error, index_lock
from audiomdb.cache.part_file import Delivered, Part
from audiomdb.cache.slots import ExtraSlots
from audiomdb.cache.transfer import Means, RangeTransfer
from audiomdb.errors import CacheFullError, CorruptShardError, MetadataError
from audiomdb.shards.files import sha256_hex, sync, write_atomically
from audiomdb.shards.layout import INDEX_FILE
from audiomdb.shards.mapping import map_file, release_pages
from audiomdb.shards.metadata import IndexEntry

__all__ = ["IndexCopy"]

_NAME = "index"
"""Name of its part; parts of shards are named after the shard's number."""


class IndexCopy:
    """Keeps a dataset's index file in a cache directory. Thread-safe.

    It can be as large as many shards, so an interrupted transfer is resumed, and shards that are
    not being read are evicted for it. If the disk is still full, each process keeps it in memory.

    Args:
        layout: The directory.
        entry: Entry of the file in the metadata.
        transfer: Fetches the file. None: it can only be gathered from the shards.
        make_room: Evicts a number of bytes; returns False when nothing can be evicted.
    """

    def __init__(
        self,
        layout: CacheLayout,
        entry: IndexEntry,
        transfer: RangeTransfer | None,
        make_room: Callable[[int], bool],
    ) -> None:
        self._layout = layout
        self._entry = entry
        self._transfer = transfer
        self._make_room = make_room

    def open(self, extra: ExtraSlots) -> memoryview | None:
        """Map the file, fetching it if it is missing; return None if it cannot be fetched.

        Args:
            extra: Slots for fetching several pieces at a time.

        Raises:
            MetadataError: the file is not the one described in the metadata.
            DownloadError, Exception: as the source.
            CacheError: the directory is deleted over and over.
        """
        # Without a lock: every process verifies the file, which takes seconds if it is large.
        data = self._whole()
        if data is not None or self._transfer is None:
            return data
        try:
            return self._fetched_once(self._transfer, extra)
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

    def _fetched_once(self, transfer: RangeTransfer, extra: ExtraSlots) -> memoryview:
        for _ in range(TRIES):
            with index_lock(self._layout):
                data = self._whole()
                if data is None:
                    data = self._fetched(transfer, extra)
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

    def _fetched(self, transfer: RangeTransfer, extra: ExtraSlots) -> memoryview | None:
        """Fetch and map the file, resuming if interrupted; return None if it was deleted."""
        folder = self._layout.staging / _NAME
        forget(self._layout, _NAME)  # left by a process that died
        try:
            self._layout.make()  # all or part of the directory may have been deleted
            folder.mkdir()
            held = try_exclusive(folder / INDEX_FILE, new=True)
        except FileNotFoundError:
            return None
        if held is None:
            return None
        part = Part(-1, _NAME, folder / INDEX_FILE, held)
        try:
            means = Means(lambda: None, self._make_room, extra)
            delivered = transfer.fetch(part, INDEX_FILE, self._entry.bytes, means)
            self._check(delivered)
            part.path.replace(self._layout.index)
            sync(self._layout.root)
            return _mapped(self._layout.index)
        except FileNotFoundError:
            if is_at(held.fd, part.path):
                raise  # raised by the source
            return None
        finally:
            held.release()
            forget(self._layout, _NAME)

    def _check(self, delivered: Delivered) -> None:
        wanted = self._entry
        if (delivered.size, delivered.sha256) == (wanted.bytes, wanted.sha256):
            return
        came = f"it arrived with {delivered.size} bytes and sha256 {delivered.sha256}"
        if delivered.told_by:
            came = f"{delivered.told_by} returned a RemoteFile of size {delivered.size}"
        raise self._other(came)

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
