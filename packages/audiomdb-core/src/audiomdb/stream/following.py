"""Telling whoever keeps the shards what an iteration reads, and when it is done with it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain, zip_longest
from math import lcm
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from audiomdb.plan import EpochPlan, MixPlan, Split

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audiomdb.shards import Course, DatasetReader
    from audiomdb.stream.reading import Reading
    from audiomdb.stream.watch import Watch

__all__ = ["Follower", "Front", "before_sample", "before_step", "partitions_met"]


class Front(NamedTuple):
    """Where an iteration stands: what it has not read yet lies behind."""

    plan: EpochPlan | MixPlan
    elements: Mapping[int, int]
    """Of each partition that it still reads from, the next element."""

    first: Mapping[int, Sequence[int]] = {}
    """Of some datasets, shards that come before all else."""

    def order(self, dataset: int) -> list[int]:
        """The shards of a dataset that come, in the order in which they are first needed."""
        lines = [
            self.plan.shards_from(dataset, partition, element).tolist()
            for partition, element in self.elements.items()
        ]
        side_by_side = chain.from_iterable(zip_longest(*lines))
        met = dict.fromkeys(chain(self.first.get(dataset, ()), side_by_side))
        return [shard for shard in met if shard is not None]

    def alive(self) -> set[int]:
        """The shards that are being mixed, of all datasets."""
        alive: set[int] = set()
        for partition, element in self.elements.items():
            alive.update(self.plan.shards_mixed(partition, element).tolist())
        return alive

    def passes(self, dataset: int) -> list[tuple[int, ...]]:
        """Which pass over a dataset each partition is in."""
        return [self.plan.passes(*place)[dataset] for place in self.elements.items()]


def before_sample(plan: EpochPlan | MixPlan, split: Split, index: int) -> Front:
    """Where a worker stands before its sample `index`; beyond the last, at the end."""
    # So many of its samples that each partition it still reads from is among them.
    round_trip = lcm(split.partitions, split.world_size) // split.world_size
    places = split.places(index, index + round_trip)
    partitions, first = np.unique(places.partitions, return_index=True)
    elements = places.elements[first]
    return Front(plan, dict(zip(partitions.tolist(), elements.tolist(), strict=True)))


def before_step(plan: EpochPlan | MixPlan, element: int, rank: int, world_size: int) -> Front:
    """Where a rank stands before a step that begins with this element of each partition."""
    met = partitions_met(plan.partitions, rank, world_size)
    elements = {at: min(element, len(plan.lines[at]) - 1) for at in met if len(plan.lines[at])}
    if len(elements) < len(met) and 0 not in elements and len(plan.lines[0]):
        elements[0] = len(plan.lines[0]) - 1  # what an empty partition borrows to fill up
    return Front(plan, elements)


def partitions_met(partitions: int, rank: int, world_size: int) -> range:
    """The partitions that a rank reads from."""
    first = rank * partitions // world_size
    return range(first, -(-(rank + 1) * partitions // world_size))


class _Lane:
    """A reader, the datasets that are read through it, and what follows it.

    Several parts of a mixture may share a reader: views of one dataset, say.
    """

    def __init__(self, reader: DatasetReader) -> None:
        self.reader = reader
        self.at_once = 0
        self.datasets: list[int] = []
        self.course: Course | None = None
        self.passes: list[list[tuple[int, ...]]] = []


class Follower:
    """One iteration's talk with the courses of what it reads; without any it says nothing.

    Args:
        reading: What is read.
        at_once: Gives the shards of each dataset that are mixed at a time; called where that
            matters.
        watch: Told what threads wait for.
        workers: Processes of this rank that read so side by side, this one among them.
        ranks: On this machine, as far as is known.

    Raises:
        CacheTooSmallError: a cache cannot hold so many.
    """

    def __init__(
        self,
        reading: Reading,
        at_once: Callable[[], Sequence[int]],
        watch: Watch | None = None,
        *,
        workers: int = 1,
        ranks: int = 1,
    ) -> None:
        self._lanes: list[_Lane] = []
        if not any(reader.follows for reader in reading.readers):
            return
        self._firsts = reading.first_shards
        lanes: dict[int, _Lane] = {}
        for number, (reader, most) in enumerate(zip(reading.readers, at_once(), strict=True)):
            lane = lanes.setdefault(id(reader), _Lane(reader))
            lane.at_once += most
            lane.datasets.append(number)
        try:
            for lane in lanes.values():
                lane.course = lane.reader.follow(lane.at_once, workers=workers, ranks=ranks)
                if lane.course is not None:
                    self._lanes.append(lane)
                    if watch is not None:
                        lane.course = watch.follow(lane.course, lane.reader)
        except BaseException:
            self.close()
            raise
        self._shard_ends = reading.shard_ends
        self._dataset_ends = np.cumsum([len(reader) for reader in reading.readers])
        self._following: Front | None = None
        self._continues = False
        # Of each shard, its lane and its number there.
        self._lane_of = np.full(self._firsts[-1], -1)
        self._local = np.arange(self._firsts[-1])
        for at, lane in enumerate(self._lanes):
            for number in lane.datasets:
                shards = slice(self._firsts[number], self._firsts[number + 1])
                self._lane_of[shards] = at
                self._local[shards] -= self._firsts[number]

    @property
    def active(self) -> bool:
        """Whether anything is said at all."""
        return bool(self._lanes)

    def begin(self, front: Front, following: Front | None, *, continues: bool) -> None:
        """Begin an epoch.

        Args:
            front: Where.
            following: Where the epoch after it begins; None: there is none.
            continues: Whether this iteration reads that one too.
        """
        self._following, self._continues = following, continues
        for lane in self._lanes:
            self._begin(lane, front)

    def draw(
        self, positions: NDArray[np.int64], front: Front | None, needed: Collection[int] = ()
    ) -> list[int]:
        """Announce samples.

        Args:
            positions: Of the samples, `(n,)`, in the order in which they are read.
            front: Where the iteration stands after them; None: at the end of its epoch.
            needed: Shards that later samples need, beside those being mixed there.

        Returns:
            For each sample its visit, for `enter` and `leave`.
        """
        if not self._lanes:
            return [0] * len(positions)
        shards = np.searchsorted(self._shard_ends, positions, side="right")
        lanes, local = self._lane_of[shards], self._local[shards]
        later = {*needed, *(() if front is None else front.alive())}
        visits = np.zeros(len(positions), np.int64)
        for at, lane in enumerate(self._lanes):
            assert lane.course is not None
            mine = np.flatnonzero(lanes == at)
            needed_here = [int(self._local[s]) for s in later if self._lane_of[s] == at]
            visits[mine] = lane.course.draw(local[mine].tolist(), needed_here)
            if front is not None and front.elements and lane.passes != self._passes(lane, front):
                self._begin(lane, front)
        return visits.tolist()

    def enter(self, position: int, visit: int) -> None:
        """Wait until a sample's shard is open.

        Raises:
            Exception: as `Course.enter`.
        """
        if (course := self._course(position)) is not None:
            course.enter(visit)

    def leave(self, position: int, visit: int) -> None:
        """Say that a sample that has entered is done."""
        if (course := self._course(position)) is not None:
            course.leave(visit)

    def close(self) -> None:
        """End it. May be called twice."""
        for lane in self._lanes:
            if lane.course is not None:
                lane.course.close()

    def _course(self, position: int) -> Course | None:
        number = int(np.searchsorted(self._dataset_ends, position, side="right"))
        lane = self._lane_of[self._firsts[number]]
        return None if lane < 0 else self._lanes[lane].course

    def _begin(self, lane: _Lane, front: Front) -> None:
        assert lane.course is not None
        lane.passes = self._passes(lane, front)
        lane.course.begin(
            self._order(lane, front),
            [] if self._following is None else self._order(lane, self._following),
            continues=self._continues,
        )

    def _order(self, lane: _Lane, front: Front) -> list[int]:
        orders = [
            [shard - self._firsts[number] for shard in front.order(number)]
            for number in lane.datasets
        ]
        met = dict.fromkeys(chain.from_iterable(zip_longest(*orders)))
        return [shard for shard in met if shard is not None]

    def _passes(self, lane: _Lane, front: Front) -> list[list[tuple[int, ...]]]:
        return [front.passes(number) for number in lane.datasets]
