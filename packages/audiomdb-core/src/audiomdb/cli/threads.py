"""Work on many things at once that Ctrl-C can end."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeAlias, TypeVar

from audiomdb.cache.retry import Stopped

__all__ = ["Check", "each"]

Check: TypeAlias = Callable[[], None]
"""To be called now and then; raises when the work is to stop."""

_T = TypeVar("_T")
_R = TypeVar("_R")

_JOIN_S = 2.0


def each(
    work: Callable[[_T, Check], _R], items: Iterable[_T], *, workers: int
) -> Generator[_R, None, None]:
    """Results of work on each item, in the order in which they come.

    The first failure, or closing the iterator, ends the rest. The threads are not waited for beyond
    two seconds: one of them may hang on a store that does not answer. What it does may be cut short
    at any point by the end of the process.

    Args:
        work: Called in threads.
        items: What for.
        workers: How many at once.

    Raises:
        Exception: what `work` raises.
    """
    todo = deque(items)
    done: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Stopped

    def run() -> None:
        while not stop.is_set():
            try:
                item = todo.popleft()
            except IndexError:
                return
            try:
                done.put((work(item, check), None))
            except BaseException as exc:  # noqa: BLE001 - it is raised where the result is awaited
                done.put((None, exc))
                return

    expected = len(todo)
    threads = [
        threading.Thread(target=run, name=f"audiomdb-cli-{number}", daemon=True)
        for number in range(min(workers, expected))
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in range(expected):
            result, error = done.get()
            if error is not None:
                raise error
            yield result
    finally:
        stop.set()
        end = time.monotonic() + _JOIN_S
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
