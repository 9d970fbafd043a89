"""Threads that fetch shards before they are needed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from audiomdb.cache.manager import ShardCache
from audiomdb.cache.retry import Stopped

__all__ = ["Prefetcher"]

_LOOK_AGAIN_S = 0.25
"""After this a thread with nothing to do looks whether another process has made room."""

_LOOK_AGAIN_AT_LAST_S = 2.0
"""Each look reads the directory, so a thread that finds nothing looks less and less often."""

_LOOK_FOR_A_SLOT_S = 0.05

_AFTER_A_FAILURE_S = 30.0
"""So long a shard that could not be fetched is left to whoever needs it."""

_JOIN_S = 2.0


class Prefetcher:
    """Fetches what is wanted soonest and nobody else is fetching.

    Args:
        cache: Where to.
        wanted: Numbers of the shards that are needed next, soonest first.
        threads: How many.
    """

    def __init__(
        self, cache: ShardCache, wanted: Callable[[], Sequence[int]], threads: int
    ) -> None:
        self._cache = cache
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
        """Look again: other shards are wanted."""
        with self._changed:
            self._changes += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Stop. What is under way is given up at its next chunk, and resumed by whoever needs it.

        Does not wait for a store that does not answer.
        """
        self._closed = True
        self.wake()
        deadline = time.monotonic() + _JOIN_S
        for thread in self._threads:
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
                    with self._cache.lacking_slot():
                        self._rest(changes, _LOOK_FOR_A_SLOT_S)
                elif self._rest(changes, pause):
                    pause = _LOOK_AGAIN_S
                else:
                    pause = min(2 * pause, _LOOK_AGAIN_AT_LAST_S)
        except Stopped:
            pass
        except Exception:
            # Prefetching is a convenience: without it, shards are fetched when they are needed.
            import logging

            logging.getLogger("audiomdb.cache").exception("prefetching has ended")

    def _rest(self, changes: int, seconds: float) -> bool:
        """Wait for other shards to be wanted than at a count of changes; returns whether so."""
        with self._changed:
            if self._changes == changes:
                self._changed.wait(seconds)
            return self._changes != changes

    def _fetch_one(self) -> str:
        """Fetch what is wanted soonest; returns what came of it, "busy" where there is nothing."""
        for number in self._wanted():
            if time.monotonic() < self._failed.get(number, 0.0):
                continue
            outcome = self._cache.fetch_ahead(number, self._check)
            if outcome == "failed":  # whoever needs it learns why
                self._failed[number] = time.monotonic() + _AFTER_A_FAILURE_S
            if outcome in ("fetched", "full", "slots"):
                return outcome
        return "busy"

    def _check(self) -> None:
        if self._closed:
            raise Stopped
