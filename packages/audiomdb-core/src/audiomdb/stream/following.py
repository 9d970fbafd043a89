"""Announce to the cache which shards an iteration reads, and report when it is done with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain, zip_longest
from math import lcm
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from audiomdb.plan import Order, Split
from audiomdb.plan.split import partitions_met
from audiomdb.stream.watch import Watch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audiomdb.shards import Course, DatasetReader
    from audiomdb.stream.reading import Reading

__all__ = ["Follower", "ReadPosition", "before_sample", "before_step"]

_Passes: TypeAlias = "list[tuple[tuple[int, ...], ...]]"
"""For each partition and dataset, the pass over the dataset that the partition is in."""


class ReadPosition(NamedTuple):
    """The place of an iteration: everything beyond it has yet to be read."""

    plan: Order
    elements: Mapping[int, int]
    """The next element of each partition that is still read."""

    first: Mapping[int, Sequence[int]] = {}
    """For some datasets, shards that are needed before all others."""

    def order(self, dataset: int) -> list[int]:
        """Return the remaining shards of a dataset, in the order in which they are first needed."""
        lines = [
            self.plan.shards_from(dataset, partition, element).tolist()
            for partition, element in self.elements.items()
        ]
        side_by_side = chain.from_iterable(zip_longest(*lines))
        met = dict.fromkeys(chain(self.first.get(dataset, ()), side_by_side))
        return [shard for shard in met if shard is not None]

    def alive(self) -> set[int]:
        """Return the shards, of all datasets, that are being mixed or are needed before others."""
        alive = set(chain.from_iterable(self.first.values()))
        for partition, element in self.elements.items():
            alive.update(self.plan.shards_mixed(partition, element).tolist())
        return alive

    def passes(self) -> _Passes:
        """Return the passes that the partitions are in, over all datasets."""
        return [self.plan.passes(*place) for place in self.elements.items()]


def before_sample(plan: Order, split: Split, index: int) -> ReadPosition:
    """Return a worker's place before its sample `index`; the end if there is no such sample."""
    # Enough of its samples to include each partition that it still reads.
    round_trip = lcm(split.partitions, split.world_size) // split.world_size
    places = split.places(index, index + round_trip)
    partitions, first = np.unique(places.partitions, return_index=True)
    elements = places.elements[first]
    return ReadPosition(plan, dict(zip(partitions.tolist(), elements.tolist(), strict=True)))


def before_step(plan: Order, element: int, rank: int, world_size: int) -> ReadPosition:
    """Return a rank's place before a step that begins with this element of each partition."""
    met = partitions_met(plan.partitions, rank, world_size)
    elements = {at: min(element, len(plan.lines[at]) - 1) for at in met if len(plan.lines[at])}
    if len(elements) < len(met) and 0 not in elements and len(plan.lines[0]):
        elements[0] = len(plan.lines[0]) - 1  # an empty partition is padded with this element
    return ReadPosition(plan, elements)


class _ReaderSchedule:
    """A reader, the datasets that are read through it, and its course.

    Several parts of a mixture may share a reader, for example if they are views of one dataset.
    """

    def __init__(self, reader: DatasetReader, datasets: list[int], course: Course) -> None:
        self.reader = reader
        self.datasets = datasets
        self.course = course
        self.passes: _Passes = []
        self.needed: set[int] | None = None
        """What the course was last told to need later; None: nothing since it began."""

    def passes_of(self, passes: _Passes) -> _Passes:
        """Return the passes over the datasets of this schedule."""
        return [tuple(place[number] for number in self.datasets) for place in passes]


class Follower:
    """Reports the progress of one iteration to the courses of its readers, if they have any.

    Args:
        reading: The datasets that are read.
        at_once: Returns the number of shards of each dataset that are mixed at a time; only called
            if a reader uses it.
        watch: Records what threads wait for.
        workers: Processes of this rank that read concurrently in this way, including this one.

    Raises:
        CacheTooSmallError: a cache cannot hold that many shards.
    """

    def __init__(
        self,
        reading: Reading,
        at_once: Callable[[], Sequence[int]],
        watch: Watch | None = None,
        *,
        workers: int = 1,
    ) -> None:
        self._schedules: list[_ReaderSchedule] = []
        self._watch = watch or Watch()
        if not any(reader.follows for reader in reading.readers):
            return
        self._firsts = reading.first_shards
        through: dict[int, list[int]] = {}
        for number, reader in enumerate(reading.readers):
            through.setdefault(id(reader), []).append(number)
        most = at_once()
        try:
            for datasets in through.values():
                reader, needed = reading.readers[datasets[0]], sum(most[one] for one in datasets)
                course = reader.follow(needed, workers=workers)
                if course is not None:
                    self._schedules.append(_ReaderSchedule(reader, datasets, course))
                    self._watch.follow(course)
        except BaseException:
            self.close()
            raise
        self._shard_ends = reading.shard_ends
        self._following: ReadPosition | None = None
        self._continues = False
        # The schedule of each shard, and its number there.
        self._schedule_of = np.full(self._firsts[-1], -1)
        self._local = np.arange(self._firsts[-1])
        for at, schedule in enumerate(self._schedules):
            for number in schedule.datasets:
                shards = slice(self._firsts[number], self._firsts[number + 1])
                self._schedule_of[shards] = at
                self._local[shards] -= self._firsts[number]

    @property
    def active(self) -> bool:
        """Whether any reader has a course."""
        return bool(self._schedules)

    def begin(
        self, front: ReadPosition, following: ReadPosition | None, *, continues: bool
    ) -> None:
        """Begin an epoch.

        Args:
            front: Place where the iteration begins.
            following: Place where the next epoch begins; None: there is no next epoch.
            continues: Whether this iteration also reads the next epoch.
        """
        self._following, self._continues = following, continues
        passes = front.passes()
        for schedule in self._schedules:
            self._begin(schedule, front, passes)

    def draw(self, positions: NDArray[np.int64], front: ReadPosition | None) -> list[int]:
        """Announce samples.

        Args:
            positions: Positions of the samples, `(n,)`, in the order in which they are read.
            front: Place of the iteration after them; None: at the end of its epoch.

        Returns:
            The visit of each sample, for `enter` and `leave`.
        """
        if not self._schedules:
            return [0] * len(positions)
        shards = np.searchsorted(self._shard_ends, positions, side="right")
        schedules, local = self._schedule_of[shards], self._local[shards]
        drawn = set(schedules.tolist())
        later: dict[int, set[int]] = {}
        for shard in () if front is None else front.alive():
            later.setdefault(self._schedule_of.item(shard), set()).add(self._local.item(shard))
        passes = front.passes() if front is not None else []
        visits = np.zeros(len(positions), np.int64)
        for at, schedule in enumerate(self._schedules):
            needed = later.get(at, set())
            # A mixture may have many schedules, and for most of them nothing has changed.
            if at in drawn or needed != schedule.needed:
                mine = np.flatnonzero(schedules == at)
                visits[mine] = schedule.course.draw(local[mine].tolist(), needed)
                schedule.needed = needed
            if front is not None and passes and schedule.passes != schedule.passes_of(passes):
                self._begin(schedule, front, passes)
        return visits.tolist()

    def enter(self, position: int, visit: int) -> None:
        """Wait until the shard of a sample is open.

        Raises:
            Exception: as in `Course.enter`.
        """
        schedule, shard = self._place(position)
        if schedule is not None:
            self._watch.fetch(schedule.reader, shard, partial(schedule.course.enter, visit))

    def leave(self, position: int, visit: int) -> None:
        """Report that a sample, after `enter`, is done."""
        schedule, _ = self._place(position)
        if schedule is not None:
            schedule.course.leave(visit)

    def close(self) -> None:
        """End the courses. May be called twice."""
        for schedule in self._schedules:
            schedule.course.close()

    def _place(self, position: int) -> tuple[_ReaderSchedule | None, int]:
        """Return the schedule of a sample, if it has one, and the number of its shard there."""
        shard = int(np.searchsorted(self._shard_ends, position, side="right"))
        schedule = self._schedule_of.item(shard)
        return None if schedule < 0 else self._schedules[schedule], self._local.item(shard)

    def _begin(self, schedule: _ReaderSchedule, front: ReadPosition, passes: _Passes) -> None:
        schedule.passes, schedule.needed = schedule.passes_of(passes), None
        schedule.course.begin(
            self._order(schedule, front),
            [] if self._following is None else self._order(schedule, self._following),
            continues=self._continues,
        )

    def _order(self, schedule: _ReaderSchedule, front: ReadPosition) -> list[int]:
        orders = [
            [shard - self._firsts[number] for shard in front.order(number)]
            for number in schedule.datasets
        ]
        met = dict.fromkeys(chain.from_iterable(zip_longest(*orders)))
        return [shard for shard in met if shard is not None]
