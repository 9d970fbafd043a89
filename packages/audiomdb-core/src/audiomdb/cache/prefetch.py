"""Prefetch shards in background threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from audiomdb.cache.fetching import Fetching
from audiomdb.log import logger
from audiomdb.threads import Alarm, Stopped, wait_for

__all__ = ["Prefetcher"]

_LOOK_AGAIN_S = 0.25
"""Interval at which an idle thread first checks whether another process has made room."""

_LOOK_AGAIN_AT_LAST_S = 2.0
"""Maximum of that interval, which doubles while there is none: each check reads the directory."""

_LOOK_FOR_A_SLOT_S = 0.05

_AFTER_A_FAILURE_S = 30.0
"""After a failure, a shard is not prefetched for this long."""


class Prefetcher:
    """Prefetches the shards needed soonest that are not being fetched already.

    Args:
        fetching: What fetches them.
        wanted: Function that returns the numbers of the shards needed next, soonest first.
        threads: Number of threads, which `start` starts.
    """

    def __init__(
        self, fetching: Fetching, wanted: Callable[[], Sequence[int]], threads: int
    ) -> None:
        self._fetching = fetching
        self._wanted = wanted
        self._closed = False
        self._failed: dict[int, float] = {}
        self._alarms = [Alarm() for _ in range(threads)]
        self._threads = [
            threading.Thread(
                target=self._run, args=(alarm,), name=f"audiomdb-prefetch-{number}", daemon=True
            )
            for number, alarm in enumerate(self._alarms)
        ]

    def start(self) -> None:
        """Start the threads, unless this is closed.

        Must not be called with a lock that `wanted` or `close` needs: a thread that is starting may
        be the one to collect garbage, and `start` waits for it.
        """
        for thread in self._threads:
            if not self._closed:
                thread.start()

    def wake(self) -> None:
        """Wake the threads, because other shards are wanted now. Takes no lock."""
        for alarm in self._alarms:
            alarm.ring()

    def close(self) -> None:
        """Stop the threads. A transfer ends at its next chunk, and is resumed when it is needed.

        Waits for at most 2 s, so a store that does not answer does not block it.
        """
        self._closed = True
        self.wake()
        wait_for(self._threads, give_up=True)

    def _run(self, alarm: Alarm) -> None:
        pause = _LOOK_AGAIN_S
        try:
            while not self._closed:
                alarm.rest(0)  # what has rung it before is seen now
                outcome = self._fetch_one()
                if outcome == "fetched":
                    pause = _LOOK_AGAIN_S
                elif outcome == "slots":
                    with self._fetching.slots.lacking(ahead=True) or nullcontext():
                        alarm.rest(_LOOK_FOR_A_SLOT_S)
                elif alarm.rest(pause):
                    pause = _LOOK_AGAIN_S
                else:
                    pause = min(2 * pause, _LOOK_AGAIN_AT_LAST_S)
        except Stopped:
            pass
        except Exception:  # noqa: BLE001
            # Prefetching is optional: without it, shards are fetched when they are needed.
            logger("cache").exception("prefetching has ended")

    def _fetch_one(self) -> str:
        """Fetch the shard wanted soonest; return the outcome, "busy" if there is none to fetch."""
        for number in self._wanted():
            if time.monotonic() < self._failed.get(number, 0.0):
                continue
            outcome = self._fetching.ahead(number, self._check)
            if outcome == "failed":  # a reader that needs it raises the reason
                self._failed[number] = time.monotonic() + _AFTER_A_FAILURE_S
            if outcome in ("fetched", "full", "slots"):
                return outcome
        return "busy"

    def _check(self) -> None:
        if self._closed:
            raise Stopped
