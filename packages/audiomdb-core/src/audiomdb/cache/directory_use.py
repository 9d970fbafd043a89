"""Restore a process's files in a cache directory, other than shards, after they are deleted.

A directory that is in use may be deleted, in whole or in part: by `rm -rf`, or by a cleaner of
temporary files. Mapped files stay readable; everything else is created again by the first process
that notices, and fetched again when it is needed. Before it takes room, each process checks that
all its files still exist, which takes a listing of the directory. Until then:

- Readers whose entries are gone are not counted, and the shards they read next are not spared from
  eviction. A reader that registers meanwhile is admitted even if the budget does not suffice for
  all of them. Entries are restored without checking the budget, since their readers cannot be
  refused any more; if all of them then wait for each other's room, the error is the same as for
  room held by views.
- Shards that were deleted while they are read occupy the disk until they are closed, but do not
  count any more: the disk may hold that much more than the budget.
- Transfers in progress hold slots that are deleted, in addition to as many new ones. Signals of
  readers that wait for room or a slot are lost, so prefetching does not give way to them.
- If `budget.lock` is deleted while it is held, another process can hold the new one at the same
  time, and both may take the same room. The next process that checks the budget evicts the excess.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

from audiomdb.cache.eviction import is_full_disk
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
from audiomdb.locks import Lock

__all__ = ["DirectoryUse"]

_NOWHERE = -1, -1

T = TypeVar("T")


class DirectoryUse:
    """A process's use of a cache directory, until `close`. Thread-safe.

    Args:
        layout: The directory.
        opened: The directory as `open_cache` returned it.
    """

    def __init__(self, layout: CacheLayout, opened: Opened) -> None:
        self._layout = layout
        self._opened = opened
        self._place = _place(os.fstat(opened.in_use.fd))
        self._closed = False
        self._registrations: weakref.WeakSet[Registration] = weakref.WeakSet()
        self._coming = 0
        # Never taken by `close`, which a forked child calls too.
        self._lock = Lock()

    @property
    def limits(self) -> Limits:
        """Limits now in force in the directory."""
        return self._opened.limits

    def begin_in_child(self) -> None:
        """Forget what a forked child does not share; its next call makes it a user of its own."""
        self._lock = Lock()
        self._registrations = weakref.WeakSet()
        self._coming = 0
        self._place = _NOWHERE

    def close(self) -> None:
        """Stop using the directory. May be called twice."""
        self._closed = True
        self._opened.in_use.release()

    def let_go(self) -> None:
        """Stop using the directory until the next call, unless it has a reader's entry, or will.

        Limits that suffice for no reader then hold for nobody else.
        """
        with self._lock:
            if not self._coming and all(entry.closed for entry in self._registrations):
                self._place = _NOWHERE
                self._opened.in_use.release()

    @contextmanager
    def registering(self) -> Generator[None, None, None]:
        """Enclose the making of a reader's entry, so that another thread does not let go."""
        with self._lock:
            self._coming += 1
        try:
            yield
        finally:
            with self._lock:
                self._coming -= 1

    def enter(self, registration: Registration) -> None:
        """Add a reader's entry to those that are restored while they are open."""
        with self._lock:
            self._registrations.add(registration)

    def despite_deletion(self, action: Callable[[], T]) -> T:
        """Call a function that uses the directory; if that is deleted, restore it and call again.

        Args:
            action: Function to call, perhaps several times. Raises FileNotFoundError only when what
                it needs is deleted, so it must not call the source. Takes `budget.lock` itself if
                needed.

        Raises:
            CachePlaceError: the directory cannot be created again.
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
        """Create again all missing files of this process."""
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
                        # Without the entry, victims are chosen worse, which is no reason to fail.
                        if not is_full_disk(exc):
                            raise

    def _is_known_in_use(self) -> bool:
        # Not with the lock's descriptor, which another thread may close meanwhile.
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
