"""Count what a process does with its cache: hits, misses, fetches and evictions."""

from __future__ import annotations

from operator import add, sub
from typing import Any

import msgspec
from msgspec.structs import astuple

from audiomdb.locks import Lock

__all__ = ["CacheStats", "Counters"]


class CacheStats(msgspec.Struct, frozen=True):
    """Counts of one process since it opened the cache.

    Attributes:
        hits: Shards that were in the cache when they were needed.
        misses: Shards that had to be waited for.
        wait_s: Seconds that readers waited for misses, summed over threads.
        fetched_shards: Shards that this process fetched, ahead or on demand.
        fetched_bytes: Bytes that this process received, including those of broken transfers.
        retries: Attempts to fetch that were repeated after a failure.
        corrupt: Files that arrived damaged.
        evictions: Shards, parts and quarantined files that this process removed to make room.
        evicted_bytes: Bytes freed by these evictions.
        prefetch_errors: Shards that could not be prefetched; they are fetched again when needed.
    """

    hits: int = 0
    misses: int = 0
    wait_s: float = 0.0
    fetched_shards: int = 0
    fetched_bytes: int = 0
    retries: int = 0
    corrupt: int = 0
    evictions: int = 0
    evicted_bytes: int = 0
    prefetch_errors: int = 0

    def plus(self, other: CacheStats) -> CacheStats:
        """Return the sums of both."""
        return CacheStats(*map(add, astuple(self), astuple(other)))

    def minus(self, other: CacheStats) -> CacheStats:
        """Return what has been counted since `other`."""
        return CacheStats(*map(sub, astuple(self), astuple(other)))


class Counters:
    """Mutable `CacheStats` of a process. Thread-safe."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin to count, in a forked child too, where a thread of the parent may hold the lock."""
        self._lock = Lock()
        self._stats = CacheStats()

    def add(self, **amounts: Any) -> None:  # noqa: ANN401 (numbers)
        """Add amounts to counts, named as in `CacheStats`."""
        with self._lock:
            self._stats = self._stats.plus(CacheStats(**amounts))

    @property
    def stats(self) -> CacheStats:
        """The counts so far."""
        return self._stats
