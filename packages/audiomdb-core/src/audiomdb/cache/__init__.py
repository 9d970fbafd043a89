"""Cache the shards of remote datasets on a local disk, shared by all processes of a machine.

`layout` documents the directory, `lock` the properties of its locks. This package is given
functions that fetch, and does not depend on retrievers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiomdb.cache.answers import RemoteFile
from audiomdb.cache.counters import CacheStats
from audiomdb.cache.options import CacheOptions
from audiomdb.lazy import lazily

if TYPE_CHECKING:
    from audiomdb.cache.manager import ShardCache
    from audiomdb.cache.source import DirectorySource, RangeSource, Source
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "DirectorySource": "source",
            "RangeSource": "source",
            "ShardCache": "manager",
            "Source": "source",
        },
    )

__all__ = [
    "CacheOptions",
    "CacheStats",
    "DirectorySource",
    "RangeSource",
    "RemoteFile",
    "ShardCache",
    "Source",
]
