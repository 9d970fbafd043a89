"""Following a reader through the shards: what to keep open, what to fetch next.

A reader whose budget is short may hold only so many shards at once, though its threads work on
tasks of different shards. The rule that keeps it from waiting for itself: a shard may be opened
when fewer than `at_once` shards that come before it are unfinished. The earliest task under way
always fulfils it, because whatever came before its shard and is unfinished is needed *now*, and
`at_once` counts exactly that. So tasks wait for earlier ones only, and never in a circle. (Which
shard comes before which is taken from the tasks as they are drawn; the order of visits serves
prefetching and eviction.)
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from itertools import chain

import msgspec

from audiomdb.cache.manager import ShardCache
from audiomdb.cache.prefetch import Prefetcher
from audiomdb.cache.retry import Stopped

__all__ = ["CacheCourse"]


class _Epoch(msgspec.Struct, frozen=True):
    first: int
    order: Sequence[int]
    visit_of: dict[int, int]

    @property
    def stop(self) -> int:
        return self.first + len(self.order)


class CacheCourse:
    """An iteration's way through a cached dataset; see `audiomdb.shards.Course`.

    Visits are numbered through all epochs. A visit is unfinished while a drawn task belongs to it
    or a later one will.

    Args:
        cache: Where the shards are.
        at_once: Shards that the iteration's order mixes at a time.
        open_shard: Opens a shard and keeps it open; gets a function to call while it waits.
        let_go: Lets go of one.

    Raises:
        CacheTooSmallError: the budget is less than all readers of the directory need.
    """

    def __init__(
        self,
        cache: ShardCache,
        at_once: int,
        *,
        open_shard: Callable[[int, Callable[[], None]], None],
        let_go: Callable[[int], None],
    ) -> None:
        self._cache = cache
        self._limit = None if cache.holds_everything else at_once
        self._open_shard = open_shard
        self._let_go = let_go
        self._registration = cache.register(at_once, 2 * len(cache.metadata.shards))
        self._published_from = 0
        self._changed = threading.Condition()
        self._epochs: deque[_Epoch] = deque()
        self._following: Sequence[int] = ()
        self._tasks: Counter[int] = Counter()
        self._rank: dict[int, int] = {}
        self._ranked = 0
        self._needed: frozenset[int] = frozenset()
        self._entered = 0
        self._opened = 0
        self._open: dict[int, bool] = {}
        self._in_use: Counter[int] = Counter()
        self._closed = False
        self._prefetcher: Prefetcher | None = None

    def begin(
        self, order: Sequence[int], following: Sequence[int] = (), *, continues: bool = True
    ) -> None:
        """Begin an epoch, see `Course`."""
        with self._changed:
            first = self._epochs[-1].stop if self._epochs else 0
            visit_of = {shard: first + place for place, shard in enumerate(order)}
            self._epochs.append(_Epoch(first, order, visit_of))
            self._following = following if continues else ()
            low = self._low()
            while len(self._epochs) > 1 and self._epochs[0].stop <= low:
                self._epochs.popleft()
            ahead = [shard for epoch in self._epochs for shard in epoch.order]
            ahead = ahead[low - self._epochs[0].first :]
            self._published_from = low
        self._cache.publish(self._registration, [*ahead, *following])
        options = self._cache.options
        if self._prefetcher is None and options.prefetch:
            threads = min(max(1, options.workers - 1), options.prefetch)
            self._prefetcher = Prefetcher(self._cache, self._wanted, threads)

    def draw(self, shards: Sequence[int], needed: Collection[int]) -> list[int]:
        """Announce tasks, see `Course`."""
        with self._changed:
            visit_of = self._epochs[-1].visit_of
            visits = [visit_of[shard] for shard in shards]
            self._tasks.update(visits)
            before, self._needed = self._needed, frozenset(visit_of[shard] for shard in needed)
            for visit in chain(visits, sorted(self._needed)):
                if visit not in self._rank:
                    self._rank[visit] = self._ranked
                    self._ranked += 1
            if needed:
                self._entered = max(
                    self._entered,
                    *(visit + 1 for visit in visits),
                    *(visit + 1 for visit in self._needed),
                )
            else:
                self._entered = self._epochs[-1].stop
            for visit in before - self._needed:
                self._finish(visit)
            self._moved()
        return visits

    def enter(self, visit: int) -> None:
        """Wait until a shard is open, see `Course`.

        Raises:
            Exception: as `ShardCache.lease`.
        """
        with self._changed:
            shard = self._shard(visit)
            assert shard is not None, "the visit of a drawn task is known until it is left"
        try:
            self._enter(visit, shard)
        except BaseException:
            with self._changed:
                self._done(visit)
            raise

    def leave(self, visit: int) -> None:
        """Say that a task is done, see `Course`."""
        with self._changed:
            shard = self._shard(visit)
            assert shard is not None, "the visit of a task is known until it is left"
            self._in_use[shard] -= 1
            if self._closed and not self._in_use[shard]:
                self._release(shard)
            self._done(visit)

    def close(self) -> None:
        """End it, see `Course`. May be called twice.

        Shards that tasks are at work on are let go of when these are done.
        """
        with self._changed:
            self._closed = True
            for shard in list(self._open):
                if self._open[shard] and not self._in_use[shard]:
                    self._release(shard)
            self._changed.notify_all()
        if self._prefetcher is not None:
            self._prefetcher.close()
        self._registration.close()

    def _enter(self, visit: int, shard: int) -> None:
        with self._changed:
            # Not even one that is open is used out of turn: it would have to stay open until then.
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
            with self._changed:
                del self._open[shard]
                self._changed.notify_all()
            raise
        with self._changed:
            self._open[shard] = True
            self._in_use[shard] += 1
            self._opened = max(self._opened, visit + 1)
            self._moved()

    def _done(self, visit: int) -> None:
        self._tasks[visit] -= 1
        if not self._tasks[visit]:
            del self._tasks[visit]
            self._finish(visit)
            self._moved()

    def _may_open(self, visit: int) -> bool:
        if self._limit is None:
            return True
        rank = self._rank[visit]
        earlier = sum(self._rank[other] < rank for other in self._tasks.keys() | self._needed)
        return earlier < self._limit

    def _finish(self, visit: int) -> None:
        if visit in self._tasks or visit in self._needed:
            return
        del self._rank[visit]
        self._registration.strike(visit - self._published_from)
        shard = self._shard(visit)
        again = (
            self._shard(other) == shard and self._may_open(other)
            for other in self._tasks.keys() | self._needed
        )
        if shard is None or not self._open.get(shard) or self._in_use[shard]:
            return
        if self._closed or not any(again):
            self._release(shard)

    def _release(self, shard: int) -> None:
        del self._open[shard]
        self._let_go(shard)

    def _low(self) -> int:
        """The first visit that is unfinished or lies ahead."""
        return min(self._tasks.keys() | self._needed, default=self._entered)

    def _moved(self) -> None:
        self._changed.notify_all()
        self._registration.advance(max(0, self._low() - self._published_from))
        if self._prefetcher is not None:
            self._prefetcher.wake()

    def _wanted(self) -> list[int]:
        """Shards to fetch ahead: those not open, up to `prefetch` after the last one opened."""
        with self._changed:
            low = self._low()
            stop = max(low, self._opened) + self._cache.options.prefetch
            unfinished = self._tasks.keys() | self._needed
            soon = [v for v in range(low, stop) if v >= self._entered or v in unfinished]
            shards = [self._shard(visit) for visit in soon]
            return [s for s in dict.fromkeys(shards) if s is not None and s not in self._open]

    def _shard(self, visit: int) -> int | None:
        """The shard of a visit; of the following epoch too, as far as it is known."""
        for epoch in self._epochs:
            if epoch.first <= visit < epoch.stop:
                return epoch.order[visit - epoch.first]
        ahead = visit - (self._epochs[-1].stop if self._epochs else 0)
        return self._following[ahead] if 0 <= ahead < len(self._following) else None

    def _check(self) -> None:
        if self._closed:
            raise Stopped
