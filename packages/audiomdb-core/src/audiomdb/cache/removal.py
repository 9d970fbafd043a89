"""Removing what lies in a cache directory and nobody uses. Under `budget.lock`."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from audiomdb.cache.budget import Stored, eviction_order
from audiomdb.cache.contents import files
from audiomdb.cache.layout import CacheLayout
from audiomdb.cache.lock import try_exclusive

__all__ = ["evicted", "forget", "oldest_first"]


def evicted(layout: CacheLayout, victims: Iterable[Stored], size: int) -> Iterator[Stored]:
    """Remove those victims that nobody uses, one after another, until `size` bytes are free.

    Yields each that is gone.
    """
    for item in victims:
        if size <= 0:
            return
        if _remove(layout, layout.root / item.name):
            size -= item.size
            yield item


def oldest_first(layout: CacheLayout) -> list[Stored]:
    """What could go, for who knows nothing of the dataset yet: what arrived damaged comes first."""
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
    """Remove everything about a part but the part."""
    shutil.rmtree(layout.staging / name, ignore_errors=True)
    layout.validator(name).unlink(missing_ok=True)
    layout.spans(name).unlink(missing_ok=True)


def _remove(layout: CacheLayout, path: Path) -> bool:
    """Remove a shard, part or quarantined file that nobody uses."""
    try:
        held = try_exclusive(path)
    except OSError:  # a folder, say, that somebody made there: not ours to clear away
        return False
    if held is None:
        return False
    with held:
        if path.parent == layout.parts:
            forget(layout, path.name)
        path.unlink(missing_ok=True)
    return True
