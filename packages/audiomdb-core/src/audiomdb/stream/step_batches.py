"""Group samples, which arrive one by one, into the batches of their steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from itertools import accumulate, chain
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from audiomdb.notes import add_note
from audiomdb.plan import PlanState, Step
from audiomdb.sample import Sample
from audiomdb.stream.skipping import LeftOut

if TYPE_CHECKING:
    from audiomdb.stream.watch import Watch

__all__ = ["Coming", "StepBatch", "drawn_last", "joined", "place_after", "together"]


class StepBatch(NamedTuple):
    """The samples of one rank in a step."""

    batches: list[list[Sample]]
    """One batch; by seconds, one for each of the rank's slots. Empty only in the last step of an
    epoch with `tail="uneven"`."""

    place: PlanState
    """Place of this step."""

    following: PlanState
    """Place of the next step: the state from which to resume after this step was used."""

    @property
    def samples(self) -> list[Sample]:
        """All samples, in the order of the batches."""
        return list(chain.from_iterable(self.batches))


Coming: TypeAlias = tuple[list[int], PlanState, PlanState]
"""Sizes of the batches of a step, its place, and the place of the next step."""


def drawn_last(coming: deque[Coming]) -> int:
    """Return the number of samples of the step drawn last; 0 if all steps have been yielded.

    Other threads may add and remove steps meanwhile.
    """
    for sizes, _, _ in tuple(coming)[-1:]:
        return sum(sizes)
    return 0


def place_after(place: PlanState, steps: int, chapters: int) -> PlanState:
    """Return the place of the step after `place`.

    Args:
        place: Place of a step.
        steps: Number of steps in its chapter.
        chapters: Number of chapters in its epoch.
    """
    if place.next_step + 1 < steps:
        return place.at(place.epoch, place.next_step + 1, chapter=place.chapter)
    if place.chapter + 1 < chapters:
        return place.at(place.epoch, 0, chapter=place.chapter + 1)
    return place.at(place.epoch + 1, 0)


def joined(slots: list[Step]) -> Step:
    """Return all slots of a step, concatenated."""
    if len(slots) == 1:
        return slots[0]
    return Step(*(np.concatenate(columns) for columns in zip(*slots, strict=True)))


def together(
    samples: Iterable[Sample | LeftOut], coming: deque[Coming], watch: Watch | None = None
) -> Generator[StepBatch, None, None]:
    """Yield the batches of steps, without the samples that are left out.

    A step must be in `coming` before its first sample is drawn. `watch` counts those left out.

    Raises:
        Exception: the error of a sample, if all of its batch are left out.
    """
    batch: list[Sample | LeftOut] = []
    for sample in samples:
        while not sum(coming[0][0]):
            yield StepBatch([], *coming.popleft()[1:])
        batch.append(sample)
        if watch is not None and isinstance(sample, LeftOut):
            watch.left_out += 1
        if len(batch) == sum(coming[0][0]):
            sizes, place, following = coming.popleft()
            ends = [*accumulate(sizes)]
            slots = [batch[end - size : end] for size, end in zip(sizes, ends, strict=True)]
            yield StepBatch([_loaded(slot) for slot in slots], place, following)
            batch = []
    while coming:
        yield StepBatch([], *coming.popleft()[1:])


def _loaded(batch: list[Sample | LeftOut]) -> list[Sample]:
    loaded = [sample for sample in batch if not isinstance(sample, LeftOut)]
    if batch and not loaded:
        # Ranks have equally many batches, and none can be made of nothing.
        (error,) = (sample.error for sample in batch[:1] if isinstance(sample, LeftOut))
        add_note(error, "and so did all other samples of its batch, which cannot be left out")
        raise error
    return loaded
