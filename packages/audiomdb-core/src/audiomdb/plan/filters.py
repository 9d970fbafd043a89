"""Select the samples of a dataset that take part in an epoch.

A filter does not change the order of the samples it keeps. Random words belong to places in shards,
so they are drawn for all places and then selected, and a shard of which nothing is kept still
counts when shards are numbered in the order of the epoch. With one partition, the filtered epoch is
exactly the whole epoch without the excluded samples. (With more, the cuts move, because partitions
share the kept samples evenly.) A shard without a kept sample is never read.

A selection takes one bit per sample and is made in one pass over the columns that it tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from audiomdb.errors import PlanError
from audiomdb.lazy import cached_property
from audiomdb.plan.durations import in_seconds

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Columns", "Selection", "limits", "select"]

Columns: TypeAlias = Mapping[str, np.ndarray]
"""Per-sample columns by name, each `(samples,)` in stored order, as in `DatasetReader.index`."""


class Selection:
    """The samples of a dataset that are kept. Immutable, thread-safe and picklable.

    Args:
        counts: Samples in each shard, by shard number.
        mask: `(samples,)` bool in stored order, True for samples that are kept.

    Raises:
        PlanError: The mask is not an array of bools, or has the wrong length.
    """

    counts: NDArray[np.int64]
    """Samples in each shard, kept or not, `(shards,)` int64, read-only."""

    kept: NDArray[np.int64]
    """Kept samples in each shard, `(shards,)` int64, read-only."""

    def __init__(
        self, counts: Sequence[int] | NDArray[np.integer[Any]], mask: NDArray[np.bool_]
    ) -> None:
        self.counts = np.array(counts, dtype=np.int64)
        mask = np.asarray(mask)
        total = int(self.counts.sum())
        if mask.dtype != np.bool_ or mask.shape != (total,):
            raise PlanError(
                f"a mask of {mask.dtype} and shape {mask.shape} for {total} samples, "
                f"expected bool of shape ({total},)"
            )
        self._ends = np.concatenate(([0], np.cumsum(self.counts)))
        # One by one: `np.add.reduceat` would make eight bytes of each bit first.
        ends = self._ends.tolist()
        kept = [np.count_nonzero(mask[begin:end]) for begin, end in pairwise(ends)]
        self.kept = np.array(kept, dtype=np.int64)
        self._bits = np.packbits(mask)
        for array in (self.counts, self.kept):
            array.setflags(write=False)

    def __len__(self) -> int:
        """Return the number of kept samples."""
        return int(self.kept.sum())

    def __repr__(self) -> str:
        return f"<Selection of {len(self)} of {int(self._ends[-1])} samples, {self.digest[:8]}>"

    @cached_property
    def digest(self) -> str:
        """16 hex digits that identify the kept samples, for use in the plan id."""
        import hashlib

        digest = hashlib.sha256(self.counts.astype("<i8").tobytes())
        digest.update(self._bits.tobytes())
        return digest.hexdigest()[:16]

    def places(self, shard: int) -> NDArray[np.int64]:
        """Return the kept places of a shard, ascending, `(kept,)` int64."""
        begin, end = int(self._ends[shard]), int(self._ends[shard + 1])
        bits = np.unpackbits(self._bits[begin // 8 : -(-end // 8)])
        skip = begin % 8
        return np.flatnonzero(bits[skip : skip + end - begin])

    def mask(self) -> NDArray[np.bool_]:
        """Return the mask, `(samples,)` bool in stored order."""
        return np.unpackbits(self._bits, count=int(self._ends[-1])).view(np.bool_)


def select(
    columns: Columns,
    counts: Sequence[int] | NDArray[np.integer[Any]],
    *,
    min_duration: float | None = None,
    max_duration: float | None = None,
    where: Callable[[Columns], NDArray[np.bool_]] | NDArray[np.bool_] | None = None,
) -> Selection | None:
    """Select the samples whose index columns meet all the given conditions.

    Args:
        columns: Columns of the dataset. Only the columns that conditions use are read.
        counts: Samples in each shard.
        min_duration: Minimum in seconds, inclusive. Excludes samples without a duration.
        max_duration: Maximum in seconds, inclusive. Excludes samples without a duration.
        where: `(samples,)` bool in stored order, or a function that makes it from the columns and
            is called once. The mask must be the same on every rank.

    Returns:
        The selection, or None if there is no condition.

    Raises:
        PlanError: `min_duration` is above `max_duration`, `where` does not give a mask, or
            durations are not numbers.
        KeyError: There is no column of that name.
    """
    masks: list[NDArray[np.bool_]] = []
    if min_duration is not None or max_duration is not None:
        masks.append(_lasting(columns, *limits(min_duration, max_duration)))
    if where is not None:
        mask = np.asarray(_called(where, columns) if callable(where) else where)
        total = int(np.sum(counts))
        if mask.dtype != np.bool_ or mask.shape != (total,):
            raise PlanError(
                f"where gives {mask.dtype} of shape {mask.shape}, expected one bool for each of "
                f"the {total} samples: write a comparison of columns"
            )
        masks.append(mask)
    if not masks:
        return None
    return Selection(counts, masks[0] if len(masks) == 1 else masks[0] & masks[1])


def limits(min_duration: float | None, max_duration: float | None) -> tuple[float, float]:
    """Return the least and the largest duration in seconds that is kept.

    Raises:
        PlanError: one is NaN, or no duration is between them.
    """
    low = 0.0 if min_duration is None else min_duration
    high = np.inf if max_duration is None else max_duration
    for name, limit in (("min_duration", low), ("max_duration", high)):
        if np.isnan(limit):
            raise PlanError(f"{name} is nan, expected seconds")
    if low > high:
        raise PlanError(f"min_duration {low} s is above max_duration {high} s: nothing is left")
    return low, high


def _lasting(columns: Columns, low: float, high: float) -> NDArray[np.bool_]:
    durations = in_seconds(columns["duration"])
    mask: NDArray[np.bool_] = durations >= low
    mask &= durations <= high  # NaN is neither
    return mask


def _called(where: Callable[[Columns], NDArray[np.bool_]], columns: Columns) -> NDArray[np.bool_]:
    try:
        return where(columns)
    except ValueError as exc:
        # NumPy's, where `and`, `or` or a chain of comparisons asks a column for one truth value.
        raise PlanError(
            f"where failed: {exc} It gets whole columns: combine comparisons with & and |, each in "
            "parentheses"
        ) from exc
