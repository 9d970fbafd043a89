"""Evict what is not used from a cache directory, to stay within the budget or if the disk is full.

`evicted`, `removed`, `oldest_first` and `forget` are called under `budget.lock`.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from audiomdb.cache.budget import Stored, eviction_order
from audiomdb.cache.contents import files
from audiomdb.cache.layout import CacheLayout
from audiomdb.cache.lock import Held, exclusive, is_held, try_exclusive
from audiomdb.cache.part_file import Part
from audiomdb.errors import CacheFullError

__all__ = [
    "abandon",
    "despite_full_disk",
    "evicted",
    "forget",
    "full_disk_error",
    "hold_part",
    "is_full_disk",
    "oldest_first",
    "removed",
]

T = TypeVar("T")


def evicted(layout: CacheLayout, victims: Iterable[Stored], size: int) -> Iterator[Stored]:
    """Remove unused victims, one after another, until `size` bytes are free.

    Yields:
        Each victim that was removed.
    """
    for item in victims:
        if size <= 0:
            return
        if removed(layout, layout.root / item.name):
            size -= item.size
            yield item


def removed(layout: CacheLayout, path: Path) -> bool:
    """Remove a shard, part or quarantined file if it is unused; return whether it was removed.

    It may be another user's: to remove it, writing to its folder is enough.
    """
    try:
        held = try_exclusive(path)
        if held is None:
            return False
        with held:
            if path.parent == layout.parts:
                forget(layout, path.name)
            path.unlink(missing_ok=True)
    except OSError:  # such as a folder created by others, which is not to be removed
        return False
    return True


def hold_part(layout: CacheLayout, path: Path, *, create: bool = False) -> Held | None:
    """Open a part for writing and lock it; remove one that another user has left.

    Returns:
        None when it is missing, locked, or was removed.

    Raises:
        FileNotFoundError: it cannot be created, because its folder is missing.
        PermissionError: it is another user's, and cannot be removed.
    """
    try:
        return try_exclusive(path, create=create, write=True)
    except PermissionError:
        with exclusive(layout.budget_lock):
            if not removed(layout, path) and not is_held(path):
                raise
        return None


def oldest_first(layout: CacheLayout) -> list[Stored]:
    """Return the files that can be evicted, without metadata: damaged ones first, then by age."""
    stored = [
        Stored(f"{folder.name}/{name}", info.st_size, used_at=info.st_mtime_ns if whole else -1.0)
        for folder, whole in (
            (layout.quarantine, False),
            (layout.parts, True),
            (layout.shards, True),
        )
        for name, info in files(folder)
        if folder != layout.parts or layout.is_part(name)
    ]
    return eviction_order(stored)


def forget(layout: CacheLayout, name: str) -> None:
    """Remove the staging folder, validator and spans of a part, but not the part."""
    shutil.rmtree(layout.staging / name, ignore_errors=True)
    layout.validator(name).unlink(missing_ok=True)
    layout.spans(name).unlink(missing_ok=True)


def abandon(layout: CacheLayout, part: Part) -> None:
    """Give up a part and its room."""
    # If the directory was deleted, there is nothing left to give up.
    with part.held, suppress(FileNotFoundError), exclusive(layout.budget_lock):
        if part.is_there():
            forget(layout, part.name)
            part.path.unlink(missing_ok=True)


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
