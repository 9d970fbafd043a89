"""Divide epochs into steps of clips of similar durations."""

from __future__ import annotations

from math import lcm
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from audiomdb.errors import PlanError
from audiomdb.lazy import cached_property
from audiomdb.plan import EpochPlan, Order, SecondsPlan, Step, even_borders
from audiomdb.plan.checks import whole_number
from audiomdb.plan.durations import sampled
from audiomdb.plan.steps import check_shares
from audiomdb.stream.epoch_steps import Chapter, EpochSteps, StepDivider
from audiomdb.stream.following import ReadPosition, before_step

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audiomdb.plan.state import OptionValue
    from audiomdb.stream.reading import Reading

__all__ = ["BySeconds", "EpochBySeconds"]


class BySeconds(msgspec.Struct, frozen=True):
    """Steps of clips of similar durations, limited in seconds.

    A step has a fixed number of slots, and each slot is a batch: padded to its longest clip, it has
    at most `max_batch_seconds`. All slots of a step are from one bucket of durations, except in the
    few steps that are made of remaining samples. A slot for which no samples are left repeats one
    sample, whose field `__mask__` is False. Every sample comes once.

    Attributes:
        max_batch_seconds: Maximum of clips times longest clip in a batch, in seconds.
        max_batch_size: Maximum number of clips in a batch. None: no limit.
        slots: Batches in a step over all ranks: a multiple of the number of ranks and of
            partitions. None: their least common multiple. Part of the order.
        num_buckets: Number of ranges of durations, each of which causes about the same amount of
            padding. More of them mean less padding and more shards in use at once.
        increment: See `audiomdb.plan.SecondsPlan`, also for the following options. None: derived
            from the clips that take part.
        max_age: In increments.
        chapter: In increments. None: see `SecondsPlan`.

    Raises:
        PlanError: an option is out of range.
    """

    max_batch_seconds: float
    max_batch_size: int | None = None
    slots: int | None = None
    num_buckets: int = 32
    increment: int | None = None
    max_age: int = 192
    chapter: int | None = None

    def __post_init__(self) -> None:
        self.check(1, 1)

    def check(self, partitions: int, world_size: int) -> None:
        """Check the options without a dataset.

        Raises:
            PlanError: an option is out of range, or the slots cannot be shared.
        """
        whole_number("num_buckets", self.num_buckets, low=1)
        check_shares(self.slots_for(partitions, world_size), partitions, world_size, name="slots")
        self._plan(EpochPlan([], partitions=partitions), np.empty(0), np.empty(0), [], world_size)

    def slots_for(self, partitions: int, world_size: int) -> int:
        """Return the number of slots."""
        if self.slots is None:
            return lcm(partitions, world_size)
        return whole_number("slots", self.slots, low=1)

    def divider(self, reading: Reading, world_size: int) -> StepDivider:
        """Return a `StepDivider` that divides the epochs of a dataset.

        Raises:
            PlanError: a sample has no duration, or is longer than `max_batch_seconds`.
        """
        durations, taking_part = reading.durations(), reading.taking_part()
        _refuse_durations(reading, durations, taking_part, self.max_batch_seconds)
        some = sampled(durations, taking_part)
        borders = even_borders(some, self.num_buckets)
        crops = reading.crops

        def steps(plan: Order) -> EpochBySeconds:
            return EpochBySeconds(self._plan(plan, durations, some, borders, world_size), crops)

        return steps

    def _plan(
        self,
        plan: Order,
        durations: NDArray[np.float64],
        some: NDArray[np.floating],
        borders: list[float],
        world_size: int,
    ) -> SecondsPlan:
        return SecondsPlan(
            plan,
            durations,
            max_batch_seconds=self.max_batch_seconds,
            max_batch_size=self.max_batch_size,
            slots=self.slots_for(plan.partitions, world_size),
            borders=borders,
            increment=self.increment,
            max_age=self.max_age,
            chapter=self.chapter,
            some=some,
        )


class EpochBySeconds(EpochSteps):
    """The steps of an epoch that is batched by seconds; `steps` provides its report."""

    def __init__(self, steps: SecondsPlan, crops: list[OptionValue]) -> None:
        self.steps = steps
        self._crops = crops
        self.chapters = steps.chapters

    @property
    def options(self) -> dict[str, OptionValue]:
        """Options that change the steps, including how clips are cropped."""
        return {**self.steps.options, **({"crops": self._crops} if any(self._crops) else {})}

    def count(self, chapter: int) -> int:
        """Return the number of steps in a chapter."""
        return self.steps.steps(chapter)

    def chapter(self, chapter: int, numbers: range, rank: int, world_size: int) -> Chapter:
        """Return the part of a chapter that one worker makes."""
        slots = {at: self.steps.step(chapter, at, rank, world_size) for at in numbers}
        plan, end = self.steps.plan, None
        if chapter + 1 < self.chapters:
            end = before_step(plan, self.steps.chapter_end(chapter), rank, world_size)
        return _ChapterBySeconds(slots, end, plan)


class _ChapterBySeconds(Chapter):
    """Steps of a chapter. The shards that each step needs are only computed on demand."""

    def __init__(self, slots: dict[int, list[Step]], end: ReadPosition | None, plan: Order) -> None:
        self._slots = slots
        self._end = end
        self._plan = plan

    def slots(self, number: int) -> list[Step]:
        return self._slots[number]

    def front(self, number: int) -> ReadPosition | None:
        coming = [shard for shard, (_, last) in self._uses.items() if last >= number]
        if self._end is None and not coming:
            return None
        first: dict[int, list[int]] = {}
        for shard in coming:
            first.setdefault(self._datasets.item(shard), []).append(shard)
        return ReadPosition(self._plan, {} if self._end is None else self._end.elements, first)

    def at_once(self) -> list[int]:
        stays = set() if self._end is None else self._end.alive()
        stop = max(self._slots, default=0) + 1
        change = np.zeros((len(self._plan.datasets), stop + 1), np.int64)
        for shard, (first, last) in self._uses.items():
            dataset = self._datasets.item(shard)
            change[dataset, first] += 1
            change[dataset, stop if shard in stays else last + 1] -= 1
        most = np.cumsum(change, axis=1).max(axis=1).tolist()
        return [max(one) for one in zip(most, self._plan.window_shards, strict=True)]

    @cached_property
    def _uses(self) -> dict[int, tuple[int, int]]:
        """The first and last step that need each shard, in the order of the first."""
        shard_ends = np.cumsum(np.concatenate(self._plan.datasets))
        uses: dict[int, tuple[int, int]] = {}
        for number, batches in self._slots.items():
            positions = np.concatenate([batch.positions for batch in batches])
            shards = np.searchsorted(shard_ends, positions, side="right")
            for shard in dict.fromkeys(shards.tolist()):
                uses[shard] = uses.get(shard, (number, 0))[0], number
        return uses

    @cached_property
    def _datasets(self) -> NDArray[np.int64]:
        """The dataset of each shard."""
        sizes = [len(counts) for counts in self._plan.datasets]
        return np.repeat(np.arange(len(sizes)), sizes)


def _refuse_durations(
    reading: Reading,
    durations: NDArray[np.float64],
    taking_part: NDArray[np.bool_] | None,
    longest: float,
) -> None:
    wrong = ~((durations > 0) & (durations <= longest))  # NaN is neither
    if taking_part is not None:
        wrong &= taking_part
    if not wrong.any():
        return
    position = int(wrong.argmax())
    name, key = reading.key(position)
    raise PlanError(
        f"sample {key!r} of dataset {name!r} lasts {durations[position]} s, expected more than 0 "
        f"and at most max_batch_seconds={longest}; {int(wrong.sum())} samples do not fit. Leave "
        "them out with min_duration and max_duration, or raise max_batch_seconds"
    )
