"""Wait for other threads and processes in growing steps, with log messages and a limit."""

from __future__ import annotations

import time
from collections.abc import Callable

from audiomdb.errors import CacheTooSmallError

__all__ = ["Patience"]

_SHORTEST_WAIT_S = 0.001
_LONGEST_WAIT_S = 0.02
_SAY_SO_EVERY_S = 30.0
_LOOK_EVERY_S = 1.0
_STALL_S = 60.0
"""If nothing moves for this long, the room is held by views that outlive their use."""


class Patience:
    """Controls one wait, which the caller makes in a loop.

    Args:
        check: Called in each step; raises to give up.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._step = _SHORTEST_WAIT_S
        self._began = self._said = self._moved = self._looked = time.monotonic()
        self._state: object = None

    @property
    def seconds(self) -> float:
        """Duration of the wait so far."""
        return time.monotonic() - self._began

    def wait(self) -> None:
        """Call `check` and sleep for one step, which is longer each time, up to 0.02 s."""
        self._check()
        time.sleep(self._step)
        self._step = min(2 * self._step, _LONGEST_WAIT_S)

    def say(self, what: Callable[[], str]) -> None:
        """Log at intervals what is waited for, as `what` returns it."""
        now = time.monotonic()
        if now - self._said >= _SAY_SO_EVERY_S:
            self._said = now
            import logging

            logging.getLogger("audiomdb.cache").warning("%s (%.0f s so far)", what(), self.seconds)

    def watch(self, state: Callable[[], object], problem: Callable[[], str]) -> None:
        """Give up when the result of `state` has not changed for a minute.

        Raises:
            CacheTooSmallError: with the text that `problem` returns.
        """
        now = time.monotonic()
        if self._state is not None and now - self._looked < _LOOK_EVERY_S:
            return
        self._looked, seen = now, state()
        if seen != self._state:
            self._state, self._moved = seen, now
        elif now - self._moved >= _STALL_S:
            raise CacheTooSmallError(problem())
