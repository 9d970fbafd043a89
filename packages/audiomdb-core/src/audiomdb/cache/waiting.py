"""Wait for slow transfers, and for other threads and processes, in a way that explains itself.

What takes long is logged at intervals, with its progress, so that it does not look like a hang; a
wait that cannot end becomes an error.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from audiomdb.errors import CacheTooSmallError
from audiomdb.log import logger
from audiomdb.quantities import size

__all__ = ["OtherTransfer", "ProgressLog", "ProgressThread", "WaitLoop", "how_far"]

_LOG_EVERY_S = 30.0
_SHORTEST_WAIT_S = 0.001
_LONGEST_WAIT_S = 0.02
_LOOK_EVERY_S = 1.0
_STALL_S = 60.0
"""If nothing moves for this long, the room is held by views that outlive their use."""


class WaitLoop:
    """One wait, for which the caller repeats `step`.

    Args:
        check: Called in each step; raises to give up.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._pause_s = _SHORTEST_WAIT_S
        self._began = self._logged_at = self._moved = self._looked = time.monotonic()
        self._state: object = None

    @property
    def seconds(self) -> float:
        """Duration of the wait so far."""
        return time.monotonic() - self._began

    def step(self) -> None:
        """Call `check` and sleep for one step, which is longer each time, up to 0.02 s."""
        self._check()
        time.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, _LONGEST_WAIT_S)

    def log(self, what: Callable[[], str]) -> None:
        """Log at intervals what is waited for, as `what` returns it."""
        now = time.monotonic()
        if now - self._logged_at >= _LOG_EVERY_S:
            self._logged_at = now
            logger("cache").warning("%s (%.0f s so far)", what(), self.seconds)

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


def how_far(done: int, total: int, gained: int, seconds: float) -> str:
    """Describe how many bytes of a file have arrived, and how fast they arrived recently."""
    speed = max(0, gained) / seconds if seconds > 0 else 0.0
    return f"{size(done)} of {size(total)} are there, at {size(speed)}/s"


class ProgressLog:
    """Logs the progress of a long transfer at intervals.

    Args:
        what: Name of what is transferred.
        size: Total number of bytes.
        done: Function that returns the bytes that have arrived; called for each message.
    """

    def __init__(self, what: str, size: int, done: Callable[[], int]) -> None:
        self._what, self._size, self._done = what, size, done
        self._began = self._logged_at = time.monotonic()
        self._before: int | None = None

    def tick(self, doing: str = "fetching") -> None:
        """Log the progress, if that was not done for a while. Cheap otherwise."""
        now = time.monotonic()
        if self._before is None:
            self._before = self._done()
        if now - self._logged_at >= _LOG_EVERY_S:
            self._log(doing, now)

    def _log(self, doing: str, now: float) -> None:
        done = self._done()
        gained, seconds = done - (self._before or 0), now - self._logged_at
        self._before, self._logged_at = done, now
        logger("cache").warning(
            "%s %s for %.0f s: %s",
            doing,
            self._what,
            now - self._began,
            how_far(done, self._size, gained, seconds),
        )


class ProgressThread:
    """Calls `ProgressLog.tick` from a thread, during a block of code that cannot do so itself."""

    def __init__(self, progress: ProgressLog, doing: str) -> None:
        self._progress, self._doing = progress, doing
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audiomdb-progress", daemon=True)

    def __enter__(self) -> ProgressThread:
        self._progress.tick(self._doing)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_LOG_EVERY_S):
            self._progress.tick(self._doing)


class OtherTransfer:
    """Describes the progress of a transfer in another thread or process.

    Args:
        arrived: Function that returns the bytes that have arrived.
        size: Total number of bytes.
    """

    def __init__(self, arrived: Callable[[], int], size: int) -> None:
        self._arrived, self._size = arrived, size
        self._at, self._before = time.monotonic(), arrived()

    def describe(self, why: str) -> str:
        """Describe why a shard is not there yet: no room if `why` is "full", else its transfer."""
        if why == "full":
            return "there is no room for it, and every shard in the cache is in use"
        now, here = time.monotonic(), self._arrived()
        text = how_far(here, self._size, here - self._before, now - self._at)
        self._at, self._before = now, here
        return f"another thread or process fetches it, {text}"
