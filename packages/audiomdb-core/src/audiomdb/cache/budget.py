"""What fits into a cache, and what goes first: pure functions of numbers.

The rule for victims is Belady's ("A study of replacement algorithms", IBM Systems Journal 5, 1966):
what is needed furthest in the future goes first. Where the future is not known, what was used
longest ago goes first.
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
"""Next use of what nobody is known to need."""


DONE = -1


class Stored(msgspec.Struct, frozen=True):
    """Something in the cache that could go.

    Attributes:
        name: Its name.
        size: Bytes that its going would free.
        next_use: Visits to shards until it is needed; infinite when nobody is known to need it.
        used_at: When it was used last, in any unit.
    """

    name: str
    size: int
    next_use: float = NEVER
    used_at: float = 0


class Reading(msgspec.Struct, frozen=True):
    """What one reader does with a dataset.

    Attributes:
        needs: Bytes of shards it must be able to hold at once.
        visits: Numbers of the shards it reads, `(n,)` int32, in the order in which it first needs
            them; `DONE` in place of a visit that is over before earlier ones.
        done: How many of these visits lie behind it, all before them included.
    """

    needs: int
    visits: np.ndarray
    done: int = 0


def eviction_order(stored: Iterable[Stored], *, later_than: float = -1.0) -> list[Stored]:
    """What may go, first victim first.

    Args:
        stored: What is there.
        later_than: Only what is needed later than this: what is fetched ahead must not push out
            what is needed sooner.
    """
    candidates = [item for item in stored if item.next_use > later_than]
    return sorted(candidates, key=lambda item: (-item.next_use, item.used_at, item.name))


def next_uses(readings: Iterable[Reading], shards: int) -> NDArray[np.float64]:
    """Visits until each shard is needed by the reader that needs it soonest, `(shards,)`."""
    soonest = np.full(shards, NEVER)
    for reading in readings:
        visits = reading.visits[reading.done :]
        at = np.flatnonzero((visits >= 0) & (visits < shards))[::-1]
        uses = np.full(shards, NEVER)
        uses[visits[at]] = at  # of several visits to a shard the last to be assigned, its first
        np.minimum(soonest, uses, out=soonest)
    return soonest


def within_reach(
    uses: NDArray[np.float64], sizes: NDArray[np.int64], number: int, capacity: float
) -> bool:
    """Whether a shard is worth fetching now, though nobody needs it yet.

    It is when all shards that are needed as soon or sooner, by any reader, fit into the cache
    together with it. Otherwise it, or one of those, has to go again before it was read: readers
    that run ahead of each other would fetch the same shards over and over.

    Args:
        uses: Of each shard, see `next_uses`.
        sizes: Of each shard, in bytes.
        number: The shard.
        capacity: Bytes that shards may take up.
    """
    return float(sizes[uses <= uses[number]].sum()) <= capacity


def need_bytes(sizes: Sequence[int], at_once: int) -> int:
    """Bytes that any `at_once` of the shards fit into."""
    return sum(sorted(sizes, reverse=True)[:at_once])


def smallest_budget(needs: Iterable[int], total: int, fixed: int) -> int:
    """The smallest budget with which no reader ever waits for another for ever.

    With it, what is leased by all others leaves room for what one of them lacks. More than the
    whole dataset is never needed.

    Args:
        needs: Of each reader, see `Reading`.
        total: Bytes of all shards.
        fixed: Bytes of all else in the directory.
    """
    return min(sum(needs), total) + fixed
