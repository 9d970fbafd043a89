"""Define `ShardCache`, the cache of one dataset on one machine."""

from __future__ import annotations

import contextlib
import gc
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from audiomdb.cache.counters import CacheStats, Counters
from audiomdb.cache.failures import Failures, Outage
from audiomdb.cache.index_copy import IndexCopy
from audiomdb.cache.layout import CacheLayout
from audiomdb.cache.lock import Held, map_held, try_shared
from audiomdb.cache.opening import Limits, deleted_error, open_cache
from audiomdb.cache.options import CacheOptions
from audiomdb.cache.part_file import Delivered, Part, arrived
from audiomdb.cache.readers import Registration
from audiomdb.cache.retry import Stopped
from audiomdb.cache.room import Room
from audiomdb.cache.slots import Slots
from audiomdb.cache.source import Source
from audiomdb.cache.tenancy import Tenancy
from audiomdb.cache.waiting import Patience, Waiting
from audiomdb.errors import CorruptShardError
from audiomdb.shards.course import Arrival
from audiomdb.shards.files import bytes_below
from audiomdb.shards.layout import DATA_FILE
from audiomdb.shards.metadata import Metadata

__all__ = ["ShardCache"]

_COLLECT_AFTER_S = 0.5

_MOST_LOST = 30
"""Times that a shard may be deleted from outside while it is fetched, before that is an error."""

_NOT_AS_DESCRIBED = (
    "The copy in the store is not what metadata.json describes: if the dataset was replaced there "
    "meanwhile, close it in all processes of this machine and open it again, else upload it again"
)

_LOOK_EVERY_S = 0.5
"""Interval at which a prefetching transfer checks whether it keeps a reader waiting."""


class ShardCache:
    """Leases the shards of a dataset, fetching missing ones, within a budget.

    All processes of a machine that name the same directory share it: each shard is fetched once,
    by one of them, and the total size of the directory stays within the budget. Give all of them
    the same options; otherwise `max_bytes` and `workers` of the first process hold for all.
    Thread-safe; after a fork, the child must make its own object.

    Args:
        directory: Directory for this dataset only. Created if it is missing.
        source: Source of the dataset.
        options: Options of the cache.

    Raises:
        CachePlaceError: the directory cannot be written, or is on a network file system.
        CacheFullError: the disk is full.
        DownloadError, DatasetError: the metadata cannot be fetched, or is damaged.
    """

    def __init__(self, directory: Path, source: Source, options: CacheOptions) -> None:
        self.relent: Callable[[], None] = _nothing
        """Called while a reader waits for room: closes shards kept open only for faster reads."""
        self._layout = CacheLayout(directory)
        self._counters = Counters()
        self._failures = Failures(self._layout.failed)
        opened = open_cache(
            self._layout,
            source,
            Limits(options.max_bytes, options.workers),
            self._failures,
            self._counters,
        )
        self.metadata: Metadata = opened.metadata
        """Metadata of the dataset."""
        self._prefetch = options.prefetch
        self._tenancy = Tenancy(self._layout, opened)
        # In case the caller forgets to close it.
        weakref.finalize(self, self._tenancy.close).atexit = False
        self._room = Room(
            self._layout,
            self.metadata,
            self._tenancy,
            self._counters,
            asked_bytes=options.max_bytes,
        )
        self._outage = Outage(self._layout.outage)
        self._transfer = source.transfer(self._layout, self._room.shrink, self._counters)
        self._index = IndexCopy(
            self._layout,
            self.metadata.index,
            source.index(self._layout, self._room.shrink, self._counters),
            self._room.shrink,
        )

    @property
    def options(self) -> CacheOptions:
        """Options in effect: `prefetch` as given, the others as agreed by all users."""
        limits = self._tenancy.limits
        return CacheOptions(
            max_bytes=limits.max_bytes, workers=limits.workers, prefetch=self._prefetch
        )

    @property
    def directory(self) -> Path:
        """Directory of the cache."""
        return self._layout.root

    @property
    def stats(self) -> CacheStats:
        """Counts of what this process has done with the cache."""
        return self._counters.stats

    @property
    def holds_everything(self) -> bool:
        """Whether the whole dataset fits, so that nothing is ever evicted."""
        return self._room.holds_everything

    def close(self) -> None:
        """Stop using the directory. Leases remain valid."""
        self._tenancy.close()

    def register(
        self, at_once: int, visits: int = 0, *, workers: int = 1, ranks: int = 1
    ) -> Registration:
        """Register a reader that holds `at_once` shards at a time and publishes up to `visits`.

        The budget must suffice for `workers` such readers, including this one.

        Raises:
            CacheTooSmallError: it does not; the message names the smallest budget that suffices
                for `workers` readers of each of `ranks`, should all of them use this directory.
        """
        return self._room.register(at_once, visits, workers, ranks)

    def publish(self, registration: Registration, visits: list[int]) -> None:
        """Publish the numbers of the shards that a reader will visit from now on, in order."""
        import numpy as np

        self._room.publish(registration, np.array(visits, np.int32))

    def lease(self, number: int, *, check: Callable[[], None] | None = None) -> memoryview:
        """Map a shard's file; it stays in the cache until the last view of it is gone.

        Fetches a missing shard, or waits if another thread or process is fetching it.

        Args:
            number: Number of the shard.
            check: Called repeatedly while waiting; raises to give up.

        Raises:
            CorruptShardError: the shard arrived damaged, twice.
            DownloadError, Exception: as the source, here or in the process that fetched it.
            CacheTooSmallError: every shard in the cache is being read, and that does not change.
            CacheFullError: the disk is full.
        """
        held = self._try_lease(number)
        if held is not None:
            self._counters.add(hits=1)
            return map_held(held)
        started = time.monotonic()
        try:
            return map_held(self._obtain(number, check or _nothing))
        finally:
            self._counters.add(misses=1, wait_s=time.monotonic() - started)

    def arrival(self, number: int) -> Arrival:
        """Return how much of a shard has arrived, whichever process fetches it."""
        size = self._room.sizes[number]
        there = size if self._room.shard_path(number).exists() else self._arrived(number)
        if not there:  # a backend that fetches whole files writes to its staging folder
            there = bytes_below(self._layout.staging / self._room.names[number])
        return Arrival(there, size, self._counters.stats.retries)

    def fetch_ahead(
        self, number: int, check: Callable[[], None]
    ) -> Literal["there", "busy", "slots", "full", "fetched", "failed"]:
        """Prefetch a shard, if there is room and no other thread or process is fetching it.

        Returns:
            "slots" when all slots for transfers are taken.
        """
        if self._room.shard_path(number).exists():
            return "there"
        if self._outage.lately():
            return "busy"
        slot = self._take_slot(ahead=True)
        if slot is None:
            return "slots"
        with slot:
            claimed = self._room.claim(number, ahead=True)
            if not isinstance(claimed, Part):
                return claimed
            try:
                held = self._deliver(claimed, self._give_way(number, check), ahead=True)
            except _GaveWay:
                return "full"
            except Stopped:
                raise
            except Exception as error:  # noqa: BLE001
                # Recorded for waiting threads; a later reader of the shard tries again and raises.
                import logging

                log = logging.getLogger("audiomdb.cache")
                log.warning("could not fetch shard %d ahead: %s", number, error)
                self._counters.add(prefetch_errors=1)
                return "failed"
            if held is None:
                return "failed"
            held.release()
        return "fetched"

    def lacking_slot(self) -> contextlib.AbstractContextManager[object]:
        """Signal in a `with` block that a shard could be prefetched if there were a slot."""
        return self._slots.lacking(ahead=True) or contextlib.nullcontext()

    def index_file(self) -> memoryview | None:
        """Map the dataset's index file; None if it can only be gathered from the shards.

        Raises:
            MetadataError: the file is not the one described in the metadata.
            DownloadError: as the source.
        """
        return self._index.open(self._slots.extra(ahead=False))

    def keep_index(self, content: bytes) -> None:
        """Keep an index gathered from shards, if it is the one described in the metadata."""
        self._index.keep(content)

    def _try_lease(self, number: int) -> Held | None:
        held = try_shared(self._room.shard_path(number))
        if held is None:
            return None
        if os.fstat(held.fd).st_size != self._room.sizes[number]:
            held.release()
            self._room.drop(number)
            return None
        with contextlib.suppress(OSError):
            os.utime(held.fd)  # the time of last use
        return held

    def _obtain(self, number: int, check: Callable[[], None]) -> Held:
        """Fetch a shard, or wait for the thread or process that fetches it."""
        name = self._room.names[number]
        known = self._failures.attempt(name)
        patience = Patience(check)
        waiting = Waiting(lambda: self._arrived(number), self._room.sizes[number])
        with contextlib.ExitStack() as stack:
            waits_for_room, collect_at_s, lost = False, _COLLECT_AFTER_S, 0
            while True:
                claimed = self._room.claim(number)
                if isinstance(claimed, Part):
                    held = self._fetch(claimed, check)
                    if held is not None:
                        return held
                    lost += 1
                    if lost >= _MOST_LOST:
                        raise deleted_error(self.directory)
                    continue
                if claimed == "full":
                    self.relent()
                    if patience.seconds >= collect_at_s:
                        # Leases end with their views, which reference cycles may keep alive.
                        gc.collect()
                        collect_at_s *= 8
                    if not waits_for_room and (marker := self._room.waiting()) is not None:
                        waits_for_room = True
                        stack.enter_context(marker)
                    patience.watch(self._room.state, lambda: self._stalled(number))
                held = self._try_lease(number)
                if held is not None:
                    return held
                self._failures.raise_newer(name, known)
                why = claimed
                patience.say(lambda: f"waiting for {self._file(number)}: {waiting.for_what(why)}")  # noqa: B023
                patience.wait()

    def _fetch(self, part: Part, check: Callable[[], None]) -> Held | None:
        try:
            slot = self._wait_for_slot(part.number, check)
        except BaseException:
            part.held.release()
            raise
        with slot:
            try:
                return self._deliver(part, check, ahead=False)
            except (ConnectionError, TimeoutError) as error:
                self._outage.begin(str(error))
                raise

    def _wait_for_slot(self, number: int, check: Callable[[], None]) -> Held:
        patience = Patience(check)
        with contextlib.ExitStack() as stack:
            says_so = False
            while (slot := self._take_slot(ahead=False)) is None:
                if not says_so and (sign := self._slots.lacking(ahead=False)) is not None:
                    says_so = True
                    stack.enter_context(sign)
                patience.say(
                    lambda: (
                        f"waiting to fetch {self._file(number)}: {self.options.workers} "
                        "transfers, as many as workers= allows, are under way"
                    )
                )
                patience.wait()
        return slot

    def _deliver(self, part: Part, check: Callable[[], None], *, ahead: bool) -> Held | None:
        """Fetch a part, twice if it arrives damaged, and turn it into a complete shard.

        Returns:
            None when the part was removed from the directory meanwhile.
        """
        entry = self.metadata.shards[part.number]
        extra = self._slots.extra(ahead=ahead)
        try:
            for _ in range(2):
                delivered = self._transfer(part, entry, check=check, extra=extra)
                self._outage.end()
                if (delivered.size, delivered.sha256) == (entry.bytes, entry.sha256):
                    held = self._room.admit(part, delivered)
                    self._failures.forget(part.name)
                    self._counters.add(fetched_shards=held is not None)
                    return held
                self._counters.add(corrupt=1)
                if not self._room.quarantine(part, delivered):
                    return None
        except BaseException as error:
            if isinstance(error, FileNotFoundError) and not part.is_there():
                part.held.release()
                return None
            if isinstance(error, Exception) and not isinstance(error, Stopped):
                self._failures.record(part.name, error)
            part.held.release()  # the part stays, for the next attempt to resume
            raise
        corrupt = CorruptShardError(self._damage(part.number, delivered))
        self._failures.record(part.name, corrupt)
        self._room.abandon(part)
        raise corrupt

    def _give_way(self, number: int, check: Callable[[], None]) -> Callable[[], None]:
        """Return a check that ends a prefetching transfer that stalls and keeps readers waiting.

        While the transfer makes progress, it goes on: readers wait at most until its end.
        """
        looked, before = time.monotonic(), -1

        def give_way() -> None:
            nonlocal looked, before
            check()
            now = time.monotonic()
            if now - looked < _LOOK_EVERY_S:
                return
            here = self._arrived(number)
            if here == before and (self._room.wanted() or self._slots.is_lacked(ahead=False)):
                raise _GaveWay
            looked, before = now, here

        return give_way

    def _arrived(self, number: int) -> int:
        """Return the number of bytes of a shard's part that have arrived."""
        name, size = self._room.names[number], self._room.sizes[number]
        return arrived(self._layout.parts / name, self._layout.spans(name), size)

    @property
    def _slots(self) -> Slots:
        # Made anew each time, because the limit may change when the directory is made again.
        return Slots(self._layout.slots, self._tenancy.limits.workers)

    def _take_slot(self, *, ahead: bool) -> Held | None:
        return self._tenancy.despite_deletion(lambda: self._slots.take(ahead=ahead))

    def _file(self, number: int) -> str:
        return f"{self.metadata.shards[number].path}/{DATA_FILE} of {self.metadata.name!r}"

    def _damage(self, number: int, delivered: Delivered) -> str:
        file, entry = self._file(number), self.metadata.shards[number]
        if delivered.told_by:
            return (
                f"{file} has another size than metadata.json says: expected {entry.bytes} bytes, "
                f"but {delivered.told_by} returned a RemoteFile of size {delivered.size}, twice, "
                f"so that nothing of it was fetched. {_NOT_AS_DESCRIBED}. If neither helps, the "
                "retriever is wrong: the size is that of the whole file, whatever part of it was "
                "asked for"
            )
        return (
            f"{file} arrived damaged twice: expected {entry.bytes} bytes "
            f"with sha256 {entry.sha256}, found {delivered.size} bytes with sha256 "
            f"{delivered.sha256}. {_NOT_AS_DESCRIBED} "
            f"(what came is in {self._layout.quarantine} while there is room)"
        )

    def _stalled(self, number: int) -> str:
        return (
            f"no room for {self._file(number)} in {self.directory}: for a while nothing has "
            "moved there, and every shard in it is in use. Views (copy=False) keep their shard in "
            "the cache for as long as they live; let go of them, or raise "
            f"max_cache_bytes={self.options.max_bytes}"
        )


class _GaveWay(Stopped):
    """Raised to end a stalled prefetching transfer whose room, slot or shard a reader needs."""


def _nothing() -> None:
    """Do nothing."""
