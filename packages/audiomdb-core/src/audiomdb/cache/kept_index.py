"""The dataset's index file in a cache directory."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from audiomdb.cache.counters import Counters
from audiomdb.cache.full_disk import despite_full_disk, is_full_disk
from audiomdb.cache.layout import CacheLayout
from audiomdb.cache.opening import metadata_lock
from audiomdb.cache.room import Room
from audiomdb.cache.source import Source
from audiomdb.errors import CacheFullError, CorruptShardError, MetadataError
from audiomdb.shards.files import sha256_hex, write_atomically
from audiomdb.shards.mapping import map_file
from audiomdb.shards.metadata import Metadata

__all__ = ["KeptIndex"]


class KeptIndex:
    """Fetches the index file once for all processes. Threads share it.

    It is kept as long as there is room for it, for which shards go that nobody reads. Otherwise
    each process has it in its memory.

    Args:
        layout: The directory.
        metadata: Of the dataset.
        source: Where it comes from.
        room: In the directory.
        counters: Where bytes and retries are counted.
    """

    def __init__(
        self,
        layout: CacheLayout,
        metadata: Metadata,
        source: Source,
        room: Room,
        counters: Counters,
    ) -> None:
        self._layout = layout
        self._wanted = metadata.index
        self._source = source
        self._room = room
        self._counters = counters

    def read(self) -> memoryview | None:
        """All of it; None where it can only be gathered from the shards.

        Raises:
            MetadataError: it is not what metadata says.
            DownloadError: as the source.
        """
        with metadata_lock(self._layout):
            kept = _mapped(self._layout.index)
            if kept is not None and sha256_hex(kept) == self._wanted.sha256:
                return kept
            content = self._fetched()
            if content is None:
                return None
            try:
                self._write(content)  # under the lock, so that whoever waits for it finds the file
                full = False
            except OSError as exc:
                if not is_full_disk(exc):
                    raise
                full = True
        if full:
            self._keep(content)
        kept = _mapped(self._layout.index)
        fetched = memoryview(content)
        return kept if kept == fetched else fetched

    def keep(self, content: bytes) -> None:
        """Keep what was gathered from shards, if it is what metadata describes."""
        if sha256_hex(content) == self._wanted.sha256:
            self._keep(content)

    def _fetched(self) -> bytes | None:
        content = self._source.index(self._layout, self._counters, self._wanted.bytes)
        if content is None:
            return None
        found = sha256_hex(content)
        if found != self._wanted.sha256:
            raise MetadataError(
                f"{self._wanted.path} arrived with {len(content)} bytes and sha256 {found}, "
                f"metadata says {self._wanted.bytes} bytes and {self._wanted.sha256}"
            )
        return content

    def _keep(self, content: bytes) -> None:
        def written() -> None:
            with metadata_lock(self._layout):
                self._write(content)

        # Room is made without that lock, which it takes to make again what somebody deletes.
        with suppress(CacheFullError):
            despite_full_disk(written, lambda: self._room.shrink(len(content)))

    def _write(self, content: bytes) -> None:
        # If somebody deletes the directory, it is not kept.
        with suppress(FileNotFoundError):
            write_atomically(self._layout.index, [content])


def _mapped(path: Path) -> memoryview | None:
    try:
        return map_file(path)
    except CorruptShardError:
        if path.exists():
            raise
        return None
