"""All samples of a dataset in the order of a plan."""

from __future__ import annotations

import os
from collections.abc import Collection, Generator, Iterator
from types import TracebackType
from typing import TypeAlias
from weakref import WeakSet

from audiomdb.plan import EpochPlan, RankPlan, Tail
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.sample import Sample
from audiomdb.shards import DatasetReader
from audiomdb.stream.ahead import in_order
from audiomdb.stream.following import Follower, shards_at_once
from audiomdb.stream.loading import LoadOptions, Processing, SampleLoader, held_bytes

__all__ = ["MASK", "SampleStream"]

MASK = "__mask__"
"""With `tail="pad"`, whether a sample counts: False where it is repeated to fill up."""

_LAST_EPOCH = 2**32 - 1
"""The last that a plan can make; an endless stream ends before it."""

_BLOCK = 512
"""Positions drawn from the plan at a time."""


_Turn: TypeAlias = tuple[int, bool, int]
"""Position of a sample, whether it counts, and the visit to a shard it belongs to."""


class SampleStream:
    """Samples, decoded, in the order of a plan: for any framework, or none.

        with SampleStream("speech", shuffle=True, sample_rate=16000) as stream:
            for sample in stream:
                train(sample["audio"], sample["text"])

    Each iteration is an epoch (or `epochs` of them), and each is in a new order; the order depends
    on the options alone, not on threads. Iterations may run side by side. Whatever a sample holds
    belongs to the caller: arrays are writable and of their own memory.

    Making a stream reads nothing and starts nothing. Threads run while an iteration does: they are
    gone when it has ended, was closed, or its iterator was dropped. It pickles where its source
    and processor do; the copy starts with the same next epoch.

    Args:
        source: A dataset's folder, a retriever, or an open reader.
        num_threads: Threads that read, decode and process, beside the one that iterates; 0 does
            all of it there, and so does whatever neither decodes nor processes. Up to 256 samples
            or 64 MiB are held ready.
        shuffle: False keeps the stored order.
        seed: Of the shuffle.
        window: Shards that samples are mixed over, see `audiomdb.plan.EpochPlan`.
        rank: Which of `world_size` processes this is, each of which reads its share.
        world_size: Processes that share each epoch.
        worker: Which of `num_workers` this is, which share a rank's samples in turn.
        num_workers: Workers of the rank.
        tail: What becomes of samples that ranks cannot share evenly: "uneven" keeps them, "drop"
            leaves them out, "pad" fills up with repeats, whose field `__mask__` is False.
        fields: Only these fields. None: all.
        decode: Turn audio into float32 arrays `(frames,)` or `(frames, channels)`.
        sample_rate: Resample decoded audio to this rate in Hz.
        mono: Average the channels of decoded audio.
        processor: A `BaseProcessor`, several of them, or a function from sample to sample, applied
            last. Called from several threads.
        epochs: Epochs in one iteration. None: it never ends.

    Raises:
        PlanError: a number of the plan is out of range.
        ValueError: another option is.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | BaseRetriever | DatasetReader,
        *,
        num_threads: int = 4,
        shuffle: bool = False,
        seed: int = 0,
        window: int = 4,
        rank: int = 0,
        world_size: int = 1,
        worker: int = 0,
        num_workers: int = 1,
        tail: Tail = "uneven",
        fields: Collection[str] | None = None,
        decode: bool = True,
        sample_rate: int | None = None,
        mono: bool = False,
        processor: Processing | None = None,
        epochs: int | None = 1,
    ) -> None:
        if num_threads < 0:
            raise ValueError(f"num_threads is {num_threads}, expected 0 or more")
        if epochs is not None and epochs < 1:
            raise ValueError(f"epochs is {epochs}, expected 1 or more, or None for no end")
        self._own: LocalRetriever | None = None
        if isinstance(source, str | os.PathLike):
            source = self._own = LocalRetriever(source)
        self._source: BaseRetriever | DatasetReader = source
        self._num_threads = num_threads
        self._epochs = epochs
        self._order = (seed, shuffle, window)
        self._share = (rank, world_size, worker, num_workers, tail)
        self._options = LoadOptions(
            fields=fields, decode=decode, sample_rate=sample_rate, mono=mono, processor=processor
        )
        self._plan([], 0)  # refuses impossible numbers here, not in the middle of a training run
        self._next_epoch = 0
        self._running: WeakSet[Generator[Sample, None, None]] = WeakSet()

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_running"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _running=WeakSet())

    def __enter__(self) -> SampleStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Samples in one iteration, for this rank and worker.

        Raises:
            TypeError: with `epochs=None` it never ends.
        """
        if self._epochs is None:
            raise TypeError("a stream with epochs=None has no length")
        return self._epochs * len(self._plan(self._reader().counts, 0))

    def __getitem__(self, which: int | str) -> Sample:
        """The sample at a position in stored order (negative from the end), or of a key.

        Raises:
            IndexError: no such position.
            UnknownKeyError: no such key.
            DatasetError, AudioError, Exception: as iteration does.
        """
        reader = self._reader()
        position = reader.position(which) if isinstance(which, str) else which
        return SampleLoader(reader, self._options).load(position)

    def __iter__(self) -> Iterator[Sample]:
        """Begin the next epoch.

        What fails is raised where the sample would have come, as the exception it is, and ends
        the iteration.

        Raises:
            DatasetError: the dataset or one of its records is missing or damaged.
            AudioError: a clip cannot be decoded; shard and key are named.
            Exception: whatever the processor raises, with a note that names shard and key.
        """
        first = self._next_epoch
        self._next_epoch = first + (self._epochs or 1)
        epochs = range(first, _LAST_EPOCH if self._epochs is None else self._next_epoch)
        samples = self._samples(self._reader(), epochs)
        self._running.add(samples)
        return samples

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration begin with this epoch.

        Processes that share an epoch have to agree on it; they do without this as long as all of
        them begin each epoch.
        """
        self._next_epoch = epoch

    def close(self) -> None:
        """End the running iterations; the stream can be used again.

        A dataset that was given as a folder is let go of, too; a reader or retriever is its
        owner's. Not while another thread is inside `next`.
        """
        for samples in list(self._running):
            samples.close()
        if self._own is not None:
            self._own.close()

    def _reader(self) -> DatasetReader:
        return self._source if isinstance(self._source, DatasetReader) else self._source.open()

    def _epoch(self, counts: list[int], epoch: int) -> EpochPlan:
        seed, shuffle, window = self._order
        return EpochPlan(counts, seed=seed, epoch=epoch, shuffle=shuffle, window=window)

    def _plan(self, counts: list[int], epoch: int) -> RankPlan:
        return self._epoch(counts, epoch).for_rank(*self._share)

    def _samples(self, reader: DatasetReader, epochs: range) -> Generator[Sample, None, None]:
        loader = SampleLoader(reader, self._options)
        padded = self._share[-1] == "pad"
        counts = reader.counts
        first = self._epoch(counts, 0)
        course = reader.follow(shards_at_once(first, first.for_rank(*self._share).split))
        follower = Follower(course, counts)

        def load(turn: _Turn) -> Sample:
            position, counts, visit = turn
            if course is None:
                sample = loader.load(position)
            else:
                course.enter(visit)
                try:
                    sample = loader.load(position)
                finally:
                    course.leave(visit)
            if padded:
                sample[MASK] = counts
            return sample

        try:
            yield from in_order(
                load,
                self._turns(counts, epochs, follower),
                num_threads=0 if loader.only_copies else self._num_threads,
                weigh=lambda turn: loader.weigh(turn[0]),
                size=held_bytes,
                before_close=follower.close,
            )
        finally:
            follower.close()

    def _turns(self, counts: list[int], epochs: range, follower: Follower) -> Iterator[_Turn]:
        """Positions with their mask and visit, epoch after epoch."""
        for epoch in epochs:
            whole = self._epoch(counts, epoch)
            plan = whole.for_rank(*self._share)
            if not len(plan):
                return  # and never will be there anything, though `epochs` may be endless
            # Where this iteration ends, the next one is likely to go on.
            after = self._epoch(counts, min(epoch + 1, _LAST_EPOCH))
            follower.begin(whole, plan.split, after, continues=epoch + 1 in epochs)
            for start in range(0, len(plan), _BLOCK):
                positions, mask = plan.positions(start, start + _BLOCK)
                visits = follower.draw(positions, start + len(positions))
                yield from zip(positions.tolist(), mask.tolist(), visits, strict=True)
