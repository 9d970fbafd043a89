"""What follows from how long the clips of a dataset are: buckets, and how many come at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audiomdb.plan.packing import SlotSize

__all__ = ["even_borders", "sampled", "usual_increment"]

_SAMPLED = 2**16
"""So many durations tell borders and increments."""

_GROUPS = 16
"""Groups of durations for each bucket, in which their density is measured."""

_LEAST_IN_GROUP = 8
_MOST_OF_SECONDS = 2.0
"""How much of the borders is where few seconds are, over the share of the seconds."""

_LEAST_INCREMENT = 16
_CHUNK = 2**20


def sampled(
    durations: NDArray[np.floating], kept: NDArray[np.bool_] | None = None
) -> NDArray[np.floating]:
    """Return at most 65536 durations at even distances.

    Args:
        durations: `(samples,)` seconds.
        kept: Which of them take part. None: all.
    """
    total = len(durations) if kept is None else int(np.count_nonzero(kept))
    every = max(1, -(-total // _SAMPLED))
    if kept is None:
        return durations[::every]
    # In chunks: a number for each of many millions would take more than the durations do.
    picked, skip = [durations[:0]], 0
    for begin in range(0, len(durations), _CHUNK):
        here = begin + np.flatnonzero(kept[begin : begin + _CHUNK])
        picked.append(durations[here[skip::every]])
        skip = (skip - len(here)) % every
    return np.concatenate(picked)


def even_borders(durations: NDArray[np.floating], buckets: int = 32) -> list[float]:
    """Return borders between buckets that cost about equally much padding each.

    That is the least padding there is for so many buckets: they are narrow where there are many
    clips. A bucket has at least about half of its even share of the seconds, because one for which
    few clips come keeps them waiting.

    The borders are some of the durations. Costs one sort of at most 65536 of them, taken at even
    distances.
    """
    sample = np.sort(sampled(durations)).astype(np.float64)
    sample = sample[sample > 0]
    if not len(sample):
        return []
    groups = max(1, min(_GROUPS * buckets, len(sample) // _LEAST_IN_GROUP))
    ends = np.arange(groups + 1) * (len(sample) - 1) // groups
    # Clips of density f in a bucket of width w cost padding of f * w * w / 2. This is the same for
    # all buckets where borders are even in the square root of f, summed up over the durations.
    width = np.sqrt(np.diff(sample[ends]))
    seconds = np.diff(np.cumsum(sample)[ends])
    if not width.any():
        return []
    shares = np.minimum(width / width.sum(), _MOST_OF_SECONDS * seconds / seconds.sum())
    upto = np.concatenate(([0.0], np.cumsum(shares)))
    at = np.interp(upto[-1] * np.arange(1, buckets) / buckets, upto, ends)
    borders: list[float] = np.unique(sample[np.rint(at).astype(np.int64)]).tolist()
    return borders


def usual_increment(durations: NDArray[np.floating], size: SlotSize) -> int:
    """Return how many clips of each partition a plan takes at a time, for each of its slots.

    Half of what a slot holds on average, and at least 16: of slots of few clips, one bucket gets
    more by chance than another does, and clips have to wait for more slots.
    """
    sample = sampled(durations)
    sample = sample[(sample > 0) & (sample <= size.seconds)].astype(np.float64)
    if not len(sample):
        return _LEAST_INCREMENT
    slots = sample / size.seconds
    if size.clips is not None:
        slots = np.maximum(slots, 1 / size.clips)
    return max(_LEAST_INCREMENT, round(len(sample) / float(slots.sum()) / 2))
