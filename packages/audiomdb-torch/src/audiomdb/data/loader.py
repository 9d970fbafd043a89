"""A loader whose batches are made by the plan, and which goes on at the exact next step."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from multiprocessing.context import BaseContext
from typing import Any

import msgspec
import torch

from audiomdb.data.batches import Batch, Collate
from audiomdb.data.collate import rows_for
from audiomdb.data.device import DeviceMover, made_ahead
from audiomdb.data.frameworks import PassesOfLightning
from audiomdb.data.making import Made, Making, Recipe, Workers, in_threads, worker_count
from audiomdb.data.monitor import LoopMeter, Monitor
from audiomdb.data.planned import PlannedDataset
from audiomdb.data.world import nodes_of
from audiomdb.errors import PlanError
from audiomdb.plan import PlanState, SecondsReport, Tail
from audiomdb.stream import BySeconds, Stall, StepStream, StreamStats
from audiomdb.stream.watch import Whose

__all__ = ["Batch", "StreamingLoader"]


class StreamingLoader:
    """Batches of a `StreamingDataset` or a `CombinedDataset`, made by the plan.

        loader = StreamingLoader(StreamingDataset(retriever, shuffle=True), batch_size=64)
        for batch in loader:
            train(batch["audio"], batch["audio_lengths"], batch["text"])
            checkpoint["data"] = loader.state_dict()

    Step k of an epoch has the same samples for every number of ranks, workers and threads;
    `torch.utils.data.DataLoader` cannot say so, because each of its workers makes its own batches.
    A run that stopped goes on with the next step on another number of them.

    **By seconds.** With `max_batch_seconds` a batch holds clips of like durations, as many as fit:
    padded to the longest, it has at most so many seconds. Every rank gets the same number of
    batches, all batches of a step are of like durations, and every sample comes once. A rank gets
    `batches_per_step` of them for each step; a step is gone on with as a whole, so a state that is
    asked for in between stands before it. Where nothing is left for a batch, it has one sample that
    is there already, whose field `__mask__` is False. `padding_report` says what an epoch costs.

    No worker processes, unless asked for or needed: the dataset's threads decode, which releases
    Python's lock. Where there is a processor, which mostly holds it, workers are started.

    With a `device`, batches are there before the loop asks for them: a thread collates, pins and
    copies them, to CUDA on a stream of its own. What the loop does with a batch waits for its copy,
    and for nothing else.

    **With frameworks.** The data is split among the ranks already, and nobody splits it once more:
    `Accelerator.prepare` and Lightning's `fit` take the loader as it is. Lightning's checkpoints
    hold its state, which is loaded where they are from the middle of an epoch; between epochs, a
    new loader goes on by the number of Lightning's epoch. Give `epochs` a number there: Lightning
    takes one batch ahead of a loader that never ends, and it is lost when a run goes on. The
    transformers Trainer gets the loader from a method of a subclass:

        class StreamingTrainer(Trainer):
            def get_train_dataloader(self):
                return StreamingLoader(self.train_dataset, 64, tail="pad", collate_fn=...)

    The state counts what the loop has received, not what was made ahead of it.

    Each pass is a new epoch. A pass that was left early is not gone on with, except by its state.

    Args:
        dataset: What to read and how. Its `tail` and `epochs` are for `DataLoader`; they are given
            here instead.
        batch_size: Samples in a step over all ranks; a multiple of the world size and
            `partitions`. None: by seconds, or the dataset's. A `BySeconds` has more options.
        max_batch_seconds: Clips times longest clip of a rank's batch, at most, in seconds. Instead
            of `batch_size`.
        num_buckets: Ranges of durations. More of them leave less padding and need more shards at
            once.
        max_batch_size: By seconds, samples in a batch at most. None: any number.
        slots: By seconds, batches in a step over all ranks. None: the number of ranks, or what a
            loaded state says, since it is part of the order.
        num_workers: Worker processes; 0 makes batches here, in the dataset's threads. None: 0, or
            where there is a processor that workers can be given, as many as this rank's share of
            the CPUs less one, from 1 to 8.
        tail: What becomes of the samples that fill no step: "drop" leaves them out of this epoch,
            "pad" makes one more step, filled up with repeats whose field `__mask__` is False,
            "uneven" one that is not filled up; for evaluation, since a rank may be without. None:
            "drop", or what a dataset with a `batch_size` says. What is dropped is logged when the
            first pass begins, as a warning if "drop" was nobody's choice; see `dropped`.
        partitions: Groups of shards read side by side, so that every node reads its own only. None:
            the dataset's, or the number of nodes (the world size by `LOCAL_WORLD_SIZE`, as torchrun
            sets it), or what a loaded state says, since it is part of the order.
        epochs: Epochs in one pass. None: a pass never ends.
        collate_fn: From a list of samples to a batch. None: the dataset's, which is `pad_collate`
            unless it was given another.
        device: Move batches there. None: they stay in the memory of the CPU.
        pin_memory: Copy batches to pinned memory. None: where `device` is CUDA, on the way there.
        multiprocessing_context: How workers are started; see `DataLoader`.
        prefetch_factor: Steps that each worker makes ahead, and steps held on a `device`.
        persistent_workers: Keep workers from one pass to the next, until the loader is closed or
            dropped.
        stall_after_s: Seconds that the loop waits after which a warning of `audiomdb.stream` says
            for what: which shard, how far it is and how fast, which sample is being decoded or
            is with the processor. None: never.
        on_stall: Called with each such `Stall`, in a thread of this process. None: the dataset's.

    Raises:
        PlanError: a number of the plan is out of range, or `batch_size` cannot be shared.
        ValueError: another option is out of range, or there is no batch size, or more than one.
    """

    def __init__(
        self,
        dataset: PlannedDataset,
        batch_size: int | BySeconds | None = None,
        *,
        max_batch_seconds: float | None = None,
        num_buckets: int = 32,
        max_batch_size: int | None = None,
        slots: int | None = None,
        num_workers: int | None = None,
        tail: Tail | None = None,
        partitions: int | None = None,
        epochs: int | None = 1,
        collate_fn: Collate | None = None,
        device: torch.device | str | int | None = None,
        pin_memory: bool | None = None,
        multiprocessing_context: str | BaseContext | None = None,
        prefetch_factor: int = 2,
        persistent_workers: bool = True,
        stall_after_s: float | None = 10.0,
        on_stall: Callable[[Stall], Any] | None = None,
    ) -> None:
        if num_workers is None:
            num_workers = worker_count(dataset, multiprocessing_context)
        if num_workers < 0:
            raise ValueError(f"num_workers is {num_workers}, expected 0 or more")
        if prefetch_factor < 1:
            raise ValueError(f"prefetch_factor is {prefetch_factor}, expected 1 or more")
        if epochs is not None and epochs < 1:
            raise ValueError(f"epochs is {epochs}, expected 1 or more, or None for no end")
        if max_batch_seconds is not None:
            if batch_size is not None or dataset.batch_size is not None:
                raise ValueError(
                    f"max_batch_seconds={max_batch_seconds} beside batch_size="
                    f"{dataset.batch_size if batch_size is None else batch_size}: give one of them"
                )
            batch_size = BySeconds(max_batch_seconds, max_batch_size, slots, num_buckets)
        elif (num_buckets, max_batch_size, slots) != (32, None, None):
            raise ValueError("num_buckets, max_batch_size and slots need max_batch_seconds")
        self._batch_size = _one_size(dataset, batch_size)
        self.dataset = dataset
        self.num_workers = num_workers
        self._partitions = dataset.partitions if partitions is None else partitions
        by_dataset = None if dataset.batch_size is None else dataset.tail
        self._tail: Tail | None = by_dataset if tail is None else tail
        self._epochs = epochs
        self._collate = dataset.collate_fn if collate_fn is None else collate_fn
        self._rows = rows_for(self._collate)
        self._workers = Workers(
            num_workers,
            context=multiprocessing_context,
            prefetch_factor=prefetch_factor,
            persistent=persistent_workers,
        )
        self._moves = device is not None or bool(pin_memory)
        self._device, self._pin_memory = device, pin_memory
        self._depth = prefetch_factor
        self._monitor = Monitor(stall_after_s, on_stall or dataset.monitor.on_stall)
        self._meter = LoopMeter(self._monitor)
        self._kept: Mapping[str, Any] = {}
        self._known: tuple[Recipe, StepStream] | None = None
        self._next: PlanState | None = None
        self._state: PlanState | None = None
        self._loaded: PlanState | None = None
        self._begun: int | None = None
        self._says = True
        self._stream()  # refuses impossible options now

    def __repr__(self) -> str:
        return f"<StreamingLoader of {self.dataset!r}>"

    def __len__(self) -> int:
        """Batches in a whole pass, the one begun last or else the next; the same in every rank.

        With `tail="uneven"`, a rank that has no sample of an epoch's last step gets one less.

        By seconds this takes a pass over the durations, 1 to 2 us a sample; it is remembered.

        Raises:
            TypeError: with `epochs=None`, a pass never ends.
        """
        if self._epochs is None:
            raise TypeError("a loader with epochs=None has no length")
        stream, first = self._stream(), self._pass_epoch
        steps = sum(stream.steps_in(first + at) for at in range(self._epochs))
        return steps * self.batches_per_step

    def __iter__(self) -> Iterator[Batch]:
        """Begin a pass: the next epoch, or where a loaded state stands.

        What fails is raised where its batch would have come, and ends the pass. An iterator that is
        never asked for anything is no pass: frameworks make some to see whether they can.
        """
        self.dataset.place()  # where it cannot be found, that is said now
        return self._begun_when_asked()

    @property
    def batches_per_step(self) -> int:
        """Batches that a rank gets for each step: more than one where ranks share its slots."""
        recipe = self._recipe()
        if not isinstance(recipe.batch_size, BySeconds):
            return 1
        world_size = recipe.place[1]
        return recipe.batch_size.slots_for(recipe.partitions, world_size) // world_size

    @property
    def dropped(self) -> int:
        """Samples of each epoch that no step has, over all ranks; fewer than a step has.

        None by seconds, or with another `tail` than "drop".
        """
        return self._stream().dropped

    def padding_report(self, epoch: int | None = None) -> SecondsReport:
        """Return what an epoch by seconds costs: its padding, and batches that are not full.

        Takes a pass over the durations, 1 to 2 us a sample; it is remembered.

        Args:
            epoch: None: of the pass begun last, or else the next.

        Raises:
            PlanError: batches are made by numbers of samples.
        """
        return self._stream().report(self._pass_epoch if epoch is None else epoch)

    def stats(self) -> StreamStats:
        """What the loops over this loader have waited for, and what is to be done about it.

        Over all passes. Workers report a few times a second; of what they say the loop's waits
        get their causes.
        """
        return self._meter.stats(self.dataset.retrievers)

    def close(self) -> None:
        """End the worker processes that are kept. The loader can be used again.

        A pass that they were making raises RuntimeError where its next batch would come.
        """
        self._workers.close()

    def __enter__(self) -> StreamingLoader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass begin with this epoch; in every rank.

        Not needed as long as every rank begins every pass. Frameworks call it before each: a loaded
        state that stands in this very epoch is still gone on with.
        """
        if self._loaded is None or self._loaded.epoch != epoch:
            self._next = self._state = self._stream().state(epoch)
            self._begun = self._loaded = None

    @property
    def batch_sampler(self) -> PassesOfLightning:
        """Tells Lightning's epochs to a loader that has begun nothing, and is given no state."""
        return PassesOfLightning(self._skip_passes)

    def _skip_passes(self, passes: int) -> None:
        # A loader that has begun a pass counts for itself: it may have served another run before.
        if self._next is None and passes:
            self.set_epoch(passes * (self._epochs or 1))

    def state_dict(self) -> dict[str, Any]:
        """Return where the step after the last one received is; the same in every rank.

        Under 1 kB of plain data. After the last batch of an epoch, it is the next epoch's start.
        """
        state = self._state or self._next or self._stream().state()
        return state.to_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next pass go on from a state: the rest of its epoch.

        The number of ranks, workers and threads may have changed since.

        Raises:
            PlanError: the state is of another plan; the message says what differs.
        """
        loaded = PlanState.from_dict(state)
        before = self._kept
        self._kept = {
            name: value
            for name, value in loaded.options.items()
            if name in ("partitions", "slots") and isinstance(value, int)
        }
        try:
            loaded.check(self._stream().state())
        except PlanError:
            self._kept = before
            raise
        self._next = self._state = self._loaded = loaded
        self._begun = None

    @property
    def _pass_epoch(self) -> int:
        if self._begun is not None:
            return self._begun
        return 0 if self._next is None else self._next.epoch

    def _recipe(self) -> Recipe:
        place = self.dataset.place()
        partitions = self._partitions or self._kept.get("partitions") or nodes_of(place[1])
        batch_size = self._batch_size
        if isinstance(batch_size, BySeconds) and batch_size.slots is None:
            batch_size = msgspec.structs.replace(batch_size, slots=self._kept.get("slots"))
        return Recipe(
            self.dataset,
            batch_size,
            self._tail,
            partitions,
            place,
            self._collate,
            self._epochs,
            self._monitor,
            self._rows,
        )

    def _stream(self) -> StepStream:
        """What knows the steps; it remembers what took long to find out."""
        recipe = self._recipe()
        if self._known is None or self._known[0] != recipe:
            self._known = recipe, recipe.stream()
        return self._known[1]

    def _begun_when_asked(self) -> Generator[Batch, None, None]:
        recipe = self._recipe()
        self.dataset.warn_of_nodes(recipe.place, recipe.partitions)
        if self._says and recipe.place[0] == 0:
            self._stream().say_dropped()
        self._says = False
        start = self._next or self._stream().state()
        self._state = start
        self._begun, self._loaded = start.epoch, None
        # A pass that is left early has been begun all the same.
        self._next = start.at(start.epoch + (self._epochs or 1), 0)
        yield from self._pass(recipe, start)

    def _pass(self, recipe: Recipe, start: PlanState) -> Generator[Batch, None, None]:
        if self.num_workers:
            making = self._workers.making(recipe, start)
        else:
            making = in_threads(recipe, start)
        # Batches go into the loop's hands outside of all that is timed here.
        with (
            making as steps,
            closing(self._moved(steps)) as made,
            self._meter.loop(Whose(*recipe.place), steps.look) as loop,
        ):
            while True:
                with loop.waiting():
                    step = next(made, None)
                if step is None:
                    return
                batches, following = step
                yield from batches[:-1]
                self._state = following
                yield from batches[-1:]

    def _moved(self, steps: Making) -> Generator[Made, None, None]:
        if not self._moves:
            yield from steps.made
            return
        mover = DeviceMover(self._device, pin_memory=self._pin_memory)
        begun = made_ahead(
            steps.made,
            lambda made: ([mover.begin(batch) for batch in made[0]], made[1]),
            depth=self._depth,
            interrupt=steps.interrupt,
            patience_s=steps.patience_s,
        )
        with closing(begun):
            for batches, following in begun:
                yield [mover.finish(batch) for batch in batches], following


def _one_size(dataset: PlannedDataset, batch_size: int | BySeconds | None) -> int | BySeconds:
    if batch_size is None:
        batch_size = dataset.batch_size
    if batch_size is None:
        raise ValueError("give batch_size, or max_batch_seconds")
    if dataset.batch_size not in (None, batch_size):
        raise ValueError(
            f"batch_size is {batch_size}, but the dataset has batch_size={dataset.batch_size}; "
            "give it in one place"
        )
    return batch_size
