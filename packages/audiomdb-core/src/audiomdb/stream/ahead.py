"""Process tasks ahead of time in threads, and yield the results in the order of the tasks.

Tasks are handed to threads in chunks, because passing one task to a thread and its result back
costs up to 20 us, as much as decoding a short word. A thread processes one chunk after another
until as many results are held ready as allowed, and then stops. The consumer restarts it when there
is room again. Nothing polls, and no thread waits for another: the result that the consumer needs
next is ready, or a thread is working on it, or the consumer computes it itself.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from functools import partial
from itertools import islice
from time import perf_counter
from typing import Generic, TypeVar

import msgspec

from audiomdb.locks import Lock
from audiomdb.stream.watch import Activity, Watch
from audiomdb.threads import Threads

__all__ = ["Room", "in_order"]

_TIME_EVERY = 32
"""Without threads, one of this many tasks is timed: that costs 1 us, reading a short text 4 us."""

T = TypeVar("T")
R = TypeVar("R")


class Room(msgspec.Struct, frozen=True):
    """Limits on how far threads work ahead.

    Attributes:
        results: Maximum number of results that are ready or in progress.
        held_bytes: Maximum size in bytes of the results that are ready. The size of a result is
            only known when it is done, so work in progress is added to this: one chunk for each
            thread. The default holds about 500 s of decoded audio at 16 kHz.
        chunk_tasks: Maximum number of tasks in a chunk. The first chunks are smaller, so that the
            consumer does not have to wait for sixteen results to get the first, nor for one
            thread's chunk of five while the other threads work further ahead.
        chunk_bytes: Maximum sum of the weights of a chunk's tasks, unless it has only one.
    """

    results: int = 256
    held_bytes: int = 32 << 20
    chunk_tasks: int = 16
    chunk_bytes: int = 1 << 20


def in_order(
    work: Callable[[T], R],
    tasks: Iterable[T],
    *,
    num_threads: int,
    weigh: Callable[[T], int],
    size: Callable[[R], int],
    room: Room | None = None,
    at_least: Callable[[], int] = lambda: 0,
    before_close: Callable[[], None] = lambda: None,
    watch: Watch | None = None,
) -> Generator[R, None, None]:
    """Yield `work(task)` for each task, in order.

    An exception of `work` or `tasks` is raised unchanged at its place in the order, and ends the
    generator. Threads are started by the first `next`. They have ended when the generator is
    exhausted, closed or garbage-collected, which waits only for tasks in progress; after Ctrl-C and
    at exit, no longer than 2 s.

    Args:
        work: Called from several threads concurrently.
        tasks: Iterated by one thread at a time, but not always the same thread.
        num_threads: Threads besides the consumer's; 0 does all work in the consumer's.
        weigh: Returns the cost of a task in bytes, which determines how chunks are cut.
        size: Returns the size of a result in bytes.
        room: Limits on how far to work ahead.
        at_least: Returns the number of results to work ahead regardless of their size: those that
            the consumer needs at once, so that they are ready when it asks for them. Until this
            many tasks have been taken, chunks hold one task each. May change; called often.
        before_close: Called at the end, before waiting for the threads; has to end any waiting in
            `work`.
        watch: Counts the results, and what the consumer waits for.
    """
    watch = watch or Watch()
    watch.begin()
    try:
        if num_threads == 0:
            yield from _at_once(work, tasks, watch)
        else:
            ahead = _Ahead(
                work, tasks, num_threads, weigh, size, room or Room(), at_least, before_close, watch
            )
            try:
                yield from _ahead(ahead, watch)
            except KeyboardInterrupt:
                ahead.close(give_up=True)
                raise
            finally:
                ahead.close()
    finally:
        watch.end()


def _at_once(work: Callable[[T], R], tasks: Iterable[T], watch: Watch) -> Generator[R, None, None]:
    activity, rest = watch.inline(), iter(tasks)
    done = 0
    try:
        # Not map(), which would take a StopIteration that escapes from `work` for the end.
        for task in rest:
            watch.inside = done + 1
            network_s, process_s, began = activity.network_s, activity.process_s, perf_counter()
            result = work(task)
            decoded, processed = activity.spend(began, network_s, process_s)
            watch.worked(_TIME_EVERY * decoded, _TIME_EVERY * processed)
            watch.inside = 0
            done += 1
            yield result
            watch.samples = done
            for task in islice(rest, _TIME_EVERY - 1):
                watch.inside = done + 1
                result = work(task)
                watch.inside = 0
                done += 1
                yield result
    finally:
        watch.samples = done


def _ahead(ahead: _Ahead[T, R], watch: Watch) -> Generator[R, None, None]:
    while (chunk := ahead.next_chunk()) is not None:
        results = chunk.results
        results.reverse()
        watch.samples += len(results)
        watch.sample_bytes += chunk.held
        try:
            while results:
                yield results.pop()
        finally:
            watch.samples -= len(results)  # if the iteration was left here
        if (error := chunk.error) is not None:
            # The traceback refers to the chunk, so without this, a reference cycle would keep
            # samples alive.
            chunk.error = None
            try:
                raise error
            finally:
                del error
        ahead.consumed(chunk)


class _Chunk(Generic[T, R]):
    """Tasks that one thread processes, and their results."""

    __slots__ = ("activity", "done", "error", "held", "results", "spent", "tasks")

    def __init__(self, activity: Activity) -> None:
        self.activity = activity
        self.spent = 0.0, 0.0
        """Seconds of decoding and of processing, once the chunk is done."""

        self.tasks: list[T] = []
        self.results: list[R] = []
        self.held = 0
        self.error: BaseException | None = None
        # A lock that another thread releases once is the cheapest object to wait for.
        self.done = threading.Lock()  # noqa: TID251
        self.done.acquire()

    def seconds(self) -> tuple[float, float]:
        """Return `spent`; to be called once the chunk is done."""
        return self.spent


class _Ahead(Generic[T, R]):
    """State shared by the consumer and its threads.

    It must not refer to the generator that uses it: the threads hold this object, and the generator
    must remain garbage-collectable while they run.
    """

    def __init__(
        self,
        work: Callable[[T], R],
        tasks: Iterable[T],
        num_threads: int,
        weigh: Callable[[T], int],
        size: Callable[[R], int],
        room: Room,
        at_least: Callable[[], int],
        before_close: Callable[[], None],
        watch: Watch,
    ) -> None:
        self._work = work
        self._weigh = weigh
        self._size = size
        self._room = room
        self._at_least = at_least
        self._before_close = before_close
        self._watch = watch
        self._process = os.getpid()
        self._num_threads = num_threads
        self._threads = Threads(self._serve, num_threads, "audiomdb-stream", stop=self._stop)
        self._closed = False
        # The following attributes change only under the lock, which is held for microseconds, or
        # for as long as `tasks` takes to yield a task.
        self._lock = Lock()
        self._tasks = iter(tasks)
        self._left_over: list[T] = []
        self._ended = False
        self._next_tasks = 1
        self._taken = 0
        self._pending: deque[_Chunk[T, R]] = deque()
        self._pending_tasks = 0
        self._in_hand = 0
        self._held = 0
        self._runners = 0

    def next_chunk(self) -> _Chunk[T, R] | None:
        """Return the next chunk in order, once it is done; None at the end."""
        if os.getpid() != self._process:
            raise RuntimeError(
                f"this iteration began in process {self._process}, whose threads do not exist in "
                f"process {os.getpid()}; call iter() here"
            )
        with self._lock:
            own = None if self._pending else self._take(1)
            chunk = self._pending.popleft() if self._pending else None
            self._in_hand = 0 if chunk is None else len(chunk.tasks)
        self._wake()  # now, since the consumer may not ask again for long
        if own is not None:
            self._watch.wait(partial(self._run, own), own.activity, own.seconds)
        if chunk is not None and not chunk.done.acquire(blocking=False):
            self._watch.wait(chunk.done.acquire, chunk.activity, chunk.seconds)
        return chunk

    def consumed(self, chunk: _Chunk[T, R]) -> None:
        """Subtract a consumed chunk from the results that are held."""
        if os.getpid() != self._process:
            return  # a thread may have held the lock during the fork, and none here releases it
        with self._lock:
            self._pending_tasks -= len(chunk.tasks)
            self._held -= chunk.held
            self._in_hand = 0

    def close(self, *, give_up: bool = False) -> None:
        """End the threads and wait for them; with `give_up`, no longer than 2 s."""
        try:
            self._stop()
        finally:
            self._threads.close(give_up=give_up)

    def _stop(self) -> None:
        self._closed = True
        self._before_close()

    def _wake(self) -> None:
        with self._lock:
            # Not as soon as there is any room: waking a thread costs more than a small task.
            if self._ended or self._full(0.5):
                return
            resting = self._num_threads - self._runners
            self._runners = self._num_threads
        self._threads.wake(resting)

    def _serve(self) -> None:
        while True:
            with self._lock:
                chunk = None
                if not self._closed and not self._full():
                    chunk = self._take(self._room.chunk_tasks)
                if chunk is None:
                    self._runners -= 1
                    return
            self._run(chunk)

    def _full(self, share: float = 1.0) -> bool:
        room, least, pending = self._room, self._at_least(), self._pending_tasks
        if pending - self._in_hand < least:
            return False
        return pending >= share * max(room.results, least) or self._held >= share * room.held_bytes

    def _take(self, most: int) -> _Chunk[T, R] | None:
        """Cut the next chunk off the tasks and add it to the order; None if no tasks are left."""
        # The calling thread is the one that will run the chunk.
        chunk: _Chunk[T, R] = _Chunk(self._watch.activity())
        weight = 0
        most = min(most, self._next_tasks)
        try:
            while len(chunk.tasks) < most and not self._ended:
                task = self._left_over.pop() if self._left_over else next(self._tasks)
                weight += self._weigh(task)
                if chunk.tasks and weight > self._room.chunk_bytes:
                    self._left_over.append(task)
                    break
                chunk.tasks.append(task)
        except StopIteration:
            self._ended = True
        except BaseException as error:  # noqa: BLE001 (raised by the consumer, at its place)
            self._ended = True
            chunk.error = error
        if not chunk.tasks and chunk.error is None:
            return None
        self._taken += len(chunk.tasks)
        if self._taken >= self._at_least():
            self._next_tasks = min(self._next_tasks + 1, self._room.chunk_tasks)
        self._pending.append(chunk)
        self._pending_tasks += len(chunk.tasks)
        return chunk

    def _run(self, chunk: _Chunk[T, R]) -> None:
        activity, began = chunk.activity, perf_counter()
        network_s, process_s = activity.network_s, activity.process_s
        try:
            for task in chunk.tasks:
                if self._closed:
                    break
                result = self._work(task)
                chunk.held += self._size(result)
                chunk.results.append(result)
        except BaseException as error:  # noqa: BLE001 (raised by the consumer, at its place)
            chunk.error = error
        chunk.spent = activity.spend(began, network_s, process_s)
        with self._lock:
            self._held += chunk.held
        chunk.done.release()
