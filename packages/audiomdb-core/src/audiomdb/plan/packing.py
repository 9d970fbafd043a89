"""Pack clips into slots of bounded padded seconds.

The clips of a slot are padded to the longest, so n clips cost n times the longest. Sorting clips by
duration and filling slots from the longest clip down, each as full as possible, takes the minimum
number of slots: any packing can be sorted without making a slot longer.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from audiomdb.plan.occurrences import MAX_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["SHORT", "SlotSize", "cut", "fewest_slots", "spread"]

SHORT = 0.75
"""A slot filled to less than this share of its capacity in clips is called short."""

_MANY = 4
"""Minimum capacity of a slot that is not short when one clip is missing."""

_LEAST_SHARE = 0.8
_TRIES = 10


class SlotSize(msgspec.Struct, frozen=True):
    """The capacity of a slot.

    Attributes:
        seconds: Maximum of the number of clips times the longest clip, in seconds.
        clips: Maximum number of clips. None: any number.
    """

    seconds: float
    clips: int | None = None

    @property
    def least(self) -> float:
        """Seconds that a clip counts at least: a slot holds no more of them than an epoch has.

        Of shorter clips, it would hold more than floats can count.
        """
        return self.seconds / MAX_SAMPLES

    def room(self, longest: float) -> int:
        """Return how many clips of up to `longest` seconds (above 0) a slot holds."""
        count = int(self.seconds / longest)
        # The division is rounded, so the product decides.
        while count * longest > self.seconds:
            count -= 1
        while (count + 1) * longest <= self.seconds:
            count += 1
        return count if self.clips is None else min(count, self.clips)

    def fitting_one(self, durations: Sequence[float], surely: int) -> int:
        """Return how many of the first clips fit one slot.

        Args:
            durations: Seconds, in any order.
            surely: Number of clips that are known to fit, at least 1.
        """
        longest = max(durations[:surely])
        count = surely
        most = len(durations) if self.clips is None else min(len(durations), self.clips)
        while count < most:
            longest = max(longest, durations[count])
            if (count + 1) * longest > self.seconds:
                break
            count += 1
        return count

    def fitting(self, durations: NDArray[np.float64], slots: int, *, surely: int = 0) -> int:
        """Return how many of the first clips fit a number of slots, in O(n log n log n).

        Args:
            durations: Seconds, in any order.
            slots: Number of slots.
            surely: Number of clips that are known to fit.
        """
        low, high = min(surely, len(durations)), len(durations) + 1
        while high - low > 1:
            middle = (low + high) // 2
            if self._fit(np.sort(durations[:middle]), slots):
                low = middle
            else:
                high = middle
        return low

    def rooms(self, longest: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return `room` of each duration in `longest`, `(n,)` int64."""
        counts = np.floor(self.seconds / longest)
        counts -= counts * longest > self.seconds
        counts += (counts + 1) * longest <= self.seconds
        rooms = counts.astype(np.int64)
        return rooms if self.clips is None else np.minimum(rooms, self.clips)

    def _fit(self, ascending: NDArray[np.float64], slots: int) -> bool:
        left = len(ascending)
        for _ in range(slots):
            if left <= 0:
                break
            left -= self.room(ascending.item(left - 1))
        return left <= 0


def fewest_slots(rooms: Sequence[int]) -> int:
    """Return the minimum number of slots that clips take.

    Args:
        rooms: `SlotSize.room` of each clip, from the longest clip down.
    """
    count = at = 0
    while at < len(rooms):
        at += rooms[at]
        count += 1
    return count


def cut(room: Callable[[int], int], clips: int, slots: int) -> list[int]:
    """Distribute clips that are known to fit over slots, evenly if possible.

    An even distribution leaves no slot empty as long as there are as many clips as slots.

    Args:
        room: Returns `SlotSize.room` of a clip by its number, from the longest clip down.
        clips: Number of clips.
        slots: Number of slots.

    Returns:
        The cumulative number of clips at the end of each slot.
    """
    borders = [slot * clips // slots for slot in range(slots + 1)]
    if all(end - begin <= room(begin) for begin, end in pairwise(borders) if end > begin):
        return borders[1:]
    ends, at = [], 0
    for _ in range(slots):
        if at < clips:
            at = min(clips, at + room(at))
        ends.append(at)
    return ends


def spread(rooms: Sequence[int], steps: int, each: int) -> list[int]:
    """Distribute clips that are known to fit over the slots of several steps, filling them evenly.

    No slot is made short in favour of others; the last steps stay empty instead.

    Args:
        rooms: `SlotSize.room` of each clip, from the longest clip down.
        steps: Number of steps.
        each: Slots in a step.

    Returns:
        The cumulative number of clips at the end of each slot.
    """
    if not steps:
        return []
    low, high = _LEAST_SHARE, 1.0
    best = _filled(rooms, steps * each, low)
    if best[-1] < len(rooms):
        best = _filled(rooms, steps * each, high)
        for _ in range(_TRIES):
            share = (low + high) / 2
            ends = _filled(rooms, steps * each, share)
            if ends[-1] < len(rooms):
                low = share
            else:
                best, high = ends, share
    used = bisect_left(best, len(rooms)) + 1
    if used % each:
        # Redistribute the last step in use, so that it has no empty slots beside filled ones.
        first = used // each * each
        begin = best[first - 1] if first else 0
        left = rooms[begin:]
        ends = cut(left.__getitem__, len(left), each)
        best[first : first + each] = [begin + end for end in ends]
    return best


def _filled(rooms: Sequence[int], slots: int, share: float) -> list[int]:
    """Fill slots one after the other up to a share of their capacity.

    Slots of fewer than `_MANY` clips are filled completely, because one clip less would make them
    short. For larger slots, the fraction of a clip that rounding adds or omits is carried over.

    Returns:
        The cumulative number of clips at the end of each slot. The last value is less than the
        number of clips if not all of them fit.
    """
    total, at = len(rooms), 0
    ends = []
    owed = 0.5
    for _ in range(slots):
        if at < total:
            room = rooms[at]
            if room >= _MANY:
                owed += room * share
                room = min(room, int(owed))
                owed -= room
            at += room
        ends.append(min(at, total))
    return ends
