"""Remove unused files from a cache directory. Call these functions under `budget.lock`."""

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
    """Remove unused victims, one after another, until `size` bytes are free.

    Yields:
        Each victim that was removed.
    """
    for item in victims:
        if size <= 0:
            return
        if _remove(layout, layout.root / item.name):
            size -= item.size
            yield item


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


def _remove(layout: CacheLayout, path: Path) -> bool:
    """Remove a shard, part or quarantined file if it is unused; return whether it was removed."""
    try:
        held = try_exclusive(path)
    except OSError:  # such as a folder created by others, which is not to be removed
        return False
    if held is None:
        return False
    with held:
        if path.parent == layout.parts:
            forget(layout, path.name)
        path.unlink(missing_ok=True)
    return True
