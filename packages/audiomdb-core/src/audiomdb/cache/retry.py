"""Trying again what may succeed another time, and when to stop.

Cut connections and busy stores are normal, so an attempt that brought something new does not count
against the limit: a file arrives though the connection breaks every few megabytes. What does count
are attempts in a row that bring nothing; between them the waits grow, up to a limit, and are drawn
at random, so that the processes of many machines do not come back at the same moment. There is a
limit on all attempts together, too: a store that brings crumbs for ever, or begins anew each time,
does not work.

Once the store has failed somebody for good, there is no sense in everybody else finding out by
themselves: for a while, each of the others tries once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from audiomdb.cache.counters import Counters
from audiomdb.errors import DownloadInterruptedError

__all__ = ["Outage", "Progress", "Retries", "Stopped", "pause"]

_ATTEMPTS = 8
"""In a row that bring nothing. The waits between them are 22 s on average, 45 s at most."""

_ATTEMPTS_AT_THE_START = 5
"""The same for the small files that a dataset begins with: 3 s, and 6 s. There, a wrong address is
likelier than an outage."""

_ATTEMPTS_IN_ALL = 20
_BYTES_AN_ATTEMPT = 256 * 1024
"""On average each attempt beyond those has to bring so much."""

_FIRST_WAIT_S = 0.4
_LONGEST_WAIT_S = 20.0
_PROGRESS_BYTES = 64 * 1024
"""An attempt that brings less counts as one that brought nothing."""

_LOOK_UP_S = 0.1
_LONGEST_REASON = 500
_OUTAGE_S = 30.0

T = TypeVar("T")


class Stopped(Exception):  # noqa: N818
    """A transfer was given up because nobody needs it any more; never seen outside."""


class Progress(Protocol):
    """What tells whether attempts bring something."""

    @property
    def received(self) -> int:
        """Bytes that all of them have brought."""


class _Nothing:
    received = 0


class Outage:
    """A sign, for all processes of the machine, that the store has failed one of them for good.

    Args:
        path: The file that is the sign.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def lately(self) -> bool:
        """Whether somebody gave up in the last half minute, and nobody has succeeded since."""
        try:
            age = time.time() - self._path.stat().st_mtime
        except OSError:
            return False
        return 0 <= age < _OUTAGE_S

    def begin(self, why: str = "") -> None:
        """Say that the store does not answer, and why that is thought.

        While it is said already, the first reason stays: what comes after it was tried once only.
        """
        with suppress(OSError):  # without it others take a little longer to find out
            if self.lately():
                self._path.touch()
            else:
                self._path.write_text(why[:_LONGEST_REASON], encoding="utf-8")

    def why(self) -> str:
        """What was said when it began; empty where that is not known."""
        try:
            return self._path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def end(self) -> None:
        """Say that it does."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


class Retries:
    """The attempts at one thing, which may be several: the limits hold for all of them together.

    Args:
        what: Is being fetched, for messages.
        counters: Where retries are counted.
        check: Called several times a second while waiting; raises to stop.
        size: Bytes that are to come.
        at_the_start: A small file that comes first.
        outage: Whether the store has failed others lately: then there is one attempt.
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
        self._outage = outage is not None and outage.lately()
        self._why = outage.why() if outage is not None and self._outage else ""
        self._began = time.monotonic()

    def __call__(self, attempt: Callable[[], T], progress: Progress | None = None) -> T:
        """Call `attempt` until it succeeds, as long as it fails with what another try may mend.

        Args:
            attempt: Raises ConnectionError or TimeoutError where another try may help.
            progress: An attempt that brought something starts the count, and the waits, anew.

        Raises:
            DownloadInterruptedError: it has failed too often; says how often, how long and why.
            Exception: any other that an attempt raised.
        """
        # Takes longer to import than the rest of this room.
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt
        from tenacity.wait import wait_random_exponential

        progress = progress or _Nothing()
        last: Exception | None = None

        def once() -> tuple[bool, T | None]:
            nonlocal last
            before = progress.received
            try:
                return True, attempt()
            except (ConnectionError, TimeoutError) as error:
                self.failed += 1
                last = error
                if progress.received - before < _PROGRESS_BYTES:
                    raise
                return False, None

        try:
            while True:
                in_a_row = 1 if self._outage else self._in_a_row
                try:
                    done, result = Retrying(
                        retry=retry_if_exception_type((ConnectionError, TimeoutError)),
                        stop=stop_after_attempt(min(in_a_row, max(1, self._in_all - self.failed))),
                        wait=wait_random_exponential(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S),
                        sleep=partial(pause, check=self._check),
                        before_sleep=self._again,
                        reraise=True,
                    )(once)
                except (ConnectionError, TimeoutError) as error:
                    raise self._given_up(error) from error
                if done:
                    return result  # type: ignore[return-value]
                assert last is not None, "what was not done has failed"
                if self.failed >= self._in_all:
                    raise self._given_up(last) from last
                self._check()
                self._counters.add(retries=1)
        finally:
            # Its traceback leads here: such a circle keeps all callers' variables alive, among
            # them leases that should have ended.
            last = None

    def _again(self, state: Any) -> None:  # noqa: ANN401
        self._counters.add(retries=1)
        import logging

        error = state.outcome.exception() if state.outcome else None
        # Said aloud once it begins to take long.
        seconds = time.monotonic() - self._began
        level = logging.INFO if state.attempt_number < _ATTEMPTS // 2 else logging.WARNING
        logging.getLogger("audiomdb.cache").log(
            level,
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
        if self._outage and self.failed == 1:
            reason = f": {self._why}" if self._why else ""
            tried += f", since this store had failed moments before{reason}"
        else:
            tried += "; this was the last one's error"
        # Most errors of backends begin with the file.
        text = said if self._what in said else f"{self._what}: {said}"
        return DownloadInterruptedError(f"{text} ({tried})")


def pause(seconds: float, *, check: Callable[[], None]) -> None:
    """Sleep, looking up now and then."""
    end = time.monotonic() + seconds
    while (rest := end - time.monotonic()) > 0:
        check()
        time.sleep(min(rest, _LOOK_UP_S))
