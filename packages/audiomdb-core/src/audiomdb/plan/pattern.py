"""The pattern of a mixture: which source has the next turn.

Source d of weight w_d is to have w_d of every W turns, W being the sum of the weights. Its sample i
gets the deadline (2i + 1) / (2 w_d), the middle of the i-th of its even shares of the axis, and the
pattern is all samples by deadline, equal ones by source:

    weights 3, 2    source 0    1/6       3/6       5/6      7/6
                    source 1       1/4         3/4              5/4
                    pattern      0   1     0     1   0   |   0   1 ...

After any number of turns each of two sources has had its share to within one sample. With more it
may be half as many as there are sources, since small ones of one weight come to their turns
together: one of 10,000 and forty of 20 have those forty in a row, twenty times.

With the sources' sizes for weights, all of them end together after W turns.

Deadlines are compared as integers, scaled by the least common multiple of the weights, so the
pattern is exact for any size. It has no state: how often each source comes among the first n turns
is known in closed form up to a few turns per source, and the rest is counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from audiomdb.errors import PlanError

if TYPE_CHECKING:
    from fractions import Fraction

    from numpy.typing import NDArray

__all__ = ["Pattern", "Weight", "whole_weights"]

Weight: TypeAlias = "int | float | Fraction"
"""A decimal is meant as it is written: 0.1 is one tenth."""

_INT64_MAX = 2**63 - 1


class Pattern:
    """An endless pattern. Immutable; may be used from several threads.

    Args:
        weights: One whole number for each source; 0 keeps a source out. Not all are 0.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        self._weights = [int(weight) for weight in weights]
        self._total = sum(self._weights)
        self._scale = math.lcm(*(weight for weight in self._weights if weight))

    def counts(self, turns: int) -> list[int]:
        """Return how often each source comes among the first `turns` turns."""
        counts, found = self._prefix(turns)
        rest = np.bincount(self._merge(counts, turns - found), minlength=len(counts))
        return [count + int(more) for count, more in zip(counts, rest, strict=True)]

    def sources(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return whose turns `start` to `stop` (half open) are, `(stop - start,)` int64."""
        counts, found = self._prefix(start)
        return self._merge(counts, stop - found)[start - found :]

    def turn_after(self, source: int, samples: int) -> int:
        """Return how many turns there are up to and with a source's sample number `samples` - 1."""
        mine = self._weights[source]
        turns = 0
        for other, weight in enumerate(self._weights):
            # Samples i of `other` with (2i + 1) / weight <= (2 samples - 1) / mine.
            quotient, rest = divmod((2 * samples - 1) * weight, mine)
            turns += (quotient + 1) // 2
            if other > source and rest == 0 and quotient % 2 == 1:
                turns -= 1  # an equal deadline, whose turn comes later
        return turns

    def _prefix(self, turns: int) -> tuple[list[int], int]:
        """Counts after some number of turns from `turns` - 2 * sources to `turns`, and it.

        All deadlines up to x are a prefix. Source d has floor(x * w_d + 1/2) of them; rounding adds
        at most half a turn for each source.
        """
        near = max(0, turns - len(self._weights))
        counts = [(2 * near * w + self._total) // (2 * self._total) for w in self._weights]
        return counts, sum(counts)

    def _merge(self, counts: list[int], turns: int) -> NDArray[np.int64]:
        """Whose the `turns` turns after a prefix with `counts` are."""
        if turns == 0:
            return np.empty(0, dtype=np.int64)
        far = sum(counts) + turns + len(counts)
        coming = []
        for source, (count, weight) in enumerate(zip(counts, self._weights, strict=True)):
            size = (2 * far * weight + self._total) // (2 * self._total) - count
            if size > 0:
                unit = self._scale // weight
                coming.append((source, size, (2 * count + 1) * unit, 2 * unit))
        low = min(first for _, _, first, _ in coming)
        high = max(first - low + size * stride for _, size, first, stride in coming)
        # Beyond 64 bits NumPy sorts Python's integers: slower, as exact.
        dtype = np.int64 if high <= _INT64_MAX else np.object_
        deadlines = [
            np.arange(size).astype(dtype) * stride + (first - low)
            for _, size, first, stride in coming
        ]
        sources = np.repeat([one[0] for one in coming], [one[1] for one in coming])
        return sources[np.argsort(np.concatenate(deadlines), kind="stable")][:turns]


def whole_weights(weights: Sequence[Weight], sources: int) -> tuple[int, ...]:
    """Return weights as whole numbers without common divisor, in the same proportions.

    Raises:
        PlanError: There is not one for each source, or one is not above 0.
    """
    if len(weights) != sources:
        raise PlanError(f"{len(weights)} weights for {sources} datasets; give one for each")
    from fractions import Fraction

    exact = []
    for number, weight in enumerate(weights):
        try:
            exact.append(Fraction(str(weight)))
        except ValueError:
            raise PlanError(f"weight {number} is {weight!r}, expected a number above 0") from None
        if exact[-1] <= 0:
            raise PlanError(
                f"weight {number} is {weight!r}, expected above 0; leave out a dataset that is "
                f"not to be read"
            )
    scale = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * scale) for weight in exact]
    divisor = math.gcd(*whole)
    return tuple(weight // divisor for weight in whole)
