"""Dealing the epoch out: partitions take turns, ranks take shares, workers take every W-th.

The order of the epoch. Turn t is element t // P of partition t % P: the partitions are read side
by side, a row of P samples at a time. (The last row is short when P does not divide N; it has one
sample of each partition that is longer by one.)

Ranks. The turns are dealt in blocks of G = lcm(P, R), the smallest number that gives every
partition and every rank whole shares. A block is sorted by partition and cut into R even shares:

    P = 2, R = 4     turns of a block       0 1 2 3
                     partition              0 1 0 1
                     sorted by partition    0 2 1 3
                     rank                   0 1 2 3

After k blocks the ranks together have read the first k * G turns: an epoch is the same for every
world size. Rank r meets only the partitions between r * P / R and (r + 1) * P / R. On n nodes with
equal numbers of ranks, numbered node by node, and n dividing P, a node meets its own P / n
partitions.

The last block holds the T = N mod G turns left over. The same rule serves it: sorted by partition,
rank r's share begins at ceil(r * T / R). Even shares nest (see `line`), so nobody meets a new
partition there, and ranks differ by at most one sample.

Workers. Worker i of W takes every W-th sample of its rank, from the i-th on.

Everything is closed form, O(1) a sample, and exact in int64.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, get_args

import msgspec
import numpy as np
from msgspec.structs import force_setattr

from audiomdb.errors import PlanError
from audiomdb.plan.checks import whole_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TAILS", "Places", "Split", "Tail"]

Tail: TypeAlias = Literal["uneven", "drop", "pad"]
"""What becomes of the N mod R samples that R ranks cannot share evenly.

- `"uneven"`: every sample once; N mod R ranks have one sample more than the others.
- `"drop"`: those N mod R samples are left out; every rank has N // R.
- `"pad"`: every rank has ceil(N / R); a rank that lacks one repeats its last sample, masked: it
  is at hand, while the shard of an earlier one may have left the cache.
"""

TAILS: tuple[Tail, ...] = get_args(Tail)


class Places(NamedTuple):
    """Where samples stand on the lines of an epoch; arrays `(n,)`."""

    partitions: NDArray[np.int64]
    elements: NDArray[np.int64]
    mask: NDArray[np.bool_]
    """False where a sample is repeated only to fill up."""


class Split(msgspec.Struct, frozen=True):
    """The samples of one worker of one rank, as places on the lines of an epoch.

    Attributes:
        total: Samples in the epoch, N.
        partitions: Partitions of the epoch, P.
        rank: This process, 0 to `world_size` - 1, numbered node by node.
        world_size: Processes that share the epoch, R.
        worker: This worker of the rank, 0 to `num_workers` - 1.
        num_workers: Workers that share the rank's samples, W.
        tail: See `Tail`.

    Raises:
        PlanError: A number is out of range, or `tail` unknown.
    """

    total: int
    partitions: int = 1
    rank: int = 0
    world_size: int = 1
    worker: int = 0
    num_workers: int = 1
    tail: Tail = "uneven"

    def __post_init__(self) -> None:
        for name, low in (("total", 0), ("partitions", 1), ("world_size", 1), ("num_workers", 1)):
            force_setattr(self, name, whole_number(name, getattr(self, name), low=low))
        for name, among in (("rank", self.world_size), ("worker", self.num_workers)):
            force_setattr(self, name, whole_number(name, getattr(self, name), high=among - 1))
        if self.tail not in TAILS:
            raise PlanError(f"tail must be one of {', '.join(map(repr, TAILS))}, not {self.tail!r}")

    def __len__(self) -> int:
        """Samples of this worker, masked ones counted."""
        return max(0, -(-(self.rank_samples - self.worker) // self.num_workers))

    @property
    def rank_samples(self) -> int:
        """Samples of this rank over all its workers, masked ones counted."""
        if self.tail == "drop":
            return self.total // self.world_size
        if self.tail == "pad":
            return -(-self.total // self.world_size)
        return self._dealt

    @property
    def dropped(self) -> int:
        """Samples of the epoch that no rank has."""
        return self.total % self.world_size if self.tail == "drop" else 0

    @property
    def partitions_met(self) -> range:
        """The partitions from which this rank reads; those it shares with a neighbour included.

        A rank without samples (N < R) that is padded reads one sample of another's partition.
        """
        first = self.rank * self.partitions // self.world_size
        stop = -(-(self.rank + 1) * self.partitions // self.world_size)
        return range(first, stop)

    def places(self, start: int, stop: int) -> Places:
        """Return where this worker's samples `start` to `stop` (half open) stand.

        As in a slice, what lies beyond the end is left out.

        Raises:
            PlanError: `start` or `stop` is negative.
        """
        whole_number("start", start)
        whole_number("stop", stop)
        mine = np.arange(start, min(stop, len(self)), dtype=np.int64)
        index = self.worker + self.num_workers * mine
        dealt = self._dealt
        mask = index < dealt
        if dealt or not len(index):
            return Places(*self._deal(np.minimum(index, dealt - 1)), mask)
        # Fewer samples than ranks, and none for this one: borrow a neighbour's.
        turn = self.rank * self.total // self.world_size
        return Places(*Split(self.total, self.partitions)._deal(np.array([turn])), mask)

    def place_of(self, sample: int, world_size: int, num_workers: int) -> int:
        """Return which sample is next here after each worker of another world has read so many.

        Args:
            sample: Samples of each worker there, of this epoch.
            world_size: Ranks there.
            num_workers: Workers of each of them.

        Raises:
            PlanError: What was read there is no whole share of every rank here.
        """
        whole_number("sample", sample)
        there = f"{world_size} ranks of {num_workers} workers"
        here = f"{self.world_size} ranks of {self.num_workers} workers"
        if sample == 0:
            return 0
        if num_workers > 1 or self.num_workers > 1:
            raise PlanError(
                f"after {sample} samples of each of {there}, {here} have no common place: workers "
                f"deal out samples in turns. Go on with {there}, or at the next epoch; steps made "
                f"by the plan have no such limit"
            )
        block = math.lcm(self.partitions, world_size)
        blocks, rest = divmod(sample, block // world_size)
        turns = blocks * block
        if rest or turns % self._block:
            each = math.lcm(block, self._block) // world_size
            raise PlanError(
                f"after {sample} samples of each of {there}, {here} have no common place; they "
                f"have after {sample // each * each} and {(sample // each + 1) * each}. Steps made "
                f"by the plan have no such limit"
            )
        return turns // self.world_size

    @property
    def _block(self) -> int:
        return math.lcm(self.partitions, self.world_size)

    @property
    def _dealt(self) -> int:
        """Samples of this rank when all are dealt out and none is repeated."""
        blocks, rest = divmod(self.total, self._block)
        first, stop = self._share(rest)
        return blocks * (self._block // self.world_size) + stop - first

    def _share(self, size: int) -> tuple[int, int]:
        """Return the part of a sorted block of `size` turns that this rank takes, half open."""
        rank, ranks = self.rank, self.world_size
        return -(-rank * size // ranks), -(-(rank + 1) * size // ranks)

    def _deal(self, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return partition and element of the rank's samples `index`, each below `_dealt`."""
        full = self._block
        blocks, rest = divmod(self.total, full)
        each = full // self.world_size
        block = np.minimum(index // each, blocks)
        whole = block < blocks
        size = np.where(whole, full, rest)
        first = np.where(whole, self._share(full)[0], self._share(rest)[0])
        slot = first + index - block * each
        # In the sorted block, partition p begins at slot ceil(p * size / P).
        partition = slot * self.partitions // size
        within = slot + -partition * size // self.partitions
        return partition, block * (full // self.partitions) + within
