"""Define `CacheOptions`, the options of a cache."""

from __future__ import annotations

import msgspec
from msgspec.structs import force_setattr

from audiomdb.checks import whole_number

__all__ = ["CacheOptions"]


class CacheOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of a cache, and how far it prefetches.

    Attributes:
        max_bytes: Maximum size of the directory, including partial files. None: only limited by
            the disk.
        prefetch: Number of shards prefetched beyond the one being read, if the order is known.
        workers: Maximum number of concurrent transfers, over all processes of the machine.
    """

    max_bytes: int | None = None
    prefetch: int = 4
    workers: int = 4

    def __post_init__(self) -> None:
        # NumPy's integers go to JSON, and to other processes, as plain ones.
        if self.max_bytes is not None:
            limit = whole_number("max_cache_bytes, unless None for no limit,", self.max_bytes)
            force_setattr(self, "max_bytes", limit)
        force_setattr(self, "prefetch", whole_number("prefetch", self.prefetch))
        force_setattr(self, "workers", whole_number("workers", self.workers, low=1))
