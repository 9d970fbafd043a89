"""Saying how far and how fast a transfer is, so that a slow one does not look like a hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

__all__ = ["Pace", "Waiting", "Watch", "how_far"]

_SAY_SO_EVERY_S = 30.0


def how_far(done: int, size: int, gained: int, seconds: float) -> str:
    """Text for bytes of a file that are there, and how fast they came lately."""
    speed = gained / seconds / 1e6 if seconds > 0 else 0.0
    return f"{done / 1e6:.1f} of {size / 1e6:.1f} MB are there, at {speed:.2f} MB/s"


class Pace:
    """Tells, now and then, how something gets on that takes long.

    Args:
        what: It is.
        size: Bytes that are to come.
        done: Bytes that are there; called when something is said.
    """

    def __init__(self, what: str, size: int, done: Callable[[], int]) -> None:
        self._what, self._size, self._done = what, size, done
        self._began = self._said = time.monotonic()
        self._before: int | None = None

    def tick(self, doing: str = "fetching") -> None:
        """Say it, if it has not been said for a while. Costs nothing otherwise."""
        now = time.monotonic()
        if self._before is None:
            self._before = self._done()
        if now - self._said >= _SAY_SO_EVERY_S:
            self._say(doing, now)

    def _say(self, doing: str, now: float) -> None:
        import logging

        done = self._done()
        gained, seconds = done - (self._before or 0), now - self._said
        self._before, self._said = done, now
        logging.getLogger("audiomdb.cache").warning(
            "%s %s for %.0f s: %s",
            doing,
            self._what,
            now - self._began,
            how_far(done, self._size, gained, seconds),
        )


class Watch:
    """Ticks for code that cannot do it itself, in a `with` block."""

    def __init__(self, pace: Pace, doing: str) -> None:
        self._pace, self._doing = pace, doing
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audiomdb-watch", daemon=True)

    def __enter__(self) -> Watch:
        self._pace.tick(self._doing)
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
        while not self._ended.wait(_SAY_SO_EVERY_S):
            self._pace.tick(self._doing)


class Waiting:
    """What is known of a transfer that somebody else makes.

    Args:
        arrived: Gives the bytes that are there.
        size: Bytes that are to come.
    """

    def __init__(self, arrived: Callable[[], int], size: int) -> None:
        self._arrived, self._size = arrived, size
        self._at, self._before = time.monotonic(), arrived()

    def for_what(self, why: str) -> str:
        """Say why a shard is not there yet: "full", or somebody fetches it."""
        if why == "full":
            return "there is no room for it, and every shard in the cache is in use"
        now, here = time.monotonic(), self._arrived()
        text = how_far(here, self._size, here - self._before, now - self._at)
        self._at, self._before = now, here
        return f"another thread or process fetches it, {text}"
