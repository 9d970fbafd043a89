"""A dataset in batches that the plan makes: the same for every number of ranks and workers."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import closing
from itertools import count, pairwise
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from audiomdb.plan import Columns, EpochPlan, PlanState, Selection, Split, StepPlan, Tail, select
from audiomdb.plan.steps import check_shares
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.sample import Sample
from audiomdb.shards import DatasetReader
from audiomdb.stream.ahead import in_order
from audiomdb.stream.loading import LoadOptions, Processing, SampleLoader, held_bytes
from audiomdb.stream.samples import MASK
from audiomdb.stream.step_course import StepCourse, shards_at_once

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["StepBatch", "StepStream", "Where"]

Where: TypeAlias = "Callable[[Columns], NDArray[np.bool_]] | NDArray[np.bool_]"
"""Which samples take part: one bool for each, or a function that makes them of the index."""

_Task: TypeAlias = tuple[int, bool, int]
"""Position, mask, visit of the shard."""


class StepBatch(NamedTuple):
    """One rank's samples of a step."""

    samples: list[Sample]
    """Empty only in the last step of an epoch, with `tail="uneven"`."""

    following: PlanState
    """Where the step after it is: the state to go on from when this batch was used."""


class StepStream:
    """Steps of a dataset, decoded: for any framework, or none.

        with StepStream("speech", 64, shuffle=True, sample_rate=16000) as stream:
            for batch in stream.read():
                train(batch.samples)
                checkpoint["data"] = batch.following.to_dict()

    A step is a batch over all ranks. Which samples are in it follows from the plan alone, so a run
    goes on with the exact next step on any number of ranks, workers and threads that divide it.

    Making a stream reads nothing; threads run while an iteration does. It pickles where its source
    and processor do. Several iterations may run side by side.

    Args:
        source: A dataset's folder, a retriever, or an open reader.
        batch_size: Samples in a step over all ranks; a multiple of `world_size` and `partitions`.
        tail: What becomes of the samples that fill no step, see `audiomdb.plan.StepPlan`. With
            "pad", samples have a field `__mask__`, False where one is repeated.
        shuffle: False keeps the stored order.
        seed: Of the shuffle.
        window: Shards that samples are mixed over, see `audiomdb.plan.EpochPlan`.
        partitions: Groups of shards read side by side, see there. Part of the order.
        min_duration: Seconds; shorter clips are left out.
        max_duration: Seconds; longer ones are.
        where: What else is left out: False for a sample that is. The same in all ranks.
        rank: Which of `world_size` processes this is.
        world_size: Processes that share each step.
        worker: Which of `num_workers` this is, which make a rank's steps in turn.
        num_workers: Workers of the rank.
        num_threads: Threads that read, decode and process; 0 does it in the iterating one.
        fields: Only these fields. None: all.
        decode: Turn audio into float32 arrays `(frames,)` or `(frames, channels)`.
        sample_rate: Resample decoded audio to this rate in Hz.
        mono: Average the channels of decoded audio.
        processor: A `BaseProcessor`, several of them, or a function from sample to sample, applied
            last. Called from several threads.

    Raises:
        PlanError: a number of the plan is out of range, or `batch_size` cannot be shared.
        ValueError: another option is out of range.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | BaseRetriever | DatasetReader,
        batch_size: int,
        *,
        tail: Tail = "drop",
        shuffle: bool = False,
        seed: int = 0,
        window: int = 4,
        partitions: int = 1,
        min_duration: float | None = None,
        max_duration: float | None = None,
        where: Where | None = None,
        rank: int = 0,
        world_size: int = 1,
        worker: int = 0,
        num_workers: int = 1,
        num_threads: int = 4,
        fields: Collection[str] | None = None,
        decode: bool = True,
        sample_rate: int | None = None,
        mono: bool = False,
        processor: Processing | None = None,
    ) -> None:
        if num_threads < 0:
            raise ValueError(f"num_threads is {num_threads}, expected 0 or more")
        self._own: LocalRetriever | None = None
        if isinstance(source, str | os.PathLike):
            source = self._own = LocalRetriever(source)
        self._source: BaseRetriever | DatasetReader = source
        self._batch_size = batch_size
        self._tail: Tail = tail
        self._order = (seed, shuffle, window, partitions)
        self._filter = (min_duration, max_duration, where)
        self._selection: Selection | None = None
        # Refuse impossible numbers here, not in the middle of a training run.
        StepPlan(self._plan([], 0, None), batch_size, tail)
        Split(0, partitions, rank, world_size, worker, num_workers)
        check_shares(batch_size, partitions, world_size)
        self._share = (rank, world_size, worker, num_workers)
        self._num_threads = num_threads
        self._options = LoadOptions(
            fields=fields, decode=decode, sample_rate=sample_rate, mono=mono, processor=processor
        )

    def __enter__(self) -> StepStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def steps(self) -> int:
        """Steps in an epoch, the same for every rank.

        Raises:
            DatasetError: the dataset cannot be opened.
        """
        return self._steps(self._reader(), 0).steps

    def state(self, epoch: int = 0, step: int = 0) -> PlanState:
        """Return the place of a step."""
        reader = self._reader()
        plan = self._steps(reader, 0).plan
        assert isinstance(plan, EpochPlan)
        return PlanState.of(
            reader.metadata.fingerprint,
            {**plan.options, "batch_size": self._batch_size, "tail": self._tail},
            seed=self._order[0],
            epoch=epoch,
            next_step=step,
        )

    def read(
        self, start: PlanState | None = None, *, epochs: int | None = 1
    ) -> Generator[StepBatch, None, None]:
        """Yield this worker's steps from `start` on.

        Closing the generator, or dropping it, ends its threads. What fails is raised where its
        batch would have come, and ends it.

        Args:
            start: The first step of all workers together, a state of this plan. None: of epoch 0.
            epochs: Epochs, the one of `start` counted whole. None: without end.

        Raises:
            PlanError: `start` is of another plan; the message says what differs.
            DatasetError, AudioError, Exception: as iterating `SampleStream` does.
        """
        reader = self._reader()
        first = self.state() if start is None else start
        first.check(here := self.state())
        loader = SampleLoader(reader, self._options)
        padded = self._tail == "pad"
        place = self._share[:2]
        at_once = shards_at_once(self._plan_of(reader, first.epoch), *place)
        course = StepCourse(reader.follow(at_once), reader.counts, *place)
        coming: deque[tuple[int, PlanState]] = deque()

        def load(task: _Task) -> Sample:
            position, counts, visit = task
            with course.working(visit):
                sample = loader.load(position)
            if padded:
                sample[MASK] = counts
            return sample

        loaded = in_order(
            load,
            self._tasks(reader, first, here, epochs, course, coming),
            num_threads=0 if loader.only_copies else self._num_threads,
            weigh=lambda task: loader.weigh(task[0]),
            size=held_bytes,
            before_close=course.close,
        )
        try:
            with closing(loaded):
                yield from _batches(loaded, coming)
        finally:
            course.close()

    def close(self) -> None:
        """Let go of a dataset that was given as a folder; it is opened again when needed."""
        if self._own is not None:
            self._own.close()

    def _tasks(
        self,
        reader: DatasetReader,
        first: PlanState,
        here: PlanState,
        epochs: int | None,
        course: StepCourse,
        coming: deque[tuple[int, PlanState]],
    ) -> Iterator[_Task]:
        """Samples to load; before those of a step, how many they are and what follows it."""
        rank, world_size, worker, num_workers = self._share
        numbers: Iterable[int] = count(first.epoch)
        if epochs is not None:
            numbers = range(first.epoch, first.epoch + epochs)
        made = 0  # steps of all workers together
        for epoch, following in pairwise(_with_end(numbers)):
            assert epoch is not None, "None stands for the end"
            steps = self._steps(reader, epoch)
            if not steps.steps:
                return  # and never will be there any, though `epochs` may be endless
            begin = first.next_step if epoch == first.epoch else 0
            after = None if following is None else self._plan_of(reader, following)
            course.begin(steps, begin, after)
            mine = steps.worker_steps(begin, (worker - made) % num_workers, num_workers)
            for number in mine:
                positions, mask = steps.step(number, rank, world_size)
                last = number + 1 == steps.steps
                coming.append((len(positions), here.at(epoch + last, 0 if last else number + 1)))
                visits = course.draw(positions, number + num_workers)
                yield from zip(positions.tolist(), mask.tolist(), visits, strict=True)
            made += max(0, steps.steps - begin)

    def _reader(self) -> DatasetReader:
        return self._source if isinstance(self._source, DatasetReader) else self._source.open()

    def _plan(self, counts: list[int], epoch: int, selection: Selection | None) -> EpochPlan:
        seed, shuffle, window, partitions = self._order
        return EpochPlan(
            counts,
            seed=seed,
            epoch=epoch,
            shuffle=shuffle,
            window=window,
            partitions=partitions,
            selection=selection,
        )

    def _plan_of(self, reader: DatasetReader, epoch: int) -> EpochPlan:
        return self._plan(reader.counts, epoch, self._select(reader))

    def _steps(self, reader: DatasetReader, epoch: int) -> StepPlan:
        return StepPlan(self._plan_of(reader, epoch), self._batch_size, self._tail)

    def _select(self, reader: DatasetReader) -> Selection | None:
        low, high, where = self._filter
        if low is None and high is None and where is None:
            return None
        if self._selection is None:
            self._selection = select(
                reader.index, reader.counts, min_duration=low, max_duration=high, where=where
            )
        return self._selection


def _with_end(numbers: Iterable[int]) -> Iterator[int | None]:
    yield from numbers
    yield None


def _batches(
    samples: Iterable[Sample], coming: deque[tuple[int, PlanState]]
) -> Generator[StepBatch, None, None]:
    """Put samples together again. A step is in `coming` before its first sample is drawn."""
    batch: list[Sample] = []
    for sample in samples:
        while coming[0][0] == 0:
            yield StepBatch([], coming.popleft()[1])
        batch.append(sample)
        if len(batch) == coming[0][0]:
            yield StepBatch(batch, coming.popleft()[1])
            batch = []
    while coming:
        yield StepBatch([], coming.popleft()[1])
