"""Form batches of clips of similar durations, limited by their padded seconds.

A step has M slots, whatever the number of ranks: each of R ranks takes M / R of them, and each of P
partitions fills M / P. Which samples form a step depends on their durations, so the place of a step
cannot be computed: the epoch is divided into chapters of equally many samples, and accessing a step
means making its chapter (see `chapters`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from audiomdb.errors import PlanError
from audiomdb.plan.bits import MAX_STREAMS, Purpose, random_words
from audiomdb.plan.chapters import ChapterMaker, Slots
from audiomdb.plan.checks import above_zero, whole_number
from audiomdb.plan.durations import even_borders, usual_increment
from audiomdb.plan.occurrences import positions_of
from audiomdb.plan.packing import SHORT, SlotSize
from audiomdb.plan.steps import Step, check_shares

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audiomdb.plan.order import Order
    from audiomdb.plan.state import OptionValue

__all__ = ["SecondsPlan", "SecondsReport"]

_CHAPTER_INCREMENTS = 512
_LEAST_INCREMENTS = 32
_CHAPTER_SAMPLES = 2**17
"""Default limit on the samples of a chapter, over all partitions: they are made in 0.2 s."""


class SecondsReport(msgspec.Struct, frozen=True):
    """Statistics of an epoch that is batched by seconds.

    Attributes:
        steps: Number of steps.
        samples: Number of samples, each counted once.
        seconds: Sum of their durations.
        padded_seconds: Sum over all slots of the number of clips times the longest clip.
        short_slots: Slots, not empty, filled to less than three quarters of their capacity in
            clips.
        empty_slots: Slots without samples, which repeat a masked one.
        short_steps: Steps with short or empty slots: those that were forced because a sample had
            waited too long, and those made of the remaining samples of a chapter.
        fill: `padded_seconds` divided by the capacity of all slots of all steps.
    """

    steps: int
    samples: int
    seconds: float
    padded_seconds: float
    short_slots: int
    empty_slots: int
    short_steps: int
    fill: float

    @property
    def padding(self) -> float:
        """Fraction of the padded seconds that is padding."""
        return 1 - self.seconds / self.padded_seconds if self.padded_seconds else 0.0


class _Made(NamedTuple):
    """A chapter that was made."""

    chapter: int
    slots: Slots
    stand_ins: NDArray[np.int64]
    """What empty slots repeat, see `SecondsPlan._stand_ins`."""


class SecondsPlan:
    """The steps of one epoch that is batched by seconds. Thread-safe and picklable.

    Every sample is read once. Accessing a step means making its chapter, at 1 to 1.5 us per sample
    (2.5 us if a slot holds fewer than ten clips). This takes at most 0.2 s for up to 256 slots of
    30 clips, and grows with the number of slots beyond that. The last chapter is kept.

    Partitions drift apart, the more so the fewer clips each contributes to a step, and this forces
    steps with short slots. The remaining samples of a chapter are spread over slots that are all a
    little less full. Results for 1,000,000 clips (log-normal, median 6 s, 1 to 20 s) in slots of
    200 s:

        partitions/slots   1/1      1/8      4/8      8/8      8/64
        short steps        0.0 %    0.0 %    0.0 %    0.7 %    0.0 %
        padding            3.2 %    0.5 %    1.7 %    3.0 %    0.5 %
        fill               0.98     0.98     0.97     0.97     0.97

    Args:
        plan: The order of the epoch.
        durations: Seconds of every sample by position, including excluded ones: the `duration`
            column.
        max_batch_seconds: Maximum of the number of clips times the longest clip in a slot.
        slots: Slots of a step over all ranks: a multiple of the plan's partitions and of the world
            size with which steps are read.
        max_batch_size: Maximum number of clips in a slot. None: any number.
        borders: Inclusive upper bounds of all buckets but the last, in seconds, ascending. None:
            `even_borders`.
        increment: Samples of each partition that are planned at a time. None: for each slot of a
            partition, half of the average number of clips in a slot, and at least 16.
        max_age: Maximum number of increments that a sample waits for similar ones. A higher value
            gives fewer short slots, but keeps more shards alive: `max_age * increment` samples of
            each partition.
        chapter: Increments in a chapter. A higher value gives fewer steps made of remaining
            samples, but more to replay when resuming within a chapter. None: 512, limited to
            131072 samples of all partitions, but at least 32.
        some: Durations of a subset of the samples that take part, from which borders and increment
            are derived if these are None. If given, the durations are not checked: the caller must
            have checked them.

    Raises:
        PlanError: An option is out of range, or a sample has no duration or is longer than
            `max_batch_seconds`.
    """

    def __init__(
        self,
        plan: Order,
        durations: NDArray[np.floating],
        *,
        max_batch_seconds: float,
        slots: int,
        max_batch_size: int | None = None,
        borders: NDArray[np.floating] | list[float] | None = None,
        increment: int | None = None,
        max_age: int = 192,
        chapter: int | None = None,
        some: NDArray[np.floating] | None = None,
    ) -> None:
        self.plan = plan
        self.slots = whole_number("slots", slots, low=1)
        check_shares(self.slots, plan.partitions, name="slots")
        if not above_zero(max_batch_seconds) or max_batch_seconds == np.inf:
            raise PlanError(f"max_batch_seconds is {max_batch_seconds!r}, expected seconds above 0")
        if max_batch_size is not None:
            max_batch_size = whole_number("max_batch_size", max_batch_size, low=1)
        self.size = SlotSize(float(max_batch_seconds), max_batch_size)
        self._durations = np.asarray(durations)
        if some is None:
            self._check_durations()
            some = self._durations
        chosen = even_borders(some) if borders is None else borders
        self.borders = np.array(chosen, dtype=np.float64)
        if self.borders.ndim != 1 or not (np.diff(self.borders, prepend=0.0) > 0).all():
            raise PlanError(f"borders are {chosen}, expected ascending seconds above 0")
        inside = (self.borders >= self.size.least) & (self.borders < self.size.seconds)
        self.borders = self.borders[inside]
        each = self.slots // plan.partitions
        if increment is None:
            increment = each * usual_increment(some, self.size)
        self.increment = whole_number("increment", increment, low=1)
        self.max_age = whole_number("max_age", max_age, low=1)
        if chapter is None:
            most = _CHAPTER_SAMPLES // (self.increment * plan.partitions)
            chapter = min(_CHAPTER_INCREMENTS, max(_LEAST_INCREMENTS, most))
        self.chapter_increments = whole_number("chapter", chapter, low=1)
        whole_number("chapters", self.chapters, high=MAX_STREAMS)
        self._kept: _Made | None = None

    @property
    def options(self) -> dict[str, OptionValue]:
        """Options that change the order, besides seed, epoch and datasets, for `PlanState`."""
        return {
            **self.plan.options,
            "max_batch_seconds": self.size.seconds,
            "max_batch_size": self.size.clips,
            "slots": self.slots,
            "borders": self.borders.tolist(),
            "increment": self.increment,
            "max_age": self.max_age,
            "chapter": self.chapter_increments,
        }

    @property
    def chapters(self) -> int:
        """Number of chapters in the epoch."""
        longest = max(len(line) for line in self.plan.lines)
        return -(-longest // (self.increment * self.chapter_increments))

    def chapter_end(self, chapter: int) -> int:
        """Return the element of each partition at which the next chapter begins."""
        return (chapter + 1) * self.increment * self.chapter_increments

    def steps(self, chapter: int) -> int:
        """Return the number of steps in a chapter. This makes the chapter."""
        return len(self._chapter(chapter).slots.ends) // self.slots

    def step(self, chapter: int, number: int, rank: int = 0, world_size: int = 1) -> list[Step]:
        """Return a rank's slots of a step: `slots // world_size` batches.

        A slot without samples repeats one of its partition with the mask False, or one of another
        partition if its own has none, so that every rank has a batch.

        Raises:
            PlanError: A number is out of range, or `world_size` does not divide `slots`.
        """
        made = self._chapter(chapter)
        number = whole_number("step", number, high=len(made.slots.ends) // self.slots - 1)
        world_size = whole_number("world_size", world_size, low=1)
        rank = whole_number("rank", rank, high=world_size - 1)
        check_shares(self.slots, self.plan.partitions, world_size, name="slots")
        each = self.slots // world_size
        mine = range(rank * each, (rank + 1) * each)
        return [self._slot(made, number, slot) for slot in mine]

    def report(self) -> SecondsReport:
        """Return statistics of the epoch. This makes every chapter."""
        steps = samples = short = empty = short_steps = 0
        seconds = padded = 0.0
        for chapter in range(self.chapters):
            made = self._chapter(chapter).slots
            clips = self._seconds(made.occurrences)
            sizes = np.diff(made.ends, prepend=0)
            filled = sizes[sizes > 0]
            longest = np.maximum.reduceat(clips, np.cumsum(filled) - filled)
            wanting = sizes == 0
            empty += int(wanting.sum())
            wanting[~wanting] = filled < SHORT * self.size.rooms(longest)
            short += int(wanting.sum())
            steps += len(sizes) // self.slots
            short_steps += int(wanting.reshape(-1, self.slots).any(axis=1).sum())
            samples += len(clips)
            seconds += float(clips.sum())
            padded += float((filled * longest).sum())
        short -= empty
        held = steps * self.slots * self.size.seconds
        return SecondsReport(
            steps=steps,
            samples=samples,
            seconds=seconds,
            padded_seconds=padded,
            short_slots=short,
            empty_slots=empty,
            short_steps=short_steps,
            fill=padded / held if held else 0.0,
        )

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_kept": None}

    def _chapter(self, chapter: int) -> _Made:
        chapter = whole_number("chapter", chapter, high=max(0, self.chapters - 1))
        kept = self._kept
        if kept is None or kept.chapter != chapter:
            slots = self._make(chapter)
            kept = self._kept = _Made(chapter, slots, self._stand_ins(slots))
        return kept

    def _make(self, chapter: int) -> Slots:
        length = self.increment * self.chapter_increments
        parts = []
        for line in self.plan.lines:
            begin, end = (min(at * length, len(line)) for at in (chapter, chapter + 1))
            occurrences = line.take(np.arange(begin, end, dtype=np.int64))
            parts.append((occurrences, self._seconds(occurrences)))
        return self._mix_slots(chapter, self._maker(chapter).steps(parts))

    def _seconds(self, occurrences: NDArray[np.int64]) -> NDArray[np.float64]:
        seconds = self._durations[positions_of(occurrences)].astype(np.float64, copy=False)
        return np.maximum(seconds, self.size.least)

    def _maker(self, chapter: int) -> ChapterMaker:
        return ChapterMaker(
            self.size,
            self.borders,
            self.slots // self.plan.partitions,
            self.increment,
            self.max_age,
            partial(self._words, Purpose.BUCKET_CHOICE, chapter),
        )

    def _mix_slots(self, chapter: int, made: Slots) -> Slots:
        """Shuffle a step's slots within each partition, or rank 0 would always have the longest."""
        each = self.slots // self.plan.partitions
        if each == 1:
            return made
        words = self._words(Purpose.SLOT_ORDER, chapter, 0, len(made.ends)).reshape(-1, each)
        order = np.argsort(words, axis=1, kind="stable")
        order += np.arange(0, len(made.ends), each)[:, None]
        return made.reordered(order.reshape(-1))

    def _words(self, purpose: Purpose, chapter: int, start: int, stop: int) -> NDArray[np.uint64]:
        seed, epoch = self.plan.seed, self.plan.epoch
        return random_words(seed, epoch, purpose, chapter, start=start, stop=stop)

    def _slot(self, made: _Made, number: int, slot: int) -> Step:
        at = number * self.slots + slot
        occurrences = made.slots.slot(at)
        if len(occurrences):
            return Step.of(occurrences)
        return Step.of(made.stand_ins[at : at + 1], np.zeros(1, dtype=np.bool_))

    def _stand_ins(self, made: Slots) -> NDArray[np.int64]:
        """Return the occurrence that each slot repeats if it is empty, `(slots,)`, or nothing.

        It is a recently read sample: one of the slot's partition in this step or the nearest
        earlier one, or else one of any partition in this step.
        """
        sizes = np.diff(made.ends, prepend=0)
        if sizes.all():
            return np.empty(0, np.int64)
        partitions = self.plan.partitions
        each = self.slots // partitions
        filled = sizes.reshape(-1, partitions, each) > 0
        some, steps = filled.any(axis=2), np.arange(len(filled))[:, None]
        first = (steps * partitions + np.arange(partitions)) * each + filled.argmax(axis=2)
        latest = np.maximum.accumulate(np.where(some, steps, -1), axis=0)
        others = np.take_along_axis(first, some.argmax(axis=1)[:, None], axis=1)
        own = np.take_along_axis(first, np.maximum(latest, 0), axis=0)
        slots = np.where(latest < 0, others, own)
        occurrences: NDArray[np.int64] = made.occurrences[(made.ends - sizes)[slots]]
        return np.repeat(occurrences.reshape(-1), each)

    def _check_durations(self) -> None:
        durations = self._durations
        if durations.ndim != 1:
            raise PlanError(f"durations have shape {durations.shape}, expected one axis")
        bad = ~((durations > 0) & (durations <= self.size.seconds))
        if not bad.any():
            return
        for line in self.plan.lines:
            for begin in range(0, len(line), 2**16):
                elements = np.arange(begin, min(begin + 2**16, len(line)), dtype=np.int64)
                positions = positions_of(line.take(elements))
                if (wrong := positions[bad[positions]]).size:
                    raise PlanError(
                        f"the sample at position {wrong[0]} lasts {durations[wrong[0]]} s, "
                        f"expected more than 0 and at most max_batch_seconds "
                        f"{self.size.seconds}; filter by min_duration and max_duration, or raise "
                        f"max_batch_seconds"
                    )
