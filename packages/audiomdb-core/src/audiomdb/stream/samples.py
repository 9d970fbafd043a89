"""All samples of a dataset, or of a mixture, in the order of a plan."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import closing
from itertools import repeat
from types import TracebackType
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import msgspec

from audiomdb.errors import PlanError
from audiomdb.plan import EpochPlan, MixPlan, PlanState, RankPlan, Split, Tail
from audiomdb.plan.checks import whole_number
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.sample import Sample
from audiomdb.stream.following import Follower, before_sample
from audiomdb.stream.loading import LoadOptions, Processing
from audiomdb.stream.reading import Reading, Selections
from audiomdb.stream.shares import ranks_here, which_of
from audiomdb.stream.sources import (
    Mixture,
    Origin,
    Part,
    Where,
    described,
    opened_by_us,
    refuse_impossible,
)
from audiomdb.stream.tails import say_dropped, say_empty, say_unread, tail_of_samples
from audiomdb.stream.work import MASK, Task, loaded

if TYPE_CHECKING:
    from audiomdb.stream.watch import Watch

__all__ = ["MASK", "SampleStream"]

_LAST_EPOCH = 2**32 - 1
"""The last that a plan can make; an endless stream ends before it."""

_BLOCK = 512
"""Positions drawn from the plan at a time."""


class _Place(msgspec.Struct):
    """Where an iteration stands."""

    epoch: int
    """In which it began."""

    first: int
    """At which of its samples there."""

    taken: int = 0
    """Samples handed out."""


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
        source: A dataset's folder, a retriever, or an open reader; or several, as a `Mixture`, or
            one as a `Part`, which say themselves what the options from `shuffle` to `where` and
            from `fields` to `processor` are.
        num_threads: Threads that read, decode and process, beside the one that iterates; 0 does
            all of it there, and so does whatever neither decodes nor processes. Up to 256 samples
            or 64 MiB are held ready.
        shuffle: False keeps the stored order.
        seed: Of the shuffle.
        window: Shards that samples are mixed over, see `audiomdb.plan.EpochPlan`.
        min_duration: Seconds; shorter clips are left out.
        max_duration: Seconds; longer ones are.
        where: What else is left out: `(samples,)` bool, False for a sample that is, or a function
            that makes it from the index's columns. The same in all ranks.
        partitions: Groups of shards read side by side, see `EpochPlan`. Part of the order.
        rank: Which of `world_size` processes this is, each of which reads its share.
        world_size: Processes that share each epoch. More than one have to say their `rank`.
        worker: Which of `num_workers` this is, which share a rank's samples in turn.
        num_workers: Workers of the rank. More than one have to say their `worker`.
        tail: What becomes of samples that ranks cannot share evenly: "uneven" keeps them, "drop"
            leaves them out, "pad" fills up with repeats, whose field `__mask__` is False. None:
            "uneven" for one rank alone, which shares with nobody, and "drop" for several, so that
            all have equally many.
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
        source: Origin | Part | Mixture,
        *,
        num_threads: int = 4,
        shuffle: bool = False,
        seed: int = 0,
        window: int = 4,
        min_duration: float | None = None,
        max_duration: float | None = None,
        where: Where | None = None,
        partitions: int = 1,
        rank: int | None = None,
        world_size: int = 1,
        worker: int | None = None,
        num_workers: int = 1,
        tail: Tail | None = None,
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
        rank = which_of("rank", rank, "world_size", world_size)
        worker = which_of("worker", worker, "num_workers", num_workers)
        what = described(
            source,
            shuffle=shuffle,
            window=window,
            min_duration=min_duration,
            max_duration=max_duration,
            where=where,
            load=LoadOptions(
                fields=fields,
                decode=decode,
                sample_rate=sample_rate,
                mono=mono,
                processor=processor,
            ),
        )
        # Refuse impossible numbers here, not in the middle of a training run.
        refuse_impossible(what, seed=seed, partitions=partitions)
        self._tail = tail
        self._split = Split(
            0, partitions, rank, world_size, worker, num_workers, tail_of_samples(tail, world_size)
        )
        self._says = rank == worker == 0
        self._own: BaseRetriever | None = None
        self._what, self._made = opened_by_us(what)
        self._seed = seed
        self._num_threads = num_threads
        self._epochs = epochs
        self._selections: Selections = {}
        self._next = (0, 0)
        self._place: _Place | None = None
        self._known: tuple[PlanState, int] | None = None
        self._running: WeakSet[Generator[Sample, None, None]] = WeakSet()

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_running"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _running=WeakSet())

    def __repr__(self) -> str:
        what = self._what
        source = what.origin if isinstance(what, Part) else what
        return f"<SampleStream of {source!r}, next epoch {self._next[0]}>"

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
        return self._epochs * len(self._of(self._plan(self._reading(), 0)))

    @property
    def dropped(self) -> int:
        """Samples of each epoch that no rank gets, over all of them; fewer than there are ranks.

        Raises:
            DatasetError: the dataset cannot be opened.
        """
        return self._of(self._plan(self._reading(), 0)).split.dropped

    def __getitem__(self, which: int | str) -> Sample:
        """The sample at a position in stored order (negative from the end), or of a key.

        In a mixture, positions are numbered through, and the first dataset that has the key counts.

        Raises:
            IndexError: no such position.
            UnknownKeyError: no such key.
            DatasetError, AudioError, Exception: as iteration does.
        """
        reading = self._reading()
        return reading.load(reading.find(which), 0, None)

    def __iter__(self) -> Iterator[Sample]:
        """Begin the next epoch, or go on where a loaded state stands.

        What fails is raised where the sample would have come, as the exception it is, and ends
        the iteration.

        Raises:
            DatasetError: the dataset or one of its records is missing or damaged.
            AudioError: a clip cannot be decoded; shard and key are named.
            Exception: whatever the processor raises, with a note that names shard and key.
        """
        if self._says:
            self._says = False
            self.say_dropped()
        return self.samples()

    def say_dropped(self) -> None:
        """Log how many samples an epoch does without, if any, and what it has nothing of.

        Rank 0 does when it first begins.
        """
        reading = self._reading()
        plan = self._plan(reading, 0)
        split = self._of(plan).split
        say_empty(split.total, len(reading), reading.names)
        say_unread(reading.unread(plan), split.total)
        why = f"{split.world_size} ranks have equal shares"
        say_dropped(split.dropped, split.total, why, asked_for=self._tail is not None)

    def samples(
        self, watch: Watch | None = None, *, until: int | None = None
    ) -> Generator[Sample, None, None]:
        """Do the same as `iter`, watched, and without a word of what is dropped.

        Args:
            watch: Told what threads are at.
            until: The epoch that ends it, unread. None: as many are read as the stream says.
        """
        epoch, first = self._next
        if until is None and self._epochs is not None:
            until = epoch + self._epochs
        self._next = (epoch + 1 if until is None else until, 0)
        place = self._place = _Place(epoch, first)
        epochs = range(epoch, _LAST_EPOCH if until is None else until)
        samples = self._samples(self._reading(watch), epochs, place, watch)
        self._running.add(samples)
        return samples

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration begin with this epoch.

        Processes that share an epoch have to agree on it; they do without this as long as all of
        them begin each epoch.

        Raises:
            PlanError: it is no number from 0 to 2**32 - 1.
        """
        epoch = whole_number("epoch", epoch, high=_LAST_EPOCH)
        self._next, self._place = (epoch, 0), None

    def state_dict(self, *, of_pass: bool = False) -> dict[str, Any]:
        """Return where the sample after the last one handed out is, by the last iteration begun.

        Under 1 kB of plain data. Other ranks that have handed out as many samples have the same.

        Args:
            of_pass: Where an epoch is over, return its end, where nothing is left of it, instead of
                the beginning of the next.
        """
        here, each = self._beginning()
        epoch, first = self._next
        if (place := self._place) is not None:
            done = place.first + place.taken
            epochs, first = divmod(done, each) if each else (0, 0)
            if of_pass and done and not first:
                epochs, first = epochs - 1, each
            epoch = place.epoch + epochs
        world = {"world_size": self._split.world_size, "num_workers": self._split.num_workers}
        return {**here.at(epoch, first).to_dict(), **world}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration go on from a state: the rest of its epoch.

        The numbers of ranks and workers may be others where an epoch begins. In the middle of one
        the number of ranks may, without workers, where the ranks share what was read evenly. (Of
        `StepStream` they may be others anywhere.)

        Raises:
            PlanError: the state is of another plan, or of a world whose place is none in this one.
                The message says what differs.
        """
        then = PlanState.from_dict(state)
        if missing := [name for name in ("world_size", "num_workers") if name not in state]:
            raise PlanError(
                f"the state lacks {', '.join(missing)}: it is not that of a stream of samples"
            )
        then.check(self._beginning()[0])
        split = self._of(self._plan(self._reading(), then.epoch)).split
        first = then.next_step
        if (state["world_size"], state["num_workers"]) != (split.world_size, split.num_workers):
            first = split.place_of(first, state["world_size"], state["num_workers"])
        self._next = (then.epoch, first)
        self._place = _Place(*self._next)

    def plan(self, epoch: int = 0) -> EpochPlan | MixPlan:
        """Return the order of an epoch, of all ranks together."""
        return self._plan(self._reading(), epoch)

    def close(self) -> None:
        """End the running iterations; the stream can be used again.

        A dataset that was given as a folder is let go of, too; a reader or retriever is its
        owner's. Not while another thread is inside `next`.
        """
        for samples in list(self._running):
            samples.close()
        for retriever in self._made:
            retriever.close()
        if self._own is not None:
            self._own.close()

    def _reading(self, watch: Watch | None = None) -> Reading:
        return Reading(self._what, self._selections, watch)

    def _plan(self, reading: Reading, epoch: int) -> EpochPlan | MixPlan:
        return reading.plan(seed=self._seed, epoch=epoch, partitions=self._split.partitions)

    def _of(self, plan: EpochPlan | MixPlan) -> RankPlan:
        split = self._split
        return plan.for_rank(
            split.rank, split.world_size, split.worker, split.num_workers, split.tail
        )

    def _beginning(self) -> tuple[PlanState, int]:
        """The state of epoch 0, and the samples of each epoch for this rank and worker."""
        if self._known is None:
            reading = self._reading()
            plan = self._plan(reading, 0)
            # As it was given: what it is for this world is no part of the order.
            options = {**plan.options, "tail": self._tail}
            here = reading.state(options, seed=self._seed)
            self._known = here, len(self._of(plan))
        return self._known

    def _samples(
        self, reading: Reading, epochs: range, place: _Place, watch: Watch | None
    ) -> Generator[Sample, None, None]:
        split = self._split

        def at_once() -> list[int]:
            met = len(split.partitions_met)
            return [met * shards for shards in self._plan(reading, epochs.start).window_shards]

        follower = Follower(
            reading,
            at_once,
            watch,
            workers=split.num_workers,
            ranks=ranks_here(split.world_size) or 1,
        )
        try:
            samples = loaded(
                reading,
                follower,
                self._tasks(reading, epochs, place.first, follower),
                num_threads=self._num_threads,
                marked=split.tail == "pad",
                watch=watch,
            )
            with closing(samples):
                for sample in samples:
                    place.taken += 1
                    yield sample
        finally:
            follower.close()

    def _tasks(
        self, reading: Reading, epochs: range, first: int, follower: Follower
    ) -> Iterator[Task]:
        """Positions with their mask, visit and epoch, epoch after epoch."""
        for epoch in epochs:
            whole = self._plan(reading, epoch)
            plan = self._of(whole)
            if not len(plan):
                return  # and never will be there anything, though `epochs` may be endless
            if follower.active:
                # Where this iteration ends, the next one is likely to go on.
                after = self._plan(reading, min(epoch + 1, _LAST_EPOCH))
                follower.begin(
                    before_sample(whole, plan.split, first),
                    before_sample(after, plan.split, 0),
                    continues=epoch + 1 in epochs,
                )
            for start in range(first, len(plan), _BLOCK):
                positions, mask = plan.positions(start, start + _BLOCK)
                front = None
                if follower.active:
                    front = before_sample(whole, plan.split, start + len(positions))
                visits = follower.draw(positions, front)
                yield from zip(
                    positions.tolist(), mask.tolist(), visits, repeat(epoch), repeat(None)
                )
            first = 0
