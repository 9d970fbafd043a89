"""Divide epochs into steps, by numbers of samples or by seconds.

Steps are grouped in chapters. A chapter is the unit that has to be computed to start in the middle
of an epoch. By numbers of samples, an epoch is a single chapter, because the place of a step is
computed directly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from audiomdb.plan import EpochPlan, Order, Step, StepPlan, Tail
from audiomdb.plan.split import partitions_met
from audiomdb.plan.steps import check_shares
from audiomdb.stream.following import ReadPosition, before_step

if TYPE_CHECKING:
    from audiomdb.plan.state import OptionValue
    from audiomdb.stream.reading import Reading

__all__ = ["BySamples", "Chapter", "EpochSteps", "StepDivider"]

StepDivider: TypeAlias = "Callable[[Order], EpochSteps]"
"""Divides any epoch of a dataset or a mixture into steps."""


class Chapter(ABC):
    """The steps of a chapter that are made by one worker of a rank."""

    @abstractmethod
    def slots(self, number: int) -> list[Step]:
        """Return the rank's batches of a step."""

    @abstractmethod
    def front(self, number: int) -> ReadPosition | None:
        """Return the worker's place before a step; None if its epoch is over.

        The front of the first step covers everything that the worker reads in the rest of the
        epoch.
        """

    @abstractmethod
    def at_once(self) -> list[int]:
        """Return the maximum number of shards of each dataset that the worker needs at a time."""


class EpochSteps(ABC):
    """The steps of an epoch."""

    chapters: int

    @property
    @abstractmethod
    def options(self) -> dict[str, OptionValue]:
        """Options that change the steps, other than seed, epoch and datasets, for `PlanState`."""

    @property
    def dropped(self) -> int:
        """Number of samples of the epoch that are in no step."""
        return 0

    @abstractmethod
    def count(self, chapter: int) -> int:
        """Return the number of steps in a chapter."""

    @abstractmethod
    def chapter(self, chapter: int, numbers: range, rank: int, world_size: int) -> Chapter:
        """Return the part of a chapter that one worker makes.

        Args:
            chapter: Number of the chapter.
            numbers: Numbers of the worker's steps in the chapter.
            rank: Rank of the worker.
            world_size: Number of ranks.
        """


class BySamples(msgspec.Struct, frozen=True):
    """Steps of a fixed number of samples over all ranks.

    Attributes:
        batch_size: Samples in a step.
        tail: What happens to the samples that do not fill a step, see `audiomdb.plan.StepPlan`.
    """

    batch_size: int
    tail: Tail = "drop"

    def check(self, partitions: int, world_size: int) -> None:
        """Check the options without a dataset; see `BySeconds`."""
        StepPlan(EpochPlan([], partitions=partitions), self.batch_size, self.tail)
        check_shares(self.batch_size, partitions, world_size)

    def divider(self, reading: Reading, world_size: int) -> StepDivider:  # noqa: ARG002
        """Return a `StepDivider` that divides the epochs of a dataset."""
        return lambda plan: _EpochOfSamples(StepPlan(plan, self.batch_size, self.tail))


class _EpochOfSamples(EpochSteps):
    chapters = 1

    def __init__(self, steps: StepPlan) -> None:
        self._steps = steps

    @property
    def options(self) -> dict[str, OptionValue]:
        own = {"batch_size": self._steps.batch_size, "tail": self._steps.tail}
        return {**self._steps.plan.options, **own}

    @property
    def dropped(self) -> int:
        return self._steps.dropped

    def count(self, chapter: int) -> int:  # noqa: ARG002
        return self._steps.steps

    def chapter(self, chapter: int, numbers: range, rank: int, world_size: int) -> Chapter:  # noqa: ARG002
        return _WholeEpoch(self._steps, numbers.stop, rank, world_size)


class _WholeEpoch(Chapter):
    def __init__(self, steps: StepPlan, stop: int, rank: int, world_size: int) -> None:
        self._steps = steps
        self._plan = steps.plan
        self._stop = stop
        self._place = rank, world_size

    def slots(self, number: int) -> list[Step]:
        return [self._steps.step(number, *self._place)]

    def front(self, number: int) -> ReadPosition | None:
        if number >= self._stop:
            return None
        width = self._steps.batch_size // self._plan.partitions
        return before_step(self._plan, number * width, *self._place)

    def at_once(self) -> list[int]:
        met = len(partitions_met(self._plan.partitions, *self._place))
        return [met * shards for shards in self._plan.window_shards]
