"""Access encoded audio in the same way whether it is in memory or in a file.

A `Source` gives header parsers the bytes at a position, decoders a handle to read from, and errors
the name of the clip. Bytes in memory are viewed, not copied. A file is read in pieces if only a
header or a window is needed, and as a whole if everything is decoded anyway.
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

__all__ = ["Source", "is_about_the_file", "read_file"]

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
"""Error numbers that concern a single file."""

_MORE_BYTES = 1 << 20


def is_about_the_file(error: OSError) -> bool:
    """Whether an operating system error concerns a single file, such as one that does not exist.

    Others (a failing disk, too many open files) are unrelated to the clip.
    """
    return error.errno in _ABOUT_THE_FILE


def read_file(path: str | os.PathLike[str], *, name: str) -> bytes:
    """Read all bytes of a regular file.

    Args:
        path: the file. A link is followed.
        name: name of the file in error messages.

    Raises:
        UnreadableAudioError: there is no such file, it may not be read, or it is a folder, a named
            pipe or a device.
        OSError: any other operating system error.
    """
    descriptor, size = _open_regular(path, name)
    try:
        # Ask for one byte more than the size, so that a file that did not grow takes one call.
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
    """Open a regular file, and return its file descriptor (closed by the caller) and its size."""
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if not is_about_the_file(error):
            raise
        reason = f"{error.strerror or error}{_advice(path)}"
        raise UnreadableAudioError(f"{name}: {reason}") from error
    except ValueError as error:  # a null byte or an unpaired surrogate in the path
        raise UnreadableAudioError(f"{name}: no file can have this name ({error})") from error
    try:
        status = os.fstat(descriptor)
        # Storage backed by tapes answers "try again" (EAGAIN) to a non-blocking read.
        os.set_blocking(descriptor, True)
    except BaseException:
        os.close(descriptor)
        raise
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise UnreadableAudioError(f"{name}: not a regular file")
    return descriptor, status.st_size


def _advice(path: str | os.PathLike[str]) -> str:
    """Return what may be wrong with a path that cannot be opened."""
    text = os.fsdecode(path)
    if "://" in text:
        return ". It is a URL: download it, and give the path of the file"
    if "\\" in text:
        return ". In a path of this system, / separates folders"
    return "" if text.isascii() else _other_form(text)


def _other_form(path: str) -> str:
    """Say so if there is a file whose name looks the same, as macOS writes letters with accents."""
    import unicodedata

    for form in ("NFC", "NFD"):
        other = unicodedata.normalize(form, path)
        if other != path and os.path.exists(other):  # noqa: PTH110
            return (
                f". A file that looks the same has its name in Unicode's form {form}: rename it, "
                "or write the path in that form"
            )
    return ""


class Source:
    """Named encoded audio, in memory or in a file. A context manager; not thread-safe."""

    __slots__ = ("_file", "_view", "name", "size")

    def __init__(self, source: AudioSource, *, name: str | None = None) -> None:
        """Wrap bytes, or open a file.

        Args:
            source: bytes-like object or path.
            name: name in error messages; by default the path, or a text with the number of bytes.

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
        """Close the file, if there is one. May be called more than once."""
        if self._file is not None:
            self._file.close()

    @property
    def in_memory(self) -> bool:
        """Whether all bytes are available without reading a file."""
        return self._view is not None

    def at(self, position: int, count: int) -> bytes:
        """Return up to `count` bytes from `position` on; fewer at the end, none beyond it."""
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
        """Return the same bytes as `at`, without a copy if they are in memory."""
        if self._view is not None:
            return self._view[position : position + count]
        return memoryview(self.at(position, count))

    def view(self) -> memoryview:
        """Return all bytes; a file is read on the first call and kept in memory."""
        if self._view is None:
            assert self._file is not None
            self._view = memoryview(self.at(0, self.size))
            self.size = self._view.nbytes
        return self._view

    def handle(self) -> Handle:
        """Return a new handle for libsndfile to read from the start."""
        if self._view is not None:
            return handle_of(self._view)
        assert self._file is not None
        self._file.seek(0)  # the duplicate has the same position
        return Handle(os.dup(self._file.fileno()))

    def unreadable(self, reason: str) -> UnreadableAudioError:
        """Return the error for a source that is not audio, or has no decoder."""
        return UnreadableAudioError(f"{self.name}: {reason}")

    def damaged(self, reason: str) -> DamagedAudioError:
        """Return the error for audio that is truncated or damaged."""
        return DamagedAudioError(f"{self.name}: {reason}")


def _flat(view: memoryview) -> memoryview:
    if view.format == "B" and view.ndim == 1 and view.contiguous:
        return view
    # A view with gaps cannot be cast to flat bytes, so it is copied.
    return view.cast("B") if view.c_contiguous else memoryview(view.tobytes())
