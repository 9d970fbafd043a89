"""Shards of remote datasets on a local disk, shared by all processes of a machine.

`layout` shows the directory, `lock` what its locks can do. The room takes functions that fetch and
knows nothing of retrievers.
"""

from __future__ import annotations

from audiomdb.cache.counters import CacheStats
from audiomdb.cache.manager import CacheOptions, ShardCache
from audiomdb.cache.source import DirectorySource, RangeSource, Source
from audiomdb.cache.transfer import RemoteFile

__all__ = [
    "CacheOptions",
    "CacheStats",
    "DirectorySource",
    "RangeSource",
    "RemoteFile",
    "ShardCache",
    "Source",
]
