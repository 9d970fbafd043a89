"""What a process has in a cache directory besides shards; put back when somebody deletes it.

A directory that is in use may be deleted, or any part of it: `rm -rf`, a cleaner of temporary
files. What is mapped stays readable; all else is made again, whoever comes across it first, and
fetched again when it is needed. Before it takes room, each process looks whether all it has there
is there still, which is a listing of the directory. Until then it may cost this:

- Readers whose entries are gone are not counted, and what they read next is not spared. One that
  registers meanwhile is let in though the budget may not do for all of them. Entries come back
  without asking, since their readers cannot be sent away; should all of them then wait for each
  other's room, that is reported like room that views use up.
- Shards that were deleted while they are read take up the disk until they are let go of, but count
  no more: the disk may hold so much beyond the budget.
- Transfers under way have slots that are deleted, beside as many new ones. Signs of who lacks room
  or a slot are lost, so that what is fetched ahead does not stand back for that wait.
- Where `budget.lock` is deleted while one holds it, another has the new one at the same time, and
  both may take the same room. The next to look evicts what is too much.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import TypeVar

from audiomdb.cache.full_disk import is_full_disk
from audiomdb.cache.layout import CacheLayout
from audiomdb.cache.lock import exclusive
from audiomdb.cache.opening import (
    PAUSE_S,
    TRIES,
    Limits,
    Opened,
    deleted_error,
    make_again,
)
from audiomdb.cache.readers import Registration

__all__ = ["Tenancy"]

T = TypeVar("T")


class Tenancy:
    """A process's use of a cache directory, until `close`. Threads share it.

    Args:
        layout: The directory.
        opened: What `open_cache` has found there.
    """

    def __init__(self, layout: CacheLayout, opened: Opened) -> None:
        self._layout = layout
        self._opened = opened
        self._place = _place(os.fstat(opened.in_use.fd))
        self._closed = False
        self._registrations: weakref.WeakSet[Registration] = weakref.WeakSet()
        # Never taken by `close`, which a forked child calls too.
        self._lock = threading.Lock()

    @property
    def limits(self) -> Limits:
        """That hold for the directory now."""
        return self._opened.limits

    def close(self) -> None:
        """Say that this process no longer uses the directory. May be called twice."""
        self._closed = True
        self._opened.in_use.release()

    def enter(self, registration: Registration) -> None:
        """Take care of a reader's entry for as long as it is open."""
        with self._lock:
            self._registrations.add(registration)

    def despite_deletion(self, action: Callable[[], T]) -> T:
        """Do something in the directory; where somebody deletes it, make it again and try again.

        Args:
            action: May be called several times. Raises FileNotFoundError when what it needs is
                deleted, and for nothing else: nothing of the source's comes near it. Takes
                `budget.lock` itself.

        Raises:
            CachePlaceError: the directory cannot be made again.
            CacheFullError: the disk is full.
            CacheError: it is deleted again each time.
        """
        tries = 0
        while True:
            try:
                self._put_back()
                return action()
            except FileNotFoundError as exc:
                tries += 1
                if tries >= TRIES:
                    raise deleted_error(self._layout.root) from exc
            time.sleep(PAUSE_S)

    def _put_back(self) -> None:
        """Make again what is missing of what this process has there."""
        with self._lock:
            registrations = list(self._registrations)
            if not (self._is_known_in_use() and self._layout.is_whole()):
                self._make_again()
            if all(registration.is_there() for registration in registrations):
                return
            with exclusive(self._layout.budget_lock):
                for registration in registrations:
                    try:
                        registration.enter_again()
                    except OSError as exc:
                        # Without it victims are chosen worse, which is no reason to end.
                        if not is_full_disk(exc):
                            raise

    def _is_known_in_use(self) -> bool:
        # Not by the lock's descriptor, which another thread may close meanwhile.
        try:
            return self._closed or _place(self._layout.in_use_lock.stat()) == self._place
        except FileNotFoundError:
            return False

    def _make_again(self) -> None:
        before, again = self._opened, make_again(self._layout, self._opened)
        self._place = _place(os.fstat(again.in_use.fd))
        self._opened = again
        before.in_use.release()
        if self._closed:  # after the exchange, so that one of the two sees the other's lock
            again.in_use.release()


def _place(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino
