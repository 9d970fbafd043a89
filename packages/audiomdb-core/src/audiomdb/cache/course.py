"""Decide which shards an iteration keeps open and which are fetched next.

With a small budget, an iteration may hold only `at_once` shards at a time, while its threads work
on tasks of different shards. Two rules keep it from waiting for itself.

A **visit** comprises the tasks of one shard that are drawn while later tasks need the shard. It is
open-ended while more tasks may join it. Tasks are drawn in order, and at most `at_once` visits are
open-ended at any time: when a task of another shard is drawn, the visit needed furthest in the
future is cut short, and its shard's next task begins a new one. (This does not happen with an order
that mixes `at_once` shards, unless a shard lies across a boundary between partitions.)

A task's shard may be opened while fewer than `at_once` other shards belong to unfinished visits
that began earlier. The earliest unfinished task always meets this condition, since those visits
were open-ended when it was drawn. So tasks only wait for earlier ones, and never in a circle.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence

import msgspec

from audiomdb.cache.manager import ShardCache
from audiomdb.cache.prefetch import Prefetcher
from audiomdb.locks import RLock
from audiomdb.threads import Stopped, call_apart

__all__ = ["CacheCourse"]

_UNKNOWN = -1
"""Position of a shard that is not in the order."""


class _Visit(msgspec.Struct):
    """One visit to a shard, from its first task to its last."""

    shard: int
    place: int
    """Position of the shard in the announced order."""

    tasks: int = 0
    """Number of tasks that are drawn and not done."""

    coming: bool = True
    """Whether the visit is open-ended: more tasks may join it."""

    again: bool = False
    """Whether the shard will have another visit, because this one was cut short."""


class CacheCourse:
    """Implements `audiomdb.shards.Course` for a cached dataset.

    Args:
        cache: The cache of the dataset.
        at_once: Shards that the iteration's order mixes at a time.
        workers: Number of processes that iterate side by side, including this one.
        open_shard: Function that opens a shard and keeps it open; its second argument is a function
            that it calls while it waits.
        close_shard: Function that closes a shard.

    Raises:
        CacheTooSmallError: the budget is less than all readers of the directory need.
    """

    def __init__(
        self,
        cache: ShardCache,
        at_once: int,
        *,
        workers: int = 1,
        open_shard: Callable[[int, Callable[[], None]], None],
        close_shard: Callable[[int], None],
    ) -> None:
        self._process = os.getpid()
        self._cache = cache
        self._limit = None if cache.holds_everything else max(1, at_once)
        self._open_shard = open_shard
        self._close_shard = close_shard
        self._registration = cache.register(
            at_once, 2 * len(cache.metadata.shards), workers=workers
        )
        # Not taken through the condition, whose code is Python: an interrupt there would leave it
        # locked.
        self._lock = RLock()
        self._changed = threading.Condition(self._lock)
        # Unfinished visits by number, in the order in which they began.
        self._visits: dict[int, _Visit] = {}
        self._begun = 0
        self._coming: dict[int, int] = {}
        self._order: list[int] = []
        self._places: dict[int, int] = {}
        self._stop = 0
        self._own = 0
        self._needed: frozenset[int] = frozenset()
        self._entered = 0
        self._opened = 0
        self._open: dict[int, bool] = {}
        self._in_use: Counter[int] = Counter()
        self._closed = self._over = False
        self._prefetcher: Prefetcher | None = None
        self._is_ending = sys.is_finalizing

    def begin(
        self, order: Sequence[int], following: Sequence[int] = (), *, continues: bool = True
    ) -> None:
        """Begin an epoch, see `Course`."""
        with self._lock:
            known = frozenset(order)
            # Unfinished visits come first, except those that continue in the new order.
            left = [v for v in self._visits.values() if not (v.coming and v.shard in known)]
            first = list(dict.fromkeys(visit.shard for visit in left))
            self._places = {shard: len(first) + at for at, shard in enumerate(order)}
            place_of = {shard: at for at, shard in enumerate(first)}
            for visit in self._visits.values():
                goes_on = visit.coming and visit.shard in known
                visit.place = (self._places if goes_on else place_of)[visit.shard]
            self._order = [*first, *order, *following]
            self._stop = len(first) + len(order)
            self._own = len(self._order) if continues else self._stop
            self._entered = self._opened = len(first)
            self._needed = frozenset()
            ahead = list(self._order)
        self._cache.publish(self._registration, ahead)

    def draw(self, shards: Sequence[int], needed: Collection[int]) -> list[int]:
        """Announce tasks, see `Course`.

        Raises:
            RuntimeError: in a forked child.
        """
        self._refuse_forked()
        needed = frozenset(needed)
        last = {shard: at for at, shard in enumerate(shards)}
        numbers = []
        with self._lock:
            for shard in [s for s in self._coming if s not in needed and s not in last]:
                self._end(shard)
            for at, shard in enumerate(shards):
                number = self._coming.get(shard)
                if number is None:
                    if self._limit is not None and len(self._coming) >= self._limit:
                        self._cut_short(shards, at, last)
                    number = self._begin(shard)
                numbers.append(number)
                self._visits[number].tasks += 1
                if last[shard] == at and shard not in needed:
                    self._end(shard)
            self._needed = frozenset(
                self._places[shard] for shard in needed if shard in self._places
            )
            if not needed:
                self._entered = self._stop
            self._moved()
        return numbers

    def enter(self, visit: int) -> None:
        """Wait until a shard is open, see `Course`.

        Raises:
            RuntimeError: in a forked child.
            Exception: as `ShardCache.lease`.
        """
        self._refuse_forked()
        try:
            self._enter(visit, self._visits[visit].shard)
        except BaseException:
            with self._lock:
                self._done(visit)
            raise

    def leave(self, visit: int) -> None:
        """Mark a task as done, see `Course`."""
        with self._lock:
            shard = self._visits[visit].shard
            self._in_use[shard] -= 1
            if self._closed and not self._in_use[shard]:
                self._release(shard)
            self._done(visit)

    def close(self) -> None:
        """End the iteration, see `Course`. May be called twice, and by the garbage collector.

        Shards that tasks are using are closed when these tasks are done.
        """
        self._closed = True
        # In a forked child, or at interpreter shutdown, a thread that is no more may have held the
        # lock. Shutdown also clears globals of modules; the kernel releases what is left.
        if not (self._over or self._is_ending()) and os.getpid() == self._process:
            call_apart(self._end_all)

    def _end_all(self) -> None:
        with self._lock:
            for shard in list(self._open):
                if self._open[shard] and not self._in_use[shard]:
                    self._release(shard)
            self._changed.notify_all()
        if self._prefetcher is not None:
            self._prefetcher.close()
        self._registration.close()
        self._over = True

    def _refuse_forked(self) -> None:
        # A thread of the parent may have held a lock during the fork, and none here releases it.
        if os.getpid() != self._process:
            raise RuntimeError(
                f"this iteration began in process {self._process}, whose cache is not open in "
                f"process {os.getpid()}; call iter() here"
            )

    def _begin(self, shard: int) -> int:
        number = self._begun
        self._begun += 1
        place = self._places.get(shard, _UNKNOWN)
        self._visits[number] = _Visit(shard, place)
        self._coming[shard] = number
        self._entered = max(self._entered, place + 1)
        return number

    def _end(self, shard: int, *, again: bool = False) -> None:
        """Let no more tasks join a shard's visit."""
        number = self._coming.pop(shard)
        visit = self._visits[number]
        visit.coming, visit.again = False, again
        if not visit.tasks:
            self._finish(number)

    def _cut_short(self, shards: Sequence[int], at: int, last: dict[int, int]) -> None:
        """End the open-ended visit that is needed furthest in the future."""

        def next_use(shard: int) -> int:
            if last.get(shard, -1) < at:
                return len(shards)
            return next(i for i in range(at, len(shards)) if shards[i] == shard)

        self._end(max(self._coming, key=next_use), again=True)

    def _enter(self, visit: int, shard: int) -> None:
        with self._lock:
            # Even an open shard is not used out of turn: it would have to stay open until its turn.
            while not (self._may_open(visit) and self._open.get(shard)):
                self._check()
                if shard not in self._open and self._may_open(visit):
                    self._open[shard] = False
                    break
                self._changed.wait()
            else:
                self._check()
                self._in_use[shard] += 1
                return
        try:
            self._open_shard(shard, self._check)
        except BaseException:
            with self._lock:
                del self._open[shard]
                self._changed.notify_all()
            raise
        with self._lock:
            self._open[shard] = True
            self._in_use[shard] += 1
            self._opened = max(self._opened, self._visits[visit].place + 1)
            new = self._look_ahead()
            self._moved()
        if new is not None:
            new.start()

    def _look_ahead(self) -> Prefetcher | None:
        """Prefetch once the first shard is open, so that it gets all the bandwidth.

        Returns:
            A new prefetcher, to be started without the lock.
        """
        options = self._cache.options
        if self._prefetcher is not None or not options.prefetch or self._closed:
            return None
        threads = min(max(1, options.workers - 1), options.prefetch)
        self._prefetcher = Prefetcher(self._cache.fetching, self._wanted, threads)
        return self._prefetcher

    def _done(self, number: int) -> None:
        visit = self._visits[number]
        visit.tasks -= 1
        if not visit.tasks and not visit.coming:
            self._finish(number)
            self._moved()

    def _may_open(self, number: int) -> bool:
        if self._limit is None:
            return True
        own = self._visits[number].shard
        earlier = {visit.shard for other, visit in self._visits.items() if other < number}
        earlier.discard(own)
        return len(earlier) < self._limit

    def _finish(self, number: int) -> None:
        visit = self._visits.pop(number)
        if visit.place != _UNKNOWN and not visit.again:
            self._registration.mark_done(visit.place)
        shard = visit.shard
        if not self._open.get(shard) or self._in_use[shard]:
            return
        others = (n for n, other in self._visits.items() if other.shard == shard)
        if self._closed or not any(self._may_open(other) for other in others):
            self._release(shard)

    def _release(self, shard: int) -> None:
        del self._open[shard]
        self._close_shard(shard)

    def _unfinished(self) -> set[int]:
        places = {visit.place for visit in self._visits.values()} | self._needed
        places.discard(_UNKNOWN)
        return places

    def _moved(self) -> None:
        self._changed.notify_all()
        low = min(self._unfinished(), default=self._entered)
        self._registration.advance(min(low, self._entered))
        if self._prefetcher is not None:
            self._prefetcher.wake()

    def _wanted(self) -> list[int]:
        """Return the shards to prefetch: not open, up to `prefetch` after the last one opened."""
        with self._lock:
            unfinished = self._unfinished()
            low = min(unfinished, default=self._entered)
            stop = min(self._own, max(low, self._opened) + self._cache.options.prefetch)
            soon = [at for at in range(low, stop) if at >= self._entered or at in unfinished]
            shards = dict.fromkeys(self._order[at] for at in soon)
            return [shard for shard in shards if shard not in self._open]

    def _check(self) -> None:
        if self._closed:
            raise Stopped
