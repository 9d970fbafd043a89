"""Define a part, which becomes a shard: the right to fetch it, its file, and the bytes in that.

A crash loses almost no bytes.

If one stream writes from the beginning to the end, the file's length is its progress. If several
streams write pieces, a second file has the progress of each; it is created before the first byte is
written out of order, and is ignored if the part is empty.
"""

from __future__ import annotations

import os
import struct
import threading
from contextlib import suppress
from pathlib import Path

import msgspec

from audiomdb.cache.lock import Held, is_at
from audiomdb.cache.spans import Span, cut, done_at, missing, packed, unpacked
from audiomdb.errors import DownloadInterruptedError
from audiomdb.locks import Lock, RLock
from audiomdb.threads import Stopped

__all__ = ["Delivered", "Part", "PartFile", "arrived"]

_READ_BYTES = 1024 * 1024
_MAX_VALIDATOR_BYTES = 1024


class Part(msgspec.Struct):
    """The right to fetch a shard, and the file that occupies its room.

    Attributes:
        number: Number of the shard.
        name: Its name in the cache.
        path: Path of the part file.
        held: The part file, open for writing and locked.
    """

    number: int
    name: str
    path: Path
    held: Held

    def is_there(self) -> bool:
        """Return whether the part is still in the directory."""
        return self.held.fd >= 0 and is_at(self.held.fd, self.path)


class Delivered(msgspec.Struct, frozen=True):
    """The result of a transfer.

    Attributes:
        path: The file, in the cache directory: the part itself, or one in its staging folder.
        held: The file, open and locked exclusively.
        size: Its size in bytes.
        sha256: Hex digest of its content.
        size_reported_by: Method whose report of `size` was the reason not to fetch the file; else
            empty.
    """

    path: Path
    held: Held
    size: int
    sha256: str
    size_reported_by: str = ""


class PartFile:
    """The file of a part, which several threads can write to. Use it in a `with` block.

    After the block nothing is written, even by threads that still run: the file may be a complete
    shard by then.

    Args:
        fd: File descriptor, open for reading and writing.
        size: Size of the complete file in bytes.
        validator: Path of the file that keeps the validator.
        spans: Path of the file that keeps the spans, if the part is fetched in several pieces.

    Attributes:
        size: As given.
        received: Bytes written so far, by all threads.
        wrong_size: Size of the store's file, once it is known to differ from `size`.
        lock: Guards the spans and all that is written to the file. Not taken through `changed`,
            whose code is Python: an interrupt there would leave it locked.
        changed: Condition of this lock, notified when a stream gives back a span, or ends.
    """

    def __init__(self, fd: int, size: int, *, validator: Path, spans: Path) -> None:
        import hashlib

        self.size = size
        self.received = 0
        self.wrong_size: int | None = None
        self.lock = RLock()
        self.changed = threading.Condition(self.lock)
        self._fd = fd
        self._validator_path, self._spans_path = validator, spans
        self._validator: str | None = None
        self._map: int | None = None
        self._open = True
        self._counted = 0
        self._digest, self._hashed = hashlib.sha256(), 0
        self._hashing = Lock()
        self._taken: set[int] = set()
        self._spans = self._found()
        if self.arrived:
            self._validator = self._kept_validator()

    def __enter__(self) -> PartFile:
        return self

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self._open = False
            self._close_map()
        with self._hashing:
            pass  # wait for a thread that is hashing: the descriptor may be closed after this

    @property
    def in_pieces(self) -> bool:
        """Whether more than one stream may write."""
        return self._map is not None

    @property
    def arrived(self) -> int:
        """Number of bytes that have arrived."""
        with self.lock:
            return sum(span.done - span.start for span in self._spans)

    @property
    def gap(self) -> int:
        """Offset of the first missing byte; the size if none is missing."""
        with self.lock:
            gaps = missing(self._spans)
        return gaps[0][0] if gaps else self.size

    @property
    def whole(self) -> bool:
        """Whether the file is complete."""
        return self.arrived == self.size

    @property
    def validator(self) -> str | None:
        """The store's validator for the version of the file that is being fetched."""
        return self._validator

    def keep_validator(self, validator: str | None) -> None:
        """Store the validator; call this before writing the bytes it is about."""
        if validator is None:
            self._validator_path.unlink(missing_ok=True)
        else:
            self._validator_path.write_bytes(validator.encode("ascii", "replace"))
        self._validator = validator

    def cut(self, piece: int | None) -> None:
        """Cut missing bytes into spans of at most `piece` bytes; None leaves each gap whole."""
        with self.lock:
            self._spans, self._taken = cut(self._spans, piece), set()
            self._close_map()
            temporary = self._spans_path.with_name(f"{self._spans_path.name}.new")
            # The file is kept open, so that only its name is lost if it is deleted meanwhile.
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                os.pwrite(fd, packed(self._spans), 0)
                with suppress(FileNotFoundError):
                    temporary.replace(self._spans_path)
            except BaseException:
                os.close(fd)
                raise
            self._map = fd

    def claim(self) -> Span | None:
        """Return the first incomplete span that no stream has; `give_back` must follow."""
        with self.lock:
            for span in self._spans:
                if span.done < span.stop and id(span) not in self._taken:
                    self._taken.add(id(span))
                    return span
        return None

    def give_back(self, span: Span) -> None:
        """Let other streams fetch what is missing of a span."""
        with self.lock:
            self._taken.discard(id(span))
            self.changed.notify_all()

    def unclaimed(self) -> int:
        """Return the number of incomplete spans that no stream has."""
        with self.lock:
            return sum(s.done < s.stop and id(s) not in self._taken for s in self._spans)

    def restart(self) -> Span:
        """Discard all bytes, also those that other streams still bring; claim the whole file."""
        import hashlib

        with self._hashing, self.lock:
            # Truncate first: the spans of an empty part are ignored.
            os.ftruncate(self._fd, 0)
            self._close_map()
            self._spans_path.unlink(missing_ok=True)
            self._digest, self._hashed = hashlib.sha256(), 0
            self._validator = None
            span = Span(0, self.size, 0)
            self._spans, self._taken = [span], {id(span)}
            return span

    def write(self, span: Span, chunk: bytes) -> int:
        """Write the next bytes of a span; return how many of them were written.

        Raises:
            Stopped: the span is no longer part of the file, or the file is closed.
            DownloadInterruptedError: something else has written to the file, which was therefore
                emptied.
            OSError: writing failed, usually because the disk is full.
        """
        with self.lock:
            place = self._place(span)
            if not self._open or place is None:
                raise Stopped
            at = span.done
            if self._map is None and os.fstat(self._fd).st_size != at:
                raise self._tampered(span)
            written = os.pwrite(self._fd, chunk, at)
            if self._map is not None:
                # Before it counts: if the disk is full, the caller writes the same bytes again.
                os.pwrite(self._map, struct.pack("<Q", at + written), done_at(place))
            span.done += written
            self.received += written
            if self._map is not None:
                return written
        with self._hashing:  # a stream that the file has been taken from may be hashing too
            if at == self._hashed:
                self._digest.update(memoryview(chunk)[:written])
                self._hashed += written
        return written

    def take_received(self) -> int:
        """Return the number of bytes written since the last call."""
        with self.lock:
            counted, self._counted = self._counted, self.received
            return self.received - counted

    def hash_on(self, *, wait: bool = True) -> None:
        """Read and hash what precedes the first gap and is not hashed yet.

        Args:
            wait: Wait for another thread that is hashing; otherwise leave it to that thread.
        """
        if not wait and self._hashing.locked():
            return
        with self._hashing:  # not acquire(): an interrupt after it could leave the lock locked
            stop = self.gap
            while self._hashed < stop and self._open:
                chunk = os.pread(self._fd, min(_READ_BYTES, stop - self._hashed), self._hashed)
                if not chunk:
                    return  # truncated from outside, which the digest will reveal
                self._digest.update(chunk)
                self._hashed += len(chunk)

    def sha256(self) -> str:
        """Return the hex digest of all bytes before the first gap."""
        self.hash_on()
        return self._digest.hexdigest()

    def sync(self) -> None:
        """Flush the file to disk."""
        os.fsync(self._fd)

    def _tampered(self, span: Span) -> DownloadInterruptedError:
        """Empty the file, whose bytes are not those that were hashed; return the error to raise."""
        import hashlib

        found = os.fstat(self._fd).st_size
        os.ftruncate(self._fd, 0)
        expected, span.done = span.done, 0
        self._digest, self._hashed = hashlib.sha256(), 0
        return DownloadInterruptedError(
            f"somebody else has written to {self._spans_path.with_suffix('')}: it has {found} "
            f"bytes, expected {expected}"
        )

    def _place(self, span: Span) -> int | None:
        return next((i for i, other in enumerate(self._spans) if other is span), None)

    def _found(self) -> list[Span]:
        length = os.fstat(self._fd).st_size
        spans = _read_spans(self._spans_path, self.size, length)
        if spans is None:  # empty, or not consistent
            os.ftruncate(self._fd, 0)
            self._spans_path.unlink(missing_ok=True)
            return [Span(0, self.size, 0)]
        if self._spans_path.exists():
            self._map = os.open(self._spans_path, os.O_WRONLY)
        return spans

    def _kept_validator(self) -> str | None:
        try:
            text = self._validator_path.read_bytes()[:_MAX_VALIDATOR_BYTES].decode("ascii")
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        # A truncated validator matches nothing, which only costs a fetch from the start.
        return text if text.isprintable() else None

    def _close_map(self) -> None:
        if self._map is not None:
            os.close(self._map)
            self._map = None


def arrived(part: Path, spans: Path, size: int) -> int:
    """Return the number of bytes in a part that another thread or process may be fetching."""
    try:
        found = _read_spans(spans, size, part.stat().st_size)
    except FileNotFoundError:
        return 0
    return sum(span.done - span.start for span in found or ())


def _read_spans(path: Path, size: int, length: int) -> list[Span] | None:
    """Return the spans of a part whose file has `length` bytes; None if empty or inconsistent."""
    if not 0 < length <= size:
        return None
    try:
        spans = unpacked(path.read_bytes(), size)
    except FileNotFoundError:
        return [Span(0, size, length)]
    if spans is None or any(span.done > max(length, span.start) for span in spans):
        return None
    return spans
