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

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from audiomdb.errors import PlanError
from audiomdb.plan.bits import MAX_STREAMS, Purpose, random_order
from audiomdb.plan.checks import whole_number
from audiomdb.plan.line import StoredLine, cut_line
from audiomdb.plan.shuffle import MAX_WINDOW, ShuffledLine
from audiomdb.plan.split import Split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from audiomdb.plan.line import Line
    from audiomdb.plan.split import Places, Tail

__all__ = ["EpochPlan", "RankPlan"]

_MAX_PARTITIONS = 2**16
_MAX_SAMPLES = 2**46  # times partitions, it must fit int64


@dataclass(frozen=True, init=False, eq=False)
class EpochPlan:
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

    Raises:
        PlanError: An option is out of range; the message names the nearest legal value.
    """

    counts: NDArray[np.int64] = field(repr=False)
    """Samples in each shard, `(shards,)` int64, read-only."""

    seed: int
    epoch: int
    shuffle: bool
    window: int
    partitions: int

    def __init__(
        self,
        counts: Sequence[int] | NDArray[np.integer[Any]],
        *,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = False,
        window: int = 4,
        partitions: int = 1,
    ) -> None:
        vars(self).update(
            counts=_checked_counts(counts),
            seed=whole_number("seed", seed, high=2**64 - 1),
            epoch=whole_number("epoch", epoch, high=2**32 - 1),
            shuffle=bool(shuffle),
            window=whole_number("window", window, high=MAX_WINDOW),
            partitions=whole_number("partitions", partitions, low=1, high=_MAX_PARTITIONS),
        )

    def __len__(self) -> int:
        """Samples in the epoch."""
        return self._everything.total

    def __getstate__(self) -> dict[str, object]:
        return {option.name: getattr(self, option.name) for option in fields(self)}

    def positions(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the positions of turns `start` to `stop` (half open), `(n,)` int64.

        As in a slice, what lies beyond the end is left out.

        Raises:
            PlanError: `start` or `stop` is negative.
        """
        return self._read(self._everything.places(start, stop))

    def for_rank(
        self,
        rank: int,
        world_size: int,
        worker: int = 0,
        num_workers: int = 1,
        tail: Tail = "uneven",
    ) -> RankPlan:
        """Return the part of the epoch that one worker of one rank reads.

        Args:
            rank: 0 to `world_size` - 1. Ranks of one node follow each other.
            world_size: Processes that share the epoch.
            worker: 0 to `num_workers` - 1.
            num_workers: Workers that share the rank's samples.
            tail: What becomes of samples that the ranks cannot share evenly: `"uneven"` keeps
                them, `"drop"` leaves them out, `"pad"` fills up with masked repeats.

        Raises:
            PlanError: A number is out of range, or `tail` unknown.
        """
        split = Split(len(self), self.partitions, rank, world_size, worker, num_workers, tail)
        return RankPlan(self, split)

    def shard_order(self, partition: int = 0) -> NDArray[np.int64]:
        """Return the shards of a partition in the order in which they are met, `(n,)` int64.

        Shards without samples are not among them. A shard on a cut is in two partitions.
        """
        partition = whole_number("partition", partition, high=self.partitions - 1)
        return self._lines[partition].shards

    def shards_alive(self, turn: int) -> NDArray[np.int64]:
        """Return the shards over which the turn's partition is mixed there, `(n,)` int64.

        At most `window` + 1 (one without shuffle), in the order of `shard_order`: the first is
        the next to leave, the last the newest. Nothing before them is needed again.
        """
        if not len(self):
            raise PlanError(f"turn {turn} does not exist: the epoch has no samples")
        turn = whole_number("turn", turn, high=len(self) - 1)
        place = self._everything.places(turn, turn + 1)
        line = self._lines[int(place.partitions[0])]
        alive = line.alive(int(place.elements[0]))
        return line.shards[alive.start : alive.stop]

    @cached_property
    def _everything(self) -> Split:
        return Split(int(self.counts.sum()), self.partitions)

    @cached_property
    def _lines(self) -> tuple[Line, ...]:
        shards = len(self.counts)
        if not self.shuffle:
            runs = cut_line(self.counts, np.arange(shards, dtype=np.int64), self.partitions)
            return tuple(StoredLine(run) for run in runs)
        order = random_order(self.seed, self.epoch, Purpose.SHARD_ORDER, shards)
        return tuple(
            ShuffledLine(run, seed=self.seed, epoch=self.epoch, window=self.window)
            for run in cut_line(self.counts, order, self.partitions)
        )

    def _read(self, places: Places) -> NDArray[np.int64]:
        if self.partitions == 1:
            return self._lines[0].take(places.elements)
        positions = np.empty(len(places.elements), dtype=np.int64)
        for partition in np.unique(places.partitions):
            here = places.partitions == partition
            positions[here] = self._lines[partition].take(places.elements[here])
        return positions


@dataclass(frozen=True, eq=False)
class RankPlan:
    """The samples of one worker of one rank, in the order in which it reads them."""

    plan: EpochPlan
    split: Split

    def __len__(self) -> int:
        """Samples of this worker, masked ones counted."""
        return len(self.split)

    def positions(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the positions of the worker's samples `start` to `stop` and their mask.

        Both `(n,)`, int64 and bool. The mask is False where `tail="pad"` repeats a sample. As in
        a slice, what lies beyond the end is left out.

        Raises:
            PlanError: `start` or `stop` is negative.
        """
        places = self.split.places(start, stop)
        return self.plan._read(places), places.mask


def _checked_counts(counts: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
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
    if given.sum(dtype=np.float64) > _MAX_SAMPLES:
        raise PlanError(
            f"{given.sum(dtype=np.float64):.0f} samples are too many for one plan, "
            f"at most {_MAX_SAMPLES}"
        )
    checked = given.astype(np.int64)
    checked.setflags(write=False)
    return checked
