"""Locks that an interrupt does not leave locked, on Python 3.14 either.

Python handles no signal between the `__enter__` of a lock and the block of its `with` statement;
otherwise a Ctrl-C could leave the lock locked, and all other threads would wait for it for ever.
Python 3.14 does handle signals there (python/cpython#148874, mended in 3.15): of the interrupts
that hit a loop of `with lock: pass`, a third leave it locked. Locks that the thread of a consumer
takes are therefore made here (docs/decisions/0033).
"""

from __future__ import annotations

import sys
from threading import Lock, RLock  # noqa: TID251

__all__ = ["Lock", "RLock"]

if sys.version_info[:2] == (3, 14):
    import _thread

    class RLock(_thread.RLock):  # type: ignore[no-redef]
        """A reentrant lock.

        Signals are handled when a call of C returns, and when a function of Python begins. So the
        lock is taken by the step of an iterator, and `__exit__` stays the one written in C.
        """

        def __enter__(self) -> bool:
            for _ in iter(self.acquire, None):
                break
            return True

    Lock = RLock  # one that is not reentrant cannot be subclassed
