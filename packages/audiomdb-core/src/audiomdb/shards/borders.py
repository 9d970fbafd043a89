"""Decide which shard a source sample belongs to, as a pure function of the samples before it."""

from __future__ import annotations

from audiomdb.checks import at_least_one
from audiomdb.shards.layout import DEFAULT_SHARD_BYTES, MAX_SHARD_SAMPLES

__all__ = ["ShardBorders"]


class ShardBorders:
    """Assigns source samples to shards, in order.

    Samples are counted as the source yields them, before processing and rejection, so that shard
    borders depend on nothing else and a resumed run finds the same ones.

    Args:
        samples_per_shard: Close a shard at this many source samples. None: by bytes, and at 65,536
            samples, since texts are short and numbers count no bytes at all.
        max_shard_bytes: Close a shard before its source bytes exceed this; a larger sample gets a
            shard of its own. None: 64 MiB, or no limit if `samples_per_shard` is given.

    Raises:
        ValueError: when a limit is not a whole number, or below 1.
    """

    def __init__(
        self, samples_per_shard: int | None = None, max_shard_bytes: int | None = None
    ) -> None:
        self.samples_per_shard = at_least_one("samples_per_shard", samples_per_shard)
        self.max_shard_bytes = at_least_one("max_shard_bytes", max_shard_bytes)
        if self.samples_per_shard is None and self.max_shard_bytes is None:
            self.max_shard_bytes = DEFAULT_SHARD_BYTES
        self._most_samples = self.samples_per_shard or MAX_SHARD_SAMPLES
        self._shard = self._samples = self._bytes = 0

    def place(self, size: int) -> int:
        """Return the number of the shard for the next source sample, which has `size` bytes."""
        full = self._samples >= self._most_samples
        over = self.max_shard_bytes is not None and self._bytes + size > self.max_shard_bytes
        if self._samples and (full or over):
            self._shard += 1
            self._samples = self._bytes = 0
        self._samples += 1
        self._bytes += size
        return self._shard
