"""Define `StreamingLoader`, whose batches follow the plan and which resumes at the next step."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from multiprocessing.context import BaseContext
from typing import Any, NoReturn, TypeVar

import msgspec
import torch

from audiomdb.checks import check_function, true_false_or_none, true_or_false
from audiomdb.data.batches import Batch, Collate, rows_for
from audiomdb.data.device import DeviceMover, made_ahead
from audiomdb.data.frameworks import PassesOfLightning
from audiomdb.data.making import Made, Making, Recipe, Workers, in_threads, worker_count
from audiomdb.data.monitor import LoopMeter, Monitor
from audiomdb.data.passes import Passes, Progress, log_discarded
from audiomdb.data.planned import PlannedDataset, check_planned
from audiomdb.data.world import nodes_of
from audiomdb.errors import PlanError
from audiomdb.plan import SecondsReport, Tail
from audiomdb.plan.bits import EPOCHS
from audiomdb.plan.checks import EPOCHS_OPTION, whole_number
from audiomdb.stream import BySeconds, Stall, StepStream, StreamStats
from audiomdb.stream.watch import Whose

__all__ = ["Batch", "StreamingLoader"]

_S = TypeVar("_S", bound="StreamingLoader")


class StreamingLoader:
    """Yields the batches of a `StreamingDataset` or a `CombinedDataset`, as the plan makes them.

        loader = StreamingLoader(StreamingDataset(retriever, shuffle=True), batch_size=64)
        for batch in loader:
            train(batch["audio"], batch["audio_lengths"], batch["text"])
            checkpoint["data"] = loader.state_dict()

    Step k of an epoch has the same samples for every number of ranks, workers and threads.
    `torch.utils.data.DataLoader` cannot guarantee this, because each of its workers makes its own
    batches. An interrupted run resumes at the next step, with any number of ranks, workers and
    threads.

    **By seconds.** With `max_batch_seconds`, a batch holds as many clips of similar durations as
    fit: padded to the longest, they have at most this many seconds. Every rank gets the same number
    of batches, the batches of a step have similar durations, and every sample comes once. For each
    step, a rank gets `batches_per_step` batches. Only whole steps are resumed: a state taken within
    a step refers to its start. If no samples are left for a batch, it repeats one sample, whose
    field `__mask__` is False. `padding_report` returns the padding of an epoch.

    By default, worker processes are only started for a processor, which usually holds the GIL.
    Otherwise the dataset's threads decode, which releases the GIL.

    With a `device`, batches are ready before the loop asks for them: a thread collates, pins and
    copies them, to CUDA on a separate stream. The work of the loop on a batch waits only for the
    copy of that batch.

    **With frameworks.** The loader is already split over the ranks, and frameworks do not split it
    again: `Accelerator.prepare` and Lightning's `fit` take it as it is. Lightning's checkpoints
    include its state, which Lightning loads if the checkpoint is from the middle of an epoch; from
    a checkpoint between epochs, a new loader resumes by the number of Lightning's epoch. A pass
    must have an end there: Lightning fetches one batch ahead from a loader that never ends, and
    that batch is lost when a run is resumed. The transformers Trainer gets the loader from a method
    of a subclass:

        class StreamingTrainer(Trainer):
            def get_train_dataloader(self):
                return StreamingLoader(self.train_dataset, 64, tail="pad", collate_fn=...)

    To resume, give the Trainer `ignore_data_skip=True`, and load the saved state into this loader.

    Lightning and the Trainer read `len(loader)` once and assume that every pass has this length. By
    seconds, epochs have different numbers of steps: Lightning would cut off the end of a longer
    epoch, and not validate after a shorter one; the Trainer would resume in the wrong epoch. With
    batches by seconds, set `steps_per_pass`.

    The state counts the batches that the loop has received, not those made ahead.

    Each pass is a new epoch. A pass that was left early is only resumed from its state. With
    `epochs=None`, the next pass begins with the first epoch that has not been begun, and with
    `steps_per_pass`, where the last one was left.

    Args:
        dataset: The dataset to read. Its `tail` and `epochs` are for `DataLoader`; they are given
            here instead.
        batch_size: Samples in a step over all ranks; a multiple of the world size and
            `partitions`. None: by seconds, or the dataset's. A `BySeconds` has more options.
        max_batch_seconds: Maximum of clips times longest clip in a rank's batch, in seconds of the
            index or of windows, before any processor. Replaces `batch_size`.
        num_buckets: Number of ranges of durations. More of them mean less padding and more shards
            in use at once.
        max_batch_size: By seconds, maximum number of samples in a batch. None: no limit.
        slots: By seconds, batches in a step over all ranks. None: the least common multiple of the
            number of ranks and `partitions`, or the value in a loaded state, since it is part of
            the order.
        num_workers: Worker processes; 0 makes batches in this process, in the dataset's threads.
            None: 0, or with a processor that can be sent to workers, this rank's share of the CPUs
            less one, from 1 to 8. Where workers are not forked (macOS, Linux since Python 3.14), a
            script that has any needs `if __name__ == "__main__":`.
        tail: What happens to the samples that do not fill a step: "drop" leaves them out of this
            epoch, "pad" makes one more step, filled with repeated samples whose field `__mask__` is
            False, "uneven" makes one more step that is not filled, for evaluation, since a rank may
            get no batch from it. None: "drop", or the dataset's if that has a `batch_size`. Dropped
            samples are logged when the first pass begins, as a warning if "drop" is only the
            default; see `dropped`.
        partitions: Groups of shards that are read in parallel, so that every node reads only its
            own. None: the dataset's, or the value in a loaded state, since it is part of the order,
            or else the number of nodes (by what torchrun or srun sets; 1 if it is unknown).
        epochs: Epochs in one pass. None: a pass never ends.
        steps_per_pass: Steps in one pass, instead of `epochs`: each pass continues where the last
            one ended, over the borders of epochs, and all have the same length. Not with
            `tail="uneven"`. None: passes end with an epoch.
        collate_fn: Function from a list of samples to a batch. None: the dataset's, by default
            `pad_collate`.
        device: Device to move batches to. None: they stay in CPU memory.
        pin_memory: Copy batches to pinned memory. None: only on the way to a CUDA `device`.
        multiprocessing_context: Start method of workers; see `DataLoader`.
        prefetch_factor: Steps that each worker prefetches, and steps held on a `device`.
        persistent_workers: Keep workers from one pass to the next, until the loader is closed or
            garbage-collected.
        stall_after_s: Seconds of waiting in the loop after which the logger `audiomdb.stream` warns
            and states the cause: which shard, with its progress and speed, or which sample is being
            decoded or processed. None: never.
        on_stall: Called with each such `Stall`, in a thread of this process. None: the dataset's.

    Raises:
        PlanError: a number of the plan is out of range, or `batch_size` cannot be shared.
        ValueError: another option is out of range, or there is no batch size, or more than one.
        TypeError: an option has the wrong type.
        RuntimeError: torch knows no such `device`.
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
        steps_per_pass: int | None = None,
        collate_fn: Collate | None = None,
        device: torch.device | str | int | None = None,
        pin_memory: bool | None = None,
        multiprocessing_context: str | BaseContext | None = None,
        prefetch_factor: int = 2,
        persistent_workers: bool = True,
        stall_after_s: float | None = 10.0,
        on_stall: Callable[[Stall], Any] | None = None,
    ) -> None:
        check_planned("dataset", dataset)
        if num_workers is None:
            num_workers = worker_count(dataset, multiprocessing_context)
        num_workers = whole_number("num_workers", num_workers)
        prefetch_factor = whole_number("prefetch_factor", prefetch_factor, low=1)
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
        self._passes = _passes(epochs, steps_per_pass, self._tail)
        self._collate = dataset.collate_fn if collate_fn is None else collate_fn
        check_function("collate_fn", self._collate)
        self._rows = rows_for(self._collate)
        self._workers = Workers(
            num_workers,
            context=multiprocessing_context,
            prefetch_factor=prefetch_factor,
            persistent=true_or_false("persistent_workers", persistent_workers),
        )
        self._device = None if device is None else torch.device(device)
        self._pin_memory = true_false_or_none("pin_memory", pin_memory)
        self._moves = device is not None or bool(self._pin_memory)
        self._depth = prefetch_factor
        on_stall = dataset.monitor.on_stall if on_stall is None else on_stall
        self._monitor = Monitor(stall_after_s, on_stall)
        self._meter = LoopMeter(self._monitor)
        self._kept: Mapping[str, Any] = {}
        self._known: tuple[Recipe, StepStream] | None = None
        self._says = True
        self._stream()  # refuses impossible options now

    def __repr__(self) -> str:
        return f"<StreamingLoader of {self.dataset!r}>"

    def __len__(self) -> int:
        """Return the number of this rank's batches in the pass begun last, or in the next one.

        It is the same in every rank, except that with `tail="uneven"`, a rank that has no sample of
        an epoch's last step gets one less. A pass that is resumed counts from its beginning, which
        is what frameworks expect.

        By seconds, this takes a pass over the durations for each of the `epochs`, 1 to 2 us per
        sample; the result is remembered. With `steps_per_pass`, it takes no time.

        Raises:
            TypeError: `epochs` is None, so a pass never ends.
        """
        passes = self._passes
        if passes.steps is not None:
            return passes.steps * self.batches_per_step
        if passes.epochs is None:
            raise TypeError("a loader with epochs=None has no length")
        return self._stream().batches_in(passes.first_epoch, passes.epochs)

    def __iter__(self) -> Iterator[Batch]:
        """Begin a pass: at the next epoch, or at the place of a loaded state.

        An error is raised in place of the batch that failed, and ends the pass. Making an iterator
        without asking it for a batch begins no pass: frameworks do so as a test.
        """
        self.dataset.place()  # raises now if the rank cannot be determined
        return self._begun_when_asked()

    @property
    def batches_per_step(self) -> int:
        """Batches per step of a rank: 1, or by seconds, the slots divided by the world size."""
        recipe = self._recipe()
        if not isinstance(recipe.batch_size, BySeconds):
            return 1
        world_size = recipe.place[1]
        return recipe.batch_size.slots_for(recipe.partitions, world_size) // world_size

    @property
    def dropped(self) -> int:
        """Samples of each epoch that are in no step, over all ranks; fewer than a step has.

        0 by seconds, or with another `tail` than "drop".
        """
        return self._stream().dropped

    def padding_report(self, epoch: int | None = None) -> SecondsReport:
        """Return the padding and the number of batches that are not full in an epoch by seconds.

        Takes a pass over the durations, 1 to 2 us per sample; the result is remembered.

        Args:
            epoch: Number of the epoch. None: that of the pass begun last, or else the next.

        Raises:
            PlanError: batches are not made by seconds.
        """
        return self._stream().report(self._passes.first_epoch if epoch is None else epoch)

    def stats(self) -> StreamStats:
        """Return how long the loops over this loader have waited, by cause, with advice.

        Covers all passes. Workers report a few times a second; their reports determine the causes
        of the loop's waits.
        """
        return self._meter.stats(self.dataset.retrievers)

    def close(self) -> None:
        """End the persistent worker processes. The loader can be used again.

        A pass that they were making raises RuntimeError where its next batch would come.
        """
        self._workers.close()

    def __enter__(self: _S) -> _S:  # noqa: PYI019
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next pass, from 0; call it in every rank.

        The pass begins with the epoch of the same number, unless a pass has several `epochs`: with
        `epochs=5`, pass 1 begins with epoch 5.

        Not needed as long as every rank begins every pass. Frameworks call it before each pass, so
        a loaded state from within this pass is kept and resumed. Any other is discarded, with a
        warning of the logger `audiomdb.stream`.

        With `steps_per_pass`, every pass continues where the last one ended, or from a loaded
        state. Only a new loader, which has neither, goes to the pass of this number; by seconds,
        that takes a pass over the durations for each epoch before it, 1 to 2 us per sample.

        Raises:
            PlanError: `epoch`, or the epoch that the pass begins with, is not a number from 0 to
                2**32 - 1.
        """
        passes = self._passes
        number = whole_number("epoch", epoch, high=EPOCHS - 1)
        if passes.steps is not None:
            if number and passes.untouched:
                passes.set(self._stream().state_after(number * passes.steps))
            return
        first = whole_number("epoch", number * (passes.epochs or 1), high=EPOCHS - 1)
        discarded = passes.set(self._stream().state(first))
        if discarded is not None and self.dataset.place()[0] == 0:
            log_discarded(discarded.epoch, first)

    @property
    def batch_sampler(self) -> PassesOfLightning:
        """Receives Lightning's epoch for a loader that has begun no pass and has no state."""
        return PassesOfLightning(self._skip_passes)

    @property
    def drop_last(self) -> NoReturn:
        """Not there; Accelerate asks for it in order to skip batches by reading them.

        Raises:
            AttributeError: always; the message says what to do instead.
        """
        raise AttributeError(
            "a StreamingLoader is not a DataLoader, of which Accelerate's skip_first_batches could "
            "make another one that skips batches: load_state_dict() resumes it at its next step. "
            "To resume the transformers Trainer, give it ignore_data_skip=True, and load the "
            "state that the loader had at the checkpoint"
        )

    def _skip_passes(self, passes: int) -> None:
        # A loader that has begun a pass counts for itself: it may have been used in another run.
        if self._passes.untouched and passes:
            self.set_epoch(passes)

    def state_dict(self) -> dict[str, Any]:
        """Return the place of the step after the last one received; the same in every rank.

        Under 1 kB of plain data. After the last batch of an epoch, the start of the next epoch. In
        a pass of several epochs or with `steps_per_pass`, it includes how far the pass has come.
        """
        if self._passes.untouched:
            return self._stream().state().to_dict()
        return self._passes.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next pass resume from a state, with the rest of its pass.

        That is what is left of `epochs` or `steps_per_pass`, counted from the beginning of the
        pass. If the state does not hold that beginning, or the pass would be over by now, a new one
        begins there. The numbers of ranks, workers and threads may have changed.

        Raises:
            PlanError: the state belongs to another plan; the message states the differences.
        """
        loaded = self._passes.read(state)
        before = self._kept
        self._kept = {
            name: value
            for name, value in loaded.at.options.items()
            if name in ("partitions", "slots") and isinstance(value, int)
        }
        try:
            self._stream().check(loaded.at)
        except PlanError:
            self._kept = before
            raise
        self._passes.load(loaded)

    def _recipe(self) -> Recipe:
        place = self.dataset.place()
        partitions = self._partitions
        if partitions is None:
            partitions = self._kept.get("partitions") or nodes_of(place[1])
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
            self._monitor,
            self._rows,
        )

    def _stream(self) -> StepStream:
        """Return the stream of steps, kept for the same recipe because it caches slow results."""
        recipe = self._recipe()
        if self._known is None or self._known[0] != recipe:
            self._known = recipe, recipe.stream()
        return self._known[1]

    def _begun_when_asked(self) -> Generator[Batch, None, None]:
        recipe = self._recipe()
        self.dataset.warn_of_nodes(recipe.place, recipe.partitions)
        if self._says and recipe.place[0] == 0:
            self._stream().log_dropped()
        self._says = False
        if self._passes.untouched:
            self._passes.set(self._stream().state())
        yield from self._pass(recipe, self._passes.begin())

    def _pass(self, recipe: Recipe, progress: Progress) -> Generator[Batch, None, None]:
        span = self._passes.span(progress)
        if self.num_workers:
            making = self._workers.making(recipe, span)
        else:
            making = in_threads(recipe, span)
        # Batches are yielded outside of the timed wait.
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
                progress.move(following)
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


def _passes(epochs: int | None, steps: int | None, tail: Tail | None) -> Passes:
    if epochs is not None:
        epochs = whole_number(EPOCHS_OPTION, epochs, low=1)
    if steps is None:
        return Passes(epochs, None)
    if epochs not in (None, 1):
        raise ValueError(
            f"epochs={epochs} beside steps_per_pass={steps}: a pass has a number of epochs, or of "
            "steps over the borders of epochs; give one of them"
        )
    if tail == "uneven":
        raise ValueError(
            "tail='uneven' beside steps_per_pass: not every rank has a batch of the last step of "
            "an epoch, so passes would have different lengths; use tail='drop' or tail='pad'"
        )
    return Passes(None, whole_number("steps_per_pass", steps, low=1))


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
