"""Threads that wait to be woken, and that an interrupt cannot leave waiting for ever."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from queue import SimpleQueue

__all__ = ["Threads"]


class Threads:
    """Calls a function in a fixed number of threads, once each time that a thread is woken.

    `ThreadPoolExecutor` is similar, but its `submit` takes locks in Python code. A Ctrl-C between
    two lines of that code can leave a lock locked; then the threads wait for it for ever, and so
    does `shutdown`. Here, waking is a single call that is written in C.

    The threads are started by the first `wake`, and end with `close`, at exit at the latest.

    Args:
        call: Called without arguments, in several threads at once. Must not raise.
        count: Number of threads.
        name: Prefix of their names.
    """

    def __init__(self, call: Callable[[], None], count: int, name: str) -> None:
        self._call = call
        self._count = count
        self._name = name
        self._wakings: SimpleQueue[bool] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._this_thread = threading.current_thread
        self._running = _running

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
            thread.start()
            # A thread whose start is interrupted is not listed: it may never get beyond its start.
            self._threads.append(thread)

    def close(self) -> None:
        """End the threads, and wait for the calls in progress.

        The garbage collector may call this in one of the threads, which then does not wait for
        itself, or at interpreter shutdown, when globals of modules may be gone.
        """
        if self not in self._running:
            return
        for _ in range(self._count):
            self._wakings.put(False)
        this_thread = self._this_thread()
        for thread in self._threads:
            if thread is not this_thread:
                thread.join()
        # Now, not by the garbage collector in the middle of the next iteration: a Ctrl-C that hits
        # the callbacks with which `threading` forgets a thread is lost.
        self._threads.clear()
        self._running.discard(self)

    def _run(self) -> None:
        while self._wakings.get():
            self._call()


# Not a WeakSet: an interrupt that hits its callback, which is written in Python, would be lost.
_running: set[Threads] = set()


@atexit.register
def _close_all() -> None:
    # While they still can end: later, the interpreter stops daemons wherever they are.
    for threads in list(_running):
        threads.close()
