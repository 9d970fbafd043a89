"""Stream batches that are made by the plan: the same for every number of ranks and workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator
from functools import partial
from itertools import count, islice, repeat
from typing import TYPE_CHECKING, TypeVar

import msgspec

from audiomdb.errors import PlanError
from audiomdb.plan import PlanState, SecondsReport, Step, Tail
from audiomdb.plan.bits import EPOCHS
from audiomdb.plan.checks import EPOCHS_OPTION, whole_number
from audiomdb.stream.by_seconds import BySeconds, EpochBySeconds
from audiomdb.stream.epoch_steps import BySamples, EpochSteps, StepDivider
from audiomdb.stream.following import Follower, before_step
from audiomdb.stream.load_options import LoadOptions, OnError, Processing
from audiomdb.stream.planned import PlannedStream
from audiomdb.stream.reading import Reading
from audiomdb.stream.rows import Allocate, Row, rows_of
from audiomdb.stream.shares import share_of
from audiomdb.stream.sources import Mixture, Origin, Part, Where
from audiomdb.stream.step_batches import (
    Coming,
    StepBatch,
    drawn_last,
    joined,
    place_after,
    together,
)
from audiomdb.stream.tails import log_left_out
from audiomdb.stream.work import Task, loading

if TYPE_CHECKING:
    from audiomdb.stream.watch import Watch

__all__ = ["StepBatch", "StepStream", "Where"]

_S = TypeVar("_S", bound="StepStream")


class StepStream(PlannedStream):
    """Reads decoded batches of a dataset or a mixture, independently of any framework.

        with StepStream("speech", 64, shuffle=True, sample_rate=16000) as stream:
            for batch in stream.read():
                train(batch.samples)
                checkpoint["data"] = batch.following.to_dict()

    A step is a batch over all ranks, limited by a number of samples or by seconds. Its samples are
    determined by the plan alone, so a run resumes at the exact next step with any numbers of ranks,
    workers and threads that divide it.

    Creating a stream reads nothing; threads run only during an iteration. A stream can be pickled
    if its source and processor can. Several iterations may run concurrently.

    Args:
        source: A dataset's URL or folder, a retriever, or an open reader. Or several datasets as a
            `Mixture`, or one as a `Part`: these have the options from `shuffle` to `where` and from
            `fields` to `processor` themselves.
        batch_size: Samples in a step over all ranks; a multiple of `world_size` and `partitions`.
            Or `BySeconds`.
        tail: What happens to the samples that do not fill a step, see `audiomdb.plan.StepPlan`.
            None: "drop". With "pad", samples have a field `__mask__`, which is False for repeated
            samples. By seconds, there is no tail, and samples always have the field.
        shuffle: Whether to shuffle. False keeps the stored order.
        seed: Seed of the shuffle.
        window: Number of shards that samples are mixed over, see `audiomdb.plan.EpochPlan`.
        partitions: Groups of shards that are read in parallel, see `EpochPlan`. Part of the order.
        min_duration: Duration in seconds below which clips are left out.
        max_duration: Duration in seconds above which clips are left out.
        where: Selection of samples: a bool array `(samples,)`, or a function that makes it from the
            columns of the index. Samples with False are left out. It must be the same in all ranks.
        rank: Rank of this process. Required if `world_size` is not 1.
        world_size: Number of processes that share each step.
        worker: Index of this worker; workers make the steps of their rank in turn. Required if
            `num_workers` is not 1.
        num_workers: Number of workers of the rank.
        num_threads: Threads that read, decode and process; 0 does all work in the iterating thread.
        fields: Fields to load besides the key. None: all.
        decode: Whether to decode audio to float32 arrays `(frames,)` or `(frames, channels)`.
        sample_rate: Resample decoded audio to this rate in Hz.
        mono: Average the channels of decoded audio.
        processor: A `BaseProcessor`, several, or a function from sample to sample, applied last.
        on_error: "skip" leaves out samples that fail; see `LoadOptions`.
            Called from several threads.

    Raises:
        PlanError: a number of the plan is out of range, or `batch_size` cannot be shared.
        UnknownSchemeError, InvalidURLError, BackendError: as in `open_dataset`, for a URL.
        ValueError: another option is out of range.
    """

    def __init__(
        self,
        source: Origin | Part | Mixture,
        batch_size: int | BySeconds,
        *,
        tail: Tail | None = None,
        shuffle: bool = False,
        seed: int = 0,
        window: int = 4,
        partitions: int = 1,
        min_duration: float | None = None,
        max_duration: float | None = None,
        where: Where | None = None,
        rank: int | None = None,
        world_size: int = 1,
        worker: int | None = None,
        num_workers: int = 1,
        num_threads: int = 4,
        fields: Collection[str] | None = None,
        decode: bool = True,
        sample_rate: int | None = None,
        mono: bool = False,
        processor: Processing | None = None,
        on_error: OnError = "raise",
    ) -> None:
        split = share_of(partitions, rank, world_size, worker, num_workers)
        by_seconds = isinstance(batch_size, BySeconds)
        if by_seconds and tail not in (None, "drop"):
            raise ValueError(f"tail={tail!r}: by seconds every sample comes once, without a tail")
        load = LoadOptions(
            fields=fields,
            decode=decode,
            sample_rate=sample_rate,
            mono=mono,
            processor=processor,
            on_error=on_error,
        )
        given = Part(
            "" if isinstance(source, Part | Mixture) else source,
            shuffle=shuffle,
            window=window,
            min_duration=min_duration,
            max_duration=max_duration,
            where=where,
            load=load,
        )
        super().__init__(source, given, split, seed=seed, num_threads=num_threads)
        self._how = (
            batch_size
            if isinstance(batch_size, BySeconds)
            else BySamples(batch_size, "drop" if tail is None else tail)
        )
        self._asked_for = tail is not None
        self._how.check(partitions, world_size)
        self._marked = by_seconds or tail == "pad"
        self._known = _Known()

    def __getstate__(self) -> dict[str, object]:
        # This may be as large as a column of the index, and is computed again.
        return {**vars(self), "_known": _Known()}

    def __enter__(self: _S) -> _S:  # noqa: PYI019
        return self

    @property
    def steps(self) -> int:
        """Number of steps in an epoch, the same for every rank; by seconds, the number in epoch 0.

        Raises:
            DatasetError: the dataset cannot be opened.
        """
        return self.steps_in(0)

    def steps_in(self, epoch: int) -> int:
        """Return the number of steps in an epoch.

        By seconds, the first call for an epoch takes a pass over the durations, 1 to 2 us per
        sample.
        """
        if isinstance(self._how, BySeconds):
            return self.report(epoch).steps
        return self._steps(self._reading(), epoch).count(0)

    def batches_in(self, first: int, epochs: int) -> int:
        """Return the number of batches that this rank gets in some epochs, over all its workers.

        By seconds, it gets `slots / world_size` of each step. Otherwise it gets one, except that
        with `tail="uneven"` the last step of an epoch may have none for it. By seconds, this costs
        as much as `steps_in` for each of the epochs; otherwise, as for one.

        Args:
            first: Number of the first epoch.
            epochs: Number of epochs.
        """
        split = self._split
        if isinstance(self._how, BySeconds):
            each = self._how.slots_for(split.partitions, split.world_size) // split.world_size
            return each * sum(self.steps_in(first + at) for at in range(epochs))
        steps = self._steps(self._reading(), first)
        count = steps.count(0)
        if count and self._how.tail == "uneven":
            chapter = steps.chapter(0, range(count), split.rank, split.world_size)
            count -= not len(chapter.slots(count - 1)[0].positions)
        return epochs * count

    @property
    def dropped(self) -> int:
        """Number of samples of each epoch that are in no step, less than one step; 0 by seconds."""
        return self._steps(self._reading(), 0).dropped

    def log_dropped(self) -> None:
        """Log how many samples an epoch drops, and warn of datasets from which it reads nothing.

        Called on rank 0 when the first iteration begins.
        """
        reading = self._reading()
        dropped, why = 0, ""
        if isinstance(self._how, BySamples):
            dropped, why = self.dropped, f"each step has {self._how.batch_size}"
        plan = self._plan(reading, 0)
        log_left_out(reading, plan, dropped, why, asked_for=self._asked_for)

    def report(self, epoch: int = 0) -> SecondsReport:
        """Return statistics of an epoch by seconds: its padding, and slots that are not full.

        The first call for an epoch takes a pass over the durations, 1 to 2 us per sample.

        Raises:
            PlanError: batches are limited by a number of samples, not by seconds.
        """
        if not isinstance(self._how, BySeconds):
            raise PlanError("only batches by seconds have a report; these are made by numbers")
        report = self._known.reports.get(epoch)
        if report is None:
            steps = self._steps(self._reading(), epoch)
            assert isinstance(steps, EpochBySeconds)
            report = self._known.reports[epoch] = steps.steps.report()
        return report

    def state(self, epoch: int = 0, step: int = 0, *, chapter: int = 0) -> PlanState:
        """Return the state that resumes at a step."""
        here = self._known.state
        if here is None:
            reading = self._reading()
            here = reading.state(self._steps(reading, 0).options, seed=self._seed)
            self._known.state = here
        return here.at(epoch, step, chapter=chapter)

    def state_after(self, steps: int) -> PlanState:
        """Return the state that resumes after a number of steps from the beginning of epoch 0.

        By seconds, this takes a pass over the durations for each epoch, 1 to 2 us per sample.
        """
        epoch = chapter = 0
        while steps >= (total := self.steps_in(epoch)):
            if not total:
                return self.state()  # every epoch is empty
            steps -= total
            epoch += 1
        of_epoch = self._steps(self._reading(), epoch)
        while steps >= (total := of_epoch.count(chapter)):
            steps -= total
            chapter += 1
        return self.state(epoch, steps, chapter=chapter)

    def read(
        self,
        start: PlanState | None = None,
        *,
        epochs: int | None = 1,
        steps: int | None = None,
        skip: int | None = None,
        watch: Watch | None = None,
        allocate: Allocate | None = None,
    ) -> Generator[StepBatch, None, None]:
        """Yield this worker's steps from `start` on.

        The threads end when the generator is closed or garbage-collected. An exception is raised
        where its batch would have come, and ends the generator.

        Args:
            start: State of this plan: the first step, over all workers. None: the beginning of
                epoch 0.
            epochs: Number of epochs; that of `start` counts as one. None: never ends.
            steps: Number of steps, over all workers, after which it ends, even within an epoch.
                None: no limit.
            skip: Number of steps after `start` at which this worker begins. None: its worker
                index.
            watch: Records what the threads do, and what the consumer waits for. If given, dropped
                samples are not logged: that is left to the caller.
            allocate: Allocates memory for the audio of a batch. If the lengths of its clips are
                known before decoding, each clip's array is then the beginning of a row of this
                memory.

        Raises:
            PlanError: `start` is of another plan; the message says what differs.
            CacheTooSmallError: the cache cannot hold the shards that are needed at once.
            DatasetError, AudioError, Exception: as when iterating over a `SampleStream`.
        """
        if epochs is not None:
            epochs = whole_number(EPOCHS_OPTION, epochs)
        if self._says and watch is None:
            self.log_dropped()
            self._says = False
        reading = self._reading(watch)
        here = self.state()
        first = here if start is None else start
        first.check(here)
        self._refuse_beyond(reading, first)
        if skip is None:
            skip = self._split.worker
        left = None
        if steps is not None:
            left = len(range(skip, whole_number("steps", steps), self._split.num_workers))
        coming: deque[Coming] = deque()
        samples = loading(
            reading,
            partial(self._tasks, reading, first, here, epochs, left, skip, coming, allocate),
            self._split,
            partial(self._at_once, reading, first, skip),
            num_threads=self._num_threads,
            marked=self._marked,
            at_least=partial(drawn_last, coming),
            watch=watch,
        )
        with samples as in_order:
            yield from together(in_order, coming, watch)

    def check(self, state: PlanState) -> None:
        """Check that `read` can start from a state; by seconds, its step is only checked there.

        Raises:
            PlanError: it is of another plan, or of a step that does not exist.
        """
        state.check(self.state())
        if isinstance(self._how, BySamples):
            self._refuse_beyond(self._reading(), state)

    def _refuse_beyond(self, reading: Reading, place: PlanState) -> None:
        """Refuse a place after the end of its epoch; the end itself may be where a pass ended."""
        steps = self._steps(reading, place.epoch)
        chapter, chapters = place.chapter, steps.chapters
        if chapter and chapter >= chapters:
            raise PlanError(f"the state is at chapter {chapter} of {chapters}: no run has left it")
        step, total = place.next_step, steps.count(chapter) if chapters else 0
        if step > total:
            raise PlanError(f"the state is at step {step} of {total}: no run has left it")

    def _tasks(
        self,
        reading: Reading,
        first: PlanState,
        here: PlanState,
        epochs: int | None,
        left: int | None,
        skip: int,
        coming: deque[Coming],
        allocate: Allocate | None,
        follower: Follower,
    ) -> Iterator[Task]:
        """Yield the samples to load; the composition of a step is added to `coming` before them."""
        split = self._split
        numbers: Iterable[int] = count(first.epoch)
        if epochs is not None:
            numbers = range(first.epoch, first.epoch + epochs)
        for epoch in numbers:
            steps = self._steps(reading, epoch)
            if not steps.chapters or (steps.chapters == 1 and not steps.count(0)):
                return  # every epoch is empty, though `epochs` may be endless
            begun = False
            at = first if epoch == first.epoch else here
            for chapter in range(at.chapter, steps.chapters):
                total = steps.count(chapter)
                begin = at.next_step if chapter == at.chapter else 0
                mine = range(begin + skip, total, split.num_workers)
                skip += len(mine) * split.num_workers - max(0, total - begin)
                part = steps.chapter(chapter, mine, split.rank, split.world_size)
                if follower.active and not begun and (front := part.front(mine.start)):
                    begun = True
                    # The iteration after this one probably continues with the next epoch.
                    plan = self._plan(reading, min(epoch + 1, EPOCHS - 1))
                    beginning = before_step(plan, 0, split.rank, split.world_size)
                    continues = epochs is None or epoch + 1 < first.epoch + epochs
                    follower.begin(front, beginning, continues=continues)
                for number in islice(mine, left):
                    slots = part.slots(number)
                    place = here.at(epoch, number, chapter=chapter)
                    after = place_after(place, total, steps.chapters)
                    coming.append(([len(slot.mask) for slot in slots], place, after))
                    step = joined(slots)
                    positions = step.positions
                    visits: Iterable[int] = repeat(0)
                    if follower.active:
                        visits = follower.draw(positions, part.front(number + split.num_workers))
                    rows: Iterable[Row | None] = repeat(None)
                    if allocate is not None:
                        rows = _rows(slots, reading, allocate)
                    yield from zip(
                        positions.tolist(),
                        step.mask.tolist(),
                        visits,
                        repeat(epoch),
                        step.repeats.tolist(),
                        rows,
                    )
                if left is not None and (left := max(0, left - len(mine))) == 0:
                    return

    def _at_once(self, reading: Reading, first: PlanState, skip: int) -> list[int]:
        """Return the number of shards of each dataset that this worker needs at a time."""
        steps = self._steps(reading, first.epoch)
        chapter = min(first.chapter, max(0, steps.chapters - 1))
        split = self._split
        begin = (first.next_step + skip) % split.num_workers
        numbers = range(begin, steps.count(chapter), split.num_workers)
        return steps.chapter(chapter, numbers, split.rank, split.world_size).at_once()

    def _reading(self, watch: Watch | None = None) -> Reading:
        reading = super()._reading(watch)
        if self._known.fingerprint != reading.fingerprint:
            self._known = _Known(reading.fingerprint)
        return reading

    def _steps(self, reading: Reading, epoch: int) -> EpochSteps:
        known = self._known
        if known.divider is None:
            known.divider = self._how.divider(reading, self._split.world_size)
        if known.steps is None or known.steps[0] != epoch:
            known.steps = epoch, known.divider(self._plan(reading, epoch))
        return known.steps[1]


def _rows(slots: list[Step], reading: Reading, allocate: Allocate) -> Iterator[Row | None]:
    """Yield the memory for the audio of each sample of a step."""
    for slot in slots:
        yield from rows_of([reading.length(at) for at in slot.positions.tolist()], allocate)


class _Known(msgspec.Struct):
    """Computed facts about a stream, which a copy computes again."""

    fingerprint: str = ""
    """The datasets that they are about."""

    divider: StepDivider | None = None
    steps: tuple[int, EpochSteps] | None = None
    """The steps of the epoch that was used last, with its number."""

    state: PlanState | None = None
    reports: dict[int, SecondsReport] = msgspec.field(default_factory=dict)
