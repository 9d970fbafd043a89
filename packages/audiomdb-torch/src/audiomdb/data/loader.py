"""A loader whose batches are made by the plan, and which goes on at the exact next step."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing.context import BaseContext
from typing import Any, TypeAlias

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from audiomdb.data.base import StreamingDataset
from audiomdb.data.collate import pad_collate
from audiomdb.errors import PlanError
from audiomdb.plan import PlanState, Tail
from audiomdb.stream.steps import StepStream, Where

__all__ = ["Batch", "StreamingLoader"]

Batch: TypeAlias = Any
"""What `collate_fn` makes: a dict of tensors and lists, unless another is given."""

_Made: TypeAlias = tuple[Batch | None, PlanState]
"""A batch, None where the rank has no sample of the step, and where the next step is."""


@dataclass(frozen=True)
class _Recipe:
    """What makes batches, in this process or in a worker's."""

    dataset: StreamingDataset
    options: Mapping[str, Any]
    collate: Callable[[Sequence[Mapping[str, Any]]], Batch]
    start: PlanState | None = None
    epochs: int | None = 1

    def stream(self, worker: int = 0, num_workers: int = 1) -> StepStream:
        kept = {name: v for name, v in self.dataset._options.items() if name not in _REPLACED}
        return StepStream(
            self.dataset.retriever,
            **{**kept, **self.options},
            worker=worker,
            num_workers=num_workers,
        )

    def made(self, worker: int = 0, num_workers: int = 1) -> Generator[_Made, None, None]:
        steps = self.stream(worker, num_workers).read(self.start, epochs=self.epochs)
        with closing(steps):
            for samples, following in steps:
                yield self.collate(samples) if samples else None, following


_REPLACED = frozenset({"tail", "epochs"})


class StreamingLoader:
    """Batches of a `StreamingDataset`, made by the plan.

        loader = StreamingLoader(StreamingDataset(retriever, shuffle=True), batch_size=64)
        for batch in loader:
            train(batch["audio"], batch["audio_lengths"], batch["text"])
            checkpoint["data"] = loader.state_dict()

    Step k of an epoch has the same samples for every number of ranks, workers and threads;
    `torch.utils.data.DataLoader` cannot say so, because each of its workers makes its own batches.
    A run that stopped goes on with the next step on another number of them.

    No worker processes, unless asked for: the dataset's threads decode, which releases Python's
    lock. Workers help where a processor is written in Python.

    The state counts what the loop has received, not what was made ahead of it.

    Each pass is a new epoch. A pass that was left early is not gone on with, except by its state.

    Args:
        dataset: What to read and how. Its `tail` and `epochs` are for `DataLoader`; they are given
            here instead.
        batch_size: Samples in a step over all ranks; a multiple of the world size and `partitions`.
        num_workers: Worker processes; 0 makes batches here.
        tail: What becomes of the samples that fill no step: "drop" leaves them out of this epoch,
            "pad" makes one more step, filled up with repeats whose field `__mask__` is False,
            "uneven" one that is not filled up; for evaluation, since a rank may be without.
        partitions: Groups of shards read side by side, so that every node reads its own only. None:
            the number of nodes (the world size by `LOCAL_WORLD_SIZE`, as torchrun sets it), or what
            a loaded state says, since it is part of the order.
        min_duration: Seconds; shorter clips are left out.
        max_duration: Seconds; longer ones are.
        where: `(samples,)` bool, or a function that makes it from the index's columns: False for
            what is left out.
        epochs: Epochs in one pass. None: a pass never ends.
        collate_fn: From a list of samples to a batch.
        multiprocessing_context: How workers are started; see `DataLoader`.
        prefetch_factor: Batches that each worker makes ahead.

    Raises:
        PlanError: a number of the plan is out of range, or `batch_size` cannot be shared.
        ValueError: another option is out of range.
    """

    def __init__(
        self,
        dataset: StreamingDataset,
        batch_size: int,
        *,
        num_workers: int = 0,
        tail: Tail = "drop",
        partitions: int | None = None,
        min_duration: float | None = None,
        max_duration: float | None = None,
        where: Where | None = None,
        epochs: int | None = 1,
        collate_fn: Callable[[Sequence[Mapping[str, Any]]], Batch] = pad_collate,
        multiprocessing_context: str | BaseContext | None = None,
        prefetch_factor: int = 2,
    ) -> None:
        if num_workers < 0:
            raise ValueError(f"num_workers is {num_workers}, expected 0 or more")
        if epochs is not None and epochs < 1:
            raise ValueError(f"epochs is {epochs}, expected 1 or more, or None for no end")
        self.dataset = dataset
        self._num_workers = num_workers
        self._partitions = partitions
        self._options = {
            "batch_size": batch_size,
            "tail": tail,
            "min_duration": min_duration,
            "max_duration": max_duration,
            "where": where,
        }
        self._epochs = epochs
        self._collate = collate_fn
        self._context = multiprocessing_context
        self._prefetch_factor = prefetch_factor
        self._next: PlanState | None = None
        self._state: PlanState | None = None
        self._recipe().stream()  # refuses impossible options now

    def __len__(self) -> int:
        """Batches in a whole pass; the same in every rank.

        Raises:
            TypeError: with `epochs=None`, a pass never ends.
        """
        if self._epochs is None:
            raise TypeError("a loader with epochs=None has no length")
        return self._epochs * self._recipe().stream().steps

    def __iter__(self) -> Iterator[Batch]:
        """Begin a pass: the next epoch, or where a loaded state stands.

        What fails is raised where its batch would have come, and ends the pass.
        """
        start = self._next or self._recipe().stream().state()
        self._state = start
        # A pass that is left early has been begun all the same.
        self._next = start.at(start.epoch + (self._epochs or 1), 0)
        return self._pass(replace(self._recipe(), start=start))

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass begin with this epoch; in every rank.

        Not needed as long as every rank begins every pass.
        """
        self._next = self._state = self._recipe().stream().state(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return where the step after the last one received is; the same in every rank.

        Under 1 kB of plain data. After the last batch of an epoch, it is the next epoch's start.
        """
        state = self._state or self._next or self._recipe().stream().state()
        return state.to_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next pass go on from a state: the rest of its epoch.

        The number of ranks, workers and threads may have changed since.

        Raises:
            PlanError: the state is of another plan; the message says what differs.
        """
        loaded = PlanState.from_dict(state)
        before = self._partitions
        kept = loaded.options.get("partitions")
        if before is None and isinstance(kept, int):
            self._partitions = kept
        try:
            loaded.check(self._recipe().stream().state())
        except PlanError:
            self._partitions = before
            raise
        self._next = self._state = loaded

    def _recipe(self) -> _Recipe:
        rank, world_size = self.dataset._place()
        partitions = _nodes(world_size) if self._partitions is None else self._partitions
        options = {
            **self._options,
            "rank": rank,
            "world_size": world_size,
            "partitions": partitions,
        }
        return _Recipe(self.dataset, options, self._collate, epochs=self._epochs)

    def _pass(self, recipe: _Recipe) -> Generator[Batch, None, None]:
        for batch, following in self._made(recipe):
            self._state = following
            if batch is not None:
                yield batch

    def _made(self, recipe: _Recipe) -> Iterator[_Made]:
        if self._num_workers == 0:
            return recipe.made()
        # One of each worker in turn, in the order of their numbers: the order of the steps.
        loader: DataLoader[_Made] = DataLoader(
            _WorkerSteps(recipe),
            batch_size=None,
            num_workers=self._num_workers,
            collate_fn=_unchanged,
            multiprocessing_context=self._context,
            prefetch_factor=self._prefetch_factor,
        )
        return iter(loader)


class _WorkerSteps(IterableDataset[_Made]):
    """The steps of one worker."""

    def __init__(self, recipe: _Recipe) -> None:
        self._recipe = recipe

    def __iter__(self) -> Iterator[_Made]:
        info = get_worker_info()
        assert info is not None, "runs in workers only"
        return self._recipe.made(info.id, info.num_workers)


def _unchanged(made: Any) -> Any:  # noqa: ANN401 (whatever torch hands over)
    return made


def _nodes(world_size: int) -> int:
    """Nodes of this run, as far as the environment says."""
    text = os.environ.get("LOCAL_WORLD_SIZE", "")
    local = int(text) if text.isdigit() else 0
    return world_size // local if local and world_size % local == 0 else 1
