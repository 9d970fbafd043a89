"""Report where the time of an iteration was spent."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from audiomdb.cache import CacheStats

__all__ = ["Cause", "StreamStats"]

Cause: TypeAlias = Literal["network", "decode", "process", "collate", "consumer"]
"""What the time of a loop was spent on: one of four kinds of waiting, or the consumer itself."""

_CAUSES: tuple[Cause, ...] = ("network", "decode", "process", "collate", "consumer")


class StreamStats(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time of a loop over samples or batches was spent.

    The five times add up to the time since the first `next`. Four of them are waiting times of the
    loop, by cause; work that is done ahead of time, in threads or workers, does not delay the loop
    and is not counted. For loops in several worker processes, all values are sums.

    Attributes:
        samples: Samples yielded.
        left_out: Samples left out because of an error, with `on_error="skip"`.
        sample_bytes: Size in bytes of their arrays and bytes objects, if they were made in threads.
        network_s: Seconds of waiting for a shard to be downloaded.
        decode_s: Seconds of waiting for samples to be read and decoded.
        process_s: Seconds of waiting for the processor.
        collate_s: Seconds of waiting for batches to be collated and moved.
        consumer_s: Seconds without waiting: the time between two calls of `next`, spent on
            training.
        cache: Counts of the dataset's cache in this process since it was opened; None without a
            cache.
    """

    samples: int = 0
    left_out: int = 0
    sample_bytes: int = 0
    network_s: float = 0.0
    decode_s: float = 0.0
    process_s: float = 0.0
    collate_s: float = 0.0
    consumer_s: float = 0.0
    cache: CacheStats | None = None

    @property
    def wait_s(self) -> float:
        """Seconds that the loop waited, over all causes."""
        return self.network_s + self.decode_s + self.process_s + self.collate_s

    @property
    def bound_by(self) -> Cause:
        """What limits the speed of the loop.

        "consumer" if the loop waited for at most a tenth of its time, or else the cause of the
        longest waiting time.
        """
        if self.wait_s <= 0.1 * (self.wait_s + self.consumer_s):
            return "consumer"
        return max(_CAUSES[:-1], key=self.seconds)

    def seconds(self, cause: Cause) -> float:
        """Return the seconds spent on a cause."""
        seconds: float = getattr(self, f"{cause}_s")
        return seconds

    def plus(self, other: StreamStats) -> StreamStats:
        """Return the sums of both."""
        sums: dict[str, Any] = {
            name: getattr(self, name) + getattr(other, name)
            for name in self.__struct_fields__
            if name != "cache"
        }
        cache = self.cache if other.cache is None else other.cache.plus(self.cache or CacheStats())
        return StreamStats(**sums, cache=cache)

    def __str__(self) -> str:
        total = self.wait_s + self.consumer_s
        shares = ", ".join(
            f"{cause} {self.seconds(cause) / total:.0%}" for cause in _CAUSES if total
        )
        without = f" ({self.left_out} left out)" if self.left_out else ""
        bound = f"bound by {self.bound_by} ({shares})"
        return f"{self.samples} samples{without} in {total:.1f} s, {bound}"
