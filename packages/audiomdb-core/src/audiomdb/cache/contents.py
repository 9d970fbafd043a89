"""Take inventory of a cache directory: what counts, what can be evicted, what readers need.

Everything is read from the directory each time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from audiomdb.cache.budget import NEVER, Reading, Stored, next_uses
from audiomdb.cache.layout import CacheLayout, entry_name, index_name
from audiomdb.cache.readers import live_readings
from audiomdb.shards.metadata import Metadata

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Contents", "Inventory", "files", "names"]

_ALLOWANCE_BYTES = 64 * 1024
"""Counted for lock files, notes, and the validators and spans of parts, which are not measured."""

_STALE, _DAMAGED = -1.0, -2.0
"""Times of last use that are earlier than all others."""


class Contents(msgspec.Struct, frozen=True):
    """The contents of a cache directory, and what its readers need.

    Attributes:
        used: Bytes that count towards the budget.
        stored: Files that can be evicted.
        uses: Visits until each shard is needed, float64.
        for_others: Bytes of metadata, index and readers' files, plus the needs of readers that have
            not published their visits.
    """

    used: int
    stored: list[Stored]
    uses: np.ndarray
    for_others: int


class Inventory:
    """Reads the contents of a cache directory. Thread-safe.

    Args:
        layout: The directory.
        metadata: Metadata of the dataset.
    """

    def __init__(self, layout: CacheLayout, metadata: Metadata) -> None:
        self._layout = layout
        self.sizes = [entry.bytes for entry in metadata.shards]
        self.names = [entry_name(i, entry) for i, entry in enumerate(metadata.shards)]
        self.numbers = {name: i for i, name in enumerate(self.names)}
        self._index_bytes = metadata.index.bytes
        self._index_part = index_name(metadata.index)

    def fixed_bytes(self) -> int:
        """Return the bytes of all files but shards, parts, quarantined files and readers' files."""
        try:
            metadata_bytes = self._layout.metadata.stat().st_size
        except FileNotFoundError:
            metadata_bytes = 0
        return metadata_bytes + self._index_bytes + _ALLOWANCE_BYTES

    def contents(self) -> Contents:
        """Return the current contents.

        The file of a shard that some reader needs is not looked up: it counts with the size in the
        metadata, and its next use decides when it is evicted.

        Raises:
            FileNotFoundError: a folder is missing.
        """
        uses, fixed, unknown = self._readings()
        layout = self._layout
        shards = _entries(layout.shards)
        parts = [entry for entry in _entries(layout.parts) if layout.is_part(entry.name)]
        whole = {entry.name for entry in shards}
        found = [
            *(self._shard(entry, uses) for entry in shards),
            *(self._part(entry, uses, left=entry.name in whole) for entry in parts),
            *(_quarantined(entry) for entry in _entries(layout.quarantine)),
        ]
        stored = [item for item in found if item is not None]
        used = fixed + sum(item.size for item in stored)
        return Contents(used, stored, uses, fixed + unknown)

    def _shard(self, entry: os.DirEntry[str], uses: NDArray[np.float64]) -> Stored | None:
        path = f"shards/{entry.name}"
        number = self.numbers.get(entry.name)
        if number is not None and uses[number] != NEVER:
            return Stored(path, self.sizes[number], float(uses[number]), _STALE)
        info = _seen(entry)
        if info is None:
            return None
        return Stored(path, info.st_size, NEVER, _STALE if number is None else info.st_mtime_ns)

    def _part(
        self, entry: os.DirEntry[str], uses: NDArray[np.float64], *, left: bool
    ) -> Stored | None:
        """A part; `left` by a process that died right after admitting the shard, or in use."""
        if entry.name == self._index_part:
            return None  # the index always counts
        path = f"parts/{entry.name}"
        number = self.numbers.get(entry.name)
        if number is not None and not left and uses[number] != NEVER:
            return Stored(path, self.sizes[number], float(uses[number]), _STALE)
        info = _seen(entry)
        if info is None:
            return None
        size = info.st_size if number is None else self.sizes[number]
        return Stored(path, size, NEVER, _STALE if number is None or left else info.st_mtime_ns)

    def _readings(self) -> tuple[NDArray[np.float64], int, int]:
        """Return next uses, bytes of fixed files, and needs of readers without published visits."""
        readings: list[Reading] = []
        fixed, unknown = self.fixed_bytes(), 0
        for reading, size in live_readings(self._layout.readers):
            readings.append(reading)
            fixed += size
            if reading.visits is None:
                unknown += reading.needs
        return next_uses(readings, len(self.sizes)), fixed, unknown


def files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the name and status of each entry of a folder, sorted by name."""
    for entry in sorted(_entries(folder), key=lambda entry: entry.name):
        if (info := _seen(entry)) is not None:
            yield entry.name, info


def names(folder: Path) -> list[str]:
    """Return the names of the entries of a folder, in any order."""
    return [entry.name for entry in _entries(folder)]


def _quarantined(entry: os.DirEntry[str]) -> Stored | None:
    info = _seen(entry)
    return (
        None if info is None else Stored(f"quarantine/{entry.name}", info.st_size, NEVER, _DAMAGED)
    )


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


def _seen(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
