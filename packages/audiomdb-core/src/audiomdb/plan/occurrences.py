"""Tell the occurrences of a sample in an epoch apart.

With weights, a mixture may read a small dataset many times in one epoch. Lines therefore consist of
occurrences: a position together with the number of times that the epoch passed over the dataset
before, in one integer.

    63 | 62           46 | 45                                             0
     0 | repeat          | position

An epoch that reads every sample at most once has repeat 0 throughout, and its occurrences are plain
positions. The repeat is counted modulo 2**17; it only serves to draw other random numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["MAX_SAMPLES", "REPEATS", "again", "positions_of", "repeats_of"]

_BITS = 46

MAX_SAMPLES = 1 << _BITS
"""Maximum number of samples in an epoch; times the number of partitions, it must fit int64."""

REPEATS = 2**17
"""Number of occurrences of a sample in an epoch that are told apart."""


def positions_of(occurrences: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the positions of occurrences; both `(n,)` int64."""
    return occurrences & (MAX_SAMPLES - 1)


def repeats_of(occurrences: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how often the epoch passed over the dataset before; both `(n,)` int64."""
    return occurrences >> _BITS


def again(occurrences: NDArray[np.int64], times: int) -> NDArray[np.int64]:
    """Return the same samples, passed over `times` times more; both `(n,)` int64."""
    if not times:
        return occurrences
    repeats = (repeats_of(occurrences) + times % REPEATS) % REPEATS
    return positions_of(occurrences) | repeats << _BITS
