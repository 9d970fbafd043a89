"""Define `CacheOptions`, the options of a cache."""

from __future__ import annotations

import msgspec

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
        most = self.max_bytes
        for name, value, least, expected in (
            ("max_cache_bytes", 0 if most is None else most, 0, "a number of bytes or None"),
            ("prefetch", self.prefetch, 0, "0 or more shards"),
            ("workers", self.workers, 1, "1 or more"),
        ):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}, expected {expected}")
