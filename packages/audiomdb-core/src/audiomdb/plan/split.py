"""Distribute the samples of an epoch over partitions, ranks and workers.

Order of the epoch: turn t is element t // P of partition t % P. The P partitions are read side by
side, a row of P samples at a time. (The last row is short if P does not divide the number of
samples N; it has one sample of each partition that is longer by one.)

Ranks: the turns are dealt to R ranks in blocks of G = lcm(P, R), the smallest block that gives
every partition and every rank a whole share. A block is sorted by partition and cut into R even
shares:

    P = 2, R = 4     turns of a block       0 1 2 3
                     partition              0 1 0 1
                     sorted by partition    0 2 1 3
                     rank                   0 1 2 3

After k blocks, the ranks together have read the first k * G turns, so an epoch is the same for
every world size. Rank r reads only the partitions between r * P / R and (r + 1) * P / R. On n nodes
with equally many ranks each, numbered node by node, where n divides P, a node reads only its own
P / n partitions.

The last block holds the remaining T = N mod G turns. The same rule applies: it is sorted by
partition, and the share of rank r begins at ceil(r * T / R). Even shares nest (see `line`), so no
rank reads another partition there, and ranks differ by at most one sample.

Workers: worker i of W takes every W-th sample of its rank, starting with the i-th.

Everything has a closed form, O(1) per sample, and is exact in int64.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, get_args

import msgspec
import numpy as np
from msgspec.structs import force_setattr, replace

from audiomdb.errors import PlanError
from audiomdb.plan.checks import whole_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TAILS", "Places", "Split", "Tail", "partitions_met"]

Tail: TypeAlias = Literal["uneven", "drop", "pad"]
"""How to treat the N mod R samples that R ranks cannot share evenly.

- `"uneven"`: every sample is read once; N mod R ranks have one sample more than the others.
- `"drop"`: those N mod R samples are left out; every rank has N // R.
- `"pad"`: every rank has ceil(N / R); a rank that lacks one repeats its last sample, masked. An
  earlier sample would not do, because its shard may have been evicted from the cache.
"""

TAILS: tuple[Tail, ...] = get_args(Tail)


class Places(NamedTuple):
    """Locations of samples on the lines of an epoch; all arrays `(n,)`."""

    partitions: NDArray[np.int64]
    elements: NDArray[np.int64]
    mask: NDArray[np.bool_]
    """False where a sample is repeated as padding."""


class Split(msgspec.Struct, frozen=True):
    """The samples of one worker of one rank, as places on the lines of an epoch.

    Attributes:
        total: Number of samples in the epoch, N.
        partitions: Number of partitions of the epoch, P.
        rank: Rank of the process, 0 to `world_size` - 1, numbered node by node.
        world_size: Number of processes that share the epoch, R.
        worker: Worker of the rank, 0 to `num_workers` - 1.
        num_workers: Number of workers that share the samples of the rank, W.
        tail: See `Tail`.

    Raises:
        PlanError: A number is out of range, or `tail` is unknown.
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
        """Return the number of samples of this worker, including masked ones."""
        return max(0, -(-(self.rank_samples - self.worker) // self.num_workers))

    @property
    def rank_samples(self) -> int:
        """Number of samples of this rank over all its workers, including masked ones."""
        if self.tail == "drop":
            return self.total // self.world_size
        if self.tail == "pad":
            return -(-self.total // self.world_size)
        return self._dealt

    @property
    def dropped(self) -> int:
        """Number of samples of the epoch that no rank reads."""
        return self.total % self.world_size if self.tail == "drop" else 0

    @property
    def partitions_met(self) -> range:
        """Partitions that this rank reads, including those it shares with a neighbour.

        A padded rank without samples of its own (N < R) reads one sample of another partition.
        """
        return partitions_met(self.partitions, self.rank, self.world_size)

    def places(self, start: int, stop: int) -> Places:
        """Return the places of this worker's samples `start` to `stop` (half open).

        As in a slice, indices beyond the end are ignored.

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
        # There are fewer samples than ranks, and none for this one: repeat a neighbour's.
        turn = self.rank * self.total // self.world_size
        return Places(*Split(self.total, self.partitions)._deal(np.array([turn])), mask)

    def in_world(self, world_size: int, num_workers: int, tail: Tail) -> Split:
        """Return the share of the first worker, which has the most samples, of other ranks."""
        return replace(
            self, rank=0, world_size=world_size, worker=0, num_workers=num_workers, tail=tail
        )

    def place_of(self, sample: int, world_size: int, num_workers: int) -> int:
        """Convert a number of samples read in another world to this worker's next sample.

        Args:
            sample: Number of samples that each worker of the other world has read of this epoch.
            world_size: Number of ranks in the other world.
            num_workers: Number of workers of each of its ranks.

        Returns:
            The index of the next sample of this worker.

        Raises:
            PlanError: The samples read there are not a whole share of every rank here.
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
        """Number of samples of this rank when every sample of the epoch is dealt exactly once."""
        blocks, rest = divmod(self.total, self._block)
        first, stop = self._share(rest)
        return blocks * (self._block // self.world_size) + stop - first

    def _share(self, size: int) -> tuple[int, int]:
        """Return the range of this rank in a sorted block of `size` turns, half open."""
        rank, ranks = self.rank, self.world_size
        return -(-rank * size // ranks), -(-(rank + 1) * size // ranks)

    def _deal(self, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the partition and element of the rank's samples `index`, each below `_dealt`."""
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


def partitions_met(partitions: int, rank: int, world_size: int) -> range:
    """Return the partitions that a rank reads, including those it shares with a neighbour."""
    first = rank * partitions // world_size
    return range(first, -(-(rank + 1) * partitions // world_size))
