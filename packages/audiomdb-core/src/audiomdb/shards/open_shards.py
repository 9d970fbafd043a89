"""Limit how many shards all readers of a process keep open, by its file descriptor limit.

A shard takes two file descriptors, and a third one in a cache. The limit of a process is often
1024, on macOS 256, and it needs some for other purposes. Shards that are kept open only to make
later reads faster must not exhaust it, however many readers there are.
"""

from __future__ import annotations

import weakref
from functools import cache
from typing import Any, Protocol

from audiomdb.lazy import importing

__all__ = ["OpenShards"]

_FILES_A_SHARD = 5
"""File descriptors of the limit per shard: at three each, shards take up to three fifths of it."""


class _Reader(Protocol):
    @property
    def open_shards(self) -> int:
        """Number of shards that it keeps open."""

    def close_oldest(self) -> None:
        """Close the shard that has been open longest."""


class OpenShards:
    """Tracks the readers of this process and the number of shards they have open.

    Used by several threads. There is no lock, which a fork could leave locked for ever, so the
    limit may be exceeded by a few shards.
    """

    def __init__(self) -> None:
        self._readers: weakref.WeakValueDictionary[int, _Reader] = weakref.WeakValueDictionary()

    def enter(self, reader: _Reader) -> None:
        """Register a reader, which is held by a weak reference."""
        self._readers[id(reader)] = reader

    def make_room(self) -> None:
        """Close shards of the readers with the most open ones, until another one may be opened."""
        most = _most()
        # Not `values`, which is lazy: another thread may enter a reader in the meantime.
        readers = [reader for ref in self._readers.valuerefs() if (reader := ref()) is not None]
        counts = [reader.open_shards for reader in readers]
        while most is not None and sum(counts) >= most:
            at = counts.index(max(counts))
            readers[at].close_oldest()
            counts[at] -= 1


def _most() -> int | None:
    """Return the number of shards that may be open at once; None if there is no limit."""
    resource = _resource()
    if resource is None:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else max(1, soft // _FILES_A_SHARD)


@cache
def _resource() -> Any:  # noqa: ANN401
    with importing():
        try:
            import resource
        except ImportError:  # Windows
            return None
    return resource
