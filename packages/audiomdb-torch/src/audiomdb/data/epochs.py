"""Count epochs across a training process and its DataLoader workers.

A DataLoader sends its workers a copy of the dataset as it was constructed, and starts new workers
with every `iter(loader)`: without a shared count, every epoch would be epoch 0. No code of the
dataset runs in the training process that could count. So the count is kept in a note that all
copies share.

The workers of one pass must agree. They share a token, torch's base seed, which is drawn anew for
each pass: the first worker with an unknown token takes the next epoch for it, and the others find
it. Persistent workers keep their seed, so they also count their passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from multiprocessing import context
from typing import Any, NamedTuple

from torch.utils.data import get_worker_info

from audiomdb.data.shared import SharedNote, training_process
from audiomdb.plan.bits import EPOCHS
from audiomdb.plan.checks import whole_number

__all__ = ["EpochCounter", "Pass"]

_PASSES_KEPT = 256
"""Number of passes that are remembered for workers that have yet to begin them."""


class Pass(NamedTuple):
    """The first epoch of a pass, the state it starts from, and its end."""

    epoch: int
    start: Mapping[str, Any] | None = None
    """The data that `EpochCounter.set` was given with the epoch."""

    until: int | None = None
    """The epoch at which the pass ends, exclusive; None: it never ends, or its end is not set."""


class EpochCounter:
    """The number of the next epoch, shared by a training process and its DataLoader workers.

    Shared across fork, spawn and forkserver. Each training process counts for itself, even if
    several hold copies of one counter; ranks that begin every epoch agree. Pickled for any purpose
    other than starting a process, it becomes a new counter that continues from the same epoch.

    Holds one file descriptor.

    Args:
        epoch: Number of the first epoch.
    """

    def __init__(self, epoch: int = 0) -> None:
        process = str(training_process())
        self._note = SharedNote(
            {
                "maker": process,
                "next": {process: Pass(epoch)},
                "passes": {},
                "by_workers": [],
                "done": [],
            }
        )
        self._passes_here = 0

    def __reduce__(self) -> tuple[Any, ...]:
        if context.get_spawning_popen() is not None:
            return _attach, (self._note,)
        return EpochCounter, (self.next_epoch,)

    @property
    def next_epoch(self) -> int:
        """The first epoch of the pass that `take` would return in the training process."""
        return self.next.epoch

    @property
    def next(self) -> Pass:
        """The pass that `take` would return in the training process, before its end is set."""
        with self._note.changing() as state:
            return _next(state, str(training_process()))

    @property
    def taken_by_workers(self) -> bool:
        """Whether the last pass of this training process was begun by its workers."""
        with self._note.changing() as state:
            return str(training_process()) in state["by_workers"]

    def take(self, epochs: int | None, at: Pass | None = None) -> Pass:
        """Begin a pass over `epochs` epochs, and return its start and end.

        All workers of one DataLoader pass get the same result. Therefore, seeding torch in the same
        way before each pass gives the same order in each, as with torch's own shuffling: a worker
        cannot distinguish a new pass from one that other workers with the same seed began before.

        Args:
            epochs: Number of epochs, unless `set` or `at` gives the end of the pass. The next pass
                begins at that end. None: the pass never ends, and the next one begins one epoch
                after this one did, because workers do not know how far the loop came.
            at: Begin there instead of at the next epoch: for workers that resume, each from its own
                place and all with the same end.
        """
        owner = str(training_process())
        token = self._token(owner)
        with self._note.changing() as state:
            if at is not None:
                _set(state, owner, at)
            passes = state["passes"]
            if token is not None and token in passes:
                return Pass(*passes[token])
            begun = _next(state, owner)
            if begun.until is None and epochs is not None:
                begun = begun._replace(until=begun.epoch + epochs)
            after = begun.epoch + 1 if begun.until is None else begun.until
            state["next"][owner] = Pass(after)
            state["by_workers"] = [one for one in state["by_workers"] if one != owner]
            if token is not None:
                state["by_workers"].append(owner)
                passes[token] = begun
                for old in list(passes)[:-_PASSES_KEPT]:
                    del passes[old]
        return begun

    def set(
        self, epoch: int, start: Mapping[str, Any] | None = None, until: int | None = None
    ) -> None:
        """Make the next pass of this training process begin with `epoch`.

        Args:
            epoch: Number of the epoch.
            start: Plain data that is passed only to that pass.
            until: The epoch at which that pass ends, exclusive. None: it has its usual length.

        Raises:
            PlanError: `epoch` is no number that a plan can make.
        """
        epoch = whole_number("epoch", epoch, high=EPOCHS - 1)
        owner = str(training_process())
        with self._note.changing() as state:
            _set(state, owner, Pass(epoch, start, until))

    def first_to(self, act: str) -> bool:
        """Whether this is the first call for `act` in this training process and its workers."""
        done = f"{training_process()} {act}"
        with self._note.changing() as state:
            if done in state["done"]:
                return False
            state["done"].append(done)
        return True

    def _token(self, owner: str) -> str | None:
        worker = get_worker_info()
        if worker is None:
            return None
        self._passes_here += 1
        return f"{owner} {worker.seed - worker.id} {self._passes_here}"


def _attach(note: SharedNote) -> EpochCounter:
    counter = EpochCounter.__new__(EpochCounter)
    counter._note = note
    counter._passes_here = 0
    return counter


def _set(state: dict[str, Any], owner: str, following: Pass) -> None:
    state["next"][owner] = following
    passes = state["passes"].items()
    state["passes"] = {token: at for token, at in passes if token.split()[0] != owner}
    state["by_workers"] = [one for one in state["by_workers"] if one != owner]


def _next(state: dict[str, Any], owner: str) -> Pass:
    counts = state["next"]
    return Pass(*counts.get(owner, counts[state["maker"]]))
