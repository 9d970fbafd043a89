"""Define `ShardCache`, the cache of one dataset on one machine, which readers use."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from pathlib import Path

from audiomdb.cache.counters import CacheStats, Counters
from audiomdb.cache.directory_use import DirectoryUse
from audiomdb.cache.failures import Failures
from audiomdb.cache.fetching import Fetching
from audiomdb.cache.index_copy import IndexCopy
from audiomdb.cache.layout import CacheLayout
from audiomdb.cache.lock import map_held
from audiomdb.cache.opening import Limits, open_cache
from audiomdb.cache.options import CacheOptions
from audiomdb.cache.readers import Registration
from audiomdb.cache.room import Room
from audiomdb.cache.source import Source
from audiomdb.shards.course import Arrival
from audiomdb.shards.metadata import Metadata

__all__ = ["ShardCache"]


class ShardCache:
    """Leases the shards of a dataset, fetching missing ones, within a budget.

    All processes of a machine that name the same directory share it: each shard is fetched once,
    by one of them, and the total size of the directory stays within the budget. Give all of them
    the same options; otherwise `max_bytes` and `workers` of the first process hold for all.
    Thread-safe; after a fork, the child must make its own object, or call `begin_in_child` first.

    Args:
        directory: Directory for this dataset only. Created if it is missing.
        source: Source of the dataset.
        options: Options of the cache.
        close_idle: Called while a reader waits for room; closes shards that are open but not used.

    Raises:
        CachePlaceError: the directory cannot be written, or is on a network file system.
        CacheFullError: the disk is full.
        DownloadError, DatasetError: the metadata cannot be fetched, or is damaged.
    """

    def __init__(
        self,
        directory: Path,
        source: Source,
        options: CacheOptions,
        *,
        close_idle: Callable[[], None] = lambda: None,
    ) -> None:
        self._layout = CacheLayout(directory)
        self._counters = Counters()
        failures = Failures(self._layout.failed)
        opened = open_cache(
            self._layout,
            source,
            Limits(options.max_bytes, options.workers),
            failures,
            self._counters,
        )
        self.metadata: Metadata = opened.metadata
        """Metadata of the dataset."""
        self._prefetch = options.prefetch
        self._use = DirectoryUse(self._layout, opened)
        # In case the caller forgets to close it.
        weakref.finalize(self, self._use.close).atexit = False
        self._room = Room(
            self._layout,
            self.metadata,
            self._use,
            self._counters,
            asked_bytes=options.max_bytes,
        )
        self.fetching = Fetching(
            self._layout,
            self.metadata,
            self._room,
            self._use,
            source.transfer(self._layout, self._counters),
            failures,
            self._counters,
            close_idle,
        )
        """What brings the shards into the cache, also ahead of use."""
        self._index = IndexCopy(
            self._layout,
            self.metadata.index,
            source.files(self._layout, self._counters),
            failures,
            self.fetching,
            self._room.shrink,
        )

    @property
    def options(self) -> CacheOptions:
        """Options in effect: `prefetch` as given, the others as agreed by all users."""
        limits = self._use.limits
        return CacheOptions(
            max_bytes=limits.max_bytes, workers=limits.workers, prefetch=self._prefetch
        )

    @property
    def directory(self) -> Path:
        """Directory of the cache."""
        return self._layout.root

    @property
    def stats(self) -> CacheStats:
        """Counts of what this process has done with the cache."""
        return self._counters.stats

    @property
    def holds_everything(self) -> bool:
        """Whether the whole dataset fits, so that nothing is ever evicted."""
        return self._room.holds_everything

    def begin_in_child(self) -> None:
        """Begin anew in a forked child, where threads of the parent may have held locks."""
        self._counters.begin()
        self._use.begin_in_child()

    def close(self) -> None:
        """Stop using the directory. Leases remain valid."""
        self._use.close()

    def register(self, at_once: int, visits: int = 0, *, workers: int = 1) -> Registration:
        """Register a reader that holds `at_once` shards at a time and publishes up to `visits`.

        The budget must suffice for `workers` such readers, including this one.

        Raises:
            CacheTooSmallError: it does not; the message names the smallest budget that does.
        """
        return self._room.register(at_once, visits, workers)

    def publish(self, registration: Registration, visits: list[int]) -> None:
        """Publish the numbers of the shards that a reader will visit from now on, in order."""
        import numpy as np

        self._room.publish(registration, np.array(visits, np.int32))

    def lease(self, number: int, *, check: Callable[[], None] | None = None) -> memoryview:
        """Map a shard's file; it stays in the cache until the last view of it is gone.

        Fetches a missing shard, or waits if another thread or process is fetching it.

        Args:
            number: Number of the shard.
            check: Called repeatedly while waiting; raises to give up.

        Raises:
            CorruptShardError: the shard arrived damaged, twice.
            DownloadError, Exception: as the source, here or in the process that fetched it.
            CacheTooSmallError: every shard in the cache is being read, and that does not change.
            CacheFullError: the disk is full.
        """
        held = self.fetching.lease(number)
        if held is not None:
            self._counters.add(hits=1)
            return map_held(held)
        started = time.monotonic()
        try:
            return map_held(self.fetching.obtain(number, check or _nothing))
        finally:
            self._counters.add(misses=1, wait_s=time.monotonic() - started)

    def arrival(self, number: int) -> Arrival:
        """Return how much of a shard has arrived, whichever process fetches it."""
        size = self._room.sizes[number]
        there = size if self._room.shard_path(number).exists() else self._room.arrived(number)
        return Arrival(there, size, self._counters.stats.retries)

    def index_file(self) -> memoryview | None:
        """Map the dataset's index file; None if it can only be gathered from the shards.

        Raises:
            MetadataError: the file is not the one described in the metadata.
            DownloadError, Exception: as the source, here or in the process that fetched it.
        """
        return self._index.open()

    def keep_index(self, content: bytes) -> None:
        """Keep an index gathered from shards, if it is the one described in the metadata."""
        self._index.keep(content)


def _nothing() -> None:
    """Do nothing."""
