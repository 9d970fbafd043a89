"""Manage the room in a cache directory: grant it to shards, and evict others to make room."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from audiomdb.cache.admission import refuse_too_many
from audiomdb.cache.budget import Stored, eviction_order, need_bytes, within_reach
from audiomdb.cache.contents import Inventory, names
from audiomdb.cache.counters import Counters
from audiomdb.cache.directory_use import DirectoryUse
from audiomdb.cache.eviction import (
    abandon,
    despite_full_disk,
    evicted,
    forget,
    hold_part,
    is_full_disk,
)
from audiomdb.cache.layout import CacheLayout
from audiomdb.cache.lock import Held, exclusive, is_at, is_held, try_exclusive
from audiomdb.cache.part_file import Delivered, Part, arrived
from audiomdb.cache.readers import Registration, live_readings, registration_bytes
from audiomdb.errors import CacheTooSmallError
from audiomdb.shards.files import bytes_below
from audiomdb.shards.metadata import Metadata

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Room"]

_MANY_READERS = 64

T = TypeVar("T")


class Room:
    """Keeps a cache directory within its budget, together with all other processes.

    What counts is read from the directory each time: complete shards with their size, parts with
    their final size, everything else as it is. No totals are stored that a crash could make wrong.
    Thread-safe.

    Args:
        layout: The directory.
        metadata: Metadata of the dataset.
        use: This process's use of the directory, which has the budget in force.
        counters: Counters in which evictions are counted.
        asked_bytes: Budget that this process asked for, which may differ from the one in force.
    """

    def __init__(
        self,
        layout: CacheLayout,
        metadata: Metadata,
        use: DirectoryUse,
        counters: Counters,
        *,
        asked_bytes: int | None,
    ) -> None:
        self._asked_bytes = asked_bytes
        self._layout = layout
        self._use = use
        self._counters = counters
        self._inventory = Inventory(layout, metadata)
        self.sizes, self.names = self._inventory.sizes, self._inventory.names
        self._sizes = np.array(self.sizes, np.int64)
        self._all_bytes = sum(self.sizes)

    @property
    def _max_bytes(self) -> int | None:
        return self._use.limits.max_bytes

    @property
    def holds_everything(self) -> bool:
        """Whether the whole dataset fits, so that none of it is ever evicted."""
        if self._max_bytes is None:
            return True
        notes = _MANY_READERS * registration_bytes(2 * len(self.sizes))
        return self._all_bytes + self._inventory.fixed_bytes() + notes <= self._max_bytes

    def shard_path(self, number: int) -> Path:
        """Return the path of a complete shard, whether it exists or not."""
        return self._layout.shards / self.names[number]

    def register(self, at_once: int, visits: int, workers: int = 1) -> Registration:
        """Register a reader that holds `at_once` shards at a time and publishes up to `visits`.

        Raises:
            CacheTooSmallError: the budget is less than all readers of the directory need.
            CacheFullError: the disk is full.
        """
        try:
            with self._use.registering():
                registration = self._use.despite_deletion(
                    lambda: self._registered(at_once, visits, workers)
                )
                self._use.enter(registration)
        except CacheTooSmallError:
            # The error's frames may keep this cache: whoever tries again must not find it in use.
            self._use.let_go()
            raise
        return registration

    def _registered(self, at_once: int, visits: int, workers: int) -> Registration:
        with exclusive(self._layout.budget_lock):
            others = list(live_readings(self._layout.readers))  # also removes dead readers
            if self._max_bytes is not None:
                refuse_too_many(
                    self._layout.root,
                    self.sizes,
                    at_once,
                    visits,
                    workers=workers,
                    others=others,
                    fixed=self._inventory.fixed_bytes(),
                    budget=self._max_bytes,
                    asked_bytes=self._asked_bytes,
                )
            needs = need_bytes(self.sizes, at_once)
            registration = self._despite_full_disk(
                lambda: Registration(self._layout.readers, needs, visits)
            )
            try:
                self._make_room(0)
            except BaseException:
                registration.close()
                raise
            return registration

    def publish(self, registration: Registration, visits: NDArray[np.int32]) -> None:
        """Publish the numbers of the shards that a reader will visit from now on, in order.

        Raises:
            CacheFullError: the disk is full.
        """

        def published() -> None:
            with exclusive(self._layout.budget_lock):
                self._despite_full_disk(lambda: registration.publish(visits))

        self._use.despite_deletion(published)

    def claim(self, number: int, *, ahead: bool = False) -> Part | Literal["busy", "full", "there"]:
        """Take the right to fetch a shard, and the room for it.

        Args:
            number: Number of the shard.
            ahead: Whether to prefetch: evict only what is needed later, and only if nothing that
                is needed sooner would have to be evicted for it.

        Returns:
            The part, "busy" when another thread or process fetches it, "full" when there is no room
            now, "there" when the shard is complete.

        Raises:
            CacheFullError: the disk is full.
        """
        return self._use.despite_deletion(lambda: self._claimed(number, ahead=ahead))

    def _claimed(self, number: int, *, ahead: bool) -> Part | Literal["busy", "full", "there"]:
        name, path = self.names[number], self._layout.parts / self.names[number]
        held = hold_part(self._layout, path)  # left by an earlier transfer; it counts already
        if held is None:
            if path.exists():
                return "busy"
            if ahead and self.wanted():
                return "full"
            with exclusive(self._layout.budget_lock):
                if self.shard_path(number).exists():
                    return "there"
                if path.exists():
                    return "busy"
                if not self._make_room(self.sizes[number], ahead_of=number if ahead else None):
                    return "full"
                held = self._new_part(path)
            if held is None:
                return "busy"
        elif ahead:
            with exclusive(self._layout.budget_lock):
                if not self._make_disk(0, number):
                    held.release()
                    return "full"
        part = Part(number, name, path, held)
        if self.shard_path(number).exists():  # its process died right before removing the part
            abandon(self._layout, part)
            return "there"
        return part

    def admit(self, part: Part, delivered: Delivered) -> Held | None:
        """Turn a delivered file into a complete shard, and keep it leased.

        Returns:
            None when it was removed from the directory meanwhile; the part is given up.
        """

        def admitted() -> bool:
            with exclusive(self._layout.budget_lock):
                shard = self._layout.shards / part.name
                if not part.is_there() or not _moved(delivered, shard):
                    return False
                self._discard(part, delivered)
                delivered.held.downgrade()
            return True

        whole = False
        try:
            whole = self._use.despite_deletion(admitted)
        finally:
            if not whole:
                delivered.held.release()
                part.held.release()
        return delivered.held if whole else None

    def quarantine(self, part: Part, delivered: Delivered) -> bool:
        """Move a delivered file to quarantine, and empty the part.

        Returns:
            False when it was removed from the directory meanwhile; the part is given up.
        """
        aside = self._layout.quarantine / part.name

        def emptied() -> Held | None:
            with exclusive(self._layout.budget_lock):
                if not part.is_there():
                    return None
                _moved(delivered, aside)
                self._discard(part, delivered)
                return self._new_part(part.path)

        try:
            held = self._use.despite_deletion(emptied)
        finally:
            delivered.held.release()
        if held is None:
            part.held.release()
            return False
        part.held = held
        self._use.despite_deletion(self._trim)
        return True

    def drop(self, number: int) -> None:
        """Remove an invalid shard, even if it is being read."""
        with suppress(FileNotFoundError), exclusive(self._layout.budget_lock):
            path = self.shard_path(number)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def shrink(self, size: int, *, but: str = "", ahead_of: int | None = None) -> bool:
        """Evict `size` bytes, because the disk is full; return False if nothing can be evicted.

        Args:
            size: Number of bytes.
            but: Name of a part that is not evicted.
            ahead_of: Shard that is being prefetched: evict only what is needed later.
        """

        def shrunk() -> bool:
            with exclusive(self._layout.budget_lock):
                return self._shrink(size, but=but, ahead_of=ahead_of) < size

        return self._use.despite_deletion(shrunk)

    def arrived(self, number: int) -> int:
        """Return the bytes of a shard that have arrived, whichever process is fetching it."""
        name, size = self.names[number], self.sizes[number]
        there = arrived(self._layout.parts / name, self._layout.spans(name), size)
        # A backend that fetches whole files writes to its staging folder.
        return there or bytes_below(self._layout.staging / name)

    def fetched_by_others(self, but: str) -> frozenset[str]:
        """Return the names of the parts that are being fetched, without this one."""
        return self._use.despite_deletion(self._fetched) - {but}

    def waiting(self) -> Held | None:
        """Signal that a reader waits for room, until the result is released.

        Returns:
            None when another thread or process already signals it, or the disk is full.
        """
        # Exclusive: one signal is enough, and `wanted` can test it with a shared lock.
        try:
            return self._use.despite_deletion(
                lambda: try_exclusive(self._layout.demand_lock, create=True)
            )
        except OSError as exc:
            if not is_full_disk(exc):
                raise
            return None

    def wanted(self) -> bool:
        """Return whether any reader waits for room."""
        return is_held(self._layout.demand_lock)

    def state(self) -> object:
        """Return what is equal from one time to the next only if no room can be expected.

        It is not while any shard is being fetched, as that has an end, and the shard can be evicted
        then: a backend need not show how far it is.
        """
        if self.fetched_by_others(""):
            return time.monotonic()
        return self._use.despite_deletion(lambda: sorted(names(self._layout.shards)))

    def _discard(self, part: Part, delivered: Delivered) -> None:
        # The part last: as long as it exists, a later process cleans up after a crash here.
        forget(self._layout, part.name)
        if delivered.path != part.path:
            part.path.unlink(missing_ok=True)
            part.held.release()

    def _new_part(self, path: Path) -> Held | None:
        # It may exist or be locked if budget.lock was deleted while another process held it.
        with suppress(FileExistsError):
            return self._despite_full_disk(lambda: try_exclusive(path, new=True))
        return None

    def _trim(self) -> None:
        with exclusive(self._layout.budget_lock):
            self._make_room(0)

    def _despite_full_disk(self, action: Callable[[], T]) -> T:
        """Call a function that writes little; evict while the disk is full. Needs `budget.lock`."""
        return despite_full_disk(action, lambda: self._shrink(1) <= 0)

    def _shrink(self, size: int, *, but: str = "", ahead_of: int | None = None) -> int:
        """Evict `size` bytes, see `shrink`; return how many are still lacking."""
        contents = self._inventory.contents()
        later_than = -1.0 if ahead_of is None else contents.uses[ahead_of]
        stored = (item for item in contents.stored if item.name != f"parts/{but}")
        return self._evict(eviction_order(stored, later_than=later_than), size)

    def _fetched(self) -> frozenset[str]:
        parts = filter(self._layout.is_part, names(self._layout.parts))
        return frozenset(name for name in parts if is_held(self._layout.parts / name))

    def _make_room(self, size: int, *, ahead_of: int | None = None) -> bool:
        """Evict until `size` more bytes fit; return whether they do. Call under `budget.lock`."""
        limit = self._max_bytes
        if limit is not None and not self._evict_for(size, limit, ahead_of):
            return False
        return ahead_of is None or self._make_disk(size, ahead_of)

    def _evict_for(self, size: int, limit: int, ahead_of: int | None) -> bool:
        contents = self._inventory.contents()
        short = contents.used + size - limit
        later_than = -1.0
        if ahead_of is not None:
            later_than = contents.uses[ahead_of]
            if not within_reach(contents.uses, self._sizes, ahead_of, limit - contents.for_others):
                return False
        if short <= 0:
            return True
        victims = eviction_order(contents.stored, later_than=later_than)
        if sum(item.size for item in victims) < short:
            # Parts being fetched and shards being read are counted but cannot be evicted.
            return False
        return self._evict(victims, short) <= 0

    def _make_disk(self, size: int, ahead_of: int) -> bool:
        """Evict what is needed later until the disk has `size` bytes beside what is being fetched.

        A full disk is a smaller budget, but no limit says by how much.
        """
        numbers = (self._inventory.numbers.get(name) for name in self._fetched())
        size += sum(max(0, self.sizes[n] - self.arrived(n)) for n in numbers if n is not None)
        lacking = size - shutil.disk_usage(self._layout.root).free
        # What is evicted is counted, not measured: some file systems report it seconds later.
        return lacking <= 0 or self._shrink(lacking, ahead_of=ahead_of) <= 0

    def _evict(self, victims: list[Stored], size: int) -> int:
        """Remove victims until `size` bytes are free; return how many bytes are still lacking."""
        for item in evicted(self._layout, victims, size):
            size -= item.size
            self._counters.add(evictions=1, evicted_bytes=item.size)
        return size


def _moved(delivered: Delivered, target: Path) -> bool:
    """Move a delivered file; return False when it is gone, or another file is in its place.

    Raises:
        FileNotFoundError: the target folder is missing.
    """
    # The file at the path may belong to another transfer.
    if not is_at(delivered.held.fd, delivered.path):
        return False
    try:
        delivered.path.replace(target)
    except FileNotFoundError:
        if is_at(delivered.held.fd, delivered.path):
            raise
        return False
    return is_at(delivered.held.fd, target)
