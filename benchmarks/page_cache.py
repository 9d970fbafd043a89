"""Making files cold, and finding out whether that worked. Linux only."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["can_drop", "drop", "resident_bytes"]


def can_drop() -> bool:
    """Whether this system lets a program drop its files from the page cache."""
    return sys.platform == "linux"


def drop(paths: Iterable[Path]) -> None:
    """Have the page cache forget files, after writing what of them is not on the disk yet.

    The system keeps the pages that any process still maps, so readers have to be let go first.
    Virtual machines have further caches below this one, which nothing here can empty.
    """
    if sys.platform != "linux":
        raise OSError("the page cache can be dropped on Linux only")
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def resident_bytes(paths: Iterable[Path]) -> int:
    """How much of some files is in the page cache, in whole pages."""
    libc = ctypes.CDLL(None, use_errno=True)
    total = 0
    for path in paths:
        size = path.stat().st_size
        if size == 0:
            continue
        with path.open("rb") as file:
            # A private writable mapping has an address that ctypes can take; nothing is touched.
            mapping = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
        pages = -(-size // mmap.PAGESIZE)
        found = (ctypes.c_ubyte * pages)()
        start = ctypes.c_char.from_buffer(mapping)
        address = ctypes.c_void_p(ctypes.addressof(start))
        if libc.mincore(address, ctypes.c_size_t(size), found) != 0:
            raise OSError(ctypes.get_errno(), "mincore", str(path))
        total += sum(value & 1 for value in found) * mmap.PAGESIZE
        del start
        mapping.close()
    return total
