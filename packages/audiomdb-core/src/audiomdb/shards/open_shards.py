"""How many shards the readers of a process have open together, of the files it may have open.

A shard takes two file descriptors, and a third one in a cache. A process often may have 1024, on
macOS 256, and needs some for other things: a reader that keeps shards open only for the next read
to be faster must not use them up, however many readers there are.
"""

from __future__ import annotations

import weakref
from typing import Protocol

__all__ = ["OpenShards"]

_FILES_A_SHARD = 5
"""Of the limit. With three descriptors each, shards take three fifths of it."""


class _Reader(Protocol):
    @property
    def open_shards(self) -> int:
        """How many it keeps open."""

    def let_one_go(self) -> None:
        """Close the one that it has had open longest."""


class OpenShards:
    """What the readers of this process have open.

    Threads share it. It has no lock, which a fork could leave locked for ever; so it may come to a
    few too many.
    """

    def __init__(self) -> None:
        self._readers: weakref.WeakValueDictionary[int, _Reader] = weakref.WeakValueDictionary()

    def enter(self, reader: _Reader) -> None:
        """Count a reader for as long as anybody has it."""
        self._readers[id(reader)] = reader

    def make_way(self) -> None:
        """Have those close shards that have most, until one more may be opened."""
        most = _most()
        # Not `values`, which is no list: another thread may enter a reader meanwhile.
        readers = [reader for ref in self._readers.valuerefs() if (reader := ref()) is not None]
        counts = [reader.open_shards for reader in readers]
        while most is not None and sum(counts) >= most:
            at = counts.index(max(counts))
            readers[at].let_one_go()
            counts[at] -= 1


def _most() -> int | None:
    """Shards that may be open at once; None where there is no limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else max(1, soft // _FILES_A_SHARD)
