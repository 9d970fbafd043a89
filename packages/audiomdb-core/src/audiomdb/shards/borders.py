"""Decide which shard a source sample belongs to, as a pure function of the samples before it."""

from __future__ import annotations

import numpy as np

from audiomdb.shards.layout import MAX_SHARD_BYTES

__all__ = ["ShardBorders"]


class ShardBorders:
    """Assigns source samples to shards, in order.

    Samples are counted as the source yields them, before processing and rejection, so that shard
    borders depend on nothing else and a resumed run finds the same ones.

    Args:
        samples_per_shard: Close a shard at this many source samples. None: by bytes.
        max_shard_bytes: Close a shard before its source bytes exceed this; a larger sample gets a
            shard of its own. None: 64 MiB, or no limit if `samples_per_shard` is given.

    Raises:
        TypeError: when a limit is not an integer.
        ValueError: when a limit is below 1.
    """

    def __init__(
        self, samples_per_shard: int | None = None, max_shard_bytes: int | None = None
    ) -> None:
        for name, value in (
            ("samples_per_shard", samples_per_shard),
            ("max_shard_bytes", max_shard_bytes),
        ):
            if value is not None and not isinstance(value, int | np.integer):
                raise TypeError(f"{name} is {value!r}, expected a whole number")
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        if samples_per_shard is None and max_shard_bytes is None:
            max_shard_bytes = MAX_SHARD_BYTES
        self.samples_per_shard = samples_per_shard
        self.max_shard_bytes = max_shard_bytes
        self._shard = self._samples = self._bytes = 0

    def place(self, size: int) -> int:
        """Return the number of the shard for the next source sample, which has `size` bytes."""
        full = self.samples_per_shard is not None and self._samples >= self.samples_per_shard
        over = self.max_shard_bytes is not None and self._bytes + size > self.max_shard_bytes
        if self._samples and (full or over):
            self._shard += 1
            self._samples = self._bytes = 0
        self._samples += 1
        self._bytes += size
        return self._shard
