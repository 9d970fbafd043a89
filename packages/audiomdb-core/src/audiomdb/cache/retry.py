"""Retry fetches that may succeed another time, up to a limit.

Broken connections and busy stores are normal, so an attempt that made progress does not count
against the limit: a file arrives even if the connection breaks every few megabytes. What counts is
consecutive attempts without progress. The waits between them grow, up to a limit, and are random,
so that the processes of many machines do not retry at the same moment. The total number of attempts
is limited too, against a store that delivers only a few bytes each time, or restarts each time.

During an outage that another process has noticed, see `failures.Outage`, only one attempt is made,
unless it shows that the store answers again: that ends the outage for all processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Protocol, TypeVar

from audiomdb.cache.counters import Counters
from audiomdb.cache.failures import Outage
from audiomdb.errors import DownloadInterruptedError
from audiomdb.lazy import importing
from audiomdb.log import logger

__all__ = ["FIRST_WAIT_S", "Progress", "Retries", "pause"]

_ATTEMPTS = 8
"""Consecutive attempts without progress. Their waits sum to 22 s on average, 45 s at most."""

_ATTEMPTS_AT_THE_START = 5
"""The same for the small files that are fetched first: 3 s on average, 6 s at most. There, a wrong
address is likelier than an outage."""

_ATTEMPTS_IN_ALL = 20
_BYTES_AN_ATTEMPT = 256 * 1024
"""Bytes that each attempt beyond those must bring on average."""

FIRST_WAIT_S = 0.4
"""Longest wait after the first attempt; it doubles with each one after it. The conformance kits
make it shorter."""

_LONGEST_WAIT_S = 20.0
_PROGRESS_BYTES = 64 * 1024
"""An attempt that brings fewer bytes counts as one without progress."""

_LOOK_UP_S = 0.1

T = TypeVar("T")


class Progress(Protocol):
    """Measures the progress of attempts."""

    @property
    def received(self) -> int:
        """Bytes that all attempts together have brought."""


class _Nothing:
    received = 0


class Retries:
    """Repeats the attempts at fetching one file; the limits hold for all calls together.

    Args:
        what: Name of what is fetched, for messages.
        counters: Counters in which retries are counted.
        check: Called several times a second while waiting; raises to stop.
        size: Size of the file in bytes.
        at_the_start: Whether this is one of the small files that are fetched first.
        outage: Outage of the store; if there was one lately, only one attempt is made. An attempt
            that succeeds or makes progress ends it.
    """

    def __init__(
        self,
        what: str,
        *,
        counters: Counters,
        check: Callable[[], None],
        size: int = 0,
        at_the_start: bool = False,
        outage: Outage | None = None,
    ) -> None:
        self.failed = 0
        """Attempts so far that did not succeed."""
        self._what = what
        self._counters = counters
        self._check = check
        self._in_all = _ATTEMPTS_IN_ALL + size // _BYTES_AN_ATTEMPT
        self._in_a_row = _ATTEMPTS_AT_THE_START if at_the_start else _ATTEMPTS
        self._outage = outage
        self._is_down = outage is not None and outage.lately()
        self._why = outage.why() if outage is not None and self._is_down else ""
        self._began = time.monotonic()

    def __call__(self, attempt: Callable[[], T], progress: Progress | None = None) -> T:
        """Call `attempt` until it succeeds, fails too often, or fails with a permanent error.

        Args:
            attempt: Function to call; raises ConnectionError or TimeoutError if a retry may help.
            progress: Progress of the attempts; any progress resets the count and the waits.

        Raises:
            DownloadInterruptedError: it has failed too often; says how often, how long and why.
            Exception: any other that an attempt raised.
        """
        tenacity = _tenacity()
        progress = progress or _Nothing()
        last: Exception | None = None

        def once() -> tuple[bool, T | None]:
            nonlocal last
            before = progress.received
            try:
                result = attempt()
            except (ConnectionError, TimeoutError) as error:
                self.failed += 1
                last = error
                if progress.received - before < _PROGRESS_BYTES:
                    raise
                self._store_answers()
                return False, None
            self._store_answers()
            return True, result

        try:
            while True:
                in_a_row = 1 if self._is_down else self._in_a_row
                try:
                    done, result = tenacity.Retrying(
                        retry=tenacity.retry_if_exception_type((ConnectionError, TimeoutError)),
                        stop=tenacity.stop_after_attempt(
                            min(in_a_row, max(1, self._in_all - self.failed))
                        ),
                        wait=tenacity.wait_random_exponential(
                            multiplier=FIRST_WAIT_S, max=_LONGEST_WAIT_S
                        ),
                        sleep=partial(pause, check=self._check),
                        before_sleep=self._again,
                        reraise=True,
                    )(once)
                except (ConnectionError, TimeoutError) as error:
                    raise self._given_up(error) from error
                if done:
                    return result  # type: ignore[no-any-return]
                assert last is not None, "what was not done has failed"
                if self.failed >= self._in_all:
                    raise self._given_up(last) from last
                self._check()
                self._counters.add(retries=1)
        finally:
            # Its traceback refers to this frame: the cycle would keep all callers' variables alive,
            # among them leases that should have ended.
            last = None

    def _store_answers(self) -> None:
        self._is_down = False
        if self._outage is not None:
            self._outage.end()

    def _again(self, state: Any) -> None:  # noqa: ANN401
        self._counters.add(retries=1)
        error = state.outcome.exception() if state.outcome else None
        # A warning only once it begins to take long.
        seconds = time.monotonic() - self._began
        log = logger("cache")
        say = log.info if state.attempt_number < _ATTEMPTS // 2 else log.warning
        say(
            "%s: attempt %d has failed after %.0f s, trying again: %s",
            self._what,
            self.failed,
            seconds,
            error,
        )

    def _given_up(self, error: Exception) -> DownloadInterruptedError:
        said = str(error) or type(error).__name__
        seconds = time.monotonic() - self._began
        times = "1 failed attempt" if self.failed == 1 else f"{self.failed} failed attempts"
        tried = f"given up after {times} in {seconds:.1f} s"
        if self._is_down and self.failed == 1:
            reason = f": {self._why}" if self._why else ""
            tried += f", since this store had failed moments before{reason}"
        else:
            tried += "; this was the last one's error"
        # Most errors of backends already begin with the file.
        text = said if self._what in said else f"{self._what}: {said}"
        return DownloadInterruptedError(f"{text} ({tried})")


@cache
def _tenacity() -> Any:  # noqa: ANN401
    """Return tenacity, which takes longer to import than the rest of this package."""
    with importing():
        # What `socket.getaddrinfo` imports, in an attempt that a fork could interrupt.
        import encodings.idna  # noqa: F401

        import tenacity

    return tenacity


def pause(seconds: float, *, check: Callable[[], None]) -> None:
    """Sleep for a number of seconds, calling `check` every 0.1 s."""
    end = time.monotonic() + seconds
    while (rest := end - time.monotonic()) > 0:
        check()
        time.sleep(min(rest, _LOOK_UP_S))
