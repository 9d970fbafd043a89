"""Run work on many items in threads, in a way that Ctrl-C can interrupt."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeAlias, TypeVar

from audiomdb.cache.retry import Stopped
from audiomdb.threads import wait_for

__all__ = ["Check", "each"]

Check: TypeAlias = Callable[[], None]
"""Function for `work` to call at intervals; raises if the work has to stop."""

_T = TypeVar("_T")
_R = TypeVar("_R")


def each(
    work: Callable[[_T, Check], _R], items: Iterable[_T], *, workers: int
) -> Generator[_R, None, None]:
    """Yield the results of `work` on each item, in order of completion.

    The first error, or closing the generator, stops the rest. Threads are joined for at most two
    seconds in total, because one of them may hang on a store that does not respond. Such a thread
    is a daemon and may be cut off at any point by the end of the process.

    Args:
        work: Called in threads, with an item and a function that raises if the work has to stop.
        items: The items to work on.
        workers: Number of threads.

    Raises:
        Exception: the error that `work` raised.
    """
    todo = deque(items)
    done: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
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
    threads = [
        threading.Thread(target=run, name=f"audiomdb-cli-{number}", daemon=True)
        for number in range(min(workers, expected))
    ]
    try:
        for thread in threads:
            thread.start()
        for _ in range(expected):
            result, error = done.get()
            if error is not None:
                raise error
            yield result
    finally:
        stopped = True
        wait_for(threads, give_up=True)
