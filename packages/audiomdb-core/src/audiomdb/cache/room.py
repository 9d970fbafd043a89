"""The room in a cache directory: who may put what there, and what has to go for it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from audiomdb.cache.budget import (
    NEVER,
    Stored,
    eviction_order,
    need_bytes,
    next_uses,
    smallest_budget,
)
from audiomdb.cache.counters import Counters
from audiomdb.cache.layout import CacheLayout, entry_name
from audiomdb.cache.lock import Held, exclusive, try_exclusive, try_shared
from audiomdb.cache.readers import Registration, live_readings, registration_bytes
from audiomdb.errors import CacheTooSmallError
from audiomdb.shards.metadata import Metadata

__all__ = ["Delivered", "Part", "Room"]

_ALLOWANCE_BYTES = 64 * 1024
"""Counted for lock files, notes and validators, which are not measured."""

_MANY_READERS = 64

_STALE, _DAMAGED = -1.0, -2.0
"""Times of last use that come before all others."""


class Part(msgspec.Struct):
    """The right to fetch a shard, and the file that takes up its room.

    Attributes:
        number: Of the shard.
        name: Its name in the cache.
        path: The part file.
        held: The file, open for writing and locked.
    """

    number: int
    name: str
    path: Path
    held: Held


class Delivered(msgspec.Struct, frozen=True):
    """What a transfer brought.

    Attributes:
        path: The file, in the cache directory: the part itself, or one in its staging folder.
        held: The file, open and locked exclusively.
        size: Its bytes.
        sha256: Hex digest of them.
    """

    path: Path
    held: Held
    size: int
    sha256: str


class Room:
    """Keeps a cache directory within its budget, together with all other processes.

    What counts is read from the directory each time: whole shards with their size, parts with the
    size they will have, all else as it is. Nothing is remembered, so nothing can be wrong after a
    crash. Threads share it.

    Args:
        layout: The directory.
        metadata: Of the dataset.
        max_bytes: The budget; None has no limit.
        counters: Where evictions are counted.
    """

    def __init__(
        self, layout: CacheLayout, metadata: Metadata, max_bytes: int | None, counters: Counters
    ) -> None:
        self._layout = layout
        self._max_bytes = max_bytes
        self._counters = counters
        self.sizes = [entry.bytes for entry in metadata.shards]
        self.names = [entry_name(i, entry) for i, entry in enumerate(metadata.shards)]
        self._numbers = {name: i for i, name in enumerate(self.names)}
        self._index_bytes = metadata.index.bytes

    @property
    def holds_everything(self) -> bool:
        """Whether the whole dataset fits, so that nothing of it ever has to go."""
        if self._max_bytes is None:
            return True
        notes = _MANY_READERS * registration_bytes(2 * len(self.sizes))
        return sum(self.sizes) + self._fixed() + notes <= self._max_bytes

    def shard_path(self, number: int) -> Path:
        """Where a shard lies when it is there."""
        return self._layout.shards / self.names[number]

    def register(self, at_once: int, visits: int) -> Registration:
        """Enter a reader that holds `at_once` shards and publishes up to `visits` of them.

        Raises:
            CacheTooSmallError: the budget is less than all readers of the directory need.
        """
        needs = need_bytes(self.sizes, at_once)
        with exclusive(self._layout.budget_lock):
            if self._max_bytes is not None:
                others = list(live_readings(self._layout.readers))
                fixed = self._fixed() + sum(size for _, size in others)
                least = smallest_budget(
                    [needs, *(reading.needs for reading, _ in others)],
                    sum(self.sizes),
                    fixed + registration_bytes(visits),
                )
                if self._max_bytes < least:
                    raise CacheTooSmallError(
                        self._refusal(self._max_bytes, least, at_once, len(others))
                    )
            registration = Registration(self._layout.readers, needs, visits)
            self._make_room(0)
            return registration

    def publish(self, registration: Registration, visits: np.ndarray) -> None:
        """Say what a reader reads from now on."""
        with exclusive(self._layout.budget_lock):
            registration.publish(visits)

    def claim(self, number: int, *, ahead: bool = False) -> Part | Literal["busy", "full", "there"]:
        """Take the right to fetch a shard, and the room for it.

        Args:
            number: Of the shard.
            ahead: Nobody waits for it: evict only what is needed later.

        Returns:
            "busy" when another thread or process fetches it, "full" when there is no room now,
            "there" when the shard is whole.
        """
        name, path = self.names[number], self._layout.parts / self.names[number]
        held = try_exclusive(path)  # what somebody who died has left; it counts already
        if held is None:
            if path.exists():
                return "busy"
            if ahead and not self._nobody_waits():
                return "full"
            with exclusive(self._layout.budget_lock):
                if self.shard_path(number).exists():
                    return "there"
                if path.exists():
                    return "busy"
                if not self._make_room(self.sizes[number], for_shard=number if ahead else None):
                    return "full"
                held = try_exclusive(path, new=True)
            if held is None:
                return "busy"
        part = Part(number, name, path, held)
        if self.shard_path(number).exists():  # whoever left the part died just before its end
            self.abandon(part)
            return "there"
        return part

    def admit(self, part: Part, delivered: Delivered) -> Held:
        """Make what was delivered a whole shard, and keep it leased."""
        with exclusive(self._layout.budget_lock):
            delivered.path.replace(self._layout.shards / part.name)
            self._discard(part, delivered)
            delivered.held.downgrade()
        return delivered.held

    def quarantine(self, part: Part, delivered: Delivered) -> None:
        """Put aside what was delivered; the part is empty again."""
        aside = self._layout.quarantine / part.name
        with exclusive(self._layout.budget_lock):
            delivered.path.replace(aside)
            self._discard(part, delivered)
            held = try_exclusive(part.path, new=True)
            assert held is not None, "under budget.lock a new part is ours"
            delivered.held.release()
            part.held = held
            self._make_room(0)

    def abandon(self, part: Part) -> None:
        """Give up a part and its room."""
        with exclusive(self._layout.budget_lock):
            part.path.unlink(missing_ok=True)
            self._layout.validator(part.name).unlink(missing_ok=True)
            shutil.rmtree(self._layout.staging / part.name, ignore_errors=True)
        part.held.release()

    def drop(self, number: int) -> None:
        """Remove a shard that is not what it should be, unless somebody reads it."""
        with exclusive(self._layout.budget_lock):
            self._remove(self.shard_path(number))

    def shrink(self, size: int) -> bool:
        """Evict what frees `size` bytes, because the disk is full. False when nothing can go."""
        with exclusive(self._layout.budget_lock):
            _, stored = self._scan()
            return self._evict(eviction_order(stored), size) < size

    def waiting(self) -> Held | None:
        """Say that a reader waits for room, until the result is released."""
        return try_shared(self._layout.demand_lock, create=True)

    def state(self) -> tuple[tuple[str, int], ...]:
        """Names and sizes of all shards and parts: while it stays the same, nothing moves."""
        folders = (self._layout.shards, self._layout.parts)
        return tuple((path.name, size) for folder in folders for path, size in _files(folder))

    def _nobody_waits(self) -> bool:
        held = try_exclusive(self._layout.demand_lock, create=True)
        if held is None:
            return False
        held.release()
        return True

    def _discard(self, part: Part, delivered: Delivered) -> None:
        if delivered.path != part.path:
            part.path.unlink(missing_ok=True)
            part.held.release()
        self._layout.validator(part.name).unlink(missing_ok=True)
        shutil.rmtree(self._layout.staging / part.name, ignore_errors=True)

    def _make_room(self, size: int, *, for_shard: int | None = None) -> bool:
        """Evict until `size` more bytes fit. Under `budget.lock`."""
        if self._max_bytes is None:
            return True
        used, stored = self._scan()
        short = used + size - self._max_bytes
        if short <= 0:
            return True
        later_than = -1.0
        if for_shard is not None:
            later_than = self._next_uses()[for_shard]
        victims = eviction_order(stored, later_than=later_than)
        if sum(item.size for item in victims) < short:
            # Parts being fetched and shards being read are among them, so there may be still less.
            return False
        return self._evict(victims, short) <= 0

    def _evict(self, victims: list[Stored], size: int) -> int:
        """Remove victims until `size` bytes are free; returns how many still lack."""
        for item in victims:
            if size <= 0:
                break
            if self._remove(self._layout.root / item.name):
                size -= item.size
                self._counters.add(evictions=1, evicted_bytes=item.size)
        return size

    def _remove(self, path: Path) -> bool:
        """Remove a shard, part or quarantined file that nobody uses."""
        held = try_exclusive(path)
        if held is None:
            return False
        if path.parent == self._layout.parts:
            shutil.rmtree(self._layout.staging / path.name, ignore_errors=True)
            self._layout.validator(path.name).unlink(missing_ok=True)
        path.unlink()
        held.release()
        return True

    def _scan(self) -> tuple[int, list[Stored]]:
        """Bytes that count, and what could go."""
        uses = self._next_uses()
        used = self._fixed() + sum(size for _, size in _files(self._layout.readers))
        stored = []
        for folder in (self._layout.shards, self._layout.parts, self._layout.quarantine):
            for path, size in _files(folder):
                number = self._numbers.get(path.name)
                if folder == self._layout.parts and number is not None:
                    size = self.sizes[number]
                used += size
                use, at = NEVER, _STALE
                if folder == self._layout.quarantine:
                    at = _DAMAGED
                elif number is not None:
                    use, at = float(uses[number]), _modified(path)
                name = f"{folder.name}/{path.name}"
                stored.append(Stored(name, size, use, at))
        return used, stored

    def _next_uses(self) -> np.ndarray:
        readings = (reading for reading, _ in live_readings(self._layout.readers))
        return next_uses(readings, len(self.sizes))

    def _fixed(self) -> int:
        try:
            metadata_bytes = self._layout.metadata.stat().st_size
        except FileNotFoundError:
            metadata_bytes = 0
        return metadata_bytes + self._index_bytes + _ALLOWANCE_BYTES

    def _refusal(self, budget: int, least: int, at_once: int, others: int) -> str:
        largest = max(self.sizes, default=0)
        with_others = f", beside {others} other readers of this directory" if others else ""
        return (
            f"max_cache_bytes={budget} is too small for {self._layout.root}: this reader holds "
            f"{at_once} shards of up to {largest} bytes at once{with_others}. The smallest that "
            f"works is max_cache_bytes={least}; {largest} more for each download under way keeps "
            "it fast. Fewer workers or a smaller window need less"
        )


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    for path in sorted(folder.iterdir()):
        if path.suffix != ".validator":
            try:
                yield path, path.stat().st_size
            except FileNotFoundError:
                continue


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return _STALE
