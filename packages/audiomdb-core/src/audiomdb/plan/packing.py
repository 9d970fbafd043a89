"""Packing clips into slots of bounded padded seconds.

Clips of a slot are padded to its longest, so n clips cost n times the longest. Clips sorted by
duration and cut into slots from the longest down, each as full as it gets, take the fewest slots
there are: any packing can be sorted without making a slot longer.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["SHORT", "SlotSize", "cut", "fewest_slots", "spread"]

SHORT = 0.75
"""A slot with less than this share of the clips that it holds is called short."""

_MANY = 4
"""Slots of so many clips are not short when they lack one."""

_LEAST_SHARE = 0.8
_TRIES = 10


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

    def fitting_one(self, durations: Sequence[float], surely: int) -> int:
        """How many of the first clips fit one slot.

        Args:
            durations: Seconds, in any order.
            surely: So many are known to fit, at least 1.
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
        """How many of the first clips fit so many slots. O(n log n log n).

        Args:
            durations: Seconds, in any order.
            slots: How many.
            surely: So many are known to fit.
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
        """Return `room` of each, `(n,)` int64."""
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
    """How many slots clips take, at least.

    Args:
        rooms: `SlotSize.room` of each clip, from the longest clip down.
    """
    count = at = 0
    while at < len(rooms):
        at += rooms[at]
        count += 1
    return count


def cut(room: Callable[[int], int], clips: int, slots: int) -> list[int]:
    """Deal clips that fit out to slots, in even numbers if that fits, so that none goes without.

    Args:
        room: Gives `SlotSize.room` of a clip by its number, from the longest clip down.
        clips: How many.
        slots: How many.

    Returns:
        Clips up to and with each slot.
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
    """Deal clips that fit out to the slots of several steps, all equally full as far as can be.

    No slot is left shorter for the sake of others than it may be without being called short; the
    last steps have none then.

    Args:
        rooms: `SlotSize.room` of each clip, from the longest clip down.
        steps: How many.
        each: Slots in a step.

    Returns:
        Clips up to and with each slot.
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
        # No slot goes without in a step in which others have some.
        first = used // each * each
        begin = best[first - 1] if first else 0
        left = rooms[begin:]
        ends = cut(left.__getitem__, len(left), each)
        best[first : first + each] = [begin + end for end in ends]
    return best


def _filled(rooms: Sequence[int], slots: int, share: float) -> list[int]:
    """Fill slots one after the other up to a share of what they hold.

    One clip less would leave a slot of few clips short: such ones are filled. Others give or take a
    part of a clip to or from the next.

    Returns:
        Clips up to and with each slot; the last of these is not all of them where they do not fit.
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
