"""Pause requests for as long as the Hub asks, in a way that can be interrupted."""

from __future__ import annotations

import time
from collections.abc import Generator

from audiomdb.errors import DownloadError
from audiomdb.log import logger
from audiomdb.threads import Stopped

__all__ = ["Pause"]

_LOOK_UP_S = 0.1


class Pause:
    """The time until which the Hub wants no requests, shared by all threads of a retriever.

    Uses no lock, because a fork could leave a lock locked for ever.
    """

    def __init__(self) -> None:
        self._until = 0.0
        self._ends = 0

    def ask(self, seconds: float) -> None:
        """Extend the pause to `seconds` from now, as the Hub has asked."""
        self._until = max(self._until, time.monotonic() + seconds)

    def left_s(self) -> float:
        """Return the seconds left of the pause."""
        return max(0.0, self._until - time.monotonic())

    def end(self) -> None:
        """Interrupt all current waits. The pause itself stays in force."""
        self._ends += 1

    def chunks(self, error: Exception) -> Generator[bytes, None, None]:
        """Yield empty chunks until the pause is over, then raise the error.

        A cache checks after each chunk whether the file is still wanted, so it gives up soon after
        an iteration is left. It could not notice that during a request.

        Args:
            error: The error to raise; its class shows whether another attempt may succeed.

        Raises:
            DownloadError: `end` was called.
        """
        logger("retrievers").warning(
            "the Hub asks to wait %.0f s before the next request", self.left_s()
        )
        ends = self._ends
        try:
            while (left := self.left_s()) > 0:
                if self._ends != ends:
                    raise _ClosedError(f"closed while the Hub asks to wait, for {left:.0f} s more")
                time.sleep(min(left, _LOOK_UP_S))
                yield b""
            raise error
        finally:
            # Its traceback refers to this frame; the cycle would keep all callers' variables alive.
            del error


class _ClosedError(Stopped, DownloadError):
    """The retriever was closed; not a failure to be reported to other processes."""
