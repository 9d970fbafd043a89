"""Memory for copies of encoded clips, which the C library is to keep from one clip to the next."""

from __future__ import annotations

from functools import cache

__all__ = ["LARGEST_KEPT", "keep_memory_of_copies"]

LARGEST_KEPT = 1 << 20
"""Bytes. A minute of FLAC at 16 kHz, half a minute of WAV; decoded clips are mostly larger."""


@cache
def keep_memory_of_copies() -> None:
    """Have memory of up to 1 MiB serve again after it was freed, in this process and its forks.

    Encoded clips have the size at which glibc returns freed memory to the system, so that copying
    each takes new pages, which the system zeroes and hands over one by one: as much work again as
    the copy. glibc moves that size by itself when something larger is freed (mallopt(3), under
    M_MMAP_THRESHOLD), and here such a thing is freed, without a page of it having been touched.
    Elsewhere nothing changes; nor where the user has set these sizes.
    """
    bytes(LARGEST_KEPT)
