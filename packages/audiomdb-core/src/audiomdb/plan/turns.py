"""What every order of an epoch can do: name the sample of a turn, and deal turns out to ranks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, NoReturn

import msgspec
import numpy as np

from audiomdb.plan.split import Split

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audiomdb.plan.line import Elements
    from audiomdb.plan.split import Places, Tail

__all__ = ["RankPlan", "Turns"]


class Turns(ABC):
    """Base of plans. A plan has `partitions`, `lines` and a length.

    Frozen like a dataclass, without the milliseconds that it takes to make one (decision 12).
    """

    __match_args__: ClassVar[tuple[str, ...]] = ()
    """Names of the options, all of which are pickled."""

    _shown: ClassVar[tuple[str, ...]] = ()
    """Those that `repr` shows."""

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
    def lines(self) -> tuple[Elements, ...]:
        """The samples of each partition in their order."""

    @abstractmethod
    def __len__(self) -> int:
        """Samples in the epoch."""

    @property
    @abstractmethod
    def datasets(self) -> tuple[NDArray[np.int64], ...]:
        """Samples in each shard, of each dataset."""

    @property
    @abstractmethod
    def window_shards(self) -> tuple[int, ...]:
        """Shards over which a partition is mixed at once, of each dataset, at most."""

    @abstractmethod
    def shards_mixed(self, partition: int, element: int) -> NDArray[np.int64]:
        """Return the shards among which an element of a partition is mixed, `(n,)` int64.

        Numbered through all datasets. After the last element, those of that.
        """

    @abstractmethod
    def shards_from(self, dataset: int, partition: int, element: int) -> NDArray[np.int64]:
        """Return the shards of a dataset that a partition meets from an element on, `(n,)` int64.

        Numbered through all datasets, in the order in which they are first met, each once.
        """

    @abstractmethod
    def passes(self, partition: int, element: int) -> tuple[tuple[int, ...], ...]:
        """Return, for each dataset, which pass over it an element's turn is in.

        While this stays the same, a dataset's shards are met each once.
        """

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

    @cached_property
    def _everything(self) -> Split:
        return Split(len(self), self.partitions)

    def _read(self, places: Places) -> NDArray[np.int64]:
        if self.partitions == 1:
            return self.lines[0].take(places.elements)
        positions = np.empty(len(places.elements), dtype=np.int64)
        for partition in np.unique(places.partitions):
            here = places.partitions == partition
            positions[here] = self.lines[partition].take(places.elements[here])
        return positions


class RankPlan(msgspec.Struct, frozen=True):
    """The samples of one worker of one rank, in the order in which it reads them."""

    plan: Turns
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
