"""A data.mdb mapped read-only, as one memoryview."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from audiomdb.errors import CorruptShardError
from audiomdb.shards.layout import INDEX_KEY
from audiomdb.shards.pages import places

__all__ = ["find_index", "map_file", "release_pages"]


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


def release_pages(file: memoryview) -> None:
    """Have the pages of a mapped file no longer count as this process's memory.

    They stay in the system's page cache, and reading on finds them there again: views stay valid,
    other threads may be reading. Does nothing where the system or the memory is of another kind.
    """
    mapped = file.obj
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


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
