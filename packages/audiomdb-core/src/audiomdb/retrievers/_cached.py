"""The shards of a remote dataset, opened from a local cache."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiomdb.cache.course import CacheCourse
from audiomdb.cache.manager import ShardCache
from audiomdb.cache.options import CacheOptions
from audiomdb.cache.readers import Registration
from audiomdb.cache.source import Source
from audiomdb.errors import CacheTooSmallError
from audiomdb.lazy import cached_property
from audiomdb.locks import Lock
from audiomdb.shards import (
    Arrival,
    Course,
    DatasetIndex,
    DatasetReader,
    Metadata,
    ShardReader,
    Shards,
)
from audiomdb.shards.dataset_index import IndexFile
from audiomdb.shards.index import parse_index
from audiomdb.shards.layout import ALIGNMENT, INDEX_FILE
from audiomdb.threads import ThreadPool

if TYPE_CHECKING:
    from audiomdb.retrievers.base import BaseRetriever

__all__ = ["CachedShards"]

_all_shards: weakref.WeakSet[CachedShards] = weakref.WeakSet()


class CachedShards(Shards):
    """Opens shards from a cache. Pickles as the retriever, which makes its own cache elsewhere.

    Its readers release the shards that they keep open if others need the space.

    Args:
        retriever: The retriever of the dataset.
        directory: Directory of the dataset's cache, which is opened.
        source: Source of the dataset.
        options: Options of the cache.

    Attributes:
        cache: The cache in this process.

    Raises:
        CacheError, DownloadError, DatasetError: as `ShardCache`.
    """

    cached = True

    def __init__(
        self, retriever: BaseRetriever, directory: Path, source: Source, options: CacheOptions
    ) -> None:
        self._retriever = retriever
        self._readers: weakref.WeakValueDictionary[int, DatasetReader]
        self._readers = weakref.WeakValueDictionary()
        # Without a reference to this object, which would be a cycle.
        close_idle = partial(_close_idle, self._readers)
        self.cache = ShardCache(directory, source, options, close_idle=close_idle)
        self._registration: Registration | None = None
        self._registering, self._gathering = Lock(), Lock()
        self._gathered: DatasetIndex | None = None
        _install_fork_hook()
        _all_shards.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _shards_of, (self._retriever,)

    @property
    def max_open(self) -> int:
        """1 if the cache cannot hold the whole dataset, because open shards cannot be evicted."""
        return super().max_open if self.cache.holds_everything else 1

    @cached_property
    def index_first(self) -> bool:
        """Whether there is an index file, which is a smaller download than shards."""
        return self._index_file is not None

    def attach(self, reader: DatasetReader) -> None:
        """Note a reader, to have it let go of shards."""
        self._readers[id(reader)] = reader

    def begin_in_child(self) -> None:
        """Give up what a forked child does not share: leases, the registration, and locks."""
        self.cache.begin_in_child()
        # A lease that a child inherits would keep the shard on the disk after its eviction.
        for reader in list(self._readers.values()):
            reader.close()
        self._registration = None
        self._registering, self._gathering = Lock(), Lock()

    def open(self, number: int) -> ShardReader:
        """Map a shard, fetching it first if it is not in the cache."""
        self._register()
        return self._open(number, None)

    def arrival(self, number: int) -> Arrival:
        """Return how much of a shard is in the cache."""
        return self.cache.arrival(number)

    def index(self, metadata: Metadata) -> DatasetIndex:
        """Return the columns, from the index file, or gathered from all shards if there is none."""
        data = self._index_file
        if data is not None:
            return DatasetIndex(IndexFile(data, metadata, INDEX_FILE))
        # If each thread gathered, the cache would reserve space for as many readers.
        with self._gathering:
            if self._gathered is None:
                self._gathered = self._gather(metadata)
            return self._gathered

    def follow(self, reader: DatasetReader, at_once: int, workers: int) -> Course:
        """Prefetch for an iteration, and hold no more shards than it needs."""

        def open_shard(number: int, check: Callable[[], None]) -> None:
            reader.keep(number, self._open(number, check))

        at_once = min(at_once, len(self.cache.metadata.shards))
        return CacheCourse(
            self.cache,
            at_once,
            workers=workers,
            open_shard=open_shard,
            close_shard=reader.drop,
        )

    def close(self) -> None:
        """Release the cache. Views stay valid."""
        if self._registration is not None:
            self._registration.close()
        self.cache.close()

    @cached_property
    def _index_file(self) -> memoryview | None:
        """The cache's index file, kept because the cache checks it on every access."""
        return self.cache.index_file()

    def _gather(self, metadata: Metadata) -> DatasetIndex:
        """Gather the columns from all shards, which fetches every one of them."""

        def copied(number: int) -> bytes:
            entry, view = metadata.shards[number], self.cache.lease(number)
            # A copy, so that the shard can be evicted.
            return bytes(view[entry.index_offset : entry.index_offset + entry.index_bytes])

        # One at a time if the cache cannot hold all shards, and registered no longer than needed.
        threads = self.cache.options.workers if self.cache.holds_everything else 1
        pool = ThreadPool(threads, "audiomdb-gather")
        with self._registered_to_gather():
            try:
                works = [pool.submit(copied, number) for number in range(len(metadata.shards))]
                parts = [work.result() for work in works]
            finally:
                # After an error or an interrupt, downloads go on for whoever needs the shards next.
                pool.shutdown(cancel_futures=True, give_up=True)
        self.cache.keep_index(b"".join(part + bytes(-len(part) % ALIGNMENT) for part in parts))
        return DatasetIndex(
            [
                parse_index(
                    memoryview(part),
                    f"{metadata.name}/{entry.path}",
                    entry.bytes,
                    samples=entry.samples,
                )
                for part, entry in zip(parts, metadata.shards, strict=True)
            ]
        )

    def _registered_to_gather(self) -> AbstractContextManager[object]:
        if self._registration is not None:
            return nullcontext()
        try:
            return closing(self.cache.register(1))
        except CacheTooSmallError as exc:
            raise CacheTooSmallError(
                f"{exc}. All this is only to gather the index from the shards, one at a time: an "
                "iteration may hold more of them at once, and only the index tells how many"
            ) from None

    def _open(self, number: int, check: Callable[[], None] | None) -> ShardReader:
        metadata = self.cache.metadata
        entry = metadata.shards[number]
        # No variable holds the lease: an exception that a caller keeps would keep it alive too.
        return ShardReader(
            Path(metadata.name) / entry.path, entry, file=self.cache.lease(number, check=check)
        )

    def _register(self) -> None:
        """Register with the cache, once, that reads outside an iteration hold one shard."""
        if self._registration is not None:
            return
        # If each thread registered, the cache would reserve space for as many readers.
        with self._registering:
            if self._registration is None:
                self._registration = self.cache.register(1)


def _shards_of(retriever: BaseRetriever) -> CachedShards:
    return retriever.cached_shards()


def _close_idle(readers: weakref.WeakValueDictionary[int, DatasetReader]) -> None:
    # Not `values`, which is lazy: another thread may attach a reader in the meantime.
    for ref in readers.valuerefs():
        if (reader := ref()) is not None:
            reader.close_idle()


@cache
def _install_fork_hook() -> None:
    os.register_at_fork(after_in_child=_begin_in_child)


def _begin_in_child() -> None:
    for shards in list(_all_shards):
        shards.begin_in_child()
