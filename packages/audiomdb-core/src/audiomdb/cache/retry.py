"""Trying again what may succeed another time.

Cut connections and busy stores are normal, so an attempt that brought something new does not count
against the limit: a file arrives though the connection breaks every few megabytes. What does count
are attempts in a row that bring nothing; between them the waits grow, up to a limit, and are drawn
at random, so that the processes of many machines do not come back at the same moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar

from audiomdb.cache.counters import Counters

__all__ = ["Progress", "Stopped", "pause", "retrying"]

_ATTEMPTS = 6
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 20.0
_PROGRESS_BYTES = 64 * 1024
"""An attempt that brings less counts as one that brought nothing."""

_LOOK_UP_S = 0.1

T = TypeVar("T")


class Stopped(Exception):  # noqa: N818
    """A transfer was given up because nobody needs it any more; never seen outside."""


class Progress(Protocol):
    """What tells whether an attempt brought something: the bytes that the last one received."""

    received: int


class _Nothing:
    received = 0


def retrying(
    attempt: Callable[[], T],
    progress: Progress | None = None,
    *,
    counters: Counters,
    check: Callable[[], None],
) -> T:
    """Call `attempt` until it succeeds, as long as it fails with what another try may mend.

    Args:
        attempt: Raises ConnectionError or TimeoutError where another try may help.
        progress: An attempt that brought something starts the count, and the waits, anew.
        counters: Where retries are counted.
        check: Called several times a second while waiting; raises to stop.

    Raises:
        Exception: what the last attempt raised.
    """
    # Takes longer to import than the rest of this room.
    from tenacity import Retrying, retry_if_exception_type, stop_after_attempt
    from tenacity.wait import wait_random_exponential

    progress = progress or _Nothing()

    def before_sleep(_: Any) -> None:  # noqa: ANN401
        counters.add(retries=1)

    def once() -> tuple[bool, T | None]:
        try:
            return True, attempt()
        except (ConnectionError, TimeoutError):
            if progress.received < _PROGRESS_BYTES:
                raise
            return False, None

    while True:
        done, result = Retrying(
            retry=retry_if_exception_type((ConnectionError, TimeoutError)),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random_exponential(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S),
            sleep=partial(pause, check=check),
            before_sleep=before_sleep,
            reraise=True,
        )(once)
        if done:
            return result  # type: ignore[return-value]
        check()
        counters.add(retries=1)


def pause(seconds: float, *, check: Callable[[], None]) -> None:
    """Sleep, looking up now and then."""
    end = time.monotonic() + seconds
    while (rest := end - time.monotonic()) > 0:
        check()
        time.sleep(min(rest, _LOOK_UP_S))
