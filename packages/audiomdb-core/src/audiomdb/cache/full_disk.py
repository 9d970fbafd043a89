"""Detect a full disk, make room by evicting, and raise `CacheFullError` when that fails."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeVar

from audiomdb.errors import CacheFullError

__all__ = ["despite_full_disk", "full_disk_error", "is_full_disk"]

T = TypeVar("T")


def is_full_disk(error: OSError) -> bool:
    """Return whether an error means that the disk is full or a quota is exhausted."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def full_disk_error(error: OSError) -> CacheFullError:
    """Return the error to raise when the disk is full and nothing can be evicted."""
    return CacheFullError(
        error.errno,
        "the disk of the cache is full and nothing in the cache can be evicted; free some space, "
        "or set max_cache_bytes",
    )


def despite_full_disk(action: Callable[[], T], make_room: Callable[[], bool]) -> T:
    """Call a function that writes to disk; while the disk is full, make room and call it again.

    Args:
        action: Function to call; raises OSError when the disk is full.
        make_room: Evicts something; returns False when nothing can be evicted.

    Raises:
        CacheFullError: the disk is full and nothing can be evicted.
    """
    while True:
        try:
            return action()
        except OSError as exc:
            if not is_full_disk(exc):
                raise
            if not make_room():
                raise full_disk_error(exc) from exc
