"""Derive bucket borders and the increment of a plan from the durations of the clips."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from audiomdb.errors import PlanError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audiomdb.plan.packing import SlotSize

__all__ = ["even_borders", "in_seconds", "sampled", "usual_increment"]

_SAMPLED = 2**16
"""Maximum number of durations from which borders and increments are derived."""

_GROUPS = 16
"""Number of groups per bucket in which the density of durations is measured."""

_LEAST_IN_GROUP = 8
_MOST_OF_SECONDS = 2.0
"""Maximum ratio of a group's share of the borders to its share of the seconds."""

_LEAST_INCREMENT = 16
_CHUNK = 2**20


def in_seconds(column: NDArray[Any]) -> NDArray[np.float64]:
    """Return the column of durations as float64, NaN where there is none.

    Raises:
        PlanError: it holds text: that of samples without audio is whatever their source calls so.
    """
    try:
        return np.asarray(column, dtype=np.float64)
    except ValueError as exc:
        raise PlanError(f"the column 'duration' is no number of seconds: {exc}"[:200]) from exc


def sampled(
    durations: NDArray[np.floating], kept: NDArray[np.bool_] | None = None
) -> NDArray[np.floating]:
    """Return at most 65536 evenly spaced durations.

    Args:
        durations: `(samples,)` seconds.
        kept: `(samples,)` bool, True for the samples that take part. None: all.
    """
    total = len(durations) if kept is None else int(np.count_nonzero(kept))
    every = max(1, -(-total // _SAMPLED))
    if kept is None:
        return durations[::every]
    # In chunks, because the indices of many millions of samples would take more memory than the
    # durations do.
    picked, skip = [durations[:0]], 0
    for begin in range(0, len(durations), _CHUNK):
        here = begin + np.flatnonzero(kept[begin : begin + _CHUNK])
        picked.append(durations[here[skip::every]])
        skip = (skip - len(here)) % every
    return np.concatenate(picked)


def even_borders(durations: NDArray[np.floating], buckets: int = 32) -> list[float]:
    """Return borders between buckets that each cause about the same amount of padding.

    Such borders minimise the padding for the given number of buckets; buckets are narrow where
    there are many clips. A bucket gets at least about half of an even share of the seconds,
    because clips wait long in a bucket that few clips fall into.

    The borders are a subset of the durations. Sorts at most 65536 evenly spaced durations.
    """
    sample = np.sort(sampled(durations)).astype(np.float64)
    sample = sample[sample > 0]
    if not len(sample):
        return []
    groups = max(1, min(_GROUPS * buckets, len(sample) // _LEAST_IN_GROUP))
    ends = np.arange(groups + 1) * (len(sample) - 1) // groups
    # Clips of density f in a bucket of width w cause padding of f * w * w / 2. This is the same for
    # all buckets if the borders are evenly spaced in the integral of the square root of f.
    width = np.sqrt(np.diff(sample[ends]))
    seconds = np.diff(np.cumsum(sample)[ends])
    if not width.any():
        return []
    with np.errstate(over="ignore"):  # NumPy 1.26 warns of durations of 1e-320, for nothing
        shares = np.minimum(width / width.sum(), _MOST_OF_SECONDS * seconds / seconds.sum())
    upto = np.concatenate(([0.0], np.cumsum(shares)))
    at = np.interp(upto[-1] * np.arange(1, buckets) / buckets, upto, ends)
    borders: list[float] = np.unique(sample[np.rint(at).astype(np.int64)]).tolist()
    return borders


def usual_increment(durations: NDArray[np.floating], size: SlotSize) -> int:
    """Return the number of clips per slot of a partition that an increment adds.

    It is half of the average number of clips in a slot, and at least 16: where slots hold few
    clips, chance fills buckets less evenly, and clips have to wait for more slots.
    """
    sample = sampled(durations)
    sample = sample[(sample > 0) & (sample <= size.seconds)].astype(np.float64)
    if not len(sample):
        return _LEAST_INCREMENT
    slots = np.maximum(sample, size.least) / size.seconds
    if size.clips is not None:
        slots = np.maximum(slots, 1 / size.clips)
    return max(_LEAST_INCREMENT, round(len(sample) / float(slots.sum()) / 2))
