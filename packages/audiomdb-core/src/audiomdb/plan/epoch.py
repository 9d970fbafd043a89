"""Plan one epoch of a dataset: the order of its samples, and the rank that reads each.

Two shards of three and four samples, read by two ranks that need equal counts:

>>> plan = EpochPlan([3, 4], seed=7, epoch=1, shuffle=True)
>>> plan.positions(0, len(plan))
array([4, 6, 2, 1, 5, 3, 0])
>>> second = plan.for_rank(rank=1, world_size=2, tail="pad")
>>> positions, mask = second.positions(0, len(second))
>>> positions, mask
(array([6, 1, 3, 3]), array([ True,  True,  True, False]))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from audiomdb.errors import PlanError
from audiomdb.lazy import cached_property
from audiomdb.plan.bits import EPOCHS, MAX_STREAMS
from audiomdb.plan.checks import whole_number
from audiomdb.plan.occurrences import MAX_SAMPLES
from audiomdb.plan.order import Order
from audiomdb.plan.shuffle import MAX_WINDOW
from audiomdb.plan.sources import DatasetSource, First

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from audiomdb.plan.filters import Selection
    from audiomdb.plan.sources import SourceLine
    from audiomdb.plan.state import OptionValue

__all__ = ["MAX_PARTITIONS", "EpochPlan", "check_counts"]

MAX_PARTITIONS = 2**16


class EpochPlan(Order):
    """The order of one epoch over all ranks.

    A plan depends on its options alone. Building it costs O(shards). Reading from it costs
    O(window) for the first samples and O(1) for each one that follows, whatever the number of
    samples. It is frozen and thread-safe, and is pickled as its options.

    Args:
        counts: Samples in each shard, by shard number. Zeros are allowed.
        seed: 0 to 2**64 - 1.
        epoch: 0 to 2**32 - 1. Each epoch has a different order if shuffled.
        shuffle: False keeps the stored order.
        window: Number of shards, besides the one being entered, over which samples are shuffled:
            each partition needs `window` + 1 shards at once. 0 shuffles only within shards. A
            wider window shuffles better and needs a larger cache; see the module `shuffle`. Shards
            of which `selection` keeps nothing count too.
        partitions: Number of runs that the shards are divided into, so that not every node has to
            read all shards. Partitions are read side by side, so with more than one,
            `shuffle=False` means the stored order of each. This is part of the order: keep it when
            the number of nodes changes.
        selection: The samples that take part, see `filters`. None: all. The epoch is that of all
            samples without the excluded ones, and positions are still those among all samples.

    Raises:
        PlanError: An option is out of range; the message names the nearest legal value.
    """

    __match_args__ = ("counts", "seed", "epoch", "shuffle", "window", "partitions", "selection")
    _shown = __match_args__[1:-1]

    counts: NDArray[np.int64]
    """Samples in each shard, `(shards,)` int64, read-only."""

    seed: int
    epoch: int
    shuffle: bool
    window: int
    partitions: int
    selection: Selection | None

    def __init__(
        self,
        counts: Sequence[int] | NDArray[np.integer[Any]],
        *,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = False,
        window: int = 4,
        partitions: int = 1,
        selection: Selection | None = None,
    ) -> None:
        checked = check_counts(counts)
        if selection is not None and not np.array_equal(selection.counts, checked):
            raise PlanError(
                f"the selection is of a dataset with {len(selection.counts)} shards and "
                f"{selection.counts.sum()} samples, not of this one with {len(checked)} and "
                f"{checked.sum()}; make it of this dataset's index"
            )
        vars(self).update(
            counts=checked,
            seed=whole_number("seed", seed, high=2**64 - 1),
            epoch=whole_number("epoch", epoch, high=EPOCHS - 1),
            shuffle=bool(shuffle),
            window=whole_number("window", window, high=MAX_WINDOW),
            partitions=whole_number("partitions", partitions, low=1, high=MAX_PARTITIONS),
            selection=selection,
        )

    def __len__(self) -> int:
        """Return the number of samples in the epoch."""
        return self._dataset.size

    @property
    def options(self) -> dict[str, OptionValue]:
        """Options that change the order, besides seed, epoch and dataset, for `PlanState`."""
        return {
            "shuffle": self.shuffle,
            "window": self.window,
            "partitions": self.partitions,
            "selection": None if self.selection is None else self.selection.digest,
        }

    @property
    def datasets(self) -> tuple[NDArray[np.int64], ...]:
        """The `counts` of the single dataset, as a tuple of one."""
        return (self.counts,)

    @property
    def unread(self) -> list[int]:
        """`[0]` if no sample takes part, otherwise nothing."""
        return [] if len(self) else [0]

    @property
    def window_shards(self) -> tuple[int, ...]:
        """Number of shards over which a partition is shuffled at once, as a tuple of one."""
        return (self.window + 1 if self.shuffle else 1,)

    def source(self, first: First) -> DatasetSource:
        """Return the dataset as a source of a mixture, see `Order`."""
        return DatasetSource(first, self.counts, self.selection, self.shuffle, self.window)

    @cached_property
    def lines(self) -> tuple[SourceLine, ...]:
        """The samples of each partition in the order of the epoch."""
        return self._dataset.lines(self.epoch, self.partitions)

    @cached_property
    def _dataset(self) -> DatasetSource:
        return self.source(First(self.seed))


def check_counts(counts: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return the number of samples in each shard as a read-only copy, int64.

    Raises:
        PlanError: The values are not counts, or there are too many shards or samples for one plan.
    """
    given = np.asarray(counts)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise PlanError(
            f"counts must be a flat list of whole numbers, one for each shard, "
            f"not {given.dtype} of shape {given.shape}"
        )
    if given.size > MAX_STREAMS:
        raise PlanError(
            f"{given.size} shards are too many for one plan, at most {MAX_STREAMS}; "
            f"write larger shards"
        )
    if given.size and given.min() < 0:
        shard = int(given.argmin())
        raise PlanError(f"shard {shard} cannot hold {given[shard]} samples; at least 0")
    if given.sum(dtype=np.float64) > MAX_SAMPLES:
        raise PlanError(
            f"{given.sum(dtype=np.float64):.0f} samples are too many for one plan, "
            f"at most {MAX_SAMPLES}"
        )
    checked = given.astype(np.int64)
    checked.setflags(write=False)
    return checked
