"""Stream the samples of a dataset or a mixture in the order of a plan."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ref

import msgspec

from audiomdb.errors import PlanError
from audiomdb.plan import Order, PlanState, RankPlan, Tail
from audiomdb.plan.bits import EPOCHS
from audiomdb.plan.checks import EPOCHS_OPTION, whole_number
from audiomdb.plan.occurrences import positions_of, repeats_of
from audiomdb.sample import Sample
from audiomdb.stream.following import Follower, before_sample
from audiomdb.stream.load_options import LoadOptions, OnError, Processing
from audiomdb.stream.planned import PlannedStream
from audiomdb.stream.reading import Reading
from audiomdb.stream.shares import share_of
from audiomdb.stream.skipping import LeftOut
from audiomdb.stream.sources import Mixture, Origin, Part, Where
from audiomdb.stream.tails import log_left_out, tail_of_samples
from audiomdb.stream.work import MASK, Task, loading

if TYPE_CHECKING:
    from audiomdb.stream.watch import Watch

__all__ = ["MASK", "SampleStream"]

_S = TypeVar("_S", bound="SampleStream")

_LAST_EPOCH = EPOCHS - 1
"""The last epoch that a plan can make. An endless stream ends before it."""

_BLOCK = 512
"""Number of positions drawn from the plan at a time."""


class _Place(msgspec.Struct):
    """The place of an iteration."""

    epoch: int
    """Epoch in which the iteration began."""

    first: int
    """Number of the sample in that epoch with which it began."""

    taken: int = 0
    """Number of samples yielded."""

    def reached(self, each: int, *, of_pass: bool = False) -> tuple[int, int]:
        """Return the epoch and the number of the next sample, with `each` samples in an epoch.

        Args:
            each: Number of samples in an epoch.
            of_pass: At the end of an epoch, return that instead of the beginning of the next one.
        """
        done = self.first + self.taken
        epochs, first = divmod(done, each) if each else (0, 0)
        if of_pass and done and not first:
            epochs, first = epochs - 1, each
        return self.epoch + epochs, first


class SampleStream(PlannedStream):
    """Iterates over decoded samples in the order of a plan, independently of any framework.

        with SampleStream("speech", shuffle=True, sample_rate=16000) as stream:
            for sample in stream:
                train(sample["audio"], sample["text"])

    Each iteration reads an epoch (or `epochs` of them), each in a new order. The order depends only
    on the options, not on threads. Several iterations may run concurrently. Samples belong to the
    caller: arrays are writable and own their memory.

    Creating a stream reads nothing and starts no threads. An iteration's threads end when it is
    exhausted or closed, or when its iterator is garbage-collected. A stream can be pickled if its
    source and processor can; the copy starts with the same next epoch.

    Args:
        source: A dataset's URL or folder, a retriever, or an open reader. Or several datasets as a
            `Mixture`, or one as a `Part`: these have the options from `shuffle` to `where` and from
            `fields` to `processor` themselves.
        num_threads: Threads that read, decode and process, besides the iterating thread; 0 does all
            work in the iterating thread, as does a stream that neither decodes nor processes. Up to
            256 samples or 32 MiB are held ready.
        shuffle: Whether to shuffle. False keeps the stored order.
        seed: Seed of the shuffle.
        window: Number of shards that samples are mixed over, see `audiomdb.plan.EpochPlan`.
        min_duration: Duration in seconds below which clips are left out.
        max_duration: Duration in seconds above which clips are left out.
        where: Selection of samples: a bool array `(samples,)`, or a function that makes it from the
            columns of the index. Samples with False are left out. It must be the same in all ranks.
        partitions: Groups of shards that are read in parallel, see `EpochPlan`. Part of the order.
        rank: Rank of this process, which reads its share. Required if `world_size` is not 1.
        world_size: Number of processes that share each epoch.
        worker: Index of this worker; workers take the samples of their rank in turn. Required if
            `num_workers` is not 1.
        num_workers: Number of workers of the rank.
        tail: What happens to samples that ranks cannot share evenly: "uneven" keeps them, "drop"
            leaves them out, "pad" adds repeated samples, whose field `__mask__` is False. None:
            "uneven" for a single rank, and "drop" for several, so that all get the same number.
        fields: Fields to load besides the key. None: all.
        decode: Whether to decode audio to float32 arrays `(frames,)` or `(frames, channels)`.
        sample_rate: Resample decoded audio to this rate in Hz.
        mono: Average the channels of decoded audio.
        processor: A `BaseProcessor`, several, or a function from sample to sample, applied last.
        on_error: "skip" leaves out samples that fail; see `LoadOptions`.
            Called from several threads.
        epochs: Epochs in one iteration. None: an iteration never ends.

    Raises:
        PlanError: a number of the plan is out of range.
        UnknownSchemeError, InvalidURLError, BackendError: as in `open_dataset`, for a URL.
        ValueError: another option is out of range.
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
        on_error: OnError = "raise",
        epochs: int | None = 1,
    ) -> None:
        self._epochs = None if epochs is None else whole_number(EPOCHS_OPTION, epochs, low=1)
        split = share_of(
            partitions, rank, world_size, worker, num_workers, tail_of_samples(tail, world_size)
        )
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
        self._tail = tail
        self._next = (0, 0)
        self._place: _Place | None = None
        self._known: tuple[str, PlanState, int] | None = None
        # Not a WeakSet: a Ctrl-C that hits its callback, which is written in Python, would be lost.
        self._running: list[ref[Generator[Sample, None, None]]] = []

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_running"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _running=[])

    def __enter__(self: _S) -> _S:  # noqa: PYI019
        return self

    def __len__(self) -> int:
        """Return the number of samples in one iteration, for this rank and worker.

        Raises:
            TypeError: with `epochs=None`, an iteration never ends.
        """
        if self._epochs is None:
            raise TypeError("a stream with epochs=None has no length")
        return self._epochs * len(self._of(self._plan(self._reading(), 0)))

    @property
    def dropped(self) -> int:
        """Number of samples of each epoch that no rank gets, fewer than the world size.

        Raises:
            DatasetError: the dataset cannot be opened.
        """
        return self._of(self._plan(self._reading(), 0)).split.dropped

    def __contains__(self, key: object) -> bool:
        """Whether there is a sample with this key, filtered out or not; reads no sample."""
        return key in self._reading()

    def __getitem__(self, which: int | str) -> Sample:
        """Return the sample at a position in stored order (negative from the end), or with a key.

        The positions of a mixture run through its datasets in order, and a key is that of the first
        dataset that has it.

        Raises:
            IndexError: there is no such position.
            UnknownKeyError: there is no such key.
            DatasetError, AudioError, Exception: as in iteration.
        """
        reading = self._reading()
        return reading.load(reading.find(which), 0, 0, None)

    def __iter__(self) -> Iterator[Sample]:
        """Begin the next epoch, or resume from a loaded state.

        An exception is raised unchanged where the sample would have come, and ends the iteration.

        Raises:
            DatasetError: the dataset or one of its records is missing or damaged.
            AudioError: a clip cannot be decoded; the message names shard and key.
            Exception: any exception of the processor, with a note that names shard and key.
        """
        if self._says:
            self.log_dropped()
            self._says = False
        return self.samples()

    def log_dropped(self) -> None:
        """Log how many samples an epoch drops, and warn of datasets from which it reads nothing.

        Called on rank 0 when the first iteration begins.
        """
        reading = self._reading()
        plan = self._plan(reading, 0)
        why = f"{self._split.world_size} ranks have equal shares"
        dropped = self._of(plan).split.dropped
        log_left_out(reading, plan, dropped, why, asked_for=self._tail is not None)

    def samples(
        self, watch: Watch | None = None, *, until: int | None = None
    ) -> Generator[Sample, None, None]:
        """Iterate as `iter` does, observed by a `Watch`, but without logging dropped samples.

        Args:
            watch: Records what the threads do.
            until: Epoch before which the iteration ends. None: it ends after `epochs` epochs.
        """
        reading = self._reading(watch)  # first: an error here takes no epoch
        epoch, first = self._beginning_of_next()
        if until is None and self._epochs is not None:
            until = epoch + self._epochs
        self._next = (epoch + 1 if until is None else until, 0)
        place = self._place = _Place(epoch, first)
        epochs = range(epoch, _LAST_EPOCH if until is None else until)
        samples = self._samples(reading, epochs, place, watch)
        self._running = [*(one for one in self._running if one() is not None), ref(samples)]
        return samples

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration begin with this epoch.

        Processes that share an epoch must agree on it. They do so without this method as long as
        all of them begin each epoch.

        Raises:
            PlanError: `epoch` is not a whole number from 0 to 2**32 - 1.
        """
        epoch = whole_number("epoch", epoch, high=_LAST_EPOCH)
        self._next, self._place = (epoch, 0), None

    def state_dict(self, *, of_pass: bool = False) -> dict[str, Any]:
        """Return the place of the next sample of the iteration begun last, to resume from.

        Under 1 kB of plain data. It is the same for other ranks that have yielded as many samples.

        Args:
            of_pass: At the end of an epoch, return that end, with nothing left to read, instead of
                the beginning of the next epoch.
        """
        here, each = self._beginning()
        epoch, first = self._next
        if self._place is not None:
            epoch, first = self._place.reached(each, of_pass=of_pass)
        world = {"world_size": self._split.world_size, "num_workers": self._split.num_workers}
        return {**here.at(epoch, first).to_dict(), **world}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration resume from a state and read the rest of its epoch.

        That epoch counts as one of `epochs`.

        At the beginning of an epoch, the numbers of ranks and workers may differ from those of the
        state. Within an epoch, the number of ranks may differ if there are no workers and the ranks
        have read equal shares. (`StepStream` can resume anywhere with other numbers.)

        Raises:
            PlanError: the state is of another plan, or its place does not exist with these numbers
                of ranks and workers. The message says what differs.
        """
        then = PlanState.from_dict(state)
        if missing := [name for name in ("world_size", "num_workers") if name not in state]:
            raise PlanError(
                f"the state lacks {', '.join(missing)}: it is not that of a stream of samples"
            )
        world = [
            whole_number(f"{name} of the state", state[name], low=1)
            for name in ("world_size", "num_workers")
        ]
        reading = self._reading()  # first: it may be of another dataset than what is known
        then.check(self._beginning()[0])
        split = self._of(self._plan(reading, then.epoch)).split
        first = then.next_step
        there = split.in_world(world[0], world[1], tail_of_samples(self._tail, world[0]))
        if first > len(there):
            raise PlanError(
                f"the state is at sample {first} of an epoch of {len(there)}: no run has left it"
            )
        if world != [split.world_size, split.num_workers]:
            first = split.place_of(first, *world)
        self._next = (then.epoch, first)
        self._place = _Place(*self._next)

    def plan(self, epoch: int = 0) -> Order:
        """Return the order of an epoch over all ranks."""
        return self._plan(self._reading(), epoch)

    def close(self) -> None:
        """End the running iterations; the stream can be used again.

        A dataset that was given as a URL or folder is closed too; readers and retrievers that were
        passed in stay open, unless they were adopted. Must not be called while another thread is
        inside `next`.
        """
        for one in self._running:
            if (samples := one()) is not None:
                samples.close()
        super().close()

    def _reading(self, watch: Watch | None = None) -> Reading:
        reading = super()._reading(watch)
        if self._known is not None and self._known[0] != reading.fingerprint:
            self._known = None
        return reading

    def _of(self, plan: Order) -> RankPlan:
        split = self._split
        return plan.for_rank(
            split.rank, split.world_size, split.worker, split.num_workers, split.tail
        )

    def _beginning_of_next(self) -> tuple[int, int]:
        """Return the epoch and the number of the sample with which the next iteration begins."""
        place = self._place
        if self._epochs is not None or place is None or not place.taken:
            return self._next
        epoch, first = place.reached(self._beginning()[1])
        return epoch + (first > 0), 0  # an epoch that was begun does not come again

    def _beginning(self) -> tuple[PlanState, int]:
        """Return the state of epoch 0, and the samples of each epoch for this rank and worker."""
        if self._known is None:
            reading = self._reading()
            plan = self._plan(reading, 0)
            # The option as given: what None stands for depends on the world, which is no part of
            # the order.
            options = {**plan.options, "tail": self._tail}
            here = reading.state(options, seed=self._seed)
            self._known = reading.fingerprint, here, len(self._of(plan))
        return self._known[1:]

    def _samples(
        self, reading: Reading, epochs: range, place: _Place, watch: Watch | None
    ) -> Generator[Sample, None, None]:
        split = self._split

        def at_once() -> list[int]:
            met = len(split.partitions_met)
            return [met * shards for shards in self._plan(reading, epochs.start).window_shards]

        samples = loading(
            reading,
            partial(self._tasks, reading, epochs, place.first),
            split,
            at_once,
            num_threads=self._num_threads,
            marked=split.tail == "pad",
            watch=watch,
        )
        with samples as in_order:
            for sample in in_order:
                place.taken += 1
                if not isinstance(sample, LeftOut):
                    yield sample
                elif watch is not None:
                    watch.left_out += 1

    def _tasks(
        self, reading: Reading, epochs: range, first: int, follower: Follower
    ) -> Iterator[Task]:
        """Yield the tasks of all epochs in order: positions with mask, visit and epoch."""
        for epoch in epochs:
            whole = self._plan(reading, epoch)
            plan = self._of(whole)
            if not len(plan):
                return  # every epoch is empty, though `epochs` may be endless
            if follower.active:
                # The iteration after this one probably continues with the next epoch.
                after = self._plan(reading, min(epoch + 1, _LAST_EPOCH))
                follower.begin(
                    before_sample(whole, plan.split, first),
                    before_sample(after, plan.split, 0),
                    continues=epoch + 1 in epochs,
                )
            for start in range(first, len(plan), _BLOCK):
                occurrences, mask = plan.occurrences(start, start + _BLOCK)
                positions = positions_of(occurrences)
                front = None
                if follower.active:
                    front = before_sample(whole, plan.split, start + len(positions))
                visits = follower.draw(positions, front)
                yield from zip(
                    positions.tolist(),
                    mask.tolist(),
                    visits,
                    repeat(epoch),
                    repeats_of(occurrences).tolist(),
                    repeat(None),
                )
            first = 0
