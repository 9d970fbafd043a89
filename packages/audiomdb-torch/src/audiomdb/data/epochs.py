"""Counting epochs across processes.

A DataLoader sends its workers a copy of the dataset as it was made, and with every `iter(loader)`
it starts new ones: left alone, every epoch would be epoch 0. Nothing runs in the training process
that could tell. So the count lives in a note that all copies share.

The workers of one pass have to agree. They share a token, torch's base seed, which is drawn anew
for each pass: the first to bring a token that is not known takes the next epoch for it, the others
find it. Persistent workers keep their seed and count their passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from multiprocessing import context
from typing import Any, NamedTuple

from torch.utils.data import get_worker_info

from audiomdb.data.shared import SharedNote, training_process

__all__ = ["EpochCounter", "Pass"]

_PASSES_KEPT = 256
"""Passes whose workers may still come to ask."""


class Pass(NamedTuple):
    """Where a pass begins."""

    epoch: int
    start: Mapping[str, Any] | None = None
    """What `EpochCounter.set` was given beside the epoch."""

    until: int | None = None
    """The epoch that ends it, unread; None: it never ends."""


class EpochCounter:
    """The number of the next epoch, shared by a training process and its DataLoader workers.

    Survives fork, spawn and forkserver. Each training process counts for itself, though several
    may hold copies of one counter: ranks that begin every epoch agree. Pickled otherwise than to
    start a process, it becomes a new counter that goes on from here.

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
        """The epoch that `take` would return to a training process."""
        return self.next.epoch

    @property
    def next(self) -> Pass:
        """What `take` would return to a training process."""
        with self._note.changing() as state:
            return _next(state, str(training_process()))

    @property
    def taken_by_workers(self) -> bool:
        """Whether the last pass of this training process was begun by its workers."""
        with self._note.changing() as state:
            return str(training_process()) in state["by_workers"]

    def take(self, epochs: int | None, at: Pass | None = None) -> Pass:
        """Begin a pass over `epochs` epochs and return where it begins and ends.

        All workers of a DataLoader's pass get the same answer. It follows that whoever seeds torch
        in the same way before each pass gets the same order in each, as with torch's own shuffling:
        a worker cannot tell a new pass from its own that others have begun, and have left, before.

        Args:
            epochs: How many, unless it was said where the pass ends; the next begins there. None:
                it never ends.
            at: Begin there, wherever the next would: for workers that go on, each from a place of
                its own, and all to the same end.
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
            epoch: Its number.
            start: Plain data that goes to that pass, and to no other.
            until: The epoch that ends that pass. None: it is as long as any.
        """
        owner = str(training_process())
        with self._note.changing() as state:
            _set(state, owner, Pass(epoch, start, until))

    def first_to(self, act: str) -> bool:
        """Whether this training process, its workers included, has not asked that before."""
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
