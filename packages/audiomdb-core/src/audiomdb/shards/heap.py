"""Make the C library reuse the memory of copied clips instead of returning it to the system."""

from __future__ import annotations

from functools import cache

__all__ = ["LARGEST_KEPT", "keep_memory_of_copies"]

LARGEST_KEPT = 1 << 20
"""Bytes: a minute of FLAC at 16 kHz, half a minute of WAV. Decoded clips are mostly larger."""


@cache
def keep_memory_of_copies() -> None:
    """Make glibc reuse freed blocks of up to 1 MiB, in this process and its forks.

    Encoded clips are of a size at which glibc allocates with mmap and returns freed memory to the
    system. Each copy then takes new pages, which the system zeroes and maps one by one: as much
    work again as the copy. glibc raises this threshold by itself when a larger block is freed
    (mallopt(3), under M_MMAP_THRESHOLD), so one is freed here, without touching its pages. Nothing
    changes with other C libraries, or if the user has set the threshold.
    """
    bytes(LARGEST_KEPT)
