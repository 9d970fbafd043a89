"""Define `CacheOptions`, the options of a cache."""

from __future__ import annotations

from operator import index

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
        for field, name, least, expected in (
            ("max_bytes", "max_cache_bytes", 0, "a whole number of bytes or None"),
            ("prefetch", "prefetch", 0, "a whole number of shards, 0 or more"),
            ("workers", "workers", 1, "a whole number, 1 or more"),
        ):
            value = getattr(self, field)
            if value is None and field == "max_bytes":
                continue
            number = index(value) if hasattr(value, "__index__") else -1
            if number < least:
                raise ValueError(f"{name} is {value!r}, expected {expected}")
            # NumPy's integers go to JSON, and to other processes, as plain ones.
            msgspec.structs.force_setattr(self, field, number)
