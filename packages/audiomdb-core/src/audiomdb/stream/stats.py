"""What an iteration waited for, in numbers."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from audiomdb.cache import CacheStats

__all__ = ["Cause", "StreamStats"]

Cause: TypeAlias = Literal["network", "decode", "process", "collate", "consumer"]
"""What holds a run up."""

_CAUSES: tuple[Cause, ...] = ("network", "decode", "process", "collate", "consumer")


class StreamStats(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time of a loop over samples or batches went.

    The five times add up to the time that passed from the first `next` on. Four are waits of the
    loop, by what it waited for; work that was done ahead of time, in threads or workers, costs it
    nothing and counts nowhere. Of loops in several worker processes they are the sums.

    Attributes:
        samples: Samples handed out.
        sample_bytes: What their arrays and bytes held, where they were made in threads.
        network_s: The loop waited for a shard to be downloaded.
        decode_s: For samples to be read and decoded.
        process_s: For the processor.
        collate_s: For batches to be put together and moved.
        consumer_s: Nobody waited: the time between `next` and `next`, as training takes it.
        cache: What the process did with the dataset's cache since it opened it; None without one.
    """

    samples: int = 0
    sample_bytes: int = 0
    network_s: float = 0.0
    decode_s: float = 0.0
    process_s: float = 0.0
    collate_s: float = 0.0
    consumer_s: float = 0.0
    cache: CacheStats | None = None

    @property
    def wait_s(self) -> float:
        """Seconds that the loop waited, for whatever."""
        return self.network_s + self.decode_s + self.process_s + self.collate_s

    @property
    def bound_by(self) -> Cause:
        """What a faster run would need more of.

        "consumer" if the loop waited for no more than a tenth of its time; or else what it waited
        for longest.
        """
        if self.wait_s <= 0.1 * (self.wait_s + self.consumer_s):
            return "consumer"
        return max(_CAUSES[:-1], key=self.seconds)

    def seconds(self, cause: Cause) -> float:
        """The time that went to a cause."""
        seconds: float = getattr(self, f"{cause}_s")
        return seconds

    def plus(self, other: StreamStats) -> StreamStats:
        """The sums of both."""
        sums: dict[str, Any] = {
            name: _sum(getattr(self, name), getattr(other, name)) for name in self.__struct_fields__
        }
        return StreamStats(**sums)

    def __str__(self) -> str:
        total = self.wait_s + self.consumer_s
        shares = ", ".join(
            f"{cause} {self.seconds(cause) / total:.0%}" for cause in _CAUSES if total
        )
        return f"{self.samples} samples in {total:.1f} s, bound by {self.bound_by} ({shares})"


def _sum(one: Any, other: Any) -> Any:  # noqa: ANN401 (numbers, or None, or structs of numbers)
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, CacheStats):
        names = CacheStats.__struct_fields__
        return CacheStats(**{name: getattr(one, name) + getattr(other, name) for name in names})
    return one + other
