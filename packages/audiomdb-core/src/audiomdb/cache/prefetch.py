"""Threads that fetch shards before they are needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from audiomdb.cache.manager import ShardCache
from audiomdb.cache.retry import Stopped

__all__ = ["Prefetcher"]

_LOOK_AGAIN_S = 0.25
"""After this a thread with nothing to do looks whether another process has made room."""

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
        self._failed: set[int] = set()
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
        for thread in self._threads:
            thread.join(_JOIN_S)

    def _run(self) -> None:
        try:
            while not self._closed:
                changes = self._changes
                if not self._fetch_one():
                    with self._changed:
                        if self._changes == changes:
                            self._changed.wait(_LOOK_AGAIN_S)
        except Stopped:
            pass
        except Exception:
            # Prefetching is a convenience: without it, shards are fetched when they are needed.
            import logging

            logging.getLogger("audiomdb.cache").exception("prefetching has ended")

    def _fetch_one(self) -> bool:
        for number in self._wanted():
            if number in self._failed:
                continue
            outcome = self._cache.fetch_ahead(number, self._check)
            if outcome == "failed":
                self._failed.add(number)  # whoever needs it learns why
            if outcome in ("fetched", "failed"):
                return True
            if outcome == "full":
                return False
        return False

    def _check(self) -> None:
        if self._closed:
            raise Stopped
