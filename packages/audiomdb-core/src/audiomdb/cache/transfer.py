"""Fetching a file into a part: resumed where it broke off, in several pieces where it is large."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from audiomdb.cache.answers import closing_chunks
from audiomdb.cache.counters import Counters
from audiomdb.cache.full_disk import despite_full_disk
from audiomdb.cache.pace import Pace
from audiomdb.cache.part_file import PartFile
from audiomdb.cache.remote_file import RemoteFile
from audiomdb.cache.retry import Outage, Retries
from audiomdb.cache.room import Delivered, Part
from audiomdb.cache.slots import ExtraSlots
from audiomdb.cache.spans import Span, piece_bytes
from audiomdb.cache.streams import Streams
from audiomdb.errors import DownloadInterruptedError
from audiomdb.shards.layout import DATA_FILE
from audiomdb.shards.metadata import ShardEntry

__all__ = ["Open", "RangeTransfer", "Transfer"]

_LEAST_PIECE = 4 << 20
"""Smaller pieces would spend their time asking, so that files below twice this come whole.

Measured with 30 ms a request and 20 MB/s a connection: 16 MB take 0.85 s over one connection and
0.32 s over four; 64 MB 3.3 s, 1.1 s, and 0.9 s over eight. Where all connections together get
40 MB/s, nothing is gained, and up to 12 % lost.
"""

_MOST_STREAMS = 8
"""For one shard. More bring nothing where the line is the limit, and are discourteous elsewhere."""

_ENDS_THAT_CONVINCE = 3
"""Streams in a row that end at one place, as if that were the end of the file, before it is taken
for that. One is enough where all of the file came anew only to end there again."""

_MOST_VERSIONS = 3
"""Times that a file may be replaced while it is fetched before that counts as no progress."""

T = TypeVar("T")


class Open(Protocol):
    """Asks a store for a file."""

    def __call__(self, path: str, *, start: int = 0, validator: str | None = None) -> RemoteFile:
        """Open the file at `path`, relative to the dataset, from byte `start` on.

        One that takes `stop` besides is asked for pieces of large files: the first byte that is
        not needed, or None.
        """


class Transfer(Protocol):
    """Brings a shard into the cache directory."""

    def __call__(
        self, part: Part, entry: ShardEntry, *, check: Callable[[], None], extra: ExtraSlots
    ) -> Delivered:
        """Fetch the shard of a part.

        Args:
            part: Where to; what an earlier attempt left is in it.
            entry: What metadata says of the shard.
            check: Called now and then, from several threads; raises when the transfer is to stop.
            extra: Where it gets leave to do more than one thing at a time.
        """


class RangeTransfer:
    """Fetches shards from a store that reads ranges. Threads share it.

    Args:
        open_remote: Asks the store.
        stops: Whether it takes `stop`, see `Open`.
        name: What errors call it.
        validators: Path of the file that keeps a part's validator.
        spans: Path of the file that keeps which bytes of a part are there.
        make_room: Called with a number of bytes when the disk is full; False: nothing can go.
        counters: Where bytes and retries are counted.
        outage: Whether the store has failed others lately.
    """

    def __init__(
        self,
        open_remote: Open,
        *,
        stops: bool,
        name: str = "open_remote",
        validators: Callable[[str], Path],
        spans: Callable[[str], Path],
        make_room: Callable[[int], bool],
        counters: Counters,
        outage: Outage,
    ) -> None:
        self._open: Callable[..., RemoteFile] = open_remote
        self._stops = stops
        self.name = name
        self._validators = validators
        self._spans = spans
        self._make_room = make_room
        self._counters = counters
        self._outage = outage

    def __call__(
        self, part: Part, entry: ShardEntry, *, check: Callable[[], None], extra: ExtraSlots
    ) -> Delivered:
        """Fetch a shard's file, see `fetch`."""
        path = f"{entry.path}/{DATA_FILE}"
        return self.fetch(part, path, entry.bytes, check=check, extra=extra)

    def fetch(
        self, part: Part, path: str, size: int, *, check: Callable[[], None], extra: ExtraSlots
    ) -> Delivered:
        """Fetch a file of so many bytes, from where the part ends.

        Raises:
            DownloadError: as the retriever says.
            DownloadInterruptedError: trying again did not help; says what was tried.
            CacheFullError: the disk is full.
        """
        with PartFile(
            part.held.fd,
            size,
            validator=self._validators(part.name),
            spans=self._spans(part.name),
        ) as file:
            one = _OneTransfer(self, file, path, check)
            streams = self._more_streams(one, extra)
            retries = Retries(
                path, counters=self._counters, check=check, size=size, outage=self._outage
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
            return Delivered(part.path, part.held, came, file.sha256(), one.told_by)

    def _more_streams(self, one: _OneTransfer, extra: ExtraSlots) -> Streams:
        """Prepare for several streams, if that is worth it and there are slots for them."""
        file, most = one.file, _MOST_STREAMS - 1
        lacking = file.size - file.arrived
        worthwhile = self._stops and lacking >= 2 * _LEAST_PIECE
        streams = Streams(file, one.fetch_apart, extra, most=most if worthwhile else 0)
        if worthwhile and (slots := streams.reserve()):
            self.despite_full_disk(
                lambda: file.cut(piece_bytes(lacking, 1 + slots, _LEAST_PIECE)), one.file.size
            )
        elif file.in_pieces:
            self.despite_full_disk(lambda: file.cut(None), one.file.size)
        else:
            file.hash_on()  # what an earlier transfer left
        return streams

    def despite_full_disk(self, action: Callable[[], T], size: int) -> T:
        """Do what takes so much disk; have something evicted where there is none.

        Raises:
            CacheFullError: nothing can be evicted.
        """
        return despite_full_disk(action, lambda: self._make_room(size))

    def open(self, path: str, span: Span, size: int, validator: str | None) -> RemoteFile:
        """Ask for what a span lacks."""
        if span.stop < size and self._stops:
            return self._open(path, start=span.done, stop=span.stop, validator=validator)
        return self._open(path, start=span.done, validator=validator)


class _OneTransfer:
    """One shard's file being fetched."""

    told_by = ""
    """What said that the file has another size, without a byte of it; empty where nothing did."""

    # What the store says by ending streams early: it matters where it does not tell the size.
    _furthest = 0
    """Most bytes that were there when a stream ended by itself."""

    _ended_at = -1
    """Bytes that were there when the last one did."""

    _ends = 0
    """How many in a row did there."""

    _versions = 0
    _in_vain = 0
    """Bytes of streams that got no further than others before them."""

    def __init__(
        self, transfer: RangeTransfer, file: PartFile, path: str, check: Callable[[], None]
    ) -> None:
        self.file = file
        self._transfer = transfer
        self._path = path
        self._check = check
        self._pace = Pace(path, file.size, lambda: file.arrived)

    @property
    def received(self) -> int:
        """Bytes that have come, but for those that came again for nothing: see `Progress`."""
        return self.file.received - self._in_vain

    def wait(self, streams: Streams) -> None:
        """Wait a moment for those who are at the last spans."""
        self._check()
        streams.wait()
        self._pace.tick()

    def fetch_next(self, streams: Streams) -> None:
        """Fetch the next span that nobody is at."""
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
                    self.told_by = self._transfer.name
                    return
                if remote.start != span.done or remote.validator != validator:
                    span = self._another(span, remote, validator)
                streams.start(may=remote.validator is not None)
                if remote.validator is None and span.stop < file.size:
                    # Pieces of two versions could not be told apart: all of it in one answer.
                    file.cut(None)
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
            False when the store gives no ranges, or has another version of the file by now: that
            is for the main stream to see to.
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
        """Begin anew with another version of the file, or a store that always begins at 0."""
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
            # The store went on in the middle, though of another version than it was asked for.
            self.file.give_back(self.file.restart())
            raise DownloadInterruptedError(f"{self._path}: it was replaced while it was fetched")
        self._transfer.despite_full_disk(
            lambda: self.file.keep_validator(remote.validator), self.file.size
        )
        return span

    def _receive(self, span: Span, remote: RemoteFile) -> None:
        for chunk in remote.chunks:
            self._check()
            self._write(span, chunk[: span.stop - span.done])
            self._pace.tick()
            if span.done == span.stop:
                return

    def _ended(self, span: Span, before: int) -> None:
        """A stream ended before its span did, as if that were all.

        That may be the network, or a store that gives a file in portions; then the next one goes
        further. If none does, it is the end of the file, which is shorter than it should be: to
        fetch it over and over would never end.

        Raises:
            DownloadInterruptedError: it got no further than another one before it.
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
            written = self._transfer.despite_full_disk(
                lambda: self.file.write(span, rest),  # noqa: B023 (called at once)
                len(chunk),
            )
            chunk = chunk[written:]
