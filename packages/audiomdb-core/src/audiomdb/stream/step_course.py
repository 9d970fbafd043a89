"""Telling whoever keeps the shards which of them the steps of a rank need, and until when."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate, chain, zip_longest
from typing import TYPE_CHECKING

import numpy as np

from audiomdb.plan import EpochPlan, StepPlan
from audiomdb.shards import Course

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["StepCourse", "shards_at_once"]


def shards_at_once(plan: EpochPlan, rank: int, world_size: int) -> int:
    """How many shards a rank's steps are mixed over at a time, at most."""
    return (plan.window + 1 if plan.shuffle else 1) * len(_met(plan, rank, world_size))


class StepCourse:
    """One iteration's talk with a `Course`; without a course it says nothing.

    Args:
        course: What follows, or None.
        counts: Samples of each shard.
        rank: Whose steps these are.
        world_size: Of how many ranks.
    """

    def __init__(
        self, course: Course | None, counts: list[int], rank: int, world_size: int
    ) -> None:
        self._course = course
        self._ends = np.fromiter(accumulate(counts), np.int64, len(counts))
        self._place = rank, world_size
        self._steps: StepPlan | None = None
        self._partitions: list[int] = []

    def begin(self, steps: StepPlan, number: int, following: EpochPlan | None) -> None:
        """Begin an epoch at a step; after it comes another, or none."""
        if self._course is not None:
            self._steps = steps
            after = [] if following is None else self._order(following, 0)
            self._course.begin(self._order(_plan(steps), number * _width(steps)), after)
            self._partitions = self._read_from(_plan(steps))

    def draw(self, positions: NDArray[np.int64], following: int) -> list[int]:
        """Announce a step's samples; `following` is this worker's step after it.

        Returns:
            For each sample its visit, for `working`.
        """
        if self._course is None or self._steps is None:
            return [0] * len(positions)
        shards = np.searchsorted(self._ends, positions, side="right")
        return self._course.draw(shards.tolist(), self._needed(self._steps, following))

    @contextmanager
    def working(self, visit: int) -> Iterator[None]:
        """Around the work on a sample."""
        if self._course is None:
            yield
            return
        try:
            self._course.enter(visit)
            yield
        finally:
            self._course.leave(visit)

    def close(self) -> None:
        """End it. May be called twice."""
        if self._course is not None:
            self._course.close()

    def _order(self, plan: EpochPlan, element: int) -> list[int]:
        """The shards that are read from an element of each partition on, in order."""
        met = set(_met(plan, *self._place))
        lines = [
            # What is borrowed of partition 0 is its last sample.
            plan.shard_order(partition, element if partition in met else len(plan)).tolist()
            for partition in self._read_from(plan)
        ]
        side_by_side = chain.from_iterable(zip_longest(*lines))
        return [shard for shard in dict.fromkeys(side_by_side) if shard is not None]

    def _needed(self, steps: StepPlan, following: int) -> list[int]:
        if following >= steps.steps:
            return []
        plan, element = _plan(steps), following * _width(steps)
        met = set(_met(plan, *self._place))
        alive = [
            plan.shards_mixed(partition, element if partition in met else len(plan)).tolist()
            for partition in self._partitions
        ]
        return list(dict.fromkeys(chain.from_iterable(alive)))

    def _read_from(self, plan: EpochPlan) -> list[int]:
        """The rank's partitions, and partition 0 if one of them is empty and borrows of it."""
        met = _met(plan, *self._place)
        borrows = any(not len(plan.lines[partition]) for partition in met)
        return sorted({*met, 0}) if borrows else list(met)


def _plan(steps: StepPlan) -> EpochPlan:
    assert isinstance(steps.plan, EpochPlan), "a course follows one dataset"
    return steps.plan


def _width(steps: StepPlan) -> int:
    """Elements of each partition in a step."""
    return steps.batch_size // steps.plan.partitions


def _met(plan: EpochPlan, rank: int, world_size: int) -> range:
    """The partitions that a rank reads from."""
    first = rank * plan.partitions // world_size
    return range(first, -(-(rank + 1) * plan.partitions // world_size))
