"""Fetch pieces of a large file over additional connections, in threads beside the main stream.

One connection to a distant store is often slower than the line: its throughput is the window
divided by the round-trip time, or the store's limit per connection. The threads raise no errors:
after a failure they give back their piece and end, and the main stream meets the failure itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from audiomdb.cache.lock import Held
from audiomdb.cache.part_file import PartFile
from audiomdb.cache.slots import ExtraSlots
from audiomdb.cache.spans import Span
from audiomdb.log import logger

__all__ = ["Streams"]

_LOOK_UP_S = 0.05
_PROGRESS_BYTES = 64 * 1024
"""A thread whose connection breaks continues if the connection brought at least this many bytes."""


class Streams:
    """Runs the additional threads of one transfer. Use it in a `with` block.

    After the block, the threads end at their next chunk. They are not waited for, since a
    connection may not answer. Each thread holds a slot for as long as it has a connection.

    Args:
        file: File that the threads write to.
        fetch: Function that fetches a span; returns False when further calls are pointless.
        extra: Slots for the threads.
        most: Maximum number of threads.
    """

    def __init__(
        self, file: PartFile, fetch: Callable[[Span], bool], extra: ExtraSlots, *, most: int
    ) -> None:
        self._file = file
        self._fetch = fetch
        self._extra = extra
        self._most = most
        self._running = 0
        self._useless = False
        self._reserved: list[Held] = []

    def __enter__(self) -> Streams:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._most = 0
        self._release_slots()

    def reserve(self) -> int:
        """Take all available slots up to the maximum; return how many are taken."""
        while len(self._reserved) < self._most and (slot := self._extra.take()) is not None:
            self._reserved.append(slot)
        return len(self._reserved)

    def start(self, *, may: bool) -> None:
        """Start threads, if there are pieces and slots for them.

        Args:
            may: Whether the store names the version of the file, without which pieces of two
                versions could be combined.
        """
        if not may or self._useless or not self._file.in_pieces:
            self._release_slots()
            return
        for _ in range(min(self._most - self._running, self._file.unclaimed())):
            slot = self._reserved.pop() if self._reserved else self._extra.take()
            if slot is None:
                break
            with self._file.lock:
                self._running += 1
            # Daemon threads, so that they do not keep the interpreter from exiting.
            threading.Thread(
                target=self._run, args=(slot,), name="audiomdb-stream-of-a-shard", daemon=True
            ).start()
        self._release_slots()

    def wait(self) -> None:
        """Wait up to 0.05 s for a thread to give back a span, or to end."""
        with self._file.lock:
            if self._running and not self._file.whole:
                self._file.changed.wait(_LOOK_UP_S)

    def _run(self, slot: Held) -> None:
        try:
            with slot:
                while self._most and not self._extra.must_yield() and self._one():
                    pass
        finally:
            with self._file.lock:
                self._running -= 1
                self._file.changed.notify_all()

    def _one(self) -> bool:
        span = self._file.claim()
        if span is None:
            return False
        before = span.done
        try:
            if not self._fetch(span):
                self._useless = True
                return False
        except Exception as error:  # noqa: BLE001
            logger("cache").info("a piece from byte %d on broke off: %s", span.start, error)
            return span.done - before >= _PROGRESS_BYTES
        finally:
            self._file.give_back(span)
        return True

    def _release_slots(self) -> None:
        while self._reserved:
            self._reserved.pop().release()
