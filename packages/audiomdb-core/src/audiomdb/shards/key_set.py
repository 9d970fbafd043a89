"""A compact, approximate set of the keys that a dataset already holds: eight bytes per key."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["KeySet"]


class KeySet:
    """A set of 64-bit hashes in sorted runs that double in length.

    Adding n keys in batches takes O(n log n) time in total and 8 bytes per key at rest. Membership
    tests may give false positives (two keys may share a hash), so the caller has to confirm a hit.
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, keys: Sequence[bytes]) -> None:
        """Add a batch of keys."""
        run = np.sort(_hashes(keys))
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.sort(np.concatenate((self._runs.pop(), run)), kind="stable")
        self._runs.append(run)

    def maybe(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return those of `keys` that may be in the set; the others certainly are not."""
        hashes = _hashes(keys)
        hit = np.zeros(len(keys), np.bool_)
        for run in self._runs:
            if len(run):
                at = np.minimum(np.searchsorted(run, hashes), len(run) - 1)
                hit |= run[at] == hashes
        return [keys[i] for i in np.flatnonzero(hit).tolist()]


def _hashes(keys: Sequence[bytes]) -> np.ndarray:
    # Python's own hash is salted per process, so that keys cannot be crafted to collide.
    return np.fromiter(map(hash, keys), np.int64, len(keys))
