"""Map files read-only as memoryviews."""

from __future__ import annotations

import errno
import mmap
import os
import select
from collections.abc import Callable
from pathlib import Path
from typing import Any

from audiomdb.errors import CorruptShardError

__all__ = ["map_descriptor", "map_file", "read_apart", "release_pages"]

_QUEUE: Any = getattr(select, "epoll", None) or getattr(select, "kqueue", None)
_CLOSING: Callable[[int], object] | None = None if _QUEUE is None else _QUEUE.fromfd
"""Makes an object that closes a given file descriptor, of any kind, when it is garbage-collected.
No Python code runs for that, unlike with a `__del__` method, in which a Ctrl-C that arrives while
`os.close` waits for the GIL would be lost."""


def map_file(path: Path) -> memoryview:
    """Map a whole file as a read-only memoryview.

    The mapping lives as long as the view or any slice of it, and survives the file's deletion and a
    fork, so a view never points to unmapped memory. Its length is the current file size, so a
    truncated file gives short slices, not SIGBUS; no mapping survives truncation in place *later*,
    and nothing in this library does that.

    Raises:
        CorruptShardError: when there is no such file.
        OSError: when it cannot be opened, such as for too many open files.
    """
    if not path.is_file():  # a pipe would keep its reader waiting
        raise _no_file(path)
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:  # mmap rejects empty files
                return memoryview(b"")
            return map_descriptor(file.fileno())
    except FileNotFoundError as exc:  # deleted meanwhile
        raise _no_file(path) from exc
    except OSError as exc:
        if exc.errno != errno.EMFILE:
            raise
        hint = (
            "give all streams of a folder the same LocalRetriever, or raise the limit (ulimit -n)"
        )
        raise OSError(exc.errno, f"{exc.strerror}: {hint}", str(path)) from exc


def _no_file(path: Path) -> CorruptShardError:
    return CorruptShardError(
        f"{path} is missing or not a file: copy or download it again, or convert again; if the "
        "dataset was replaced there meanwhile, open it again"
    )


def map_descriptor(fd: int) -> memoryview:
    """Map a whole open file, which must not be empty; the caller still owns the descriptor."""
    return memoryview(_Mapping(fd, 0, access=mmap.ACCESS_READ))


def read_apart(file: memoryview, start: int, length: int) -> memoryview:
    """Read some bytes of a mapped file into new memory, bypassing the mapping.

    This is faster than copying them from the mapping if their pages are not resident in this
    process yet, and does not make them resident. The GIL is released while the disk is read. Fewer
    bytes are returned at the end of the file.

    Args:
        file: The whole mapping, as returned by `map_file`.
        start: Offset in the file.
        length: Number of bytes.

    Raises:
        OSError: when the disk fails, where access to the mapping would raise SIGBUS.
    """
    mapped = file.obj
    if isinstance(mapped, _Mapping) and mapped.fd >= 0:
        return memoryview(os.pread(mapped.fd, length, start))
    return memoryview(bytes(file[start : start + length]))


def release_pages(file: memoryview) -> None:
    """Drop the pages of a mapped file from this process's resident memory.

    They stay in the page cache, where later reads find them; views stay valid. Does nothing if
    `file` is not a mapping or the system has no MADV_DONTNEED.
    """
    mapped = file.obj
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


class _Mapping(mmap.mmap):
    """A mapping with a duplicate of the file descriptor, so that the file can also be read."""

    fd = -1

    def __init__(self, fd: int, *_: object, **__: object) -> None:
        if _CLOSING is not None:
            self.fd = os.dup(fd)
            self._closing = _CLOSING(self.fd)
