"""Where a dataset is pulled from: a store, through a cache, or a folder."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Protocol

from audiomdb.cache.layout import CacheLayout, entry_name
from audiomdb.cache.part_file import arrived
from audiomdb.cache.readers import Registration
from audiomdb.cli.threads import Check
from audiomdb.errors import CorruptShardError
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.shards import Metadata, ShardEntry, read_metadata
from audiomdb.shards.files import sha256_file, write_atomically
from audiomdb.shards.layout import DATA_FILE, METADATA_FILE

__all__ = ["CacheOrigin", "FolderOrigin", "Origin", "ShardProgress"]

_CHUNK_BYTES = 1024 * 1024
_LOOK_S = 0.1


class ShardProgress:
    """Told how far one shard is, by any thread; raises when the work is to stop.

    Args:
        on_bytes: Told how many bytes more are there.
        check: Raises when it is to stop.
    """

    def __init__(self, on_bytes: Callable[[int], None], check: Check) -> None:
        self.check = check
        self._on_bytes = on_bytes
        self._lock = threading.Lock()
        self._seen = 0

    def at(self, size: int) -> None:
        """So many bytes of the shard are there."""
        with self._lock:
            more, self._seen = size - self._seen, size
        self._on_bytes(more)  # less than 0 where a download begins again
        self.check()


class Origin(Protocol):
    """Where a dataset is pulled from. `bring` is called from several threads."""

    metadata: Metadata

    @property
    def raw_metadata(self) -> bytes:
        """`metadata.json` as it is."""

    @property
    def begun_bytes(self) -> int:
        """Bytes of shards that a stopped pull has left on the target's disk."""

    @property
    def received_bytes(self) -> int:
        """Bytes that came from there so far."""

    def bring(self, number: int, final: Path, progress: ShardProgress) -> None:
        """Put a shard's file in its place, whole and verified."""


class CacheOrigin:
    """A remote dataset. A context manager: entered, it has its share of the cache's budget.

    Args:
        retriever: Of the dataset.
        workers: Shards at once.
        move: Take shards out of the cache, which is on the target's disk and ours alone. Otherwise
            they are copied.
    """

    def __init__(self, retriever: BaseRetriever, *, workers: int, move: bool) -> None:
        self._cache = retriever.cached_shards().cache
        self._layout = CacheLayout(self._cache.directory)
        self._workers = workers
        self._move = move
        self.metadata = self._cache.metadata

    def __enter__(self) -> CacheOrigin:
        self._registration: Registration = self._cache.register(self._workers)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._registration.close()

    @property
    def raw_metadata(self) -> bytes:
        """`metadata.json` as it came."""
        return self._layout.metadata.read_bytes()

    @property
    def begun_bytes(self) -> int:
        """Bytes in parts, where these are going to be the target's shards."""
        if not self._move:
            return 0
        folders = (self._layout.parts, self._layout.shards)
        return sum(path.stat().st_size for folder in folders for path in folder.iterdir())

    @property
    def received_bytes(self) -> int:
        """Bytes that came from the store, those of broken transfers included."""
        return self._cache.stats.fetched_bytes

    def bring(self, number: int, final: Path, progress: ShardProgress) -> None:
        """Move or copy a shard out of the cache, after it has come there."""
        entry = self.metadata.shards[number]
        name = entry_name(number, entry)
        part, spans = self._layout.parts / name, self._layout.spans(name)
        cached = self._layout.shards / name
        looked = 0.0

        def look() -> None:
            nonlocal looked
            progress.check()
            if (now := time.monotonic()) - looked > _LOOK_S:
                looked = now
                progress.at(arrived(part, spans, entry.bytes))

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
    """A dataset in a folder, which is copied.

    Args:
        folder: Of the dataset.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.metadata = read_metadata(folder)
        self.begun_bytes = 0
        self.received_bytes = 0

    @property
    def raw_metadata(self) -> bytes:
        """`metadata.json` as it is."""
        return (self._folder / METADATA_FILE).read_bytes()

    def bring(self, number: int, final: Path, progress: ShardProgress) -> None:
        """Copy a shard."""
        entry = self.metadata.shards[number]
        source = self._folder / entry.path / DATA_FILE
        if source.exists() and final.exists() and source.samefile(final):
            # Linked to each other: what is brought is not whole there, and this is the only copy.
            raise CorruptShardError(_changed(source, entry, sha256_file(source)))
        with closing(_chunks(source)) as chunks:
            digest = _written(final, chunks, progress)
        if digest != entry.sha256:
            final.unlink()
            raise CorruptShardError(_changed(source, entry, digest))
        self.received_bytes += entry.bytes


def _changed(source: Path, entry: ShardEntry, digest: str) -> str:
    return (
        f"{source} has sha256 {digest}, metadata says {entry.sha256}: it was damaged since its "
        "conversion"
    )


def _written(final: Path, chunks: Iterator[bytes | memoryview], progress: ShardProgress) -> str:
    """Write a file; returns the sha256 of what was written."""

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
