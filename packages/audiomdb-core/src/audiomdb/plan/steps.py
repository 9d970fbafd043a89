"""Divide an epoch into steps: global batches that are the same for every number of ranks.

Step k of G samples takes turns k * G to (k + 1) * G, sorted by partition: it has G slots, and each
of the P partitions fills g = G / P of them with its elements k * g to (k + 1) * g. Rank r of R
takes slots r * G / R to (r + 1) * G / R.

    G = 8, P = 2, R = 4      slot        0  1  2  3  4  5  6  7
                             partition   0  0  0  0  1  1  1  1
                             rank        0  0  1  1  2  2  3  3

Only the assignment to ranks depends on R, so the ranks' parts, concatenated, are the same list for
every R that divides G. With equally many ranks on each of n nodes, where n divides P, a node reads
only its own partitions.

The last step may have fewer than G samples. A partition with c samples left spreads them evenly
over its g slots: slot i has sample floor(i * c / g). Each sample appears in one or several adjacent
slots; the first one counts, and the others are padding. The ranks' shares of the samples that count
are therefore also even, to one sample per partition of a rank.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import force_setattr

from audiomdb.errors import PlanError
from audiomdb.plan.checks import whole_number
from audiomdb.plan.occurrences import positions_of, repeats_of
from audiomdb.plan.split import TAILS, Tail

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audiomdb.plan.order import Order

__all__ = ["Step", "StepPlan", "check_shares"]

_STRETCH = 2048
"""Samples of all ranks that are read at once; lines remember the shards alive that far back."""


class Step(NamedTuple):
    """One rank's part of a step; all arrays `(n,)`."""

    positions: NDArray[np.int64]
    mask: NDArray[np.bool_]
    """False where a sample is repeated as padding."""

    repeats: NDArray[np.int64]
    """How often the epoch passed over the dataset of each sample before; 0 without weights."""

    @classmethod
    def of(cls, occurrences: NDArray[np.int64], mask: NDArray[np.bool_] | None = None) -> Step:
        """Make a step of occurrences, see `plan.occurrences`; without a mask, all count."""
        if mask is None:
            mask = np.ones(len(occurrences), dtype=np.bool_)
        return cls(positions_of(occurrences), mask, repeats_of(occurrences))


class _Stretch(NamedTuple):
    """Consecutive whole steps of a rank, read at once."""

    rank: int
    world_size: int
    first: int
    """Number of the first step."""

    occurrences: NDArray[np.int64]
    """`(steps, samples of the rank in a step)`."""

    def has(self, number: int, rank: int, world_size: int) -> bool:
        return (
            rank == self.rank
            and world_size == self.world_size
            and type(number) is int
            and 0 <= number - self.first < len(self.occurrences)
        )

    def step(self, number: int) -> Step:
        return Step.of(self.occurrences[number - self.first])


class StepPlan(msgspec.Struct, frozen=True, dict=True):
    """The steps of one epoch. Frozen and thread-safe; pickled as its options.

    Steps are read from the plan in stretches of some 2000 samples of all ranks. The last stretch is
    kept as a single reference, and losing it to another thread only costs time. Accessing any step
    costs one stretch plus the cost of accessing a sample in the plan: O(window), whatever the
    number of samples. Reading steps in order takes 0.9 us per sample with 16 samples in a step and
    0.5 us with 64, for 1 to 8 partitions.

    Args:
        plan: The order of the epoch.
        batch_size: Samples in a step over all ranks, G. A multiple of the plan's partitions.
        tail: How to treat the N mod G samples that do not fill a step:

            - `"drop"`: they are left out of this epoch; all others are read once;
            - `"pad"`: one more step, padded with repeats whose mask is False;
            - `"uneven"`: one more step without padding. Ranks may get parts of different lengths,
              even empty ones, so this is for evaluation.

    Raises:
        PlanError: `batch_size` cannot be shared by the partitions, or `tail` is unknown.
    """

    plan: Order
    batch_size: int
    tail: Tail = "drop"

    def __post_init__(self) -> None:
        force_setattr(self, "batch_size", whole_number("batch_size", self.batch_size, low=1))
        if self.tail not in TAILS:
            raise PlanError(f"tail must be one of {', '.join(map(repr, TAILS))}, not {self.tail!r}")
        check_shares(self.batch_size, self.plan.partitions)

    @property
    def steps(self) -> int:
        """Number of steps in the epoch, the same for every rank."""
        whole, rest = divmod(len(self.plan), self.batch_size)
        return whole + (rest > 0 and self.tail != "drop")

    @property
    def dropped(self) -> int:
        """Number of samples of the epoch that are in no step."""
        return len(self.plan) % self.batch_size if self.tail == "drop" else 0

    def step(self, number: int, rank: int = 0, world_size: int = 1) -> Step:
        """Return a rank's part of a step, in the order of its slots.

        It has `batch_size // world_size` samples, or fewer in the last step with `tail="uneven"`.

        Args:
            number: 0 to `steps` - 1.
            rank: 0 to `world_size` - 1. Ranks of one node are consecutive.
            world_size: Number of ranks that share each step; a divisor of `batch_size`.

        Raises:
            PlanError: A number is out of range, or `world_size` does not divide `batch_size`. The
                message names the nearest legal numbers.
        """
        stretch: _Stretch | None = vars(self).get("_kept")
        if stretch is None or not stretch.has(number, rank, world_size):
            return self._checked_step(number, rank, world_size)
        return stretch.step(number)

    def _checked_step(self, number: int, rank: int, world_size: int) -> Step:
        if not self.steps:
            raise PlanError(
                f"step {number} does not exist: {len(self.plan)} samples make no step of "
                f"{self.batch_size} with tail={self.tail!r}; use a smaller batch_size or tail='pad'"
            )
        number = whole_number("step", number, high=self.steps - 1)
        world_size = whole_number("world_size", world_size, low=1)
        rank = whole_number("rank", rank, high=world_size - 1)
        check_shares(self.batch_size, self.plan.partitions, world_size)
        if number < len(self.plan) // self.batch_size:
            stretch = vars(self)["_kept"] = self._stretch(number, rank, world_size)
            return stretch.step(number)
        parts = [
            self._slots(number, partition, first, stop)
            for partition, first, stop in self._parts(rank, world_size)
        ]
        if len(parts) == 1:
            return parts[0]
        return Step(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def _parts(self, rank: int, world_size: int) -> list[tuple[int, int, int]]:
        """Return the partitions that a rank reads, with the range of the slots of each."""
        each, width = self.batch_size // world_size, self.batch_size // self.plan.partitions
        first, stop = rank * each, (rank + 1) * each
        return [
            (partition, max(0, first - partition * width), min(width, stop - partition * width))
            for partition in range(first // width, -(-stop // width))
        ]

    def _stretch(self, number: int, rank: int, world_size: int) -> _Stretch:
        """Return the stretch of whole steps that contains a step."""
        steps = max(1, _STRETCH // self.batch_size)
        first = number // steps * steps
        count = min(steps, len(self.plan) // self.batch_size - first)
        return _Stretch(rank, world_size, first, self._read(first, count, rank, world_size))

    def _read(self, first: int, steps: int, rank: int, world_size: int) -> NDArray[np.int64]:
        width = self.batch_size // self.plan.partitions
        begins = np.arange(first, first + steps, dtype=np.int64)[:, None] * width
        columns = []
        for partition, begin, stop in self._parts(rank, world_size):
            elements = (begins + np.arange(begin, stop, dtype=np.int64)).reshape(-1)
            columns.append(self.plan.lines[partition].take(elements).reshape(steps, -1))
        return np.concatenate(columns, axis=1)

    def _slots(self, number: int, partition: int, first: int, stop: int) -> Step:
        """Return slots `first` to `stop` of a partition's part of the last step."""
        line = self.plan.lines[partition]
        width = self.batch_size // self.plan.partitions
        begin = number * width
        count = min(max(len(line) - begin, 0), width)
        slots = np.arange(first, stop, dtype=np.int64)
        mask = slots * count % width < count
        if self.tail == "uneven":
            slots, mask = slots[mask], mask[mask]
        if count:
            elements = begin + slots * count // width
        else:
            # Nothing is left: repeat the partition's last sample, which was read most recently. An
            # empty partition repeats a sample of partition 0, which is empty only if all are.
            line = line if len(line) else self.plan.lines[0]
            elements = np.full(len(slots), len(line) - 1, dtype=np.int64)
        return Step.of(line.take(elements), mask)


def check_shares(
    size: int, partitions: int, world_size: int = 1, *, name: str = "batch_size"
) -> None:
    """Check that partitions and ranks can share a size evenly.

    Args:
        size: Samples or slots of a step over all ranks.
        partitions: Number of partitions of the plan.
        world_size: Number of ranks.
        name: Name of the size in the message.

    Raises:
        PlanError: One of them does not divide the size. The message names the nearest legal sizes
            and, if partitions divide the size, the next smaller legal world size.
    """
    if size % partitions == 0 and size % world_size == 0:
        return
    unit = math.lcm(partitions, world_size)
    below = size // unit * unit
    sizes = [below, below + unit] if below else [unit]
    sharers = [f"{count} {what}" for count, what in _sharers(partitions, world_size)]
    message = (
        f"{name} {size} cannot be shared evenly by {' and '.join(sharers)}; "
        f"the nearest legal sizes: {', '.join(map(str, sizes))}"
    )
    if size % partitions == 0:
        fewer = next(n for n in range(min(world_size, size), 0, -1) if size % n == 0)
        message += f". With {name} {size}, the next smaller legal world size is {fewer}"
    if name == "slots":
        message += (
            ". slots are part of the order: a run that is to go on with other numbers of ranks "
            "needs slots that all of them divide, from its first step"
        )
    raise PlanError(message)


def _sharers(partitions: int, world_size: int) -> list[tuple[int, str]]:
    both = [(partitions, "partitions"), (world_size, "ranks")]
    return [(count, what) for count, what in both if count > 1]
