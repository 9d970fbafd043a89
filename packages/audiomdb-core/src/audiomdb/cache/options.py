"""What a cache is told about itself."""

from __future__ import annotations

import msgspec

__all__ = ["CacheOptions"]


class CacheOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How much a cache may hold, and how eager it is.

    Attributes:
        max_bytes: Limit of the directory, partial files included. None: the disk's.
        prefetch: Shards fetched ahead of the one being read, where the order is known.
        workers: Transfers at once, over all processes of the machine.
    """

    max_bytes: int | None = None
    prefetch: int = 4
    workers: int = 4

    def __post_init__(self) -> None:
        if self.max_bytes is not None and self.max_bytes < 0:
            raise ValueError(f"max_cache_bytes is {self.max_bytes}, expected bytes or None")
        if self.prefetch < 0:
            raise ValueError(f"prefetch is {self.prefetch}, expected 0 or more shards")
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}, expected 1 or more")
