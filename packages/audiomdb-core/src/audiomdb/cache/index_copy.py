"""The index file of a dataset in its cache: fetched once, checked by each process that opens it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from audiomdb.cache.full_disk import despite_full_disk, is_full_disk
from audiomdb.cache.layout import CacheLayout
from audiomdb.cache.lock import is_at, try_exclusive
from audiomdb.cache.opening import PAUSE_S, TRIES, deleted_error, index_lock
from audiomdb.cache.room import Delivered, Part, Room
from audiomdb.cache.slots import ExtraSlots
from audiomdb.errors import CacheFullError, CorruptShardError, MetadataError
from audiomdb.shards.files import sha256_hex, sync, write_atomically
from audiomdb.shards.layout import INDEX_FILE
from audiomdb.shards.mapping import map_file, release_pages
from audiomdb.shards.metadata import IndexEntry

__all__ = ["FetchIndex", "IndexCopy"]

_NAME = "index"
"""Of its part, where shards have their numbers."""


class FetchIndex(NamedTuple):
    """The two ways to bring an index file of so many bytes.

    Attributes:
        into: Into a part, resuming what breaks off.
        whole: Into memory; None where it has more bytes.
    """

    into: Callable[[Part, int, ExtraSlots], Delivered]
    whole: Callable[[int], bytes | None]


class IndexCopy:
    """Keeps a dataset's index file in a cache directory. Threads share it.

    Shards that nobody reads go for it. Where there is no room all the same, each process has it in
    its memory.

    Args:
        layout: The directory.
        entry: What metadata says of the file.
        fetch: None: there is no way to it but the shards.
        room: In the directory.
    """

    def __init__(
        self, layout: CacheLayout, entry: IndexEntry, fetch: FetchIndex | None, room: Room
    ) -> None:
        self._layout = layout
        self._entry = entry
        self._fetch = fetch
        self._room = room

    def open(self, extra: ExtraSlots) -> memoryview | None:
        """Map the file, which is fetched where it is missing; None where it cannot be.

        Args:
            extra: Where it gets leave to fetch several pieces at a time.

        Raises:
            MetadataError: it is not what metadata says.
            DownloadError, Exception: as the source.
            CacheError: somebody deletes the directory over and over.
        """
        # Without a lock: of a large dataset it takes seconds, and all processes of a machine do it.
        data = self._whole()
        if data is not None or self._fetch is None:
            return data
        try:
            return self._fetched_once(self._fetch, extra)
        except OSError as exc:
            if not is_full_disk(exc):
                raise
            return self._in_memory(self._fetch)

    def keep(self, content: bytes) -> None:
        """Keep one that was gathered from shards, if it is what metadata describes."""
        if sha256_hex(content) != self._entry.sha256:
            return

        def written() -> None:
            # If somebody deletes the directory, it is not kept.
            with index_lock(self._layout), suppress(FileNotFoundError):
                write_atomically(self._layout.index, [content])

        with suppress(CacheFullError):
            despite_full_disk(written, lambda: self._room.shrink(len(content)))

    def _fetched_once(self, fetch: FetchIndex, extra: ExtraSlots) -> memoryview:
        for _ in range(TRIES):
            with index_lock(self._layout):
                data = self._whole()
                if data is None:
                    data = self._fetched(fetch, extra)
            if data is not None:
                return data
            time.sleep(PAUSE_S)
        raise deleted_error(self._layout.root)

    def _in_memory(self, fetch: FetchIndex) -> memoryview:
        content = fetch.whole(self._entry.bytes)
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

    def _fetched(self, fetch: FetchIndex, extra: ExtraSlots) -> memoryview | None:
        """Fetch it, resuming what breaks off; None where somebody deletes it meanwhile."""
        folder = self._layout.staging / _NAME
        shutil.rmtree(folder, ignore_errors=True)  # left by somebody who died
        try:
            self._layout.make()  # somebody may have deleted it, or parts of it
            folder.mkdir()
            held = try_exclusive(folder / INDEX_FILE, new=True)
        except FileNotFoundError:
            return None
        if held is None:
            return None
        part = Part(-1, _NAME, folder / INDEX_FILE, held)
        try:
            delivered = fetch.into(part, self._entry.bytes, extra)
            self._check(delivered)
            part.path.replace(self._layout.index)
            sync(self._layout.root)
            return _mapped(self._layout.index)
        except FileNotFoundError:
            if is_at(held.fd, part.path):
                raise  # the source's own
            return None
        finally:
            held.release()
            shutil.rmtree(folder, ignore_errors=True)
            self._layout.validator(_NAME).unlink(missing_ok=True)
            self._layout.spans(_NAME).unlink(missing_ok=True)

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
