"""Fetch a file into a part, resuming after interruptions, and in several pieces if it is large."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import msgspec

from audiomdb.cache.answers import CheckedOpen, RemoteFile, closing_chunks
from audiomdb.cache.counters import Counters
from audiomdb.cache.eviction import despite_full_disk
from audiomdb.cache.failures import Outage
from audiomdb.cache.layout import CacheLayout
from audiomdb.cache.part_file import Delivered, Part, PartFile
from audiomdb.cache.retry import Retries
from audiomdb.cache.slots import ExtraSlots
from audiomdb.cache.small_file import fetch_bytes
from audiomdb.cache.spans import Span, piece_bytes
from audiomdb.cache.streams import Streams
from audiomdb.cache.waiting import ProgressLog
from audiomdb.errors import DownloadInterruptedError
from audiomdb.shards.layout import DATA_FILE
from audiomdb.shards.metadata import ShardEntry

__all__ = ["RangeTransfer", "Transfer", "TransferContext"]

_LEAST_PIECE = 4 << 20
"""Smaller pieces would spend too much of their time on requests, so files below twice this size are
fetched whole.

Measured with 30 ms per request and 20 MB/s per connection: 16 MB take 0.85 s over one connection
and 0.32 s over four; 64 MB take 3.3 s, 1.1 s, and 0.9 s over eight. If all connections together get
40 MB/s, nothing is gained, and up to 12 % is lost.
"""

_MOST_STREAMS = 8
"""Maximum for one shard. More gain nothing if the line is the limit, or else strain the store."""

_ENDS_THAT_CONVINCE = 3
"""Consecutive streams that must end at the same byte before it is taken for the end of the file.
Two are enough if the second fetched the whole file again only to end there."""

_MOST_VERSIONS = 3
"""Times that a file may be replaced while it is fetched before that counts as no progress."""

T = TypeVar("T")


class TransferContext(msgspec.Struct, frozen=True):
    """What one transfer may use. The functions are called from several threads.

    Attributes:
        check: Called repeatedly; raises when the transfer is to stop.
        make_room: Called with a number of bytes while the disk is full; returns False when nothing
            can be evicted.
        extra: Slots for fetching several pieces at a time.
    """

    check: Callable[[], None]
    make_room: Callable[[int], bool]
    extra: ExtraSlots


class Transfer(Protocol):
    """Function that fetches a shard into the cache directory."""

    def __call__(self, part: Part, entry: ShardEntry, context: TransferContext) -> Delivered:
        """Fetch the shard of a part, which may contain what an earlier attempt fetched."""


class RangeTransfer:
    """Fetches files from a store that supports range requests. Thread-safe.

    Args:
        open_remote: Requests a file from the store.
        layout: The cache directory.
        counters: Counters in which bytes and retries are counted.
    """

    def __init__(self, open_remote: CheckedOpen, layout: CacheLayout, counters: Counters) -> None:
        self._open: Callable[..., RemoteFile] = open_remote
        self._stops = open_remote.takes_stop
        self.name = open_remote.name
        self._layout = layout
        self._counters = counters
        self._outage = Outage(layout.outage)

    def __call__(self, part: Part, entry: ShardEntry, context: TransferContext) -> Delivered:
        """Fetch a shard's file, see `fetch`."""
        return self.fetch(part, f"{entry.path}/{DATA_FILE}", entry.bytes, context)

    def whole(self, path: str, most: int) -> bytes | None:
        """Fetch a file into memory; return None if it has more than `most` bytes."""
        return fetch_bytes(
            self._open, path, most=most, counters=self._counters, outage=self._outage
        )

    def fetch(self, part: Part, path: str, size: int, context: TransferContext) -> Delivered:
        """Fetch a file of `size` bytes, resuming what is already in the part.

        Raises:
            DownloadError: as the retriever.
            DownloadInterruptedError: retries did not help; says what was tried.
            CacheFullError: the disk is full.
        """
        with PartFile(
            part.held.fd,
            size,
            validator=self._layout.validator(part.name),
            spans=self._layout.spans(part.name),
        ) as file:
            one = _OneTransfer(self, file, path, context)
            streams = self._more_streams(one, context.extra)
            retries = Retries(
                path, counters=self._counters, check=context.check, size=size, outage=self._outage
            )
            with streams:

                def attempt() -> None:
                    try:
                        one.fetch_next(streams)
                    finally:
                        self._counters.add(fetched_bytes=file.take_received())

                while not file.whole and file.wrong_size is None:
                    if file.unclaimed():
                        retries(attempt, one)
                    else:
                        one.wait(streams)
            self._counters.add(fetched_bytes=file.take_received())
            file.sync()
            came = file.arrived if file.wrong_size is None else file.wrong_size
            return Delivered(part.path, part.held, came, file.sha256(), one.size_reported_by)

    def _more_streams(self, one: _OneTransfer, extra: ExtraSlots) -> Streams:
        """Prepare for several streams, if the file is large enough and slots are available."""
        file, most = one.file, _MOST_STREAMS - 1
        lacking = file.size - file.arrived
        worthwhile = self._stops and lacking >= 2 * _LEAST_PIECE
        streams = Streams(file, one.fetch_apart, extra, most=most if worthwhile else 0)
        if worthwhile and (slots := streams.reserve()):
            one.despite_full_disk(
                lambda: file.cut(piece_bytes(lacking, 1 + slots, _LEAST_PIECE)), file.size
            )
        elif file.in_pieces:
            one.despite_full_disk(lambda: file.cut(None), file.size)
        else:
            file.hash_on()  # hashes what an earlier transfer left
        return streams

    def open(self, path: str, span: Span, size: int, validator: str | None) -> RemoteFile:
        """Request the missing bytes of a span."""
        if span.stop < size and self._stops:
            return self._open(path, start=span.done, stop=span.stop, validator=validator)
        return self._open(path, start=span.done, validator=validator)


class _OneTransfer:
    """The transfer of one file."""

    size_reported_by = ""
    """Method that reported another size for the file before any byte of it; empty if none did."""

    # Streams that end early: they reveal the size of a file if the store does not report it.
    _furthest = 0
    """Largest number of bytes that had arrived when a stream ended early."""

    _ended_at = -1
    """Bytes that had arrived when the last stream ended early."""

    _ends = 0
    """Number of consecutive streams that ended at this point."""

    _versions = 0
    _in_vain = 0
    """Bytes of streams that got no further than earlier ones."""

    def __init__(
        self, transfer: RangeTransfer, file: PartFile, path: str, context: TransferContext
    ) -> None:
        self.file = file
        self._transfer = transfer
        self._path = path
        self._check = context.check
        self._make_room = context.make_room
        self._progress = ProgressLog(path, file.size, lambda: file.arrived)

    @property
    def received(self) -> int:
        """Bytes received, without those of streams that got no further, see `Progress`."""
        return self.file.received - self._in_vain

    def despite_full_disk(self, action: Callable[[], T], size: int) -> T:
        """Call a function that writes; evict `size` bytes and retry while the disk is full.

        Raises:
            CacheFullError: the disk is full and nothing can be evicted.
        """
        return despite_full_disk(action, lambda: self._make_room(size))

    def wait(self, streams: Streams) -> None:
        """Wait briefly for the threads that fetch the last spans."""
        self._check()
        streams.wait()
        self._progress.tick()

    def fetch_next(self, streams: Streams) -> None:
        """Fetch the next span that no other stream is fetching."""
        file = self.file
        span = file.claim()
        if span is None:
            return
        try:
            validator = file.validator
            remote = self._transfer.open(self._path, span, file.size, validator)
            with closing_chunks(remote.chunks):
                if remote.size not in (None, file.size):
                    file.wrong_size = remote.size  # not worth fetching
                    self.size_reported_by = self._transfer.name
                    return
                if remote.start != span.done or remote.validator != validator:
                    span = self._another(span, remote, validator)
                streams.start(may=remote.validator is not None)
                if remote.validator is None and span.stop < file.size:
                    # Pieces of two versions could not be told apart: fetch all in one answer.
                    self.despite_full_disk(lambda: file.cut(None), file.size)
                    return
                before = span.done
                self._receive(span, remote)
                if span.done < span.stop:
                    self._ended(span, before)
        finally:
            file.give_back(span)
        file.hash_on(wait=False)

    def fetch_apart(self, span: Span) -> bool:
        """Fetch a span beside the main stream.

        Returns:
            False when the store ignores ranges, or has another version of the file by now, which
            the main stream handles.
        """
        validator = self.file.validator
        remote = self._transfer.open(self._path, span, self.file.size, validator)
        with closing_chunks(remote.chunks):
            if remote.start != span.done or remote.validator != validator:
                return False
            before = span.done
            self._receive(span, remote)
            if span.done == before:
                raise self._nothing_came(before)
        self.file.hash_on(wait=False)
        return True

    def _another(self, span: Span, remote: RemoteFile, validator: str | None) -> Span:
        """Adopt an answer's version; restart if the part has another, or the answer begins at 0."""
        if remote.start not in (0, span.done):
            raise DownloadInterruptedError(
                f"{self._path}: asked for bytes from {span.done}, got them from {remote.start}"
            )
        if remote.start == 0 and (span.done or validator is not None):
            span = self.file.restart()
            if remote.validator != validator and self._versions < _MOST_VERSIONS:
                self._versions += 1
                self._furthest = 0
        elif remote.start and validator is not None:
            # The answer continues in the middle, but with another version than was asked for.
            self.file.give_back(self.file.restart())
            raise DownloadInterruptedError(f"{self._path}: it was replaced while it was fetched")
        self.despite_full_disk(lambda: self.file.keep_validator(remote.validator), self.file.size)
        return span

    def _receive(self, span: Span, remote: RemoteFile) -> None:
        for chunk in remote.chunks:
            self._check()
            self._write(span, chunk[: span.stop - span.done])
            self._progress.tick()
            if span.done == span.stop:
                return

    def _ended(self, span: Span, before: int) -> None:
        """Handle a stream that ended without an error before its span was complete.

        The cause may be the network, or a store that returns a file in portions; then the next
        stream gets further. If none does, it is the end of the file, which is shorter than it
        should be: retrying would never end.

        Raises:
            DownloadInterruptedError: the stream got no further than an earlier one.
        """
        there = self.file.arrived
        self._ends = self._ends + 1 if there == self._ended_at else 1
        self._ended_at = there
        further = span.done > before and there > self._furthest
        self._furthest = max(self._furthest, there)
        if further:
            return
        all_anew = before == 0 and span.done > 0 and self._ends > 1
        if span.done == self.file.gap and (all_anew or self._ends >= _ENDS_THAT_CONVINCE):
            self.file.wrong_size = span.done
            return
        self._in_vain += span.done - before
        if span.done == before:
            raise self._nothing_came(before)
        raise DownloadInterruptedError(
            f"{self._path}: the answer ended after {span.done} of {self.file.size} bytes, no "
            "further than one before it"
        )

    def _nothing_came(self, before: int) -> DownloadInterruptedError:
        return DownloadInterruptedError(f"{self._path}: nothing came after {before} bytes")

    def _write(self, span: Span, chunk: bytes) -> None:
        while chunk:
            rest = chunk
            written = self.despite_full_disk(
                lambda: self.file.write(span, rest),  # noqa: B023 (called at once)
                len(chunk),
            )
            chunk = chunk[written:]
