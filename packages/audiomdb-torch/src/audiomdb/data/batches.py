"""A pass over batches that the plan makes, in one worker; and where it stands."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import Any, TypeAlias

from torch.utils.data import get_worker_info

from audiomdb.data.collate import rows_for
from audiomdb.errors import PlanError
from audiomdb.plan import PlanState
from audiomdb.stream import StepStream
from audiomdb.stream.watch import Watch

__all__ = ["Batch", "BatchPass", "Collate", "check_workers", "of_a_worker"]

Batch: TypeAlias = Any
"""What `collate_fn` makes: a dict of tensors and lists, unless another is given."""

Collate: TypeAlias = Callable[[Sequence[Mapping[str, Any]]], Batch]
"""From a list of samples to a batch."""

_SKIP = "skip"


class BatchPass:
    """The batches of one of a rank's workers.

    Args:
        stream: Its steps.
        epoch: Where the pass begins.
        start: Another place to begin, as `state_dict` gave it.
        worker: Which worker this is.
        num_workers: Of how many.

    Raises:
        PlanError: `start` is of a worker, and of another number of them.
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

    def state_dict(self) -> dict[str, Any]:
        """Return where the batch after the last one is; in a worker, of that worker alone."""
        if self._num_workers == 1 and get_worker_info() is None:
            return self._following.to_dict()
        of_worker = {_SKIP: self._ahead, "num_workers": self._num_workers}
        return {**self._place.to_dict(), **of_worker}

    def made(
        self, collate: Collate, epochs: int | None, watch: Watch
    ) -> Generator[Batch, None, None]:
        """Make the batches of so many epochs."""
        steps = self._stream.read(
            self._first,
            epochs=epochs,
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


def of_a_worker(state: Mapping[str, Any]) -> bool:
    """Whether the state is that of one worker among several."""
    return bool(state.get(_SKIP))


def check_workers(state: Mapping[str, Any], num_workers: int) -> None:
    """Refuse a worker's state where there are more or fewer of them.

    Raises:
        PlanError: there are.
    """
    then = state.get("num_workers", num_workers) if of_a_worker(state) else num_workers
    if then != num_workers:
        raise PlanError(
            f"the state is of one of {then} workers, and here are {num_workers}; go on with "
            f"{then}, or use StreamingLoader, which goes on with any number"
        )
