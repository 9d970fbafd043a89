"""A data.mdb mapped read-only, as one memoryview."""

from __future__ import annotations

import mmap
import os
import select
from collections.abc import Callable
from pathlib import Path
from typing import Any

from audiomdb.errors import CorruptShardError
from audiomdb.shards.layout import INDEX_KEY
from audiomdb.shards.pages import places

__all__ = ["find_index", "map_descriptor", "map_file", "read_apart", "release_pages"]

_QUEUE: Any = getattr(select, "epoll", None) or getattr(select, "kqueue", None)
_CLOSING: Callable[[int], object] | None = None if _QUEUE is None else _QUEUE.fromfd
"""Makes an object that closes a descriptor, of any kind, when nobody has the object any longer, and
without any Python code, unlike a `__del__`: there, a Ctrl-C that comes while `os.close` waits for
Python's lock would be dropped."""


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
            return map_descriptor(file.fileno())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as exc:
        raise CorruptShardError(
            f"{path} is missing or not a file: copy or download it again, or convert again"
        ) from exc


def map_descriptor(fd: int) -> memoryview:
    """Map a whole open file that is not empty; the descriptor stays the caller's."""
    return memoryview(_Mapping(fd, 0, access=mmap.ACCESS_READ))


def read_apart(file: memoryview, start: int, length: int) -> memoryview:
    """Read some bytes of a mapped file into memory of their own, without the mapping.

    Quicker than copying them out of it where their pages are not in this process yet, and leaves
    them out of it. Waits for the disk without Python's lock. Fewer bytes where the file ends.

    Args:
        file: All of the mapping, as `map_file` makes it.
        start: Offset in the file.
        length: How many bytes.

    Raises:
        OSError: the disk does not give them; of a mapping, that would be SIGBUS.
    """
    mapped = file.obj
    if isinstance(mapped, _Mapping) and mapped.fd >= 0:
        return memoryview(os.pread(mapped.fd, length, start))
    return memoryview(bytes(file[start : start + length]))


def release_pages(file: memoryview) -> None:
    """Have none of a mapped file's pages count as this process's memory any longer.

    They stay in the system's page cache, and reading on finds them there: views stay valid. Does
    nothing where system or memory are of another kind.
    """
    mapped = file.obj
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


class _Mapping(mmap.mmap):
    """A mapping that can also be read from. It has a descriptor of its own, but shows it nobody."""

    fd = -1

    def __init__(self, fd: int, *_: object, **__: object) -> None:
        if _CLOSING is not None:
            self.fd = os.dup(fd)
            self._closing = _CLOSING(self.fd)


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
