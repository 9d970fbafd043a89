"""Run a worker's pass over batches that the plan makes, and track the state of a pass."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from typing import Any, TypeAlias

from audiomdb.data.collate import pad_collate
from audiomdb.data.frameworks import asked_by_stateful_loader
from audiomdb.data.memory import BatchMemory
from audiomdb.errors import PlanError
from audiomdb.plan import PlanState
from audiomdb.stream import SampleStream, StepStream
from audiomdb.stream.rows import Allocate
from audiomdb.stream.watch import Watch

__all__ = [
    "END",
    "Batch",
    "BatchPass",
    "Collate",
    "Standing",
    "check_workers",
    "of_a_worker",
    "rows_for",
]

Batch: TypeAlias = Any
"""The result of `collate_fn`: a dict of tensors and lists, unless another function is given."""

Collate: TypeAlias = Callable[[list[dict[str, Any]]], Batch]
"""Function from a list of samples to a batch."""

END = "end"
"""Key in a state of a pass for the epoch at which the pass ends, exclusive; absent without end."""

_SKIP = "skip"


class BatchPass:
    """A pass over the batches of one of a rank's workers.

    Args:
        stream: The steps of the worker.
        epoch: Epoch at which the pass begins.
        start: Another place to begin at, as returned by `state_dict`.
        worker: Number of this worker.
        num_workers: Number of workers.

    Raises:
        PlanError: `start` is the state of a worker among another number of workers.
    """

    def __init__(
        self,
        stream: StepStream,
        epoch: int,
        start: Mapping[str, Any] | None,
        worker: int,
        num_workers: int,
    ) -> None:
        self._stream = stream
        self._first = stream.state(epoch) if start is None else PlanState.from_dict(start)
        self._skip = None
        if start is not None and _SKIP in start:
            check_workers(start, num_workers)
            self._skip = int(start[_SKIP])
        self._num_workers = num_workers
        self._place, self._following = self._first, self._first
        self._ahead = worker if self._skip is None else self._skip

    def state_dict(self, *, of_worker: bool, of_pass: bool) -> dict[str, Any]:
        """Return the place of the batch after the last one.

        Args:
            of_worker: Return the place of this worker alone.
            of_pass: After the end of an epoch, return that end, with nothing left of the epoch,
                instead of the start of the next one. A worker's state always does.
        """
        place, following = self._place, self._following
        if of_worker:
            only_here = {_SKIP: self._ahead, "num_workers": self._num_workers}
            return {**place.to_dict(), **only_here}
        if of_pass and following.epoch != place.epoch:
            following = place.at(place.epoch, place.next_step + 1, chapter=place.chapter)
        return following.to_dict()

    def made(
        self, collate: Collate, until: int | None, watch: Watch
    ) -> Generator[Batch, None, None]:
        """Yield the batches up to epoch `until`, exclusive; None: without end."""
        steps = self._stream.read(
            self._first,
            epochs=None if until is None else max(0, until - self._first.epoch),
            skip=self._skip,
            watch=watch,
            allocate=rows_for(collate),
        )
        with closing(steps):
            for step in steps:
                self._place, self._following = step.place, step.following
                self._ahead = self._num_workers
                for samples in step.batches:
                    with watch.collating():
                        batch = collate(samples)
                    yield batch


class Standing:
    """Tracks the place of a pass, to return its state.

    Args:
        made_by: The stream or pass that makes its samples or batches.
        in_worker: Whether this is a worker of a DataLoader.
        until: The epoch at which the pass ends, exclusive; None: it never ends.
    """

    def __init__(
        self, made_by: SampleStream | BatchPass, *, in_worker: bool, until: int | None
    ) -> None:
        self._made_by = made_by
        self._in_worker = in_worker
        self._until = until
        self._over = False

    def noted(self, made: Generator[Any, None, None]) -> Generator[Any, None, None]:
        """Yield all items from `made`, and record when the pass is over."""
        with closing(made):
            yield from made
        self._over = True

    def state_dict(self) -> dict[str, Any]:
        """Return the place after the last sample or batch; in a worker, of that worker alone."""
        # A loader that collects a worker's state does not know that the worker's part is over.
        of_pass = self._in_worker or (not self._over and asked_by_stateful_loader())
        if isinstance(self._made_by, SampleStream):
            state = self._made_by.state_dict(of_pass=of_pass)
        else:
            state = self._made_by.state_dict(of_worker=self._in_worker, of_pass=of_pass)
        return {**state, END: self._until} if of_pass and self._until is not None else state


def rows_for(collate: Collate) -> Allocate | None:
    """Return an allocator of memory that audio is decoded into and that becomes the batch.

    None for a collate function that may need samples that own their memory.
    """
    return BatchMemory() if getattr(collate, "func", collate) is pad_collate else None


def of_a_worker(state: Mapping[str, Any]) -> bool:
    """Whether the state is that of one worker among several."""
    return bool(state.get(_SKIP))


def check_workers(state: Mapping[str, Any], num_workers: int) -> None:
    """Refuse the state of a worker if the number of workers has changed.

    Raises:
        PlanError: it has changed.
    """
    then = state.get("num_workers", num_workers) if of_a_worker(state) else num_workers
    if then != num_workers:
        raise PlanError(
            f"the state is of one of {then} workers, and here are {num_workers}; go on with "
            f"{then}, or use StreamingLoader, which goes on with any number"
        )
