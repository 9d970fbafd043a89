"""What lies in a cache directory: what of it counts, what could go, and who needs what.

All of it is read anew each time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from audiomdb.cache.budget import NEVER, Reading, Stored, next_uses
from audiomdb.cache.layout import CacheLayout, entry_name
from audiomdb.cache.readers import live_readings
from audiomdb.shards.metadata import Metadata

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Contents", "Inventory", "files"]

_ALLOWANCE_BYTES = 64 * 1024
"""Counted for lock files, notes and what is said about parts, which are not measured."""

_STALE, _DAMAGED = -1.0, -2.0
"""Times of last use that come before all others."""


class Contents(msgspec.Struct, frozen=True):
    """What lies in the directory, and what its readers say.

    Attributes:
        used: Bytes that count.
        stored: What could go.
        uses: Visits until each shard is needed, float64.
        for_others: Bytes that are spoken for by all but shards whose visits are known.
    """

    used: int
    stored: list[Stored]
    uses: np.ndarray
    for_others: int


class Inventory:
    """Looks at a cache directory. Threads share it.

    Args:
        layout: The directory.
        metadata: Of the dataset.
    """

    def __init__(self, layout: CacheLayout, metadata: Metadata) -> None:
        self._layout = layout
        self.sizes = [entry.bytes for entry in metadata.shards]
        self.names = [entry_name(i, entry) for i, entry in enumerate(metadata.shards)]
        self._numbers = {name: i for i, name in enumerate(self.names)}
        self._index_bytes = metadata.index.bytes

    def fixed_bytes(self) -> int:
        """Bytes of all but shards, parts, quarantined files and readers' notes."""
        try:
            metadata_bytes = self._layout.metadata.stat().st_size
        except FileNotFoundError:
            metadata_bytes = 0
        return metadata_bytes + self._index_bytes + _ALLOWANCE_BYTES

    def contents(self) -> Contents:
        """What is there now.

        A shard that some reader needs next is not looked at one by one: it has the size that
        metadata says, for it is whole, and goes by when it is needed.

        Raises:
            FileNotFoundError: a folder is missing.
        """
        uses, fixed, unknown = self._readings()
        used, stored, whole = fixed, [], set[str]()
        layout = self._layout
        for folder in (layout.shards, layout.parts, layout.quarantine):
            # Not looked up for each of ten thousand files: all this is done under `budget.lock`.
            parts, damaged, under = folder == layout.parts, folder == layout.quarantine, folder.name
            for entry in _entries(folder):
                name = entry.name
                if parts and not layout.is_part(name):
                    continue
                number = self._numbers.get(name)
                size = None if number is None or damaged else self.sizes[number]
                if parts and name in whole:
                    number = None  # left by somebody who died right after the shard was whole
                whole.add(name)
                use = NEVER if number is None or damaged else float(uses[number])
                at = _DAMAGED if damaged else _STALE
                if size is None or use == NEVER:
                    info = _seen(entry)
                    if info is None:
                        continue
                    if size is None or not parts:
                        size = info.st_size
                    if number is not None and not damaged:
                        at = float(info.st_mtime_ns)
                used += size
                stored.append(Stored(f"{under}/{name}", size, use, at))
        return Contents(used, stored, uses, fixed + unknown)

    def _readings(self) -> tuple[NDArray[np.float64], int, int]:
        """Next uses; bytes of all that is no shard; bytes that readers of unknown visits need."""
        readings: list[Reading] = []
        fixed, unknown = self.fixed_bytes(), 0
        for reading, size in live_readings(self._layout.readers):
            readings.append(reading)
            fixed += size
            if not len(reading.visits):
                unknown += reading.needs
        return next_uses(readings, len(self.sizes)), fixed, unknown


def files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """What lies in a folder, by name."""
    for entry in sorted(_entries(folder), key=lambda entry: entry.name):
        if (info := _seen(entry)) is not None:
            yield entry.name, info


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


def _seen(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
