"""The cache of one dataset on one machine."""

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
from audiomdb.cache.failures import Failures
from audiomdb.cache.index_copy import IndexCopy
from audiomdb.cache.layout import CacheLayout
from audiomdb.cache.lock import Held, map_held, try_shared
from audiomdb.cache.opening import Limits, deleted_error, open_cache
from audiomdb.cache.options import CacheOptions
from audiomdb.cache.pace import Waiting
from audiomdb.cache.part_file import arrived
from audiomdb.cache.patience import Patience
from audiomdb.cache.readers import Registration
from audiomdb.cache.retry import Outage, Stopped
from audiomdb.cache.room import Delivered, Part, Room
from audiomdb.cache.slots import Slots
from audiomdb.cache.source import Source
from audiomdb.cache.tenancy import Tenancy
from audiomdb.errors import CorruptShardError
from audiomdb.shards.course import Arrival
from audiomdb.shards.files import bytes_below
from audiomdb.shards.layout import DATA_FILE
from audiomdb.shards.metadata import Metadata

__all__ = ["ShardCache"]

_COLLECT_AFTER_S = 0.5

_MOST_LOST = 30
"""Times that somebody may delete a shard while it is fetched."""

_NOT_AS_DESCRIBED = (
    "The copy in the store is not what metadata.json describes: if the dataset was replaced there "
    "meanwhile, close it in all processes of this machine and open it again, else upload it again"
)

_LOOK_EVERY_S = 0.5
"""A transfer that nobody waits for looks so often whether it is in the way."""


class ShardCache:
    """Gives out shards of a dataset, fetching what is missing, within a budget.

    All processes of a machine that name the same directory share it: each shard is fetched once,
    by one of them, and everything in the directory together stays within the budget. Give all of
    them the same options; otherwise `max_bytes` and `workers` of the first one hold for all.
    Threads share an object; after a fork the child makes its own.

    Args:
        directory: Of this dataset alone. Made where it is missing.
        source: Where the dataset comes from.
        options: See there.

    Raises:
        CachePlaceError: the directory cannot be written, or is on a network file system.
        CacheFullError: the disk is full.
        DownloadError, DatasetError: the metadata cannot be had, or is damaged.
    """

    def __init__(self, directory: Path, source: Source, options: CacheOptions) -> None:
        self.relent: Callable[[], None] = _nothing
        """Called while a reader waits for room: lets go of shards that are kept for comfort."""
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
        """Of the dataset."""
        self._prefetch = options.prefetch
        self._tenancy = Tenancy(self._layout, opened)
        # For whoever forgets to close it.
        weakref.finalize(self, self._tenancy.close).atexit = False
        self._room = Room(
            self._layout,
            self.metadata,
            self._tenancy,
            self._counters,
            asked_bytes=options.max_bytes,
        )
        self._outage = Outage(self._layout.outage)
        self._transfer = source.transfer(self._layout, self._room, self._counters)
        self._index = IndexCopy(
            self._layout,
            self.metadata.index,
            source.index(self._layout, self._room, self._counters),
            self._room,
        )

    @property
    def options(self) -> CacheOptions:
        """As given, or as they are for all who use the directory now."""
        limits = self._tenancy.limits
        return CacheOptions(
            max_bytes=limits.max_bytes, workers=limits.workers, prefetch=self._prefetch
        )

    @property
    def directory(self) -> Path:
        """Where the cache lies."""
        return self._layout.root

    @property
    def stats(self) -> CacheStats:
        """What this process has done with the cache."""
        return self._counters.stats

    @property
    def holds_everything(self) -> bool:
        """Whether nothing ever has to be evicted."""
        return self._room.holds_everything

    def close(self) -> None:
        """Say that this process no longer uses the directory. Leases stay."""
        self._tenancy.close()

    def register(
        self, at_once: int, visits: int = 0, *, workers: int = 1, ranks: int = 1
    ) -> Registration:
        """Enter a reader that holds `at_once` shards at a time and publishes up to `visits`.

        The budget has to do for `workers` such readers, this one among them.

        Raises:
            CacheTooSmallError: with the smallest budget that would do for as many of each of
                `ranks`, should all of them use this directory.
        """
        return self._room.register(at_once, visits, workers, ranks)

    def publish(self, registration: Registration, visits: list[int]) -> None:
        """Say which shards a reader visits from now on, in order."""
        import numpy as np

        self._room.publish(registration, np.array(visits, np.int32))

    def lease(self, number: int, *, check: Callable[[], None] | None = None) -> memoryview:
        """Map a shard's file; it stays in the cache until the last view of it is gone.

        Fetches it, or waits for whoever does.

        Args:
            number: Of the shard.
            check: Called now and then while waiting; raises to give up.

        Raises:
            CorruptShardError: it arrived damaged, twice.
            DownloadError, Exception: as the source, here or in the process that fetched it.
            CacheTooSmallError: every shard in the cache is being read, and stays so.
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
        """How much of a shard is there, whichever process fetches it."""
        size = self._room.sizes[number]
        there = size if self._room.shard_path(number).exists() else self._arrived(number)
        if not there:  # a backend that fetches whole files does it in a folder of its own
            there = bytes_below(self._layout.staging / self._room.names[number])
        return Arrival(there, size, self._counters.stats.retries)

    def fetch_ahead(
        self, number: int, check: Callable[[], None]
    ) -> Literal["there", "busy", "slots", "full", "fetched", "failed"]:
        """Fetch a shard that will be needed, if there is room and nobody else does it.

        Returns:
            "slots" when as much is under way as there may be.
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
                # Noted for those who wait; whoever needs the shard later tries again and raises.
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
        """Say, for the time of a `with` block, that a shard could be fetched ahead with a slot."""
        return self._slots.lacking(ahead=True) or contextlib.nullcontext()

    def index_file(self) -> memoryview | None:
        """The dataset's index file; None where it can only be gathered from the shards.

        Raises:
            MetadataError: it is not what metadata says.
            DownloadError: as the source.
        """
        return self._index.open(self._slots.extra(ahead=False))

    def keep_index(self, content: bytes) -> None:
        """Keep an index file that was gathered from shards, if it is what metadata describes."""
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
        """Fetch a shard, or wait for whoever does."""
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
                        # Leases end with their views, which circles of garbage keep alive.
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
        """Fetch a part, twice if it comes damaged, and make it a whole shard.

        Returns:
            None when somebody has removed the part from the directory.
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
            if isinstance(error, FileNotFoundError) and not self._room.has(part):
                part.held.release()
                return None
            if isinstance(error, Exception) and not isinstance(error, Stopped):
                self._failures.record(part.name, error)
            part.held.release()  # the part stays: whoever comes next goes on from there
            raise
        corrupt = CorruptShardError(self._damage(part.number, delivered))
        self._failures.record(part.name, corrupt)
        self._room.abandon(part)
        raise corrupt

    def _give_way(self, number: int, check: Callable[[], None]) -> Callable[[], None]:
        """A check for a transfer that nobody waits for: it ends where it keeps others waiting.

        As long as it brings something, they wait for no more than its end.
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
        """Bytes of a shard that are on the disk."""
        name, size = self._room.names[number], self._room.sizes[number]
        return arrived(self._layout.parts / name, self._layout.spans(name), size)

    @property
    def _slots(self) -> Slots:
        # A new one each time: how many there are may change with the directory.
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
    """A transfer has ended because somebody needs its room, its slot or its shard more."""


def _nothing() -> None:
    """Go on."""
