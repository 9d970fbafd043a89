"""Measure what the iterations over a dataset wait for, in this process and in its workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from functools import reduce
from itertools import count
from time import perf_counter
from typing import Any

import msgspec
from torch.utils.data import get_worker_info

from audiomdb.cache import CacheStats
from audiomdb.checks import check_function
from audiomdb.data.shared import SharedNote, training_process
from audiomdb.errors import CacheError
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.stream.portable import portable
from audiomdb.stream.stalls import Stall, StallWatcher, check_stall_after, log_stall
from audiomdb.stream.stats import StreamStats
from audiomdb.stream.watch import Watch, Whose

__all__ = ["Loop", "LoopMeter", "Monitor", "Report"]


class Report(msgspec.Struct, frozen=True):
    """A worker's report on one of its iterations.

    Attributes:
        owner: Process id of the training process.
        pid: Process id of the worker.
        stats: Statistics of the iteration so far.
        stall: The current wait; None if there is none.
    """

    owner: int
    pid: int
    stats: StreamStats
    stall: Stall | None = None


class _Here:
    """The state of a monitor for the iterations in this process."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.used = False
        self.watches: list[Watch] = []
        self.ended = StreamStats()
        self.reported: CacheStats | None = None
        self.numbers = count()


class Monitor:
    """Collects statistics and stalls of the iterations over a dataset.

    Iterations of the training process are queried on demand. Workers write reports to a note that
    all copies of the dataset share, periodically and at the end of an iteration.

    Args:
        stall_after_s: Seconds of waiting after which the cause is logged; None: never.
        on_stall: Called with each `Stall` after it was logged, in a thread of the waiting process.

    Raises:
        ValueError: `stall_after_s` is neither None nor a number above 0.
        TypeError: `on_stall` is no function.
    """

    def __init__(
        self,
        stall_after_s: float | None = None,
        on_stall: Callable[[Stall], Any] | None = None,
    ) -> None:
        check_stall_after(stall_after_s)
        if on_stall is not None:
            check_function("on_stall", on_stall)
        self.stall_after_s = stall_after_s
        self.on_stall = on_stall
        self._note = SharedNote({"live": {}, "gone": {}})
        self._here = _Here()

    def __getstate__(self) -> tuple[Any, ...]:
        return self.stall_after_s, portable(self.on_stall), self._note

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.stall_after_s, self.on_stall, self._note = state
        self._here = _Here()

    @contextmanager
    def following(
        self, watch: Watch, retrievers: Iterable[BaseRetriever], *, speaks: bool = True
    ) -> Generator[None, None, None]:
        """Monitor an iteration within the `with` block.

        Args:
            watch: The watch of the iteration.
            retrievers: The retrievers that the iteration reads from.
            speaks: Whether to log stalls here. If False, a worker only reports them.
        """
        here = self._mine()
        here.used = True
        here.watches.append(watch)
        report = self._reporter(watch, list(retrievers)) if get_worker_info() else None
        after_s = self.stall_after_s if speaks else None
        try:
            with StallWatcher(watch.look, after_s, log_stall(self.on_stall), each_look=report):
                yield
        finally:
            watch.end()
            here.watches.remove(watch)
            here.ended = here.ended.plus(watch.stats)
            if report is not None:
                report(None)

    def stats(self, retrievers: Iterable[BaseRetriever] = ()) -> StreamStats:
        """Return the sums over all iterations of this training process and its workers."""
        here = self._mine()
        total = here.ended
        for watch in list(here.watches):
            total = total.plus(watch.stats)
        if here.used:
            total = total.plus(StreamStats(cache=_cache_stats(retrievers)))
        owner = training_process()
        with self._note.changing() as note:
            gone = note["gone"].get(str(owner), {})
            reports = _reports(note, owner)
        total = total.plus(msgspec.convert(gone, StreamStats))
        for report in reports:
            total = total.plus(report.stats)
        return total

    def stall_of_workers(self) -> Stall | None:
        """Return the longest current wait that a worker of this process reports, or None."""
        with self._note.changing() as note:
            reports = _reports(note, training_process())
        # The last report of a worker that was killed while it waited stays there for ever.
        stalls = [
            report.stall for report in reports if report.stall is not None and _runs(report.pid)
        ]
        return max(stalls, key=lambda stall: stall.waited_s, default=None)

    def _reporter(
        self, watch: Watch, retrievers: list[BaseRetriever]
    ) -> Callable[[Stall | None], None]:
        here, owner, pid = self._mine(), training_process(), os.getpid()
        name = f"{owner} {pid} {next(here.numbers)}"
        reported = here.reported

        def report(stall: Stall | None) -> None:
            now = here.reported = _cache_stats(retrievers)
            # Earlier iterations have already reported part of the cache's statistics.
            cache = None if now is None else now.minus(reported or CacheStats())
            stats = msgspec.structs.replace(watch.stats, cache=cache)
            with self._note.changing() as note:
                if not watch.ended:
                    note["live"][name] = msgspec.to_builtins(Report(owner, pid, stats, stall))
                    return
                note["live"].pop(name, None)
                gone = msgspec.convert(note["gone"].get(str(owner), {}), StreamStats)
                note["gone"][str(owner)] = msgspec.to_builtins(gone.plus(stats))

        return report

    def _mine(self) -> _Here:
        """Return the state of this process, and not the one that a forked worker has inherited."""
        if self._here.process != os.getpid():
            self._here = _Here()
        return self._here


class LoopMeter:
    """Measures how long loops over batches wait, and how long they take themselves.

    Args:
        monitor: Monitor of the iterations that make the batches.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._waited_s = 0.0
        self._consumer_s = 0.0
        self._running: list[Loop] = []

    @contextmanager
    def loop(self, whose: Whose, inner: Callable[[], Stall | None]) -> Generator[Loop, None, None]:
        """Measure a loop within the `with` block, and log when it waits for long.

        Args:
            whose: The part of the run that the loop belongs to.
            inner: Returns the current wait in making the batches, or None.
        """
        monitor, loop = self._monitor, Loop(whose, inner)
        speak = log_stall(monitor.on_stall)
        self._running.append(loop)
        try:
            with StallWatcher(loop.look, monitor.stall_after_s, speak):
                yield loop
        finally:
            self._running.remove(loop)
            self._waited_s += loop.waited_s
            self._consumer_s += loop.consumer_s

    def stats(self, retrievers: Iterable[BaseRetriever]) -> StreamStats:
        """Return how long the loops have waited so far, by cause.

        Batches are made ahead, so a wait in making them need not delay a loop: the waiting time of
        the loops is divided among the causes in the proportions of the waits in making batches.
        """
        made, running = self._monitor.stats(retrievers), list(self._running)
        waited = self._waited_s + sum(loop.waited_s for loop in running)
        consumer = self._consumer_s + sum(loop.consumer_s for loop in running)
        scale = waited / made.wait_s if made.wait_s else 0.0
        return msgspec.structs.replace(
            made,
            network_s=scale * made.network_s,
            decode_s=scale * made.decode_s,
            process_s=scale * made.process_s,
            collate_s=scale * made.collate_s if made.wait_s else waited,
            consumer_s=consumer,
        )


class Loop:
    """The times of one loop over batches.

    Args:
        whose: The part of the run that the loop belongs to.
        inner: Returns the current wait in making the batches, or None.
    """

    def __init__(self, whose: Whose, inner: Callable[[], Stall | None]) -> None:
        self.waited_s = 0.0
        self.consumer_s = 0.0
        self._whose = whose
        self._inner = inner
        self._waiting_since: float | None = None
        self._left_at: float | None = None

    @contextmanager
    def waiting(self) -> Generator[None, None, None]:
        """Measure the wait for a batch, which is the `with` block."""
        began = self._waiting_since = perf_counter()
        if self._left_at is not None:
            self.consumer_s += began - self._left_at
        try:
            yield
        finally:
            self._waiting_since = None
            self._left_at = perf_counter()
            self.waited_s += self._left_at - began

    def look(self) -> Stall | None:
        """Return the current wait of the loop; None if there is none."""
        since = self._waiting_since
        if since is None:
            return None
        waited_s = perf_counter() - since
        stall = self._inner()
        if stall is not None:
            return msgspec.structs.replace(stall, waited_s=waited_s)
        whose = self._whose
        return Stall(
            waited_s=waited_s, cause="worker", rank=whose.rank, world_size=whose.world_size
        )


def _cache_stats(retrievers: Iterable[BaseRetriever]) -> CacheStats | None:
    """Return the summed cache statistics of this process; None if no dataset has a cache."""
    found = []
    for retriever in dict.fromkeys(retrievers):
        with suppress(CacheError):  # the dataset is read in place, without a cache
            found.append(retriever.cache_stats)
    return reduce(CacheStats.plus, found) if found else None


def _reports(note: dict[str, Any], owner: int) -> list[Report]:
    reports = [msgspec.convert(report, Report) for report in note["live"].values()]
    return [report for report in reports if report.owner == owner]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:  # no such process, or by now somebody else's
        return False
    return True
