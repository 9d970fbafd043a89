"""The origins that `audiomdb pull` reads a dataset from: a store, through a cache, or a folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from audiomdb.cache.layout import CacheLayout, entry_name
from audiomdb.errors import CorruptShardError
from audiomdb.locks import Lock
from audiomdb.shards import Metadata
from audiomdb.shards.files import write_atomically
from audiomdb.shards.layout import DATA_FILE, METADATA_FILE
from audiomdb.shards.metadata import metadata_bytes, parse_metadata
from audiomdb.threads import Check

if TYPE_CHECKING:
    from audiomdb.cache import ShardCache

__all__ = ["CacheOrigin", "FolderOrigin", "Origin", "ShardProgress"]

_CHUNK_BYTES = 1024 * 1024
_LOOK_S = 0.1


class ShardProgress:
    """Reports the progress of one shard, from any thread, and raises if the work has to stop.

    Args:
        on_bytes: Called with the number of bytes that have arrived since the last call.
        check: Raises if the work has to stop.
    """

    def __init__(self, on_bytes: Callable[[int], None], check: Check) -> None:
        self.check = check
        self._on_bytes = on_bytes
        self._lock = Lock()
        self._seen = 0

    def at(self, size: int) -> None:
        """Report that `size` bytes of the shard have arrived in total."""
        with self._lock:
            more, self._seen = size - self._seen, size
        self._on_bytes(more)  # negative if a download has restarted
        self.check()


class Origin(Protocol):
    """The source of a dataset that is pulled. `bring` is called from several threads.

    Attributes:
        metadata: The dataset's metadata.
        raw_metadata: The bytes of its `metadata.json`, from the beginning of the pull.
    """

    metadata: Metadata
    raw_metadata: bytes

    @property
    def begun_bytes(self) -> int:
        """Bytes of shards that a stopped pull has left on the target's disk."""

    @property
    def received_bytes(self) -> int:
        """Bytes received from the origin so far."""

    def bring(self, number: int, final: Path, progress: ShardProgress) -> None:
        """Write the file of shard `number`, complete and verified, to `final`, where none is."""


class CacheOrigin:
    """A remote dataset, read through a cache.

    Args:
        cache: The cache, where a reader of the shards has to be registered meanwhile.
        move: Move shards out of the cache, which must be on the target's disk and not be shared.
            Otherwise they are copied.
    """

    def __init__(self, cache: ShardCache, *, move: bool) -> None:
        self._cache = cache
        self._layout = CacheLayout(cache.directory)
        self._move = move
        self.metadata = cache.metadata
        self.raw_metadata = self._layout.metadata.read_bytes()

    @property
    def begun_bytes(self) -> int:
        """Bytes of cached and partial shards if they will be moved to the target, otherwise 0."""
        if not self._move:
            return 0
        folders = (self._layout.parts, self._layout.shards)
        return sum(path.stat().st_size for folder in folders for path in folder.iterdir())

    @property
    def received_bytes(self) -> int:
        """Bytes received from the store, including those of failed transfers."""
        return self._cache.stats.fetched_bytes

    def bring(self, number: int, final: Path, progress: ShardProgress) -> None:
        """Fetch a shard into the cache, and move or copy it from there to `final`."""
        entry = self.metadata.shards[number]
        cached = self._layout.shards / entry_name(number, entry)
        looked = 0.0

        def look() -> None:
            nonlocal looked
            progress.check()
            if (now := time.monotonic()) - looked > _LOOK_S:
                looked = now
                progress.at(self._cache.arrival(number).there_bytes)

        view = self._cache.lease(number, check=look)
        if self._move:
            cached.rename(final)
            return
        pieces = (view[at : at + _CHUNK_BYTES] for at in range(0, len(view), _CHUNK_BYTES))
        if _written(final, pieces, progress) != entry.sha256:
            final.unlink()
            raise CorruptShardError(
                f"the cache holds {entry.path} damaged: delete {cached} and pull again"
            )


class FolderOrigin:
    """A dataset in a local folder, whose files are copied.

    Args:
        folder: Folder of the dataset.
    """

    begun_bytes = 0

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.raw_metadata = metadata_bytes(folder)
        self.metadata = parse_metadata(self.raw_metadata, str(folder / METADATA_FILE))
        self._received: list[int] = []  # a sum would lose what two threads add at once

    @property
    def received_bytes(self) -> int:
        """Bytes copied so far."""
        return sum(self._received)

    def bring(self, number: int, final: Path, progress: ShardProgress) -> None:
        """Copy the file of shard `number` to `final` and verify it."""
        entry = self.metadata.shards[number]
        source = self._folder / entry.path / DATA_FILE
        if source.exists() and (not source.is_file() or source.stat().st_size != entry.bytes):
            raise CorruptShardError(
                f"{source} is no file of {entry.bytes} bytes, as metadata says: it was damaged "
                "since its conversion"
            )
        with closing(_chunks(source)) as chunks:
            digest = _written(final, chunks, progress)
        if digest != entry.sha256:
            final.unlink()
            raise CorruptShardError(
                f"{source} has sha256 {digest}, metadata says {entry.sha256}: it was damaged since "
                "its conversion"
            )
        self._received.append(entry.bytes)


def _written(final: Path, chunks: Iterator[bytes | memoryview], progress: ShardProgress) -> str:
    """Write a file and return the SHA-256 of its contents."""

    def counted() -> Iterator[bytes | memoryview]:
        size = 0
        for chunk in chunks:
            yield chunk
            size += len(chunk)
            progress.at(size)

    return write_atomically(final, counted())[1]


def _chunks(path: Path) -> Generator[bytes, None, None]:
    try:
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    except FileNotFoundError as exc:
        raise CorruptShardError(f"{path} is missing") from exc
