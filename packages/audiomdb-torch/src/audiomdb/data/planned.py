"""Define `PlannedDataset`, the base of the datasets for torch that are read in a plan's order."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from audiomdb.checks import check_function
from audiomdb.data.batches import END, BatchPass, Collate, Standing, check_workers, of_a_worker
from audiomdb.data.collate import PaddingSample
from audiomdb.data.epochs import EpochCounter, Pass
from audiomdb.data.frameworks import split_by_framework
from audiomdb.data.mapped import MapView
from audiomdb.data.monitor import Monitor
from audiomdb.data.passes import log_discarded
from audiomdb.data.world import distributed_place, environment_place, known_nodes, nodes_of
from audiomdb.errors import PlanError
from audiomdb.plan import PlanState, Tail
from audiomdb.plan.bits import EPOCHS
from audiomdb.plan.checks import EPOCHS_OPTION, whole_number
from audiomdb.plan.order import read_twice
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.stream import (
    BySeconds,
    Mixture,
    Part,
    SampleStream,
    Stall,
    StepStream,
    StreamStats,
)
from audiomdb.stream.findings import Findings
from audiomdb.stream.portable import portable
from audiomdb.stream.reading import Reading
from audiomdb.stream.sources import parts_of
from audiomdb.stream.watch import Watch, Whose

__all__ = ["PlannedDataset", "check_planned"]


class PlannedDataset(IterableDataset[Any]):
    """Base class of `StreamingDataset` and `CombinedDataset`.

    Args:
        what: The dataset or mixture to read; origins are retrievers or readers.
        num_threads: Threads that decode, in each worker.
        seed: Seed of everything random in the order.
        batch_size: Samples in a step over all ranks; None: samples come one by one.
        collate_fn: Function from a list of samples to a batch, with `batch_size`.
        rank: Rank of this training process.
        world_size: Number of training processes.
        partitions: Groups of shards that are read in parallel; None: the number of nodes.
        tail: What happens to samples that ranks cannot share evenly; None: "uneven" for one rank,
            "drop" for several, and with `batch_size` "drop" for any number.
        epochs: Epochs in one pass; None: a pass never ends.
        stall_after_s: Seconds of waiting after which the cause is logged; None: never.
        on_stall: Called with each `Stall`.

    Raises:
        PlanError: a number of the plan is out of range.
        ValueError: another option is out of range.
        TypeError: `collate_fn` or `on_stall` is no function.
    """

    def __init__(
        self,
        what: Part | Mixture,
        *,
        num_threads: int,
        seed: int,
        batch_size: int | None,
        collate_fn: Collate,
        rank: int | None,
        world_size: int | None,
        partitions: int | None,
        tail: Tail | None,
        epochs: int | None,
        stall_after_s: float | None = 10.0,
        on_stall: Callable[[Stall], Any] | None = None,
    ) -> None:
        if (rank is None) != (world_size is None):
            raise ValueError(
                f"rank={rank} and world_size={world_size}: give both, or neither to have them found"
            )
        self.what = what
        self.num_threads = num_threads
        self.seed = seed
        self.batch_size = batch_size
        self.partitions = partitions
        self.tail = tail
        self.epochs = None if epochs is None else whole_number(EPOCHS_OPTION, epochs, low=1)
        self.given_place: tuple[int, int] | None = None
        if rank is not None and world_size is not None:
            self.given_place = (rank, world_size)
        self.monitor = Monitor(stall_after_s, on_stall)
        check_function("collate_fn", collate_fn)
        self.collate_fn = collate_fn
        self._makers_place: tuple[int, int] | None = None
        self._kept_partitions: int | None = None
        self._epochs = EpochCounter()
        self._own_start: Mapping[str, Any] | None = None
        self._at: tuple[int, Callable[[], dict[str, Any]]] | None = None
        # Workers that are forked or started later know what is known here: a pass over the index of
        # a large corpus takes seconds, for each of them and each epoch.
        self._findings = Findings()
        self._pass_stream(self.given_place or (0, 1))  # refuses impossible options now

    def __getstate__(self) -> dict[str, Any]:
        # A worker that is not forked has neither the torch.distributed state nor the callers of
        # this process, so the place is determined here.
        collate_fn = portable(self.collate_fn)
        return {**vars(self), "collate_fn": collate_fn, "_makers_place": self.place(), "_at": None}

    def __repr__(self) -> str:
        origins = ", ".join(repr(part.origin) for part in parts_of(self.what))
        return f"<{type(self).__name__} of {origins}>"

    def __len__(self) -> int:
        """Return the samples (with `batch_size`, batches) of this rank's workers in one pass.

        A loader that makes batches itself in several workers may yield more than its `len()`,
        because the last batch of each worker may not be full.

        Raises:
            TypeError: `epochs` is None, so a pass never ends.
        """
        if self.epochs is None:
            raise TypeError("a dataset with epochs=None has no length")
        stream = self._pass_stream(self.place())
        if isinstance(stream, SampleStream):
            return len(stream)
        return stream.batches_in(0, self.epochs)

    @property
    def dropped(self) -> int:
        """Samples of each epoch that no rank gets, because of `tail="drop"`.

        Fewer than the world size; with `batch_size`, fewer than the batch size.
        """
        return self._pass_stream(self.place()).dropped

    def __contains__(self, key: object) -> bool:
        """Whether there is a sample with this key, filtered out or not; reads no sample."""
        return key in Reading(self.what, self._findings)

    def __getitem__(self, which: int | str) -> PaddingSample:
        """Return the sample at a position in stored order (negative from the end), or of a key.

        Positions run on from one dataset to the next; a key is taken from the first that has it.
        Filters and ranks, by which `len` goes, leave none out: use `as_map` with torch's samplers,
        `Subset` and `random_split`.
        """
        return PaddingSample(self.samples((0, 1))[which])

    def __iter__(self) -> Iterator[Any]:
        """Begin a pass over the samples, or batches, of this rank and worker in the next epoch.

        An error is raised in place of the sample that failed, and ends the pass: an exception of
        the dataset or its audio names shard and key; one of the processor carries them in a note.

        Making an iterator without asking it for an item begins no pass, except in a worker of a
        DataLoader.
        """
        self.place()  # raises now if the rank cannot be determined
        # torchdata's StatefulDataLoader makes iterators only for their state.
        return self._begun() if get_worker_info() is not None else self._begun_when_asked()

    def _begun_when_asked(self) -> Generator[Any, None, None]:
        yield from self._begun()

    def _begun(self) -> Generator[Any, None, None]:
        Reading(self.what, self._findings)  # first: an error here takes no epoch
        self._pass_over_what_was_begun()
        own, self._own_start = self._own_start, None
        # Workers that were given states of their own agree on the end of the pass.
        at = None if own is None else Pass(int(own["epoch"]), own, self._end(own))
        begun = self._epochs.take(self.epochs, at)
        start = begun.start if own is None else own
        self._keep_partitions(start)
        worker = get_worker_info()
        place = self.place()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        stream = self._pass_stream(place, number, workers)
        if number == 0:
            self.warn_of_nodes(place)
            if place[0] == 0 and self._epochs.first_to("say what is dropped"):
                stream.log_dropped()
        watch = Watch(Whose(*place, None if worker is None else number))
        made_by: SampleStream | BatchPass
        if isinstance(stream, StepStream):
            made_by = BatchPass(stream, begun.epoch, start, number, workers)
            made = made_by.made(self.collate_fn, begun.until, watch)
        else:
            made_by = stream
            stream.set_epoch(begun.epoch)
            if start is not None:
                stream.load_state_dict(start)
            made = _padding(stream, watch, begun.until)
        standing = Standing(made_by, in_worker=worker is not None, until=begun.until)
        self._at = os.getpid(), standing.state_dict
        return self._followed(standing.noted(made), watch)

    def _pass_over_what_was_begun(self) -> None:
        """After a pass without end that this process has read, go to the next epoch after it."""
        if self.epochs is not None or self._at is None or self._at[0] != os.getpid():
            return
        if get_worker_info() is None and not self._epochs.taken_by_workers:
            state = self._at[1]()
            first = state["epoch"] + (state["next_step"] > 0)
            if first > self._epochs.next_epoch:
                self._epochs.set(first)

    def _end(self, state: Mapping[str, Any]) -> int | None:
        """Return the epoch that ends the pass of a state; None if state or dataset has no end."""
        end = state.get(END)
        return None if end is None or self.epochs is None else int(end)

    def as_map(self) -> MapView:
        """Return a map-style view for samplers, not split over ranks; see `MapView`."""
        return MapView(self.what, num_threads=self.num_threads)

    def stats(self) -> StreamStats:
        """Return how long the passes over this dataset have waited, by cause, with advice.

        Covers all passes of this training process and its workers, which report a few times a
        second and when a pass ends. Passes of a `StreamingLoader` are counted by the loader.
        """
        return self.monitor.stats(self.retrievers)

    @property
    def retrievers(self) -> list[BaseRetriever]:
        """The retrievers of the datasets."""
        origins = [part.origin for part in parts_of(self.what)]
        return [origin for origin in origins if isinstance(origin, BaseRetriever)]

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next pass, from 0; call it in every rank before the pass.

        The pass begins with the epoch of the same number, unless a pass has several `epochs`: with
        `epochs=5`, pass 1 begins with epoch 5.

        Not needed as long as every rank begins every pass. Frameworks call it before each pass, so
        a loaded state from within this pass is kept and resumed. Any other is discarded, with a
        warning of the logger `audiomdb.stream`.

        Raises:
            PlanError: `epoch`, or the epoch that the pass begins with, is not a number from 0 to
                2**32 - 1.
        """
        number = whole_number("epoch", epoch, high=EPOCHS - 1)
        first = whole_number("epoch", number * (self.epochs or 1), high=EPOCHS - 1)
        end = None if self.epochs is None else first + self.epochs
        loaded = self._own_start or self._epochs.next.start
        if loaded is not None:
            at = int(loaded["epoch"])
            if first <= at and (end is None or at < end):
                if self._own_start is None:
                    self._epochs.set(at, loaded, end)
                return
            if self.place()[0] == 0:
                log_discarded(at, first)
        self._epochs.set(first)
        self._at = self._own_start = None

    def state_dict(self) -> dict[str, Any]:
        """Return the place after the last sample, or batch, that this process has yielded.

        Under 1 kB of plain data. In a worker of a DataLoader, the state is that of this worker
        alone; a loader such as torchdata's `StatefulDataLoader` collects the states, which need the
        same number of workers. Such a state includes the end of the pass: after the last batch,
        nothing of the pass is left. Any other state after the end of an epoch is the start of the
        next epoch.

        Raises:
            PlanError: workers of a plain `DataLoader` have read the last pass, and do not report
                what the loop has received from them.
        """
        if self._own_start is not None:
            return dict(self._own_start)
        by_workers = get_worker_info() is None and self._epochs.taken_by_workers
        # A forked worker inherits the pass of its parent, which is not its own.
        if self._at is not None and self._at[0] == os.getpid() and not by_workers:
            return self._at[1]()
        if by_workers:
            raise PlanError(
                "workers of a DataLoader have read this dataset, and only they know how far: use "
                "StreamingLoader, or torchdata's StatefulDataLoader, and ask it for its state_dict"
            )
        following = self._epochs.next
        if following.start is not None:
            return dict(following.start)
        return self._beginning(following.epoch)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next pass resume from a state, with the rest of its epoch.

        That epoch counts as one of `epochs`, unless a `StatefulDataLoader` has collected the state:
        then the pass ends at the same epoch as the pass of the state.

        With `batch_size`, the numbers of ranks, workers and threads may have changed. Without it,
        they may only if the ranks have read even shares and no workers were or are used, or if the
        state is at the start of an epoch. The state of a worker is for the same worker among the
        same number of workers.

        Raises:
            PlanError: the state belongs to another plan, or its place does not exist here; the
                message states the differences.
        """
        PlanState.from_dict(state)  # refuses now what is none
        before = self._kept_partitions
        self._keep_partitions(state)
        try:
            self._check(state)
        except PlanError:
            self._kept_partitions = before
            raise
        self._at = None
        if get_worker_info() is not None or of_a_worker(state):
            self._own_start = dict(state)
        else:
            self._epochs.set(int(state["epoch"]), dict(state), self._end(state))

    def place(self) -> tuple[int, int]:
        """Return the current rank and world size; (0, 1) if a framework splits the samples."""
        makers = self._makers_place if get_worker_info() is not None else None
        place = makers or self.given_place or distributed_place() or environment_place() or (0, 1)
        return (0, 1) if place[1] > 1 and split_by_framework(self) else place

    def samples(
        self, place: tuple[int, int], worker: int = 0, num_workers: int = 1
    ) -> SampleStream:
        """Return the stream of samples of one worker of one rank."""
        stream = SampleStream(
            self.what,
            num_threads=self.num_threads,
            seed=self.seed,
            partitions=self._partitions(place),
            rank=place[0],
            world_size=place[1],
            worker=worker,
            num_workers=num_workers,
            tail=self.tail,
            epochs=self.epochs,
        )
        stream.share(self._findings)
        return stream

    def steps(
        self,
        batch_size: int | BySeconds,
        place: tuple[int, int],
        worker: int = 0,
        num_workers: int = 1,
        *,
        tail: Tail | None = None,
        partitions: int | None = None,
    ) -> StepStream:
        """Return the steps of one worker of one rank; `partitions` defaults to the dataset's."""
        stream = StepStream(
            self.what,
            batch_size,
            num_threads=self.num_threads,
            seed=self.seed,
            partitions=self._partitions(place) if partitions is None else partitions,
            rank=place[0],
            world_size=place[1],
            worker=worker,
            num_workers=num_workers,
            tail=tail,
        )
        stream.share(self._findings)
        return stream

    def warn_of_nodes(self, place: tuple[int, int], partitions: int | None = None) -> None:
        """Warn if the number of partitions is not a multiple of the number of nodes.

        In that case, some shards are read by two nodes.
        """
        partitions = self._partitions(place) if partitions is None else partitions
        nodes = known_nodes(place[1]) or 1
        if partitions % nodes == 0 or not self._epochs.first_to(f"warn {partitions} {nodes}"):
            return
        plan = Reading(self.what, self._findings).plan(
            seed=self.seed, epoch=0, partitions=partitions
        )
        shards = sum(map(len, plan.datasets))
        warnings.warn(
            f"{partitions} partitions cannot be shared evenly by {nodes} nodes: of {shards} shards "
            f"in an epoch, {read_twice(plan, nodes)} are read twice. Begin anew with partitions="
            f"{nodes}, or go on with a number of nodes that divides {partitions}",
            stacklevel=3,
        )

    def _pass_stream(
        self, place: tuple[int, int], worker: int = 0, num_workers: int = 1
    ) -> SampleStream | StepStream:
        if self.batch_size is None:
            return self.samples(place, worker, num_workers)
        return self.steps(self.batch_size, place, worker, num_workers, tail=self.tail)

    def _partitions(self, place: tuple[int, int]) -> int:
        if self.partitions is not None:
            return self.partitions
        return self._kept_partitions or nodes_of(place[1])

    def _keep_partitions(self, state: Mapping[str, Any] | None) -> None:
        if state is not None:
            kept = state.get("options", {}).get("partitions")
            self._kept_partitions = kept if isinstance(kept, int) else None

    def _beginning(self, epoch: int) -> dict[str, Any]:
        stream = self._pass_stream(self.place())
        if isinstance(stream, StepStream):
            return stream.state(epoch).to_dict()
        stream.set_epoch(epoch)
        return stream.state_dict()

    def _check(self, state: Mapping[str, Any]) -> None:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        stream = self._pass_stream(self.place(), number, workers)
        if isinstance(stream, SampleStream):
            if worker is not None or state.get("num_workers", 1) == 1:
                stream.load_state_dict(state)
            else:
                PlanState.from_dict(state).check(PlanState.from_dict(stream.state_dict()))
            return
        stream.check(PlanState.from_dict(state))
        check_workers(state, workers)

    def _followed(
        self, made: Generator[Any, None, None], watch: Watch
    ) -> Generator[Any, None, None]:
        with self.monitor.following(watch, self.retrievers), closing(made):
            yield from made


def _padding(
    stream: SampleStream, watch: Watch, until: int | None
) -> Generator[PaddingSample, None, None]:
    with closing(stream):
        for sample in stream.samples(watch, until=until):
            yield PaddingSample(sample)


def check_planned(name: str, dataset: object) -> None:
    """Refuse what a loader or a combination cannot read by its plan.

    Args:
        name: The dataset's name in the message.
        dataset: What was given as a dataset.

    Raises:
        TypeError: it is no dataset of this package, or changes samples where its plan is not asked.
    """
    kind = type(dataset)
    if not isinstance(dataset, PlannedDataset):
        raise TypeError(
            f"{name} is {kind.__name__}, expected a StreamingDataset or a CombinedDataset"
        )
    if type(dataset).__iter__ is not PlannedDataset.__iter__:
        raise TypeError(
            f"{name} is {kind.__name__}, whose own __iter__ would not be called, because its plan "
            "is read instead: change samples in processor=, or batches in collate_fn="
        )
