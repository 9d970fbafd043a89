"""Leaving the Hub alone for as long as it asks, which nobody has to sit out."""

from __future__ import annotations

import time
from collections.abc import Generator

from audiomdb.cache.retry import Stopped
from audiomdb.errors import DownloadError

__all__ = ["Pause"]

_LOOK_UP_S = 0.1


class Pause:
    """The time until which the Hub wants no requests; one for all threads of a retriever.

    Has no lock, which a fork could leave locked for ever.
    """

    def __init__(self) -> None:
        self._until = 0.0
        self._ends = 0

    def ask(self, seconds: float) -> None:
        """Note that the Hub asks to wait."""
        self._until = max(self._until, time.monotonic() + seconds)

    def left_s(self) -> float:
        """Seconds that are left of it."""
        return max(0.0, self._until - time.monotonic())

    def end(self) -> None:
        """Have all who wait stop waiting. What the Hub asked for still stands."""
        self._ends += 1

    def chunks(self, error: Exception) -> Generator[bytes, None, None]:
        """Wait, in the shape of a file's bytes, of which none come; then raise the error.

        A cache looks at each chunk whether the file is still wanted. So it gives up soon where an
        iteration is left, which it would not know of while a request is being made.

        Args:
            error: Why nothing comes, and whether another try may help.

        Raises:
            DownloadError: `end` was called.
        """
        import logging

        log = logging.getLogger("audiomdb.retrievers")
        log.warning("the Hub asks to wait %.0f s before the next request", self.left_s())
        ends = self._ends
        try:
            while (left := self.left_s()) > 0:
                if self._ends != ends:
                    raise _ClosedError(f"closed while the Hub asks to wait, for {left:.0f} s more")
                time.sleep(min(left, _LOOK_UP_S))
                yield b""
            raise error
        finally:
            # Its traceback leads here: such a circle keeps all callers' variables alive.
            del error


class _ClosedError(Stopped, DownloadError):
    """Somebody closed the retriever: no failure that other processes are to hear of."""
