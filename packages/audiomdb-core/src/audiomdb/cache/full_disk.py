"""A full disk: what it is called, what is done about it, and what is said when nothing helps."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeVar

from audiomdb.errors import CacheFullError

__all__ = ["despite_full_disk", "full_disk_error", "is_full_disk"]

T = TypeVar("T")


def is_full_disk(error: OSError) -> bool:
    """Whether an error says that there is no room left, on the disk or in a quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def full_disk_error(error: OSError) -> CacheFullError:
    """What to raise when the disk is full and nothing can be evicted."""
    return CacheFullError(
        error.errno,
        "the disk of the cache is full and nothing in the cache can be evicted; free some space, "
        "or set max_cache_bytes",
    )


def despite_full_disk(action: Callable[[], T], make_room: Callable[[], bool]) -> T:
    """Do what takes disk; where there is none, make room and try again.

    Args:
        action: Raises OSError when the disk is full.
        make_room: False: nothing can go.

    Raises:
        CacheFullError: the disk is full, and stays so.
    """
    while True:
        try:
            return action()
        except OSError as exc:
            if not is_full_disk(exc):
                raise
            if not make_room():
                raise full_disk_error(exc) from exc
