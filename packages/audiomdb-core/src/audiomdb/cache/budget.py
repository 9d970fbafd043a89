"""Compute what fits into a cache and what is evicted first, as pure functions of numbers.

Victims are chosen by Belady's rule ("A study of replacement algorithms", IBM Systems Journal 5,
1966): what is needed furthest in the future is evicted first. Where the future is not known, what
was used least recently is evicted first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "DONE",
    "NEVER",
    "Reading",
    "Stored",
    "eviction_order",
    "need_bytes",
    "next_uses",
    "smallest_budget",
    "within_reach",
]

NEVER = math.inf
"""Next use of something that no reader is known to need."""


DONE = -1
"""Stands for a visit that is over, see `Reading`."""


class Stored(msgspec.Struct, frozen=True):
    """A file in the cache that can be evicted.

    Attributes:
        name: Its name.
        size: Bytes that its eviction would free.
        next_use: Visits to shards until it is needed; infinite when no reader is known to need it.
        used_at: When it was last used, in any unit.
    """

    name: str
    size: int
    next_use: float = NEVER
    used_at: float = 0


class Reading(msgspec.Struct, frozen=True):
    """The needs and the planned visits of one reader of a dataset.

    Attributes:
        needs: Bytes of shards it must be able to hold at once.
        visits: Numbers of the shards that it has still to read, `(n,)` int32, in the order in which
            it first needs them; `DONE` in place of a visit that is over before earlier ones are.
            None: it has not published them.
    """

    needs: int
    visits: np.ndarray | None


def eviction_order(stored: Iterable[Stored], *, later_than: float = -1.0) -> list[Stored]:
    """Return what may be evicted, first victim first.

    Args:
        stored: Files in the cache.
        later_than: Return only files whose next use is later than this: prefetching must not evict
            what is needed sooner.
    """
    candidates = [item for item in stored if item.next_use > later_than]
    return sorted(candidates, key=lambda item: (-item.next_use, item.used_at, item.name))


def next_uses(readings: Iterable[Reading], shards: int) -> NDArray[np.float64]:
    """Return the visits until each shard is next needed by any reader, `(shards,)` float64."""
    soonest = np.full(shards, NEVER)
    for reading in readings:
        if reading.visits is None:
            continue
        at = np.flatnonzero((reading.visits >= 0) & (reading.visits < shards))
        at = at[::-1]  # so that the first of several visits to a shard is assigned last
        visited = reading.visits[at]
        soonest[visited] = np.minimum(soonest[visited], at)
    return soonest


def within_reach(
    uses: NDArray[np.float64], sizes: NDArray[np.int64], number: int, capacity: float
) -> bool:
    """Return whether a shard is worth prefetching now.

    It is if it fits into the cache together with all shards that any reader needs as soon or
    sooner. Otherwise one of them would be evicted before it is read: readers that run ahead of each
    other would fetch the same shards over and over.

    Args:
        uses: Next use of each shard, see `next_uses`.
        sizes: Size of each shard in bytes.
        number: Number of the shard.
        capacity: Bytes that shards may take up.
    """
    return float(sizes[uses <= uses[number]].sum()) <= capacity


def need_bytes(sizes: Sequence[int], at_once: int) -> int:
    """Return the bytes that any `at_once` of the shards fit into."""
    return sum(sorted(sizes, reverse=True)[:at_once])


def smallest_budget(needs: Iterable[int], total: int, fixed: int) -> int:
    """Return the smallest budget with which readers never wait for each other for ever.

    With it, the leases of the other readers always leave room for what a reader lacks. More than
    the whole dataset is never needed.

    Args:
        needs: Needs of each reader in bytes, see `Reading`.
        total: Bytes of all shards.
        fixed: Bytes of everything else in the directory.
    """
    return min(sum(needs), total) + fixed
