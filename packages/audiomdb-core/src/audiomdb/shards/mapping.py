"""A data.mdb mapped read-only, as one memoryview."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from audiomdb.errors import CorruptShardError
from audiomdb.shards.layout import INDEX_KEY
from audiomdb.shards.pages import places

__all__ = ["Pages", "find_index", "map_file"]

_POPULATE_READ = 22
"""MADV_POPULATE_READ, of Linux 5.14 and later (linux/mman.h); others refuse it, and do without."""


def map_file(path: Path) -> memoryview:
    """Map a whole file.

    The mapping lives as long as the view or any slice of it: it outlives the file's deletion, the
    caller's own references and a fork, so a view can never point to unmapped memory. Bounds are
    the file's size now, so a truncated file gives short slices, not SIGBUS; truncating it in place
    *later* cannot be survived by any mapping, and nothing in this library does that.

    Raises:
        CorruptShardError: when there is no such file.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:  # which mmap refuses
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as exc:
        raise CorruptShardError(f"{path} is missing or no file") from exc


class Pages:
    """A mapped file's pages, as far as this process has them. Threads share one.

    Does nothing where system or memory are of another kind. Views stay valid whatever it does.

    Args:
        file: The mapping, as `map_file` makes it.
    """

    __slots__ = ("_address", "_file")

    def __init__(self, file: memoryview) -> None:
        self._file = file
        self._address: int | None = None

    def bring_in(self, start: int, length: int) -> None:
        """Take in the pages of some bytes that are read next, all at once.

        Otherwise the system hands them out a few at a time, as each is touched: 27 us for 150 kB,
        and half of that in this way. Waits for the disk without Python's lock.
        """
        advise = _madvise()
        if advise is None:
            return
        if self._address is None:
            self._address = np.frombuffer(self._file, np.uint8).__array_interface__["data"][0]
        first = start & -mmap.PAGESIZE
        advise(self._address + first, start + length - first, _POPULATE_READ)

    def release(self) -> None:
        """Have none of them count as this process's memory any longer.

        They stay in the system's page cache, and reading on finds them there.
        """
        mapped = self._file.obj
        if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


@cache
def _madvise() -> Callable[[int, int, int], int] | None:
    """The system's own: that of `mmap` keeps Python's lock, and knows no `_POPULATE_READ`."""
    if sys.platform != "linux":
        return None
    import ctypes

    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return advise


def find_index(file: memoryview, name: str) -> tuple[int, int]:
    """Offset and size of a shard's index, found through LMDB's pages, without metadata.

    Raises:
        CorruptShardError: when the file is damaged or holds no index.
    """
    try:
        for place in places(file):
            if place.key == INDEX_KEY:
                return place.offset, place.length
    except CorruptShardError as exc:
        raise CorruptShardError(f"{name}: {exc}") from exc
    raise CorruptShardError(f"{name}: an LMDB file, but it holds no AudioMDB index")
