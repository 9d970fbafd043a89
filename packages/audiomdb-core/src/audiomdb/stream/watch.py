"""Track what the threads of an iteration do, and what its consumer waits for.

The overhead is low enough to be always on: a thread records the position it begins with, and reads
the clock twice per chunk of samples. Only operations that may take long, fetching a shard and a
user's processor, are timed individually.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, TypeVar

import msgspec

from audiomdb.shards import Course, DatasetReader
from audiomdb.stream.stalls import Stall
from audiomdb.stream.stats import Cause, StreamStats

__all__ = ["Activity", "Watch", "Whose"]

R = TypeVar("R")

_FETCHED_S = 0.0005
"""Opening a shard that is already there takes less time than this."""


class Whose(msgspec.Struct, frozen=True):
    """The rank and worker of an iteration."""

    rank: int = 0
    world_size: int = 1
    worker: int | None = None


class Activity:
    """What one thread is doing. Written only by that thread."""

    __slots__ = ("at", "fetching", "network_s", "process_s", "processing")

    def __init__(self) -> None:
        self.at: tuple[DatasetReader, int] | None = None
        """The dataset of the sample that is worked on, and its position there."""

        self.processing = False
        self.fetching: tuple[DatasetReader, int, float] | None = None
        """The shard that is waited for, and the time since when."""

        self.network_s = 0.0
        self.process_s = 0.0

    def network_until(self, now: float) -> float:
        """Return the seconds spent on fetching shards, including the present wait."""
        fetching = self.fetching
        return self.network_s + (0.0 if fetching is None else now - fetching[2])

    def spend(self, began: float, network_s: float, process_s: float) -> tuple[float, float]:
        """Return the seconds of decoding and of processing since this thread began some work.

        Args:
            began: Time when it began.
            network_s: Value of `network_s` at that time.
            process_s: Value of `process_s` at that time.
        """
        processed = self.process_s - process_s
        return perf_counter() - began - processed - (self.network_s - network_s), processed


class Watch:
    """Observes the threads of one iteration and its consumer.

    Args:
        whose: Rank and worker of the iteration, for reports.
    """

    def __init__(self, whose: Whose | None = None) -> None:
        self.whose = whose or Whose()
        self.samples = 0
        self.left_out = 0
        """How many of `samples` are left out."""

        self.sample_bytes = 0
        self.inside = 0
        """Without threads: number of the task that the consumer is working on, from 1; 0 between
        tasks."""

        self._waited = {"network_s": 0.0, "decode_s": 0.0, "process_s": 0.0, "collate_s": 0.0}
        self.activities: dict[int, Activity] = {}
        """Activities by thread identifier."""

        self._courses: list[Course] = []
        self._inline: Activity | None = None
        self._waiting: tuple[float, Activity | None] | None = None
        self._began: float | None = None
        self._ended: float | None = None
        self._seen: tuple[object, float, int] | None = None
        self._stuck: tuple[int, float] | None = None

    def begin(self) -> None:
        """Record that the consumer has asked for the first sample or batch."""
        self._began = perf_counter()

    def end(self) -> None:
        """Record that the iteration is over. May be called twice."""
        if self._ended is None:
            self._ended = perf_counter()
            self._waiting = None
            self.inside = 0

    @property
    def ended(self) -> bool:
        """Whether the iteration is over."""
        return self._ended is not None

    def interrupt(self) -> None:
        """Wake all threads that wait for a shard, with an exception. Thread-safe."""
        for course in self._courses:
            course.close()

    def activity(self) -> Activity:
        """Return the activity of the calling thread."""
        thread = threading.get_ident()
        activity = self.activities.get(thread)
        if activity is None:
            activity = self.activities[thread] = Activity()
        return activity

    def follow(self, course: Course) -> None:
        """Let `interrupt` end the waits for the shards of a course."""
        self._courses.append(course)

    def fetch(self, reader: DatasetReader, number: int, get: Callable[[], R]) -> R:
        """Return the result of `get`, which may wait for a shard; called in the waiting thread."""
        activity = self.activity()
        began = perf_counter()
        activity.fetching = reader, number, began
        try:
            return get()
        finally:
            activity.fetching = None
            waited = perf_counter() - began
            if waited > _FETCHED_S:
                activity.network_s += waited

    def wait(
        self,
        until: Callable[[], object],
        activity: Activity,
        spent: Callable[[], tuple[float, float]],
    ) -> None:
        """Wait in the consumer for a thread, which may be the consumer's own.

        Args:
            until: Returns when the wait is over.
            activity: Activity of that thread.
            spent: Called after the wait; returns the seconds of decoding and of processing that the
                awaited work took.
        """
        began = perf_counter()
        fetched = activity.network_until(began)
        self._waiting = began, activity
        try:
            until()
        finally:
            self._waiting = None
            ended = perf_counter()
            network = activity.network_until(ended) - fetched
            network = max(0.0, min(network, ended - began))
            decoding, processing = spent()
            rest = ended - began - network
            processing *= rest / (decoding + processing) if processing else 0.0
            self._waited["network_s"] += network
            self.worked(rest - processing, processing)

    def worked(self, decode_s: float, process_s: float) -> None:
        """Add seconds that the consumer waited for samples to be decoded and processed."""
        self._waited["decode_s"] += decode_s
        self._waited["process_s"] += process_s

    @contextmanager
    def collating(self) -> Generator[None, None, None]:
        """Enclose the consumer's work of making a batch."""
        began = perf_counter()
        self._waiting = began, None
        try:
            yield
        finally:
            self._waiting = None
            self._waited["collate_s"] += perf_counter() - began

    def inline(self) -> Activity:
        """Record that the consumer does the work itself, and return its activity."""
        self._inline = self.activity()
        return self._inline

    @property
    def stats(self) -> StreamStats:
        """The statistics so far."""
        waited: dict[str, Any] = dict(self._waited)
        if self._inline is not None:
            waited["network_s"] += self._inline.network_s
        consumer = 0.0
        if self._began is not None:
            now = perf_counter() if self._ended is None else self._ended
            waiting = self._waiting
            rest = now - self._began - (0.0 if waiting is None else now - waiting[0])
            consumer = rest - sum(waited.values())
            if consumer < 0:  # times extrapolated from a few tasks may be too long
                consumer = 0.0
                guessed = waited["decode_s"] + waited["process_s"]
                room = max(0.0, rest - waited["network_s"] - waited["collate_s"])
                for name in ("decode_s", "process_s"):
                    waited[name] *= room / guessed if guessed else 0.0
        return StreamStats(
            samples=self.samples - self.left_out,
            left_out=self.left_out,
            sample_bytes=self.sample_bytes,
            consumer_s=consumer,
            **waited,
        )

    def look(self) -> Stall | None:
        """Return the consumer's present wait, or None. To be called from a single thread."""
        waiting = self._inline_wait() or self._waiting
        if waiting is None:
            self._seen = None
            return None
        since, activity = waiting
        waited_s = perf_counter() - since
        if activity is None:
            return self._stall(waited_s, "collate")
        fetching = activity.fetching
        if fetching is not None:
            return self._arriving(waited_s, fetching[0], fetching[1])
        self._seen = None
        cause: Cause = "process" if activity.processing else "decode"
        return self._stall(waited_s, cause, **_sample(activity))

    def _inline_wait(self) -> tuple[float, Activity] | None:
        """Return the wait of a consumer that does the work itself, from when it was first seen."""
        inside = self.inside
        if self._inline is None or not inside:
            self._stuck = None
            return None
        if self._stuck is None or self._stuck[0] != inside:
            self._stuck = inside, perf_counter()
        return self._stuck[1], self._inline

    def _stall(self, waited_s: float, cause: Cause, **known: Any) -> Stall:  # noqa: ANN401
        whose = self.whose
        return Stall(
            waited_s=waited_s,
            cause=cause,
            rank=whose.rank,
            world_size=whose.world_size,
            worker=whose.worker,
            **known,
        )

    def _arriving(self, waited_s: float, reader: DatasetReader, number: int) -> Stall:
        metadata = reader.metadata
        known: dict[str, Any] = {"dataset": metadata.name, "shard": metadata.shards[number].path}
        arrival = reader.arrival(number)
        if arrival is not None:
            now, what = perf_counter(), (id(reader), number)
            if self._seen is None or self._seen[0] != what:
                self._seen = what, now, arrival.there_bytes
            _, since, before = self._seen
            known |= arrival._asdict()
            if now > since:
                known["bytes_per_s"] = (arrival.there_bytes - before) / (now - since)
        return self._stall(waited_s, "network", **known)


def _sample(activity: Activity) -> dict[str, Any]:
    """Return the names of the sample that a thread is working on, as far as they are known."""
    if activity.at is None:
        return {}
    reader, position = activity.at
    number, place = reader.locate(position)
    metadata = reader.metadata
    shard = reader.opened(number)
    return {
        "dataset": metadata.name,
        "shard": metadata.shards[number].path,
        "key": None if shard is None else shard.index.key(place),
    }
