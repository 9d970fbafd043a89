"""Telling whoever keeps the shards what an iteration reads, and when it is done with it."""

from __future__ import annotations

from itertools import accumulate, chain, zip_longest
from typing import TYPE_CHECKING

import numpy as np

from audiomdb.plan import EpochPlan, Split
from audiomdb.shards import Course

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Follower", "shards_at_once"]


def shards_at_once(plan: EpochPlan, split: Split) -> int:
    """How many shards a rank's samples are mixed over at a time, at most."""
    return (plan.window + 1 if plan.shuffle else 1) * len(split.partitions_met)


class Follower:
    """One iteration's talk with a `Course`; without a course it says nothing.

    Args:
        course: What follows, or None.
        counts: Samples of each shard.
    """

    def __init__(self, course: Course | None, counts: list[int]) -> None:
        self.course = course
        self._ends = np.fromiter(accumulate(counts), np.int64, len(counts))
        self._epoch: tuple[EpochPlan, Split] | None = None

    def begin(
        self, plan: EpochPlan, split: Split, following: EpochPlan, *, continues: bool
    ) -> None:
        """Begin an epoch, of which `split` is read; `continues`: the iteration reads the next."""
        if self.course is not None:
            self._epoch = plan, split
            self.course.begin(_order(plan, split), _order(following, split), continues=continues)

    def draw(self, positions: NDArray[np.int64], stop: int) -> list[int]:
        """Announce samples; `stop` is the place, among the worker's, of the one after them."""
        if self.course is None or self._epoch is None:
            return [0] * len(positions)
        shards = np.searchsorted(self._ends, positions, side="right")
        return self.course.draw(shards.tolist(), _needed(*self._epoch, stop))

    def close(self) -> None:
        """End it. May be called twice."""
        if self.course is not None:
            self.course.close()


def _order(plan: EpochPlan, split: Split) -> list[int]:
    """The shards that a rank visits, in the order in which it first needs them."""
    lines = [plan.shard_order(partition).tolist() for partition in split.partitions_met]
    side_by_side = chain.from_iterable(zip_longest(*lines))
    return [shard for shard in dict.fromkeys(side_by_side) if shard is not None]


def _needed(plan: EpochPlan, split: Split, index: int) -> list[int]:
    """The shards over which the rank's samples are mixed around a worker's sample `index`."""
    # So many that each partition the worker still reads from is among them.
    places = split.places(index, index + len(split.partitions_met))
    partitions, first = np.unique(places.partitions, return_index=True)
    turns = places.elements[first] * split.partitions + partitions
    alive = [plan.shards_alive(turn).tolist() for turn in turns.tolist()]
    return list(dict.fromkeys(chain.from_iterable(alive)))
