"""What libsndfile reads from: the descriptor of a file, on the disk or in memory.

Reading a descriptor, libsndfile never calls back into Python. That matters beyond speed: when
Ctrl-C arrives in the middle of a callback, the exception it raises can only be printed, and the
decoder takes the read that failed for the end of the clip.
"""

from __future__ import annotations

import os

import msgspec

__all__ = ["Handle", "handle_of"]


class Handle(msgspec.Struct, frozen=True):
    """What soundfile opens.

    Attributes:
        target: A descriptor, or a stream where there are no files in memory.
        owned: Whether `close` has to close the descriptor.
    """

    target: int | _MemoryStream
    owned: bool = True

    def close(self) -> None:
        """Give the descriptor back. Once."""
        if self.owned and isinstance(self.target, int):
            os.close(self.target)


def handle_of(view: memoryview) -> Handle:
    """A handle of bytes in memory.

    Copies them where the kernel has files in memory (Linux), which costs one part in a hundred of
    decoding; otherwise reads them through callbacks.
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

    `io.BytesIO` copies anything but `bytes`, and a record of a shard is a view into its mapping.
    It also raises where libsndfile, reading a damaged header, asks for a place before the start;
    an exception inside a callback from C can only be printed.
    """

    __slots__ = ("_position", "_view")

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._position = 0

    def readinto(self, target: memoryview) -> int:
        """Copy the next bytes into `target`, and say how many."""
        start = self._position
        piece = self._view[start : start + len(target)]
        count = len(piece)
        target[:count] = piece
        self._position = start + count
        return count

    def read(self, count: int = -1) -> bytes:
        """The next `count` bytes, or all that are left."""
        stop = len(self._view) if count < 0 else self._position + count
        piece = bytes(self._view[self._position : stop])
        self._position += len(piece)
        return piece

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position counted from the start, the present place or the end.

        Stays where it is if that lies before the start.
        """
        position = (0, self._position, len(self._view))[whence] + offset
        if position >= 0:
            self._position = position
        return self._position

    def tell(self) -> int:
        """The present position."""
        return self._position
