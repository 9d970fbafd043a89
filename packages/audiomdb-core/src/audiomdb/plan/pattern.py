"""Determine which source of a mixture has each turn.

Source d of weight w_d gets w_d of every W turns, where W is the sum of the weights. Its sample i
has the deadline (2i + 1) / (2 w_d), which is the middle of the i-th interval of length 1 / w_d. The
pattern is the list of all samples sorted by deadline, then by source:

    weights 3, 2    source 0    1/6       3/6       5/6      7/6
                    source 1       1/4         3/4              5/4
                    pattern      0   1     0     1   0   |   0   1 ...

After any number of turns, each of two sources has had its share to within one sample. With more
sources, the difference may reach half their number, because small sources of equal weight have
their turns together: with one source of weight 10,000 and forty of weight 20, those forty have
consecutive turns, twenty times.

If the weights are the sizes of the sources, all sources end together after W turns.

Deadlines are compared as integers, scaled by the least common multiple of the weights, so the
pattern is exact for any size. It has no state: the number of turns of each source among the first n
is known in closed form up to a few turns per source, and the rest are counted.
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
"""Weight of a source. Floats are taken as written in decimal: 0.1 is one tenth."""

_INT64_MAX = 2**63 - 1


class Pattern:
    """An endless sequence of turns of weighted sources. Immutable and thread-safe.

    Args:
        weights: One whole number for each source; 0 excludes a source. If all are 0, no turn can be
            asked for.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        self._weights = [int(weight) for weight in weights]
        self._total = sum(self._weights)
        self._scale = math.lcm(*(weight for weight in self._weights if weight))

    def counts(self, turns: int) -> list[int]:
        """Return how many of the first `turns` turns each source has."""
        if not turns:
            return [0] * len(self._weights)
        counts, found = self._prefix(turns)
        rest = np.bincount(self._merge(counts, turns - found), minlength=len(counts))
        return [count + int(more) for count, more in zip(counts, rest, strict=True)]

    def sources(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the source of turns `start` to `stop` (half open), `(stop - start,)` int64."""
        counts, found = self._prefix(start)
        return self._merge(counts, stop - found)[start - found :]

    def turn_after(self, source: int, samples: int) -> int:
        """Return the number of turns after which a source has given its first `samples` samples."""
        mine = self._weights[source]
        turns = 0
        for other, weight in enumerate(self._weights):
            # Samples i of `other` with (2i + 1) / weight <= (2 samples - 1) / mine.
            quotient, rest = divmod((2 * samples - 1) * weight, mine)
            turns += (quotient + 1) // 2
            if other > source and rest == 0 and quotient % 2 == 1:
                turns -= 1  # an equal deadline, but a later turn
        return turns

    def _prefix(self, turns: int) -> tuple[list[int], int]:
        """Return the counts of a prefix of the pattern, and its length.

        The length lies between `turns` - 2 * sources and `turns`. All deadlines up to x form a
        prefix, and source d has floor(x * w_d + 1/2) of them; rounding adds at most half a turn
        per source.
        """
        near = max(0, turns - len(self._weights))
        counts = [(2 * near * w + self._total) // (2 * self._total) for w in self._weights]
        return counts, sum(counts)

    def _merge(self, counts: list[int], turns: int) -> NDArray[np.int64]:
        """Return the sources of the `turns` turns that follow the prefix with `counts`."""
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
        # Beyond 64 bits, NumPy sorts Python integers, which is slower but still exact.
        dtype = np.int64 if high <= _INT64_MAX else np.object_
        deadlines = [
            np.arange(size).astype(dtype) * stride + (first - low)
            for _, size, first, stride in coming
        ]
        sources = np.repeat([one[0] for one in coming], [one[1] for one in coming])
        return sources[np.argsort(np.concatenate(deadlines), kind="stable")][:turns]


def whole_weights(weights: Sequence[Weight], sources: int) -> tuple[int, ...]:
    """Return weights as whole numbers without a common divisor, in the same proportions.

    Raises:
        PlanError: The number of weights is not `sources`, or a weight is not a number above 0.
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
