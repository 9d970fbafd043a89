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

from bisect import insort
from collections.abc import Callable
from itertools import repeat
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import numpy as np

from audiomdb.plan.packing import SlotSize

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ChapterMaker"]


Waiting: TypeAlias = tuple[int, float, int]
"""A sample in a queue: its position, its seconds, and the increment with which it came."""

_NEVER = np.iinfo(np.int64).max
"""Stands for the increment of a sample where there is none."""


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
        buckets = len(maker.borders) + 1
        self._queues: list[list[list[Waiting]]] = [
            [[] for _ in range(buckets)] for _ in range(partitions)
        ]
        # The same samples' seconds, ascending: whether they fit is asked far more often than not.
        self._ascending: list[list[list[float]]] = [
            [[] for _ in range(buckets)] for _ in range(partitions)
        ]
        # Of each partition and bucket, how many wait, and when the first of them came.
        self._counts = np.zeros((partitions, buckets), np.int64)
        self._oldest = np.full((partitions, buckets), _NEVER)
        # So many samples of a bucket fit whatever their durations, and more than so many never do:
        # between the two it has to be looked at.
        size, each = maker.size, maker.each
        borders = maker.borders.tolist()
        self._surely = np.array([each * size.room(seconds) for seconds in [*borders, size.seconds]])
        self._at_most = np.array([_NEVER, *(each * size.room(seconds) for seconds in borders)])
        self._words: list[int] = []
        self._steps: list[list[list[int]]] = []

    def run(
        self, parts: list[tuple[NDArray[np.int64], NDArray[np.float64]]]
    ) -> list[list[list[int]]]:
        step = self._maker.increment
        for now, begin in enumerate(range(0, max(len(part[0]) for part in parts), step)):
            end = begin + step
            for partition, (positions, seconds) in enumerate(parts):
                self._arrive(now, partition, positions[begin:end], seconds[begin:end])
            self._make_full_steps()
            self._make_old_steps(now)
        self._make_last_steps()
        return self._steps

    def _arrive(
        self,
        now: int,
        partition: int,
        positions: NDArray[np.int64],
        seconds: NDArray[np.float64],
    ) -> None:
        queues, ascending = self._queues[partition], self._ascending[partition]
        buckets = np.searchsorted(self._maker.borders, seconds, side="left")
        coming = zip(positions.tolist(), seconds.tolist(), repeat(now))
        for bucket, sample in zip(buckets.tolist(), coming, strict=False):
            queues[bucket].append(sample)
            insort(ascending[bucket], sample[1])
        more = np.bincount(buckets, minlength=len(queues))
        self._counts[partition] += more
        oldest = self._oldest[partition]
        oldest[(more > 0) & (oldest > now)] = now

    def _make_full_steps(self) -> None:
        many = np.flatnonzero((self._counts > self._surely).all(axis=0))
        full = [bucket for bucket in many.tolist() if self._full(bucket)]
        while full:
            bucket = full[self._word() % len(full)]
            self._emit_bucket(bucket)
            if not self._full(bucket):
                full.remove(bucket)

    def _make_old_steps(self, now: int) -> None:
        latest = now - self._maker.max_age
        for bucket in np.flatnonzero((self._oldest <= latest).any(axis=0)).tolist():
            while (self._oldest[:, bucket] <= latest).any():
                self._emit_bucket(bucket)

    def _make_last_steps(self) -> None:
        left = []
        for queues in self._queues:
            everything = [one for queue in queues for one in queue]
            left.append(sorted(everything, key=lambda one: (-one[1], one[0])))
        while any(left):
            self._emit(left)

    def _full(self, bucket: int) -> bool:
        """Whether every partition fills its slots, and would fill more."""
        counts = self._counts[:, bucket]
        if (counts <= self._surely[bucket]).any():
            return False
        fits = self._maker.size.fits_ascending
        return not any(fits(queues[bucket], self._maker.each) for queues in self._ascending)

    def _emit_bucket(self, bucket: int) -> None:
        waiting = [queues[bucket] for queues in self._queues]
        self._emit(waiting, int(self._surely[bucket]), int(self._at_most[bucket]))
        for partition, queue in enumerate(waiting):
            self._counts[partition, bucket] = len(queue)
            self._oldest[partition, bucket] = queue[0][2] if queue else _NEVER
            self._ascending[partition][bucket] = sorted([one[1] for one in queue])

    def _emit(self, waiting: list[list[Waiting]], surely: int = 0, at_most: int = _NEVER) -> None:
        """Make a step of what fits of each partition's queue."""
        size, each = self._maker.size, self._maker.each
        slots = []
        for queue in waiting:
            seconds = [one[1] for one in queue[:at_most]]
            count = size.fitting(seconds, each, surely=surely)
            taken = queue[:count]
            del queue[:count]
            indices = size.cut(seconds[:count], each)
            slots += [[taken[i][0] for i in one] for one in indices]
        self._steps.append(slots)

    def _word(self) -> int:
        number = len(self._steps)
        while number >= len(self._words):
            known = len(self._words)
            self._words += self._maker.words(known, known + 256).tolist()
        return self._words[number]
