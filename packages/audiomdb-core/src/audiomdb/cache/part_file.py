"""A shard on its way: what of it is there, written down so that a crash loses next to nothing.

One stream writes from the beginning to the end, and the file's length says how far it is. Several
streams write pieces, and a second file says how far each is; it is there before the first byte is
written out of turn, and is ignored where the part is empty.
"""

from __future__ import annotations

import os
import struct
import threading
from contextlib import suppress
from pathlib import Path

from audiomdb.cache.retry import Stopped
from audiomdb.cache.spans import Span, cut, done_at, missing, packed, unpacked
from audiomdb.errors import DownloadInterruptedError

__all__ = ["PartFile", "arrived"]

_READ_BYTES = 1024 * 1024
_LONGEST_VALIDATOR = 1024


class PartFile:
    """The file of a part, which threads write to. Use it in a `with` block.

    After the block nothing is written any more, whatever threads still run: the file may be a
    whole shard by then.

    Args:
        fd: The file, open for reading and writing.
        size: Bytes it will have.
        validator: Where the validator is kept.
        spans: Where it is kept which bytes are there, unless they are all up to some place.

    Attributes:
        size: As given.
        received: Bytes written so far, by all threads.
        wrong_size: What the store says it has instead of `size`, once that is known.
        changed: Notified when a stream gives a span back, or ends. Its lock guards everything.
    """

    def __init__(self, fd: int, size: int, *, validator: Path, spans: Path) -> None:
        import hashlib

        self.size = size
        self.received = 0
        self.wrong_size: int | None = None
        self.changed = threading.Condition()
        self._fd = fd
        self._validator_path, self._spans_path = validator, spans
        self._validator: str | None = None
        self._map: int | None = None
        self._open = True
        self._counted = 0
        self._digest, self._hashed = hashlib.sha256(), 0
        self._hashing = threading.Lock()
        self._taken: set[int] = set()
        self._spans = self._found()
        if self.arrived:
            self._validator = self._kept_validator()

    def __enter__(self) -> PartFile:
        return self

    def __exit__(self, *_: object) -> None:
        with self.changed:
            self._open = False
            self._close_map()
        with self._hashing:
            pass  # a thread that is at it reads the file, whose descriptor may be closed now

    @property
    def in_pieces(self) -> bool:
        """Whether more than one stream may write."""
        return self._map is not None

    @property
    def arrived(self) -> int:
        """Bytes that are there."""
        with self.changed:
            return sum(span.done - span.start for span in self._spans)

    @property
    def gap(self) -> int:
        """The first byte that is not there; the size where all are."""
        with self.changed:
            gaps = missing(self._spans)
        return gaps[0][0] if gaps else self.size

    @property
    def whole(self) -> bool:
        """Whether all of it is there."""
        return self.arrived == self.size

    @property
    def validator(self) -> str | None:
        """What the store called the version of the file that is being fetched."""
        return self._validator

    def keep_validator(self, validator: str | None) -> None:
        """Keep it, before the bytes it is about."""
        if validator is None:
            self._validator_path.unlink(missing_ok=True)
        else:
            self._validator_path.write_bytes(validator.encode("ascii", "replace"))
        self._validator = validator

    def cut(self, piece: int | None) -> None:
        """Let several streams fetch what is missing, in pieces of so many bytes."""
        with self.changed:
            self._spans, self._taken = cut(self._spans, piece), set()
            self._close_map()
            temporary = self._spans_path.with_name(f"{self._spans_path.name}.new")
            # Open from the start: whoever clears things away meanwhile takes the name only.
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                os.pwrite(fd, packed(self._spans), 0)
                with suppress(FileNotFoundError):
                    temporary.replace(self._spans_path)
            except BaseException:
                os.close(fd)
                raise
            self._map = fd

    def claim(self) -> Span | None:
        """The first span that lacks bytes and that nobody is at; `give_back` it."""
        with self.changed:
            for span in self._spans:
                if span.done < span.stop and id(span) not in self._taken:
                    self._taken.add(id(span))
                    return span
        return None

    def give_back(self, span: Span) -> None:
        """Let others fetch what is missing of a span."""
        with self.changed:
            self._taken.discard(id(span))
            self.changed.notify_all()

    def unclaimed(self) -> int:
        """Spans that lack bytes and that nobody is at."""
        with self.changed:
            return sum(s.done < s.stop and id(s) not in self._taken for s in self._spans)

    def restart(self) -> Span:
        """Throw away what is there, and whatever other streams still bring; claims all of it."""
        import hashlib

        with self._hashing, self.changed:
            # First this: of an empty part nobody believes that anything is there.
            os.ftruncate(self._fd, 0)
            self._close_map()
            self._spans_path.unlink(missing_ok=True)
            self._digest, self._hashed = hashlib.sha256(), 0
            self._validator = None
            span = Span(0, self.size, 0)
            self._spans, self._taken = [span], {id(span)}
            return span

    def write(self, span: Span, chunk: bytes) -> int:
        """Write what comes next in a span; returns how much of it was written.

        Raises:
            Stopped: the span is no longer part of the file.
            DownloadInterruptedError: somebody else has written to the file; it begins anew.
            OSError: as writing does, a full disk above all.
        """
        with self.changed:
            place = self._place(span)
            if not self._open or place is None:
                raise Stopped
            at = span.done
            if self._map is None and os.fstat(self._fd).st_size != at:
                raise self._tampered(span)
            written = os.pwrite(self._fd, chunk, at)
            span.done += written
            self.received += written
            if self._map is not None:
                os.pwrite(self._map, struct.pack("<Q", span.done), done_at(place))
                return written
        if at == self._hashed:
            self._digest.update(memoryview(chunk)[:written])
            self._hashed += written
        return written

    def take_received(self) -> int:
        """Bytes written since this was called last."""
        with self.changed:
            counted, self._counted = self._counted, self.received
            return self.received - counted

    def hash_on(self, *, wait: bool = True) -> None:
        """Read and hash what is there without a gap and not hashed yet.

        Args:
            wait: For another thread that is at it; otherwise leave it to that one.
        """
        if not self._hashing.acquire(blocking=wait):
            return
        try:
            stop = self.gap
            while self._hashed < stop and self._open:
                chunk = os.pread(self._fd, min(_READ_BYTES, stop - self._hashed), self._hashed)
                if not chunk:
                    return  # somebody has cut it off, and will see a wrong digest
                self._digest.update(chunk)
                self._hashed += len(chunk)
        finally:
            self._hashing.release()

    def sha256(self) -> str:
        """Hex digest of what is there without a gap."""
        self.hash_on()
        return self._digest.hexdigest()

    def sync(self) -> None:
        """Return once all of it is on the disk."""
        os.fsync(self._fd)

    def _tampered(self, span: Span) -> DownloadInterruptedError:
        """Begin anew; what was hashed as it came is not what lies there."""
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
        if spans is None:  # nothing, or nothing that can be believed
            os.ftruncate(self._fd, 0)
            self._spans_path.unlink(missing_ok=True)
            return [Span(0, self.size, 0)]
        if self._spans_path.exists():
            self._map = os.open(self._spans_path, os.O_WRONLY)
        return spans

    def _kept_validator(self) -> str | None:
        try:
            text = self._validator_path.read_bytes()[:_LONGEST_VALIDATOR].decode("ascii")
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        # Half a validator matches nothing, which costs a fetch from the start and is never wrong.
        return text if text.isprintable() else None

    def _close_map(self) -> None:
        if self._map is not None:
            os.close(self._map)
            self._map = None


def arrived(part: Path, spans: Path, size: int) -> int:
    """Bytes of a part that are there, as seen from outside while it grows."""
    try:
        found = _read_spans(spans, size, part.stat().st_size)
    except FileNotFoundError:
        return 0
    return sum(span.done - span.start for span in found or ())


def _read_spans(path: Path, size: int, length: int) -> list[Span] | None:
    """The spans of a part of some length now; None: it cannot be known what of it is there."""
    if not 0 < length <= size:
        return None
    try:
        spans = unpacked(path.read_bytes(), size)
    except FileNotFoundError:
        return [Span(0, size, length)]
    if spans is None or any(span.done > max(length, span.start) for span in spans):
        return None
    return spans
