"""Provide libsndfile with file descriptors: of files on disk to read, in memory also to write.

When libsndfile uses a descriptor, it never calls back into Python. That matters beyond speed: if
Ctrl-C arrives during a callback, its exception can only be printed, and the decoder takes the
failed read for the end of the clip.
"""

from __future__ import annotations

import io
import os

import msgspec

__all__ = ["Handle", "empty_handle", "handle_of"]


class Handle(msgspec.Struct, frozen=True):
    """A file for soundfile to open."""

    target: int | _MemoryStream | io.BytesIO
    """A file descriptor, or a stream if the platform has no in-memory files."""

    def contents(self) -> bytes:
        """Return all bytes of the file that was written."""
        if isinstance(self.target, io.BytesIO):
            return self.target.getvalue()
        assert isinstance(self.target, int)
        os.lseek(self.target, 0, os.SEEK_SET)
        return io.FileIO(self.target, closefd=False).readall()

    def close(self) -> None:
        """Close the file descriptor. Must be called only once."""
        if isinstance(self.target, int):
            os.close(self.target)


def empty_handle() -> Handle:
    """Return a handle for a new file, in memory, to write to."""
    if not hasattr(os, "memfd_create"):
        return Handle(io.BytesIO())
    return Handle(os.memfd_create("audiomdb-clip"))


def handle_of(view: memoryview) -> Handle:
    """Return a handle for bytes in memory.

    The bytes are copied to an in-memory file if the kernel has those (Linux), which costs about 1 %
    of the decoding time; otherwise they are read through callbacks.
    """
    if not hasattr(os, "memfd_create"):
        return Handle(_MemoryStream(view))
    descriptor = os.memfd_create("audiomdb-clip")
    try:
        rest = view
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return Handle(descriptor)


class _MemoryStream:
    """A read-only binary stream over a memoryview that does not copy it.

    `io.BytesIO` copies anything but `bytes`, while a record of a shard is a view into its memory
    map. It also raises when libsndfile, reading a damaged header, seeks to before the start, and an
    exception in a callback from C can only be printed.
    """

    __slots__ = ("_position", "_view")

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._position = 0

    def readinto(self, target: memoryview) -> int:
        """Copy the next bytes into `target`, and return how many."""
        start = self._position
        piece = self._view[start : start + len(target)]
        count = len(piece)
        target[:count] = piece
        self._position = start + count
        return count

    def read(self, count: int = -1) -> bytes:
        """Return the next `count` bytes, or all that are left."""
        stop = len(self._view) if count < 0 else self._position + count
        piece = bytes(self._view[self._position : stop])
        self._position += len(piece)
        return piece

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset from the start, the current position or the end, and return it.

        The position stays unchanged if the new one would be before the start.
        """
        position = (0, self._position, len(self._view))[whence] + offset
        if position >= 0:
            self._position = position
        return self._position

    def tell(self) -> int:
        """Return the current position."""
        return self._position
