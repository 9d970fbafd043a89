"""Define `Order`, the base of all plans of an epoch, and the part of it that one rank reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NoReturn

import msgspec
import numpy as np

from audiomdb.lazy import cached_property
from audiomdb.plan.checks import whole_number
from audiomdb.plan.occurrences import positions_of
from audiomdb.plan.split import Split, partitions_met

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audiomdb.plan.sources import First, Source, SourceLine
    from audiomdb.plan.split import Places, Tail
    from audiomdb.plan.state import OptionValue

__all__ = ["Order", "RankPlan", "read_twice"]


class Order(ABC):
    """The order of an epoch, of one dataset or a mixture: an `EpochPlan` or a `MixPlan`.

    Frozen like a dataclass, but without the milliseconds that creating a dataclass takes at import
    (decision 12).
    """

    __match_args__: ClassVar[tuple[str, ...]] = ()
    """Names of the options; these attributes are pickled."""

    _shown: ClassVar[tuple[str, ...]] = ()
    """Names of the options that `repr` shows."""

    seed: int
    epoch: int
    partitions: int

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"cannot assign to {name!r}: plans are frozen; make another")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"cannot delete {name!r}: plans are frozen")

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._shown)
        return f"{type(self).__qualname__}({options})"

    def __getstate__(self) -> dict[str, object]:
        return {name: vars(self)[name] for name in self.__match_args__}

    @property
    @abstractmethod
    def lines(self) -> tuple[SourceLine, ...]:
        """The samples of each partition in the order of the epoch.

        Line p begins at sample ceil(p * N / P) of all N, so lines differ in length by at most one.
        """

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples in the epoch, N."""

    @property
    @abstractmethod
    def options(self) -> dict[str, OptionValue]:
        """Options that change the order, besides seed, epoch and datasets, for `PlanState`."""

    @property
    @abstractmethod
    def datasets(self) -> tuple[NDArray[np.int64], ...]:
        """Number of samples in each shard of each dataset."""

    @property
    @abstractmethod
    def unread(self) -> list[int]:
        """Numbers of the datasets that an epoch never reads."""

    @property
    @abstractmethod
    def window_shards(self) -> tuple[int, ...]:
        """Maximum number of shards of each dataset over which a partition is shuffled at once."""

    @abstractmethod
    def source(self, first: First) -> Source:
        """Return this order as a source of a mixture.

        Its own seed, epoch and partitions are ignored: those of the outermost mixture hold.
        """

    def shards_mixed(self, partition: int, element: int) -> NDArray[np.int64]:
        """Return the shards over which a partition is shuffled at an element, `(n,)` int64.

        There are at most `window_shards` of each dataset, numbered consecutively over all datasets.
        Past the end, these are the shards of the last element; an empty line has none.

        With a single dataset, they are in the order of `shards_from`: the first is finished next,
        the last was entered last, and no earlier shard is needed again.
        """
        line = self.lines[whole_number("partition", partition, high=self.partitions - 1)]
        element = min(whole_number("element", element), len(line) - 1)
        return line.shards_alive(element) if len(line) else np.empty(0, np.int64)

    def shards_from(self, dataset: int, partition: int, element: int) -> NDArray[np.int64]:
        """Return the shards of a dataset that a partition reads from an element on, `(n,)` int64.

        Shards are numbered consecutively over all datasets. Each that has samples is listed once,
        in the order in which they are first read. A shard on a cut is in both partitions.
        """
        return self.lines[partition].shard_order(dataset, element)

    def passes(self, partition: int, element: int) -> tuple[tuple[int, ...], ...]:
        """Return, for each dataset, the pass over it that an element is in.

        As long as this value does not change, each shard of the dataset is entered at most once.
        """
        return self.lines[partition].passes(element)

    def positions(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the positions of turns `start` to `stop` (half open), `(n,)` int64.

        As in a slice, indices beyond the end are ignored.

        Raises:
            PlanError: `start` or `stop` is negative.
        """
        return positions_of(self._read(self._everything.places(start, stop)))

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
            rank: 0 to `world_size` - 1. Ranks of one node are consecutive.
            world_size: Number of processes that share the epoch.
            worker: 0 to `num_workers` - 1.
            num_workers: Number of workers that share the rank's samples.
            tail: How to treat samples that the ranks cannot share evenly: `"uneven"` keeps them,
                `"drop"` leaves them out, and `"pad"` adds masked repeats.

        Raises:
            PlanError: A number is out of range, or `tail` is unknown.
        """
        split = Split(len(self), self.partitions, rank, world_size, worker, num_workers, tail)
        return RankPlan(self, split)

    @cached_property
    def _everything(self) -> Split:
        return Split(len(self), self.partitions)

    def _read(self, places: Places) -> NDArray[np.int64]:
        if self.partitions == 1:
            return self.lines[0].take(places.elements)
        occurrences = np.empty(len(places.elements), dtype=np.int64)
        for partition in np.unique(places.partitions):
            here = places.partitions == partition
            occurrences[here] = self.lines[partition].take(places.elements[here])
        return occurrences


class RankPlan(msgspec.Struct, frozen=True):
    """The samples of one worker of one rank, in the order in which it reads them."""

    plan: Order
    split: Split

    def __len__(self) -> int:
        """Return the number of samples of this worker, including masked ones."""
        return len(self.split)

    def positions(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the positions and the mask of the worker's samples `start` to `stop` (half open).

        Both are `(n,)`, int64 and bool. The mask is False where `tail="pad"` repeats a sample. As
        in a slice, indices beyond the end are ignored.

        Raises:
            PlanError: `start` or `stop` is negative.
        """
        occurrences, mask = self.occurrences(start, stop)
        return positions_of(occurrences), mask

    def occurrences(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the occurrences and the mask of the same samples, see `plan.occurrences`."""
        places = self.split.places(start, stop)
        return self.plan._read(places), places.mask


def read_twice(plan: Order, nodes: int) -> int:
    """Return the number of redundant shard reads: those beyond one read per shard.

    If the number of nodes n divides the number of partitions, a node reads only its own partitions:
    S shards are read at most S + n - 1 times, because a shard on a cut is read by both neighbours.
    Otherwise, a partition that spans two nodes is read by both.

    Args:
        plan: Plan of the epoch.
        nodes: Number of nodes that read it, with equally many ranks each.
    """
    nodes = whole_number("nodes", nodes, low=1)
    datasets = range(len(plan.datasets))
    met = [
        np.concatenate([plan.shards_from(one, at, 0) for one in datasets])
        for at in range(plan.partitions)
    ]
    readings = 0
    for node in range(nodes):
        own = partitions_met(plan.partitions, node, nodes)
        readings += len(np.unique(np.concatenate([met[at] for at in own])))
    return readings - len(np.unique(np.concatenate(met)))
