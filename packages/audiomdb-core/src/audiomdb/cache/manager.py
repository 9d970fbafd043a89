"""The cache of one dataset on one machine."""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from audiomdb.cache.counters import CacheStats, Counters
from audiomdb.cache.failures import Failures
from audiomdb.cache.layout import CacheLayout
from audiomdb.cache.lock import Held, map_held, try_exclusive, try_shared
from audiomdb.cache.opening import Opened, open_metadata
from audiomdb.cache.readers import Registration
from audiomdb.cache.retry import Stopped
from audiomdb.cache.room import Part, Room
from audiomdb.cache.source import Source
from audiomdb.errors import CacheTooSmallError, CorruptShardError, MetadataError
from audiomdb.shards.files import sha256_hex, write_atomically
from audiomdb.shards.layout import DATA_FILE
from audiomdb.shards.mapping import map_file
from audiomdb.shards.metadata import Metadata

__all__ = ["CacheOptions", "ShardCache"]


_SHORTEST_WAIT_S = 0.001
_LONGEST_WAIT_S = 0.02
_SAY_SO_EVERY_S = 30.0
_STALL_S = 60.0
"""Room that nobody frees for so long is held by views that outlive their use."""


class CacheOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How much a cache may hold, and how eager it is.

    Attributes:
        max_bytes: Limit of the directory, partial files included. None: the disk's.
        prefetch: Shards fetched ahead of the one being read, where the order is known.
        workers: Transfers at once, over all processes of the machine.
    """

    max_bytes: int | None = None
    prefetch: int = 4
    workers: int = 4

    def __post_init__(self) -> None:
        if self.max_bytes is not None and self.max_bytes < 0:
            raise ValueError(f"max_cache_bytes is {self.max_bytes}, expected bytes or None")
        if self.prefetch < 0:
            raise ValueError(f"prefetch is {self.prefetch}, expected 0 or more shards")
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}, expected 1 or more")


class ShardCache:
    """Gives out shards of a dataset, fetching what is missing, within a budget.

    All processes of a machine that name the same directory share it: each shard is fetched once,
    by one of them, and everything in the directory together stays within the budget. Threads share
    an object; after a fork the child makes its own.

    Args:
        directory: Of this dataset alone. Made where it is missing.
        source: Where the dataset comes from.
        options: See there.

    Raises:
        CachePlaceError: the directory is on a network file system.
        DownloadError, DatasetError: the metadata cannot be had, or is damaged.
    """

    def __init__(self, directory: Path, source: Source, options: CacheOptions) -> None:
        self.options = options
        self.relent: Callable[[], None] = _nothing
        """Called while a reader waits for room: lets go of shards that are kept for comfort."""
        self._layout = CacheLayout(directory)
        self._counters = Counters()
        self._failures = Failures(self._layout.failed)
        self._source = source
        self._opened: Opened = open_metadata(self._layout, source, self._failures, self._counters)
        # For whoever forgets to close it.
        weakref.finalize(self, self._opened.in_use.release).atexit = False
        self._room = Room(self._layout, self.metadata, options.max_bytes, self._counters)
        self._transfer = source.transfer(self._layout, self._room, self._counters)

    @property
    def metadata(self) -> Metadata:
        """Of the dataset."""
        return self._opened.metadata

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
        self._opened.in_use.release()

    def register(self, at_once: int, visits: int = 0) -> Registration:
        """Enter a reader that holds `at_once` shards at a time and publishes up to `visits`.

        Raises:
            CacheTooSmallError: with the smallest budget that would do.
        """
        return self._room.register(at_once, visits)

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

    def fetch_ahead(
        self, number: int, check: Callable[[], None]
    ) -> Literal["there", "busy", "full", "fetched", "failed"]:
        """Fetch a shard that will be needed, if there is room and nobody else does it."""
        if self._room.shard_path(number).exists():
            return "there"
        slot = self._try_slot(ahead=True)
        if slot is None:
            return "busy"
        with slot:
            claimed = self._room.claim(number, ahead=True)
            if not isinstance(claimed, Part):
                return claimed
            try:
                self._deliver(claimed, check).release()
            except Stopped:
                raise
            except Exception as error:  # noqa: BLE001
                # Noted for those who wait; whoever needs the shard later tries again and raises.
                import logging

                log = logging.getLogger("audiomdb.cache")
                log.warning("could not fetch shard %d ahead: %s", number, error)
                self._counters.add(prefetch_errors=1)
                return "failed"
        return "fetched"

    def index_file(self) -> memoryview | None:
        """The dataset's index file; None where it can only be gathered from the shards.

        Raises:
            MetadataError: it is not what metadata says.
            DownloadError: as the source.
        """
        path, wanted = self._layout.index, self.metadata.index
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._metadata_lock())
            data = map_file(path) if path.exists() else None
            if data is None or sha256_hex(data) != wanted.sha256:
                content = self._source.index(self._counters)
                if content is None:
                    return None
                found = sha256_hex(content)
                if found != wanted.sha256:
                    raise MetadataError(
                        f"{wanted.path} arrived with {len(content)} bytes and sha256 {found}, "
                        f"metadata says {wanted.bytes} bytes and {wanted.sha256}"
                    )
                write_atomically(path, [content])
                data = map_file(path)
        return data

    def keep_index(self, content: bytes) -> None:
        """Keep an index file that was gathered from shards, if it is what metadata describes."""
        if sha256_hex(content) == self.metadata.index.sha256:
            with self._metadata_lock():
                write_atomically(self._layout.index, [content])

    def _metadata_lock(self) -> Held:
        waiting = _Patience(_nothing)
        while (held := try_exclusive(self._layout.metadata_lock, create=True)) is None:
            waiting.wait()
        return held

    def _try_lease(self, number: int) -> Held | None:
        held = try_shared(self._room.shard_path(number))
        if held is None:
            return None
        if os.fstat(held.fd).st_size != self._room.sizes[number]:
            held.release()
            self._room.drop(number)
            return None
        with contextlib.suppress(PermissionError):
            os.utime(held.fd)  # the time of last use
        return held

    def _obtain(self, number: int, check: Callable[[], None]) -> Held:
        name = self._room.names[number]
        known = self._failures.attempt(name)
        patience = _Patience(check)
        with contextlib.ExitStack() as stack:
            waits_for_room = False
            while True:
                claimed = self._room.claim(number)
                if isinstance(claimed, Part):
                    return self._fetch(claimed, check)
                if claimed == "full":
                    self.relent()
                    if not waits_for_room and (marker := self._room.waiting()) is not None:
                        waits_for_room = True
                        stack.enter_context(marker)
                    patience.watch(self._room.state, self._stalled(number))
                held = self._try_lease(number)
                if held is not None:
                    return held
                self._failures.raise_newer(name, known)
                patience.say(f"waiting for {self._entry_path(number)} ({claimed})")
                patience.wait()

    def _fetch(self, part: Part, check: Callable[[], None]) -> Held:
        patience = _Patience(check)
        try:
            while (slot := self._try_slot(ahead=False)) is None:
                patience.wait()
        except BaseException:
            part.held.release()
            raise
        with slot:
            return self._deliver(part, check)

    def _deliver(self, part: Part, check: Callable[[], None]) -> Held:
        """Fetch a part, twice if it comes damaged, and make it a whole shard."""
        entry = self.metadata.shards[part.number]
        try:
            for _ in range(2):
                delivered = self._transfer(part, entry, check=check)
                if (delivered.size, delivered.sha256) == (entry.bytes, entry.sha256):
                    held = self._room.admit(part, delivered)
                    self._failures.forget(part.name)
                    self._counters.add(fetched_shards=1)
                    return held
                self._counters.add(corrupt=1)
                self._room.quarantine(part, delivered)
        except BaseException as error:
            if isinstance(error, Exception) and not isinstance(error, Stopped):
                self._failures.record(part.name, error)
            part.held.release()  # the part stays: whoever comes next goes on from there
            raise
        corrupt = CorruptShardError(
            f"{self._entry_path(part.number)} arrived damaged twice: expected {entry.bytes} bytes "
            f"with sha256 {entry.sha256}, found {delivered.size} bytes with sha256 "
            f"{delivered.sha256}. The copy in the store is not what metadata.json describes: "
            f"upload it again (what came is in {self._layout.quarantine} while there is room)"
        )
        self._failures.record(part.name, corrupt)
        self._room.abandon(part)
        raise corrupt

    def _try_slot(self, *, ahead: bool) -> Held | None:
        # The first slot is kept for what somebody waits for, where there is more than one.
        first = 1 if ahead and self.options.workers > 1 else 0
        for number in range(first, self.options.workers):
            slot = try_exclusive(self._layout.slots / str(number), create=True)
            if slot is not None:
                return slot
        return None

    def _entry_path(self, number: int) -> str:
        return f"{self.metadata.shards[number].path}/{DATA_FILE} of {self.metadata.name!r}"

    def _stalled(self, number: int) -> str:
        return (
            f"no room for {self._entry_path(number)} in {self.directory}: for {_STALL_S:.0f} s "
            "every shard in the cache has been in use. Views (copy=False) keep their shard in the "
            "cache for as long as they live; let go of them, or raise "
            f"max_cache_bytes={self.options.max_bytes}"
        )


class _Patience:
    """Waits in growing steps, says so after a while, and notices when nothing moves."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._step = _SHORTEST_WAIT_S
        self._said = self._moved = self._looked = time.monotonic()
        self._state: object = None

    def wait(self) -> None:
        self._check()
        time.sleep(self._step)
        self._step = min(2 * self._step, _LONGEST_WAIT_S)

    def say(self, what: str) -> None:
        now = time.monotonic()
        if now - self._said >= _SAY_SO_EVERY_S:
            self._said = now
            import logging

            logging.getLogger("audiomdb.cache").warning("%s", what)

    def watch(self, state: Callable[[], object], problem: str) -> None:
        """Raise when `state` has been the same for too long."""
        now = time.monotonic()
        if self._state is not None and now - self._looked < 1.0:
            return
        self._looked, seen = now, state()
        if seen != self._state:
            self._state, self._moved = seen, now
        elif now - self._moved >= _STALL_S:
            raise CacheTooSmallError(problem)


def _nothing() -> None:
    """Go on."""
