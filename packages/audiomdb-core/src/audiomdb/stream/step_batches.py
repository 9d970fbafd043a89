"""Putting the samples of a step together again, after they came one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from itertools import accumulate, chain
from typing import NamedTuple, TypeAlias

import numpy as np

from audiomdb.plan import PlanState, Step
from audiomdb.sample import Sample

__all__ = ["Coming", "StepBatch", "drawn_last", "joined", "place_after", "together"]


class StepBatch(NamedTuple):
    """One rank's samples of a step."""

    batches: list[list[Sample]]
    """One of them, or by seconds one for each of the rank's slots. Empty only in the last step of
    an epoch, with `tail="uneven"`."""

    place: PlanState
    """Where this step is."""

    following: PlanState
    """Where the step after it is: the state to go on from when this one was used."""

    @property
    def samples(self) -> list[Sample]:
        """All samples, batch after batch."""
        return list(chain.from_iterable(self.batches))


Coming: TypeAlias = tuple[list[int], PlanState, PlanState]
"""Sizes of the batches of a step, where it is, and where the next is."""


def drawn_last(coming: deque[Coming]) -> int:
    """Samples of the step that was drawn last; 0 when all have been given out.

    Other threads may put in and take out meanwhile.
    """
    for sizes, _, _ in tuple(coming)[-1:]:
        return sum(sizes)
    return 0


def place_after(place: PlanState, steps: int, chapters: int) -> PlanState:
    """The place of the next step, in a chapter of so many and an epoch of so many chapters."""
    if place.next_step + 1 < steps:
        return place.at(place.epoch, place.next_step + 1, chapter=place.chapter)
    if place.chapter + 1 < chapters:
        return place.at(place.epoch, 0, chapter=place.chapter + 1)
    return place.at(place.epoch + 1, 0)


def joined(slots: list[Step]) -> Step:
    """All slots of a step, one after the other."""
    if len(slots) == 1:
        return slots[0]
    return Step(*(np.concatenate(columns) for columns in zip(*slots, strict=True)))


def together(samples: Iterable[Sample], coming: deque[Coming]) -> Generator[StepBatch, None, None]:
    """Put samples together again. A step is in `coming` before its first sample is drawn."""
    batch: list[Sample] = []
    for sample in samples:
        while not sum(coming[0][0]):
            yield StepBatch([], *coming.popleft()[1:])
        batch.append(sample)
        if len(batch) == sum(coming[0][0]):
            sizes, place, following = coming.popleft()
            ends = [*accumulate(sizes)]
            batches = [batch[end - size : end] for size, end in zip(sizes, ends, strict=True)]
            yield StepBatch(batches, place, following)
            batch = []
    while coming:
        yield StepBatch([], *coming.popleft()[1:])
