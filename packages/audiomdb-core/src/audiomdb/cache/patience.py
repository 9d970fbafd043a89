"""Waiting for other threads and processes: in growing steps, not silently, not for ever."""

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
"""Room that nobody frees for so long is held by views that outlive their use."""


class Patience:
    """One wait.

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
        """How long it has lasted."""
        return time.monotonic() - self._began

    def wait(self) -> None:
        """Wait one step, longer than the last one."""
        self._check()
        time.sleep(self._step)
        self._step = min(2 * self._step, _LONGEST_WAIT_S)

    def say(self, what: Callable[[], str]) -> None:
        """Say now and then what is waited for."""
        now = time.monotonic()
        if now - self._said >= _SAY_SO_EVERY_S:
            self._said = now
            import logging

            logging.getLogger("audiomdb.cache").warning("%s (%.0f s so far)", what(), self.seconds)

    def watch(self, state: Callable[[], object], problem: Callable[[], str]) -> None:
        """Give up when `state` has been the same for too long.

        Raises:
            CacheTooSmallError: with what `problem` says.
        """
        now = time.monotonic()
        if self._state is not None and now - self._looked < _LOOK_EVERY_S:
            return
        self._looked, seen = now, state()
        if seen != self._state:
            self._state, self._moved = seen, now
        elif now - self._moved >= _STALL_S:
            raise CacheTooSmallError(problem())
