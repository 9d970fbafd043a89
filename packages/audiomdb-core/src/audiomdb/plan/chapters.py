"""A chapter of batches by seconds: samples in, steps out.

Samples come in increments, equally many from each partition, and wait in queues, one for each
partition and bucket of similar durations. A step is made of one bucket, when the queues of that
bucket fill all slots in all partitions; which one, if there are several, is drawn. A bucket in
which a sample has waited too long is taken although it leaves slots short. At the end of the
chapter what is left is made into steps, from the longest clip to the shortest, across buckets: so
there are at most a few steps that are not full, and the next chapter begins with empty queues.

Everything follows from the samples, their durations and the bits of the chapter: any process can
make any chapter, and nothing has to be remembered but its number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from audiomdb.plan.packing import SlotSize

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ChapterMaker", "Waiting"]


class Waiting(msgspec.Struct, frozen=True):
    """A sample in a queue."""

    position: int
    seconds: float
    increment: int
    """When it came."""


class ChapterMaker(msgspec.Struct, frozen=True):
    """Makes the steps of one chapter.

    Attributes:
        size: What a slot holds.
        borders: Durations at which the next bucket begins, ascending, `(buckets - 1,)` seconds.
        each: Slots of each partition in a step.
        increment: Samples of each partition that come at a time.
        max_age: Increments that a sample waits, at most.
        words: Random words `start` to `stop` by which buckets are chosen; word i is for step i.
    """

    size: SlotSize
    borders: np.ndarray
    each: int
    increment: int
    max_age: int
    words: Callable[[int, int], np.ndarray]

    def steps(
        self, parts: list[tuple[NDArray[np.int64], NDArray[np.float64]]]
    ) -> list[list[list[int]]]:
        """Return the chapter's steps; a step is a list of slots, a slot a list of positions.

        Slots of partition 0 come first. One may be empty.

        Args:
            parts: For each partition, positions and durations in seconds, in order; both `(n,)`.
        """
        return _Chapter(self, len(parts)).run(parts)


class _Chapter:
    def __init__(self, maker: ChapterMaker, partitions: int) -> None:
        self._maker = maker
        self._buckets = range(len(maker.borders) + 1)
        self._queues: list[list[list[Waiting]]] = [
            [[] for _ in self._buckets] for _ in range(partitions)
        ]
        # So many samples of a bucket fit in any case, whatever their durations.
        longest = [*maker.borders.tolist(), maker.size.seconds]
        self._surely = [maker.each * maker.size.room(seconds) for seconds in longest]
        self._words: list[int] = []
        self._steps: list[list[list[int]]] = []

    def run(
        self, parts: list[tuple[NDArray[np.int64], NDArray[np.float64]]]
    ) -> list[list[list[int]]]:
        step = self._maker.increment
        for now, begin in enumerate(range(0, max(len(part[0]) for part in parts), step)):
            for queues, (positions, seconds) in zip(self._queues, parts, strict=True):
                self._arrive(now, queues, positions[begin : begin + step], seconds)
            self._make_full_steps()
            self._make_old_steps(now)
        self._make_last_steps()
        return self._steps

    def _arrive(
        self,
        now: int,
        queues: list[list[Waiting]],
        positions: NDArray[np.int64],
        seconds: NDArray[np.float64],
    ) -> None:
        begin = now * self._maker.increment
        durations = seconds[begin : begin + len(positions)]
        buckets = np.searchsorted(self._maker.borders, durations, side="left")
        for position, duration, bucket in zip(
            positions.tolist(), durations.tolist(), buckets.tolist(), strict=True
        ):
            queues[bucket].append(Waiting(position, duration, now))

    def _make_full_steps(self) -> None:
        full = [bucket for bucket in self._buckets if self._full(bucket)]
        while full:
            bucket = full[self._word() % len(full)]
            self._emit([queues[bucket] for queues in self._queues])
            if not self._full(bucket):
                full.remove(bucket)

    def _make_old_steps(self, now: int) -> None:
        latest = now - self._maker.max_age
        for bucket in self._buckets:
            waiting = [queues[bucket] for queues in self._queues]
            while any(queue and queue[0].increment <= latest for queue in waiting):
                self._emit(waiting)

    def _make_last_steps(self) -> None:
        left = []
        for queues in self._queues:
            everything = [one for queue in queues for one in queue]
            left.append(sorted(everything, key=lambda one: (-one.seconds, one.position)))
        while any(left):
            self._emit(left)

    def _full(self, bucket: int) -> bool:
        """Whether every partition fills its slots, and would fill more."""
        size, each = self._maker.size, self._maker.each
        waiting = [queues[bucket] for queues in self._queues]
        if any(len(queue) <= self._surely[bucket] for queue in waiting):
            return False
        return not any(size.fits([one.seconds for one in queue], each) for queue in waiting)

    def _emit(self, waiting: list[list[Waiting]]) -> None:
        """Make a step of what fits of each partition's queue."""
        size, each = self._maker.size, self._maker.each
        slots = []
        for queue in waiting:
            count = size.fitting([one.seconds for one in queue], each)
            taken = queue[:count]
            del queue[:count]
            indices = size.cut([one.seconds for one in taken], each)
            slots += [[taken[i].position for i in one] for one in indices]
        self._steps.append(slots)

    def _word(self) -> int:
        number = len(self._steps)
        while number >= len(self._words):
            known = len(self._words)
            self._words += self._maker.words(known, known + 256).tolist()
        return self._words[number]
