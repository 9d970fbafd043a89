"""Packing clips into slots of bounded padded seconds.

Clips of a slot are padded to its longest, so n clips cost n times the longest. Clips sorted by
duration and cut into slots from the longest down, each as full as it gets, take the fewest slots
there are: any packing can be sorted without making a slot longer.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SlotSize"]


class SlotSize(msgspec.Struct, frozen=True):
    """What a slot holds.

    Attributes:
        seconds: Clips times the longest one, at most.
        clips: Clips at most; None: any number.
    """

    seconds: float
    clips: int | None = None

    def room(self, longest: float) -> int:
        """How many clips of up to `longest` seconds a slot holds. `longest` is above 0."""
        count = int(self.seconds / longest)
        # The division is rounded; the product decides.
        while count * longest > self.seconds:
            count -= 1
        while (count + 1) * longest <= self.seconds:
            count += 1
        return count if self.clips is None else min(count, self.clips)

    def fits(self, durations: Sequence[float], slots: int) -> bool:
        """Whether clips fit so many slots. Seconds, in any order."""
        return self.fits_ascending(sorted(durations), slots)

    def fits_ascending(self, durations: Sequence[float], slots: int) -> bool:
        """Whether clips fit so many slots. Seconds, ascending. O(slots)."""
        left = len(durations)
        for _ in range(slots):
            if left <= 0:
                break
            left -= self.room(durations[left - 1])
        return left <= 0

    def fitting(self, durations: Sequence[float], slots: int, *, surely: int = 0) -> int:
        """How many of the first clips fit so many slots. O(n log n log n).

        Args:
            durations: Seconds, in any order.
            slots: How many.
            surely: So many are known to fit.
        """
        low, high = min(surely, len(durations)), len(durations) + 1
        while high - low > 1:
            middle = (low + high) // 2
            if self.fits(durations[:middle], slots):
                low = middle
            else:
                high = middle
        return low

    def cut(self, durations: Sequence[float], slots: int) -> list[list[int]]:
        """Deal clips that fit out to slots; each gets indices of `durations`, in order.

        Where they leave room, in even numbers if that fits, so that no rank goes without.
        """
        # Equal ones keep their order, reversed or not.
        descending = sorted(range(len(durations)), key=durations.__getitem__, reverse=True)
        total = len(descending)
        borders = [slot * total // slots for slot in range(slots + 1)]
        if any(
            end - begin > self.room(durations[descending[begin]])
            for begin, end in pairwise(borders)
            if end > begin
        ):
            borders = [0]
            for _ in range(slots):
                begin = borders[-1]
                more = self.room(durations[descending[begin]]) if begin < total else 0
                borders.append(min(total, begin + more))
        return [sorted(descending[begin:end]) for begin, end in pairwise(borders)]
