"""One way to look at encoded audio, whether it lies in memory or in a file.

A `Source` gives header parsers the bytes at a position, decoders something to read from, and
every error its name. Bytes in memory are viewed, not copied. A file is read in pieces where a
header or a window is all that is wanted, and whole where everything is decoded anyway.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from typing import TYPE_CHECKING

from audiomdb.audio.handle import Handle, handle_of
from audiomdb.errors import DamagedAudioError, UnreadableAudioError

if TYPE_CHECKING:
    from types import TracebackType

    from audiomdb.audio.info import AudioSource

__all__ = ["Source", "read_file"]

_ABOUT_THE_FILE = frozenset(
    (
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EACCES,
        errno.EPERM,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENXIO,
        errno.ENODEV,
    )
)
"""What is wrong with one file. Other operating system errors (a failing disk, too many open files)
say nothing about the clip and reach the caller as they are."""

_MORE_BYTES = 1 << 20


def read_file(path: str | os.PathLike[str], *, name: str) -> bytes:
    """All bytes of a regular file.

    Args:
        path: the file. A link is followed.
        name: how errors call it.

    Raises:
        UnreadableAudioError: there is no such file, it may not be read, or it is a folder, a named
            pipe or a device.
        OSError: what is wrong is not the file.
    """
    descriptor, size = _open_regular(path, name)
    try:
        # One byte more than there should be, so that a file that did not grow takes one call.
        octets = os.read(descriptor, size + 1)
        if len(octets) == size:
            return octets
        pieces = [octets]
        while pieces[-1]:
            pieces.append(os.read(descriptor, _MORE_BYTES))
        return b"".join(pieces)
    finally:
        os.close(descriptor)


def _open_regular(path: str | os.PathLike[str], name: str) -> tuple[int, int]:
    """A descriptor to close, and the size of the file."""
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in _ABOUT_THE_FILE:
            raise
        raise UnreadableAudioError(f"{name}: {error.strerror or error}") from error
    except ValueError as error:  # a null byte in it, or half of a surrogate pair
        raise UnreadableAudioError(f"{name}: no file can have this name ({error})") from error
    try:
        status = os.fstat(descriptor)
        # Storage with tapes behind it answers "try again" to who will not wait.
        os.set_blocking(descriptor, True)
    except BaseException:
        os.close(descriptor)
        raise
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise UnreadableAudioError(f"{name}: not a regular file")
    return descriptor, status.st_size


class Source:
    """Encoded audio under a name. Used by one thread, closed by `with`."""

    __slots__ = ("_file", "_view", "name", "size")

    def __init__(self, source: AudioSource, *, name: str | None = None) -> None:
        """Look at bytes, or open a file.

        Args:
            source: bytes-like object or path.
            name: how errors call it; a path's own text, or the number of bytes, by default.

        Raises:
            UnreadableAudioError: there is no such file, or it may not be read.
            TypeError: neither bytes nor a path.
        """
        self._file: io.FileIO | None = None
        self._view: memoryview | None = None
        if isinstance(source, bytes | bytearray | memoryview):
            self._view = _flat(memoryview(source))
            self.size = self._view.nbytes
        elif isinstance(source, str | os.PathLike):
            path = os.fspath(source)
            self.name = name or path
            descriptor, self.size = _open_regular(path, self.name)
            self._file = io.FileIO(descriptor)
            return
        else:
            raise TypeError(
                f"audio must be bytes, a memoryview or a path, not {type(source).__name__}"
            )
        self.name = name or f"audio of {self.size} bytes"

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, if there is one. May be called twice."""
        if self._file is not None:
            self._file.close()

    @property
    def in_memory(self) -> bool:
        """Whether all bytes are at hand without reading a file."""
        return self._view is not None

    def at(self, position: int, count: int) -> bytes:
        """Up to `count` bytes from `position` on; fewer at the end, none beyond it."""
        if self._view is not None:
            return bytes(self._view[position : position + count])
        assert self._file is not None
        if position >= self.size:
            return b""
        self._file.seek(position)
        pieces = []
        while count > 0:
            piece = self._file.read(count)
            if not piece:
                break
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def slice(self, position: int, count: int) -> memoryview:
        """As `at`, without a copy where the bytes are in memory."""
        if self._view is not None:
            return self._view[position : position + count]
        return memoryview(self.at(position, count))

    def view(self) -> memoryview:
        """All bytes; a file is read on the first call and kept."""
        if self._view is None:
            assert self._file is not None
            self._view = memoryview(self.at(0, self.size))
            self.size = self._view.nbytes
        return self._view

    def handle(self) -> Handle:
        """Something new for libsndfile to read from the start. Close it before the source."""
        if self._view is not None:
            return handle_of(self._view)
        assert self._file is not None
        self._file.seek(0)
        return Handle(self._file.fileno(), owned=False)

    def unreadable(self, reason: str) -> UnreadableAudioError:
        """The error for what is no audio, or has no decoder."""
        return UnreadableAudioError(f"{self.name}: {reason}")

    def damaged(self, reason: str) -> DamagedAudioError:
        """The error for audio that is not whole."""
        return DamagedAudioError(f"{self.name}: {reason}")


def _flat(view: memoryview) -> memoryview:
    if view.format == "B" and view.ndim == 1 and view.contiguous:
        return view
    # A view with gaps has no flat form; copying it is the only way.
    return view.cast("B") if view.c_contiguous else memoryview(view.tobytes())
