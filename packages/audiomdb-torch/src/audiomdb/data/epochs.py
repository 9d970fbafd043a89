"""Counting epochs across processes.

A DataLoader sends its workers a copy of the dataset as it was made, and with every `iter(loader)`
it starts new ones: left alone, every epoch would be epoch 0. Nothing runs in the training process
that could tell. So the count lives in a small nameless file that all copies share, under a lock
that the kernel takes back when a process dies.

The workers of one pass have to agree. They share a token, torch's base seed, which is drawn anew
for each pass: the first to bring a token that is not known takes the next epoch for it, the others
find it. Persistent workers keep their seed and count their passes.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import context, reduction
from typing import Any

from torch.utils.data import get_worker_info

__all__ = ["EpochCounter"]

_PASSES_KEPT = 256
"""Passes whose workers may still come to ask."""


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
        self._keep(_nameless_file())
        self._passes_here = 0
        process = str(os.getpid())
        self._write({"maker": process, "next": {process: epoch}, "passes": {}})

    def __reduce__(self) -> tuple[Any, ...]:
        # No fallback: a process that is being started inherits the descriptor, and only that does.
        if context.get_spawning_popen() is not None:
            return _attach, (reduction.DupFd(self._file),)
        return EpochCounter, (self.next_epoch,)

    @property
    def next_epoch(self) -> int:
        """What `take` would return to a training process."""
        with self._locked() as state:
            return _next(state, _training_process())

    def take(self, epochs: int) -> int:
        """Begin a pass over `epochs` epochs and return the first.

        All workers of a DataLoader's pass get the same answer. It follows that whoever seeds torch
        in the same way before each pass gets the same order in each, as with torch's own shuffling.
        """
        owner = _training_process()
        token = self._token(owner)
        with self._locked() as state:
            passes = state["passes"]
            if token is not None and token in passes:
                return int(passes[token])
            first = _next(state, owner)
            state["next"][owner] = first + epochs
            if token is not None:
                passes[token] = first
                for old in list(passes)[:-_PASSES_KEPT]:
                    del passes[old]
            self._write(state)
        return first

    def set(self, epoch: int) -> None:
        """Make the next pass of this training process begin with `epoch`."""
        owner = _training_process()
        with self._locked() as state:
            state["next"][owner] = epoch
            passes = state["passes"].items()
            state["passes"] = {token: at for token, at in passes if token.split()[0] != owner}
            self._write(state)

    def _token(self, owner: str) -> str | None:
        worker = get_worker_info()
        if worker is None:
            return None
        self._passes_here += 1
        return f"{owner} {worker.seed - worker.id} {self._passes_here}"

    def _keep(self, file: int) -> None:
        self._file = file
        weakref.finalize(self, os.close, file)

    @contextmanager
    def _locked(self) -> Iterator[dict[str, Any]]:
        # A record lock belongs to the process: unlike flock's, it is not shared with forked
        # children, although they share the open file.
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            yield json.loads(os.pread(self._file, os.fstat(self._file).st_size, 0))
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _write(self, state: dict[str, Any]) -> None:
        data = json.dumps(state).encode()
        os.pwrite(self._file, data, 0)
        os.ftruncate(self._file, len(data))


def _attach(inherited: Any) -> EpochCounter:  # noqa: ANN401 (multiprocessing has no name for it)
    counter = EpochCounter.__new__(EpochCounter)
    counter._keep(inherited.detach())
    counter._passes_here = 0
    return counter


def _next(state: dict[str, Any], owner: str) -> int:
    counts = state["next"]
    return int(counts.get(owner, counts[state["maker"]]))


def _training_process() -> str:
    """Whose epochs these are: this process's, or those of the one that made this worker."""
    parent = multiprocessing.parent_process()
    if get_worker_info() is not None and parent is not None:
        return str(parent.pid)
    return str(os.getpid())


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("audiomdb-epochs")
    with tempfile.TemporaryFile(prefix="audiomdb-epochs-") as file:
        return os.dup(file.fileno())
