"""Fetch shards into the cache: one at a time, by whichever thread or process claims it first.

Claim the shard's part and the room for it; take a slot; transfer; check size and sha256; admit. Who
comes later waits for the outcome, which is the shard, or the failure of the one who fetches it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

from audiomdb.cache.counters import Counters
from audiomdb.cache.directory_use import DirectoryUse
from audiomdb.cache.eviction import abandon
from audiomdb.cache.failures import Failures, Outage
from audiomdb.cache.layout import CacheLayout
from audiomdb.cache.lock import Held, try_shared
from audiomdb.cache.opening import deleted_error
from audiomdb.cache.part_file import Delivered, Part
from audiomdb.cache.room import Room
from audiomdb.cache.slots import Slots
from audiomdb.cache.transfer import Transfer, TransferContext
from audiomdb.cache.waiting import OtherTransfer, WaitLoop
from audiomdb.errors import CacheFullError, CorruptShardError, DatasetNotFoundError
from audiomdb.log import logger
from audiomdb.notes import add_note
from audiomdb.shards.layout import DATA_FILE
from audiomdb.shards.metadata import Metadata
from audiomdb.threads import Stopped

__all__ = ["Fetching"]

_COLLECT_AFTER_S = 0.5

_MOST_LOST = 30
"""Times that a shard may be deleted from outside while it is fetched, before that is an error."""

_NOT_AS_DESCRIBED = (
    "The copy in the store is not what metadata.json describes: if the dataset was replaced there "
    "meanwhile, close it in all processes of this machine and open it again, else upload it again"
)

_LOOK_EVERY_S = 0.5
"""Interval at which a prefetching transfer checks whether it keeps a reader waiting."""


class Fetching:
    """Fetches the shards of one dataset, for this process. Thread-safe.

    Args:
        layout: The cache directory.
        metadata: Metadata of the dataset.
        room: The room in the directory.
        use: This process's use of the directory.
        transfer: Fetches a shard from the source.
        failures: Notes of failed fetches.
        counters: Counters in which fetches are counted.
        close_idle: Called while a reader waits for room; closes shards that are open but not used.
    """

    def __init__(
        self,
        layout: CacheLayout,
        metadata: Metadata,
        room: Room,
        use: DirectoryUse,
        transfer: Transfer,
        failures: Failures,
        counters: Counters,
        close_idle: Callable[[], None],
    ) -> None:
        self._close_idle = close_idle
        self._layout = layout
        self._metadata = metadata
        self._room = room
        self._use = use
        self._transfer = transfer
        self._failures = failures
        self._counters = counters
        self._outage = Outage(layout.outage)

    def lease(self, number: int) -> Held | None:
        """Lease a shard that is in the cache; return None if it is not there, or not whole."""
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

    def obtain(self, number: int, check: Callable[[], None]) -> Held:
        """Fetch a shard, or wait for the thread or process that fetches it."""
        name = self._room.names[number]
        known = self._failures.attempt(name)
        loop = WaitLoop(check)
        other = OtherTransfer(lambda: self._room.arrived(number), self._room.sizes[number])
        until_one_ends: frozenset[str] = frozenset()
        lost = 0
        with _RoomDemand(self._room, loop, self._close_idle, self._no_room(number)) as demand:
            while True:
                try:
                    claimed = self._claim(number, until_one_ends)
                    if isinstance(claimed, Part):
                        held = self._fetch(claimed, check)
                        if held is not None:
                            return held
                        lost += 1
                        if lost >= _MOST_LOST:
                            raise deleted_error(self._layout.root)
                        continue
                except CacheFullError:
                    freed, until_one_ends = self._freed(name)
                    if freed:
                        continue
                    if not until_one_ends:
                        raise
                    claimed = "full"
                if claimed == "full":
                    demand.step()
                held = self.lease(number)
                if held is not None:
                    return held
                self._failures.raise_newer(name, known)
                why = claimed
                loop.log(lambda: f"waiting for {self._file(number)}: {other.describe(why)}")  # noqa: B023
                loop.step()

    def ahead(
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
            try:
                claimed = self._room.claim(number, ahead=True)
                if not isinstance(claimed, Part):
                    return claimed
                held = self._deliver(claimed, check, ahead=True)
            except _GaveWay:
                return "full"
            except Stopped:
                raise
            except Exception as error:  # noqa: BLE001
                # Recorded for waiting threads; a later reader of the shard tries again and raises.
                logger("cache").warning("could not fetch shard %d ahead: %s", number, error)
                self._counters.add(prefetch_errors=1)
                return "failed"
            if held is None:
                return "failed"
            held.release()
        return "fetched"

    @property
    def slots(self) -> Slots:
        """The slots of the directory."""
        # Made anew each time, because the limit may change when the directory is made again.
        return Slots(self._layout.slots, self._use.limits.workers)

    def wait_for_slot(self, file: str, check: Callable[[], None]) -> Held:
        """Wait for a slot, for a transfer that a reader waits for.

        Args:
            file: Name of the file to transfer, for messages.
            check: Called repeatedly while waiting; raises to give up.
        """
        loop = WaitLoop(check)
        with contextlib.ExitStack() as stack:
            says_so = False
            while (slot := self._take_slot(ahead=False)) is None:
                if not says_so and (sign := self.slots.lacking(ahead=False)) is not None:
                    says_so = True
                    stack.enter_context(sign)
                loop.log(
                    lambda: (
                        f"waiting to fetch {file}: {self._use.limits.workers} transfers, as "
                        "many as workers= allows, are under way"
                    )
                )
                loop.step()
        return slot

    def _claim(
        self, number: int, until_one_ends: frozenset[str]
    ) -> Part | Literal["busy", "full", "there"]:
        """Claim a shard, see `Room.claim`.

        Args:
            number: Number of the shard.
            until_one_ends: Names of the parts that others fetched when the disk was full. Until one
                of them has become a shard, which can be evicted, an attempt would waste a request.
        """
        if until_one_ends and until_one_ends <= self._room.fetched_by_others(
            self._room.names[number]
        ):
            return "full"
        return self._room.claim(number)

    def _freed(self, name: str) -> tuple[bool, frozenset[str]]:
        """Free space on a full disk for a part; return whether any was, and what others fetch."""
        self._close_idle()
        gc.collect()
        # First: a part that its process lets go of in between can be evicted.
        others = self._room.fetched_by_others(name)
        freed = self._room.shrink(1, but=name)
        return freed, frozenset() if freed else others

    def _fetch(self, part: Part, check: Callable[[], None]) -> Held | None:
        try:
            slot = self.wait_for_slot(self._file(part.number), check)
        except BaseException:
            part.held.release()
            raise
        with slot:
            try:
                return self._deliver(part, check, ahead=False)
            except (ConnectionError, TimeoutError) as error:
                self._outage.begin(str(error))
                raise

    def _take_slot(self, *, ahead: bool) -> Held | None:
        return self._use.despite_deletion(lambda: self.slots.take(ahead=ahead))

    def _deliver(self, part: Part, check: Callable[[], None], *, ahead: bool) -> Held | None:
        """Fetch a part, twice if it arrives damaged, and turn it into a complete shard.

        Returns:
            None when the part was removed from the directory meanwhile.
        """
        entry = self._metadata.shards[part.number]
        make_room = partial(self._room.shrink, ahead_of=part.number if ahead else None)
        look = self._give_way(part.number, check) if ahead else check
        context = TransferContext(look, make_room, self.slots.extra(ahead=ahead))
        try:
            for _ in range(2):
                delivered = self._transfer(part, entry, context)
                if (delivered.size, delivered.sha256) == (entry.bytes, entry.sha256):
                    held = self._room.admit(part, delivered)
                    self._failures.forget(part.name)
                    self._counters.add(fetched_shards=held is not None)
                    return held
                self._counters.add(corrupt=1)
                if not self._room.quarantine(part, delivered):
                    return None
        except BaseException as error:
            with part.held:  # the part stays, for the next attempt to resume
                if isinstance(error, FileNotFoundError) and not part.is_there():
                    return None
                if isinstance(error, DatasetNotFoundError):
                    add_note(error, _NOT_AS_DESCRIBED)
                # Not for a full disk: the waiting reader may be able to free shards itself.
                if isinstance(error, Exception) and not isinstance(error, Stopped | CacheFullError):
                    # Raises if the shard is not wanted here any more: others try for themselves.
                    check()
                    self._failures.record(part.name, error)
                raise
        corrupt = CorruptShardError(self._damage(part.number, delivered))
        if not delivered.size_reported_by:
            add_note(corrupt, f"what came is in {self._layout.quarantine} while there is room")
        self._failures.record(part.name, corrupt)
        abandon(self._layout, part)
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
            here = self._room.arrived(number)
            if here == before and (self._room.wanted() or self.slots.is_lacked(ahead=False)):
                raise _GaveWay
            looked, before = now, here

        return give_way

    def _file(self, number: int) -> str:
        return f"{self._metadata.shards[number].path}/{DATA_FILE} of {self._metadata.name!r}"

    def _damage(self, number: int, delivered: Delivered) -> str:
        file, entry = self._file(number), self._metadata.shards[number]
        if delivered.size_reported_by:
            return (
                f"{file} has another size than metadata.json says: expected {entry.bytes} bytes, "
                f"but {delivered.size_reported_by} returned a RemoteFile of size {delivered.size}, "
                f"twice, so that nothing of it was fetched. {_NOT_AS_DESCRIBED}. If neither helps, "
                "the retriever is wrong: the size has to be that of the whole file, whatever part "
                "of it was asked for"
            )
        return (
            f"{file} arrived damaged twice: expected {entry.bytes} bytes "
            f"with sha256 {entry.sha256}, found {delivered.size} bytes with sha256 "
            f"{delivered.sha256}. {_NOT_AS_DESCRIBED}"
        )

    def _no_room(self, number: int) -> Callable[[], str]:
        return lambda: (
            f"no room for {self._file(number)} in {self._layout.root}: for a while nothing has "
            "moved there, and every shard in it is in use. Views (copy=False) keep their shard in "
            "the cache for as long as they live; let go of them, or raise "
            f"max_cache_bytes={self._use.limits.max_bytes}"
        )


class _RoomDemand:
    """Signals that a reader lacks room for its shard, and lets go of what it does not use.

    Args:
        room: The room in the directory.
        loop: The wait of the reader.
        close_idle: See `Fetching`.
        problem: Returns the message of the error if nothing changes for long.
    """

    def __init__(
        self,
        room: Room,
        loop: WaitLoop,
        close_idle: Callable[[], None],
        problem: Callable[[], str],
    ) -> None:
        self._room = room
        self._loop = loop
        self._close_idle = close_idle
        self._problem = problem
        self._signal: Held | None = None
        self._collect_at_s = _COLLECT_AFTER_S

    def __enter__(self) -> _RoomDemand:
        return self

    def __exit__(self, *_: object) -> None:
        if self._signal is not None:
            self._signal.release()

    def step(self) -> None:
        """Do this each time there is no room.

        Raises:
            CacheTooSmallError: nothing has changed for a minute.
        """
        self._close_idle()
        if self._loop.seconds >= self._collect_at_s:
            # Leases end with their views, which reference cycles may keep alive.
            gc.collect()
            self._collect_at_s *= 8
        if self._signal is None:
            self._signal = self._room.waiting()
        self._loop.watch(self._room.state, self._problem)


class _GaveWay(Stopped):
    """Raised to end a stalled prefetching transfer whose room, slot or shard a reader needs."""
