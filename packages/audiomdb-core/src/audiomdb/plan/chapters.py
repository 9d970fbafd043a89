"""Form the steps of one chapter of an epoch that is batched by seconds.

Samples arrive in increments, equally many from each partition, and wait in queues, one per
partition and bucket of similar durations. A step is made from one bucket as soon as the queues of
that bucket fill all slots of all partitions; among several such buckets, one is drawn at random. A
bucket in which a sample has waited too long is used even though this leaves slots short.

At the end of the chapter, the remaining samples are sorted by duration and cut into as few steps
as possible, across buckets, and the next chapter begins with empty queues. Partitions differ in
the seconds they have left, so each spreads its samples evenly over these steps: all slots are a
little less full, rather than a few short or empty. The steps are then shuffled, because chapters
would otherwise end with their shortest clips.

All samples of a chapter are known when it is made, so a queue is a range of an array sorted by
bucket: which samples form a step, and when the last of them arrives, is known in advance. An
increment that completes no step costs nothing.

The result depends only on the samples, their durations and the random words of the chapter, so any
process can make any chapter, and only its number has to be stored.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from audiomdb.plan.packing import SlotSize, cut, fewest_slots, spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ChapterMaker", "Slots"]

_NEVER = int(np.iinfo(np.int64).max)
"""Increment used where there is no sample."""


class Slots(msgspec.Struct, frozen=True):
    """The slots of consecutive steps; within a step, slots are ordered by partition.

    Attributes:
        occurrences: The clips, slot by slot, `(samples,)` int64; see `plan.occurrences`.
        ends: Cumulative number of clips at the end of each slot, `(slots,)` int64. A slot may be
            empty.
    """

    occurrences: np.ndarray
    ends: np.ndarray

    def slot(self, number: int) -> NDArray[np.int64]:
        """Return the occurrences of the clips in a slot, as a view."""
        begin = self.ends[number - 1] if number else 0
        return self.occurrences[begin : self.ends[number]]

    def reordered(self, order: NDArray[np.int64]) -> Slots:
        """Return the slots rearranged by `order`, a permutation of their numbers."""
        sizes = np.diff(self.ends, prepend=0)
        begins = (self.ends - sizes)[order]
        sizes = sizes[order]
        ends = np.cumsum(sizes)
        among = np.arange(len(self.occurrences)) + np.repeat(begins - (ends - sizes), sizes)
        return Slots(self.occurrences[among], ends)


class ChapterMaker(msgspec.Struct, frozen=True):
    """Makes the steps of one chapter.

    Attributes:
        size: Capacity of a slot.
        borders: Inclusive upper bounds of all buckets but the last, ascending, `(buckets - 1,)`
            seconds.
        each: Slots of each partition in a step.
        increment: Samples of each partition in an increment.
        max_age: Maximum number of increments that a sample waits.
        words: Returns random words `start` to `stop`, which choose buckets and shuffle the last
            steps; word i is for step i.
    """

    size: SlotSize
    borders: np.ndarray
    each: int
    increment: int
    max_age: int
    words: Callable[[int, int], np.ndarray]

    def steps(self, parts: list[tuple[NDArray[np.int64], NDArray[np.float64]]]) -> Slots:
        """Return the slots of all steps of the chapter.

        Args:
            parts: For each partition, its samples in order and their durations in
                seconds; both `(n,)`.
        """
        return _Chapter(self, parts).run()


class _Queue:
    """The samples of a partition in a chapter, by bucket, then in order of arrival."""

    def __init__(self, maker: ChapterMaker, seconds: NDArray[np.float64], offset: int) -> None:
        buckets = np.searchsorted(maker.borders, seconds, side="left")
        buckets = buckets.astype(np.min_scalar_type(len(maker.borders)))
        order = np.argsort(buckets, kind="stable")  # a radix sort for up to 16 bits
        sizes = np.bincount(buckets, minlength=len(maker.borders) + 1)
        self.order = order + offset
        """Numbers of the samples, counted over all partitions of the chapter."""

        self.seconds = seconds[order]
        self.listed: list[float] = self.seconds.tolist()
        self.came: list[int] = (order // maker.increment).tolist()
        self.stops: list[int] = np.cumsum(sizes).tolist()
        self.heads: list[int] = [0, *self.stops[:-1]]
        """Index of the first waiting sample of each bucket."""

        self.fitting = [0] * len(sizes)
        """Number of next samples of each bucket that fit the slots of one step."""


class _Chapter:
    def __init__(
        self, maker: ChapterMaker, parts: list[tuple[NDArray[np.int64], NDArray[np.float64]]]
    ) -> None:
        self._maker = maker
        self._occurrences = np.concatenate([occurrences for occurrences, _ in parts])
        self._queues: list[_Queue] = []
        for _, seconds in parts:
            offset = sum(len(queue.order) for queue in self._queues)
            self._queues.append(_Queue(maker, seconds, offset))
        longest = max(len(queue.order) for queue in self._queues)
        self._increments = -(-longest // maker.increment)
        # For each bucket, the number of samples that fit whatever their durations, and the number
        # that can fit at most. Between the two, the durations have to be examined.
        size, each = maker.size, maker.each
        borders = maker.borders.tolist()
        self._surely = [each * size.room(seconds) for seconds in [*borders, size.seconds]]
        self._at_most = [_NEVER, *(each * size.room(seconds) for seconds in borders)]
        # For each bucket, the increment that completes a step, and the increment in which its
        # first waiting sample arrived.
        buckets = range(len(self._surely))
        self._ready = [_NEVER for _ in buckets]
        self._oldest = [_NEVER for _ in buckets]
        for bucket in buckets:
            self._look(bucket, self._queues)
        self._words: list[int] = []
        self._taken: list[NDArray[np.int64]] = []
        self._ends: list[int] = []
        self._total = 0
        self._steps = 0

    def run(self) -> Slots:
        while True:
            now = min(min(self._ready), min(self._oldest) + self._maker.max_age)
            if now >= self._increments:
                break
            self._make_full_steps(now)
            if min(self._oldest) + self._maker.max_age <= now:
                self._make_old_steps(now)
        self._make_last_steps()
        taken = np.concatenate(self._taken) if self._taken else np.empty(0, np.int64)
        return Slots(self._occurrences[taken], np.array(self._ends, np.int64))

    def _make_full_steps(self, now: int) -> None:
        full = [bucket for bucket, ready in enumerate(self._ready) if ready <= now]
        while full:
            bucket = full[self._word() % len(full)]
            self._emit(bucket, now)
            if self._ready[bucket] > now:
                full.remove(bucket)

    def _make_old_steps(self, now: int) -> None:
        latest = now - self._maker.max_age
        for bucket in range(len(self._oldest)):
            while self._oldest[bucket] <= latest:
                self._emit(bucket, now)

    def _emit(self, bucket: int, now: int) -> None:
        """Make a step from the samples of a bucket that have arrived and fit."""
        moved = []
        for queue in self._queues:
            head, count = queue.heads[bucket], queue.fitting[bucket]
            if self._ready[bucket] > now:
                come = bisect_right(queue.came, now, head, queue.stops[bucket]) - head
                count = min(count, come)
            self._fill(queue, head, head + count)
            if count:
                queue.heads[bucket] = head + count
                moved.append(queue)
        self._steps += 1
        self._look(bucket, moved)

    def _fill(self, queue: _Queue, head: int, stop: int) -> None:
        """Distribute samples that are known to fit over the slots of a partition."""
        each = self._maker.each
        order = queue.order[head:stop]
        if each == 1:
            self._put(order, [len(order)])
            return
        descending = np.argsort(-queue.seconds[head:stop], kind="stable")
        seconds, room = queue.seconds[head:stop][descending], self._maker.size.room
        ends = cut(lambda clip: room(seconds.item(clip)), len(order), each)
        self._put(order[descending], ends)

    def _put(self, samples: NDArray[np.int64], ends: list[int]) -> None:
        """Append slots with the given samples; `ends` counts from the first of them."""
        self._taken.append(samples)
        self._ends += [self._total + end for end in ends]
        self._total += len(samples)

    def _look(self, bucket: int, moved: list[_Queue]) -> None:
        """Update when a bucket is ready next, after samples were taken from the `moved` queues."""
        for queue in moved:
            queue.fitting[bucket] = self._fitting(queue, bucket)
        ready, oldest = 0, _NEVER
        for queue in self._queues:
            head, stop = queue.heads[bucket], queue.stops[bucket]
            after = head + queue.fitting[bucket]
            ready = max(ready, queue.came[after] if after < stop else _NEVER)
            if head < stop:
                oldest = min(oldest, queue.came[head])
        self._ready[bucket], self._oldest[bucket] = ready, oldest

    def _fitting(self, queue: _Queue, bucket: int) -> int:
        """Return how many of the next samples of a bucket fit the slots of one step."""
        head, stop = queue.heads[bucket], queue.stops[bucket]
        surely = min(self._surely[bucket], stop - head)
        at_most = min(self._at_most[bucket], stop - head)
        size = self._maker.size
        if surely == at_most:
            return surely
        if self._maker.each == 1:
            return size.fitting_one(queue.listed[head : head + at_most], surely)
        return size.fitting(queue.seconds[head : head + at_most], self._maker.each, surely=surely)

    def _make_last_steps(self) -> None:
        size, each = self._maker.size, self._maker.each
        orders, rooms = [], []
        for queue in self._queues:
            pairs = zip(queue.heads, queue.stops, strict=True)
            waiting = np.concatenate([np.arange(head, stop) for head, stop in pairs])
            waiting = waiting[np.argsort(-queue.seconds[waiting], kind="stable")]
            orders.append(queue.order[waiting])
            rooms.append(size.rooms(queue.seconds[waiting]).tolist())
        steps = max(-(-fewest_slots(one) // each) for one in rooms)
        ends = [spread(one, steps, each) for one in rooms]
        words = self._maker.words(self._steps, self._steps + steps)
        for step in np.argsort(words, kind="stable").tolist():
            for order, upto in zip(orders, ends, strict=True):
                begin = upto[step * each - 1] if step else 0
                mine = upto[step * each : (step + 1) * each]
                self._put(order[begin : mine[-1]], [end - begin for end in mine])
        self._steps += steps

    def _word(self) -> int:
        while self._steps >= len(self._words):
            known = len(self._words)
            self._words += self._maker.words(known, known + 256).tolist()
        return self._words[self._steps]
