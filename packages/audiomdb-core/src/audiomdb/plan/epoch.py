"""One epoch: which sample is read when, by whom.

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

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from audiomdb.errors import PlanError
from audiomdb.plan.bits import MAX_STREAMS, Purpose, random_order
from audiomdb.plan.checks import whole_number
from audiomdb.plan.filters import SelectedLine
from audiomdb.plan.line import StoredLine, cut_line
from audiomdb.plan.shuffle import MAX_WINDOW, ShuffledLine
from audiomdb.plan.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from audiomdb.plan.filters import Selection
    from audiomdb.plan.line import Line, Run
    from audiomdb.plan.state import OptionValue

__all__ = ["MAX_PARTITIONS", "MAX_SAMPLES", "EpochPlan", "check_counts", "make_line"]

MAX_PARTITIONS = 2**16
MAX_SAMPLES = 2**46
"""In an epoch; times partitions, it must fit int64."""


class EpochPlan(Turns):
    """The order of one epoch, for all ranks together.

    Made from the options alone; building one costs O(shards), reading from it O(window) for the
    first samples and O(1) for each that follows, whatever the number of samples. Frozen, may be
    used from several threads, and pickles as its options.

    Args:
        counts: Samples in each shard, by shard number. Zeros are fine.
        seed: 0 to 2**64 - 1.
        epoch: 0 to 2**32 - 1. Another epoch is another order.
        shuffle: False keeps the stored order.
        window: How many shards beside the one being entered samples are mixed over: `window` + 1
            shards are needed at once in each partition. 0 mixes only inside shards. A wider window
            mixes better and needs more cache; see `shuffle`.
        partitions: Into how many runs the shards are divided, so that nodes need not all read all
            shards. They are read side by side, so with more than one, `shuffle=False` means the
            stored order of each. Part of the order: keep it when the number of nodes changes.
        selection: Which samples take part, see `filters`. None: all. The epoch is that of all
            samples without those left out; positions stay those of all samples.

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
            epoch=whole_number("epoch", epoch, high=2**32 - 1),
            shuffle=bool(shuffle),
            window=whole_number("window", window, high=MAX_WINDOW),
            partitions=whole_number("partitions", partitions, low=1, high=MAX_PARTITIONS),
            selection=selection,
        )

    def __len__(self) -> int:
        """Samples in the epoch."""
        return self._total

    @property
    def options(self) -> dict[str, OptionValue]:
        """What changes the order beside seed, epoch and the dataset, for `PlanState`."""
        return {
            "shuffle": self.shuffle,
            "window": self.window,
            "partitions": self.partitions,
            "selection": None if self.selection is None else self.selection.digest,
        }

    @property
    def datasets(self) -> tuple[NDArray[np.int64], ...]:
        """`counts`, of the one dataset there is."""
        return (self.counts,)

    @property
    def window_shards(self) -> tuple[int, ...]:
        """Shards over which a partition is mixed at once, of the one dataset."""
        return (self.window + 1 if self.shuffle else 1,)

    def shards_from(self, dataset: int, partition: int, element: int) -> NDArray[np.int64]:  # noqa: ARG002
        """Return what `shard_order` does, and nothing after the last element; see `Turns`."""
        if element >= len(self.lines[partition]):
            return np.empty(0, np.int64)
        return self.shard_order(partition, element)

    def passes(self, partition: int, element: int) -> tuple[tuple[int, ...], ...]:  # noqa: ARG002
        """Return that there is one pass; see `Turns`."""
        return ((),)

    def shard_order(self, partition: int = 0, element: int = 0) -> NDArray[np.int64]:
        """Return the shards of a partition in the order in which they are met, `(n,)` int64.

        Shards without samples are not among them. A shard on a cut is in two partitions.

        Args:
            partition: 0 to `partitions` - 1.
            element: Leave out shards that are done with where this element of the line is read.
        """
        partition = whole_number("partition", partition, high=self.partitions - 1)
        first = self._alive(partition, element).start if element else 0
        return self._filled(self.lines[partition].shards[first:])

    def shards_alive(self, turn: int) -> NDArray[np.int64]:
        """Return the shards over which the turn's partition is mixed there, `(n,)` int64.

        At most `window` + 1 (one without shuffle), in the order of `shard_order`: the first is
        the next to leave, the last the newest. Nothing before them is needed again.
        """
        if not len(self):
            raise PlanError(f"turn {turn} does not exist: the epoch has no samples")
        turn = whole_number("turn", turn, high=len(self) - 1)
        place = self._everything.places(turn, turn + 1)
        return self.shards_mixed(int(place.partitions[0]), int(place.elements[0]))

    def shards_mixed(self, partition: int, element: int) -> NDArray[np.int64]:
        """Return the same as `shards_alive`, for an element of a partition's line.

        After the last element, the shards of that; none where the line is empty.
        """
        partition = whole_number("partition", partition, high=self.partitions - 1)
        alive = self._alive(partition, element)
        return self._filled(self.lines[partition].shards[alive.start : alive.stop])

    def _alive(self, partition: int, element: int) -> range:
        line = self.lines[partition]
        element = min(whole_number("element", element), len(line) - 1)
        return line.alive(element) if len(line) else range(0)

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """The samples of each partition in their order."""
        shards = len(self.counts)
        order = np.arange(shards, dtype=np.int64)
        if self.shuffle:
            order = random_order(self.seed, self.epoch, Purpose.SHARD_ORDER, shards)
        runs = cut_line(self.counts, order, self.partitions, kept=self._sizes)
        return tuple(
            make_line(
                run,
                seed=self.seed,
                epoch=self.epoch,
                shuffle=self.shuffle,
                window=self.window,
                selection=self.selection,
            )
            for run in runs
        )

    @cached_property
    def _total(self) -> int:
        return int(self._sizes.sum())

    @property
    def _sizes(self) -> NDArray[np.int64]:
        """Samples that take part, of each shard."""
        return self.counts if self.selection is None else self.selection.kept

    def _filled(self, shards: NDArray[np.int64]) -> NDArray[np.int64]:
        return shards if self.selection is None else shards[self._sizes[shards] > 0]


def make_line(
    run: Run,
    *,
    seed: int,
    epoch: int,
    shuffle: bool,
    window: int,
    selection: Selection | None,
    first_stream: int = 0,
) -> Line:
    """Return the samples of a run in the order that the options make; see `EpochPlan`."""
    if shuffle:
        return ShuffledLine(
            run,
            seed=seed,
            epoch=epoch,
            window=window,
            selection=selection,
            first_stream=first_stream,
        )
    return StoredLine(run) if selection is None else SelectedLine(run, selection)


def check_counts(counts: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return the samples of each shard as a read-only array of its own.

    Raises:
        PlanError: They are no counts, or too many for one plan.
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
