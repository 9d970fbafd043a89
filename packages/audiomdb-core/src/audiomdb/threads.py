"""Threads that an interrupt cannot leave waiting for ever: woken one by one, or given work.

`ThreadPoolExecutor` and its futures are similar, but they take locks in Python code. A Ctrl-C
between two lines of that code can leave a lock locked; then the threads wait for it for ever, and
so does `shutdown`. Here, the thread that Ctrl-C interrupts calls only what is written in C.
"""

from __future__ import annotations

import atexit
import gc
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeAlias, TypeVar

from audiomdb.lazy import importing

__all__ = [
    "Alarm",
    "Check",
    "Stopped",
    "ThreadPool",
    "Threads",
    "Work",
    "call_apart",
    "each",
    "wait_for",
]

_PATIENCE_S = 2.0

Check: TypeAlias = Callable[[], None]
"""Function for work to call at intervals; raises `Stopped` if its result is not needed any more."""

_R = TypeVar("_R")
_T = TypeVar("_T")


class Stopped(Exception):  # noqa: N818
    """Raised to end work that is no longer needed; never seen by users of the library."""


def wait_for(
    threads: Iterable[threading.Thread],
    *,
    give_up: bool = False,
    _ending: Callable[[], bool] = sys.is_finalizing,
) -> None:
    """Wait until threads have ended, other than the calling one and those that were not started.

    At interpreter shutdown it waits for none: daemon threads never end there.

    The garbage collector may call this through a finalizer, wherever it interrupts a thread: within
    `with lock:` too, while the threads to wait for need that lock to end. Then this gives up after
    2 s, and the threads end by themselves once the collector has returned.

    Args:
        threads: The threads.
        give_up: Give up after 2 s in any case: what the threads wait for may never come.
    """
    if _ending():
        return
    this_thread = threading.current_thread()
    others = [thread for thread in threads if thread is not this_thread and thread.is_alive()]
    end = time.monotonic() + _PATIENCE_S
    for thread in others:
        thread.join(max(0.0, end - time.monotonic()))
    if give_up:
        return
    if any(thread.is_alive() for thread in others) and not _is_collecting():
        for thread in others:
            thread.join()


def _is_collecting() -> bool:
    """Return whether garbage is being collected, in this thread or another."""
    circle: list[object] = []
    circle.append(circle)
    del circle
    return gc.collect(0) == 0  # it does nothing while it is running already


def call_apart(call: Callable[[], None]) -> None:
    """Call a function that takes locks, for a finalizer that the garbage collector may run.

    The thread that the collector interrupts may hold one of the locks, or another one for which a
    thread waits that holds one of them. So the call is made in a thread of its own. It is waited
    for as in `wait_for`; an exception of it is raised here, if that was not given up.
    """
    work = Work(call)
    thread = threading.Thread(target=work.run, name="audiomdb-ending", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # there are too many, or none may be started any more: the process ends
        work.run()
    wait_for([thread])
    if work.done():
        work.result()


class Alarm:
    """Wakes a thread from its rest. Like an auto-reset event, for one thread that rests.

    An `Event` or a `Condition` has a lock in Python code: `set` would wait for ever if the garbage
    collector called it in the thread that is just beginning to wait.
    """

    def __init__(self) -> None:
        self._silence = threading.Lock()  # noqa: TID251 (any thread releases it)
        self._silence.acquire()

    def ring(self) -> None:
        """End the present rest, or else the next one."""
        with suppress(RuntimeError):  # it rings already
            self._silence.release()

    def rest(self, seconds: float) -> bool:
        """Rest until the alarm rings, for at most this long; return whether it rang."""
        return self._silence.acquire(timeout=seconds)


class Threads:
    """Calls a function in a fixed number of threads, once each time that a thread is woken.

    The threads are started by the first `wake`, and end with `close`, at exit at the latest.

    Args:
        call: Called without arguments, in several threads at once. Must not raise.
        count: Number of threads.
        name: Prefix of their names.
        stop: Called at exit, to have the calls in progress end soon: they are then waited for no
            longer than 2 s. None: they are waited for to their end.
    """

    def __init__(
        self,
        call: Callable[[], None],
        count: int,
        name: str,
        *,
        stop: Callable[[], None] | None = None,
    ) -> None:
        self._call = call
        self._stop = stop
        self._count = count
        self._name = name
        self._wakings: SimpleQueue[bool] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._started = 0
        importing()  # is prepared here, before a fork could interrupt one of the threads in that
        self._wait_for = wait_for
        self._running = _running
        self._stopped = False

    def wake(self, count: int) -> None:
        """Call the function `count` times, in threads that rest."""
        self._running.add(self)
        for _ in range(count):
            self._wakings.put(True)
        while len(self._threads) < self._count:
            # Daemons, because the interpreter waits for others before it calls `_close_all`.
            thread = threading.Thread(
                target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True
            )
            # A thread whose start is interrupted is counted, since it may take a waking, and not
            # listed, since it may never get beyond its start.
            self._started += 1
            thread.start()
            self._threads.append(thread)

    def close(self, *, give_up: bool = False) -> None:
        """End the threads, and wait for the calls in progress, see `wait_for`.

        The garbage collector may call this in one of the threads, or at interpreter shutdown, when
        globals of modules may be gone.
        """
        if self not in self._running:
            return
        for _ in range(self._started):
            self._wakings.put(False)
        self._wait_for(self._threads, give_up=give_up or self._stopped)
        # Now, not by the garbage collector in the middle of the next iteration: a Ctrl-C that hits
        # the callbacks with which `threading` forgets a thread is lost.
        self._threads.clear()
        self._started = 0
        self._running.discard(self)

    def stop_at_exit(self) -> None:
        """Call `stop`, if there is one."""
        if self._stop is not None:
            self._stopped = True
            self._stop()

    def _run(self) -> None:
        while self._wakings.get():
            self._call()


class Work(Generic[_T]):
    """A call that a `ThreadPool` makes, and its outcome. Like a `Future`, for one waiting thread.

    Args:
        call: Function to call without arguments.
    """

    def __init__(self, call: Callable[[], _T]) -> None:
        self._call: Callable[[], _T] | None = call
        self._outcome: tuple[_T | None, BaseException | None] | None = None
        self._ended: SimpleQueue[None] = SimpleQueue()

    def run(self) -> None:
        """Make the call, unless it was cancelled. Called by the pool, in one of its threads."""
        call, self._call = self._call, None
        if call is None:
            return
        try:
            self._outcome = call(), None
        except BaseException as error:  # noqa: BLE001 - raised by `result`
            self._outcome = None, error
        self._ended.put(None)

    def done(self) -> bool:
        """Return whether `result` returns at once."""
        return self._outcome is not None

    def cancel(self) -> None:
        """Do not make the call, if it has not begun: then there is no `result` to wait for."""
        self._call = None

    def result(self) -> _T:
        """Wait for the end of the call; return what it returned, or raise what it raised."""
        if self._outcome is None:
            self._ended.get()
        assert self._outcome is not None, "the outcome comes before the end"
        result, error = self._outcome
        if error is None:
            return result  # type: ignore[return-value]
        try:
            raise error
        finally:
            # Its traceback refers to this frame: the cycle would keep all callers' variables alive.
            del error, self


class ThreadPool:
    """Makes calls in threads, in the order in which they were submitted.

    Has the methods of an `Executor` that are needed here. One thread submits, waits and shuts down.

    Args:
        count: Number of threads, which the first `submit` starts.
        name: Prefix of their names.
    """

    def __init__(self, count: int, name: str) -> None:
        self._works: SimpleQueue[Work[Any]] = SimpleQueue()
        self._threads = Threads(partial(_run_next, self._works), count, name)
        # In case the caller forgets to shut it down.
        weakref.finalize(self, self._threads.close).atexit = False

    def submit(self, call: Callable[..., _T], *args: Any) -> Work[_T]:  # noqa: ANN401
        """Have a function called with some arguments."""
        work = Work(partial(call, *args))
        self._works.put(work)
        self._threads.wake(1)
        return work

    def shutdown(self, *, cancel_futures: bool = False, give_up: bool = False) -> None:
        """End the threads, after the calls that were submitted. Idempotent.

        Args:
            cancel_futures: Do not make the calls that have not begun.
            give_up: Wait for the other calls no longer than 2 s.
        """
        with suppress(Empty):
            while cancel_futures:
                self._works.get_nowait()
        self._threads.close(give_up=give_up)


def _run_next(works: SimpleQueue[Work[Any]]) -> None:
    # All that there is: the thread that submitted a work may have been interrupted before it woke
    # one for it. There may be none: cancelled, or done by another thread.
    with suppress(Empty):
        while True:
            works.get_nowait().run()


def each(
    work: Callable[[_T, Check], _R],
    items: Iterable[_T],
    *,
    workers: int,
    name: str,
    give_up: bool = False,
) -> Generator[_R, None, None]:
    """Yield the results of `work` on each item, in order of completion.

    The first error, or closing the generator, stops the rest. The threads are daemons: the end of
    the process cuts off those that are not waited for any more.

    Args:
        work: Called in threads, with an item and a function that raises if the work has to stop.
        items: The items to work on.
        workers: Maximum number of threads.
        name: Prefix of their names.
        give_up: Wait for them no longer than 2 s, see `wait_for`.

    Raises:
        Exception: the error that `work` raised.
    """
    todo = deque(items)
    done: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
    # Not an Event, whose lock an interrupt could leave locked.
    stopped = False

    def check() -> None:
        if stopped:
            raise Stopped

    def run() -> None:
        while not stopped:
            try:
                item = todo.popleft()
            except IndexError:
                return
            try:
                done.put((work(item, check), None))
            except BaseException as exc:  # noqa: BLE001 - re-raised in the consuming thread
                done.put((None, exc))
                return

    expected = len(todo)
    threads: list[threading.Thread] = []
    try:
        for number in range(min(workers, expected)):
            thread = threading.Thread(target=run, name=f"{name}-{number}", daemon=True)
            thread.start()
            # Not waited for if its start is interrupted, since it may never get beyond that.
            threads.append(thread)
        for _ in range(expected):
            result, error = done.get()
            if error is not None:
                raise error
            yield result
    finally:
        stopped = True
        wait_for(threads, give_up=give_up)


# Not a WeakSet: an interrupt that hits its callback, which is written in Python, would be lost.
_running: set[Threads] = set()


@atexit.register
def _close_all() -> None:
    # While they still can end: later, the interpreter stops daemons wherever they are.
    for threads in list(_running):
        threads.stop_at_exit()
    for threads in list(_running):
        threads.close()
