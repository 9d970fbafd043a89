"""The keys that a dataset already holds, and the shard of each: compact and approximate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["KeySet"]

_MAX_MERGED_KEYS = 4 * 1024 * 1024
"""Longer runs stay as they are: for a moment, merging takes twice the memory of both runs."""


class KeySet:
    """A map from 64-bit hashes of keys to shards, in sorted runs that double in length.

    Takes 12 bytes per key. Two keys may share a hash, so the caller has to confirm a hit.
    """

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def add(self, shard: int, keys: Sequence[bytes]) -> None:
        """Add the keys of a shard, whose number is below 2**32."""
        if not keys:
            return
        run = _Run(np.sort(_hashes(keys)), np.full(len(keys), shard, np.uint32))
        while self._runs and len(self._runs[-1].hashes) <= min(
            2 * len(run.hashes), _MAX_MERGED_KEYS
        ):
            run = _merged(self._runs.pop(), run)
        self._runs.append(run)

    def maybe(self, keys: Sequence[bytes]) -> dict[int, list[bytes]]:
        """Return which of `keys` each shard may hold; it certainly holds none of the others.

        Shards that hold none are left out.
        """
        hashes = _hashes(keys)
        order = np.argsort(hashes)  # in their order, they are found in half the time
        hashes = hashes[order]
        found: dict[int, list[bytes]] = {}
        for run in self._runs:
            begin = np.searchsorted(run.hashes, hashes)
            for i in np.flatnonzero(run.hashes.take(begin, mode="clip") == hashes).tolist():
                end = np.searchsorted(run.hashes, hashes[i], side="right")
                for shard in run.shards[begin[i] : end].tolist():
                    found.setdefault(shard, []).append(keys[order[i]])
        return found


class _Run(NamedTuple):
    """Hashes in ascending order (int64), and the shard of each (uint32)."""

    hashes: np.ndarray
    shards: np.ndarray


def _merged(a: _Run, b: _Run) -> _Run:
    places = np.searchsorted(a.hashes, b.hashes)
    return _Run(*(np.insert(held, places, new) for held, new in zip(a, b, strict=True)))


def _hashes(keys: Sequence[bytes]) -> np.ndarray:
    # Python's own hash is salted per process, so that keys cannot be crafted to collide.
    return np.fromiter(map(hash, keys), np.int64, len(keys))
