"""Prefetch shards in background threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from audiomdb.cache.fetching import Fetching
from audiomdb.cache.retry import Stopped

__all__ = ["Prefetcher"]

_LOOK_AGAIN_S = 0.25
"""Interval at which an idle thread first checks whether another process has made room."""

_LOOK_AGAIN_AT_LAST_S = 2.0
"""Maximum of that interval, which doubles while there is none: each check reads the directory."""

_LOOK_FOR_A_SLOT_S = 0.05

_AFTER_A_FAILURE_S = 30.0
"""After a failure, a shard is not prefetched for this long."""

_JOIN_S = 2.0


class Prefetcher:
    """Prefetches the shards needed soonest that are not being fetched already.

    Args:
        fetching: What fetches them.
        wanted: Function that returns the numbers of the shards needed next, soonest first.
        threads: Number of threads.
    """

    def __init__(
        self, fetching: Fetching, wanted: Callable[[], Sequence[int]], threads: int
    ) -> None:
        self._fetching = fetching
        self._wanted = wanted
        self._changed = threading.Condition()
        self._changes = 0
        self._closed = False
        self._failed: dict[int, float] = {}
        self._threads = [
            threading.Thread(target=self._run, name=f"audiomdb-prefetch-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Wake the threads, because other shards are wanted now."""
        with self._changed:
            self._changes += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Stop the threads. A transfer ends at its next chunk, and is resumed when it is needed.

        Waits for at most 2 s, so a store that does not answer does not block it.
        """
        self._closed = True
        self.wake()
        deadline = time.monotonic() + _JOIN_S
        for thread in self._threads:
            # The garbage collector may close an iteration in any thread.
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        pause = _LOOK_AGAIN_S
        try:
            while not self._closed:
                changes = self._changes
                outcome = self._fetch_one()
                if outcome == "fetched":
                    pause = _LOOK_AGAIN_S
                elif outcome == "slots":
                    with self._fetching.slots.lacking(ahead=True) or nullcontext():
                        self._rest(changes, _LOOK_FOR_A_SLOT_S)
                elif self._rest(changes, pause):
                    pause = _LOOK_AGAIN_S
                else:
                    pause = min(2 * pause, _LOOK_AGAIN_AT_LAST_S)
        except Stopped:
            pass
        except Exception:
            # Prefetching is optional: without it, shards are fetched when they are needed.
            import logging

            logging.getLogger("audiomdb.cache").exception("prefetching has ended")

    def _rest(self, changes: int, seconds: float) -> bool:
        """Wait until `wake` is called after the given count of changes; return whether it was."""
        with self._changed:
            if self._changes == changes:
                self._changed.wait(seconds)
            return self._changes != changes

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
