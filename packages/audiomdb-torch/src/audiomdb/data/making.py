"""Make a loader's steps in threads of this process, or in persistent worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from multiprocessing.context import BaseContext
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple, TypeAlias

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from audiomdb.data.batches import Batch, Collate
from audiomdb.data.monitor import Monitor
from audiomdb.data.parcel import Parcel
from audiomdb.data.passes import Span
from audiomdb.data.planned import PlannedDataset
from audiomdb.data.shared import SharedNote
from audiomdb.machine import env_number, usable_cores
from audiomdb.plan import PlanState, Tail
from audiomdb.stream import BySeconds, Stall, StepStream
from audiomdb.stream.portable import PortableStruct
from audiomdb.stream.rows import Allocate
from audiomdb.stream.sources import parts_of
from audiomdb.stream.watch import Watch, Whose

__all__ = ["Made", "Making", "Recipe", "Workers", "in_threads", "worker_count"]

_PATIENCE_S = 2.0

_MOST_WORKERS = 8
"""Maximum default number of workers; more are seldom faster."""

Made: TypeAlias = tuple[list[Batch], PlanState]
"""The batches of a step (none if the rank has no sample of it), and the place of the next step."""


class Making(NamedTuple):
    """An iterator over steps that are being made, with functions to inspect and interrupt it."""

    made: Iterator[Made]
    look: Callable[[], Stall | None]
    """Returns the current wait in making steps, or None."""

    interrupt: Callable[[], None]
    """Ends a wait for the next step; called from another thread."""

    patience_s: float
    """Seconds that such a wait is given to end by itself before it is interrupted."""


class Recipe(PortableStruct, frozen=True):
    """All options for making steps, in this process or in a worker."""

    dataset: PlannedDataset
    batch_size: int | BySeconds
    tail: Tail | None
    partitions: int
    place: tuple[int, int]
    collate: Collate
    monitor: Monitor
    rows: Allocate | None

    def stream(self, worker: int = 0, num_workers: int = 1) -> StepStream:
        """Return the stream of a worker's steps, not yet collated."""
        return self.dataset.steps(
            self.batch_size,
            self.place,
            worker,
            num_workers,
            tail=self.tail,
            partitions=self.partitions,
        )

    def made(
        self, span: Span, watch: Watch, worker: int = 0, num_workers: int = 1
    ) -> Generator[Made, None, None]:
        """Yield the collated steps of a worker in a span."""
        stream = self.stream(worker, num_workers)
        steps = stream.read(
            span.start,
            epochs=span.epochs,
            steps=span.steps,
            watch=watch,
            allocate=self.rows,
        )
        with closing(steps):
            for step in steps:
                with watch.collating():
                    batches = [self.collate(samples) for samples in step.batches]
                yield batches, step.following


@contextmanager
def in_threads(recipe: Recipe, span: Span) -> Generator[Making, None, None]:
    """Make steps in this process: the dataset's threads decode, and the consumer collates."""
    watch = Watch(Whose(*recipe.place))
    made = recipe.made(span, watch)
    # Who takes the steps closes them: it may have a thread in the midst of that.
    with recipe.monitor.following(watch, recipe.dataset.retrievers, speaks=False):
        yield Making(made, watch.look, watch.interrupt, patience_s=0)


class Workers:
    """The worker processes of a loader.

    Args:
        number: Number of processes.
        context: Start method or multiprocessing context; see `DataLoader`.
        prefetch_factor: Steps that each worker prefetches.
        persistent: Whether to keep the processes from one pass to the next.
    """

    def __init__(
        self,
        number: int,
        *,
        context: str | BaseContext | None,
        prefetch_factor: int,
        persistent: bool,
    ) -> None:
        self._number = number
        self._context = context
        self._prefetch_factor = prefetch_factor
        self._persistent = persistent
        self._kept: tuple[Recipe, DataLoader[Parcel]] | None = None
        self._busy = False
        self._closed = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kept": None, "_busy": False}  # a copy starts workers of its own

    @contextmanager
    def making(self, recipe: Recipe, span: Span) -> Generator[Making, None, None]:
        """Make steps in the workers, taken from each worker in turn, which gives their order."""
        keeps = self._persistent and not self._busy
        loader = self._loader(recipe) if keeps else self._new(recipe, persistent=False)
        assert isinstance(loader.dataset, _WorkerSteps)
        loader.dataset.begin(span)
        steps: Any = iter(loader)
        made = self._unless_closed(steps) if keeps else steps
        self._busy |= keeps
        whole = False
        try:
            yield Making(
                made, recipe.monitor.stall_of_workers, partial(_interrupt, steps), patience_s=1.0
            )
            whole = True
        except GeneratorExit:
            whole = True  # the loop was left, and the workers are intact
            raise
        finally:
            if keeps:
                self._busy = False
            if not whole or steps._shutdown:
                _end(steps)
                self._kept = None if keeps else self._kept

    def close(self) -> None:
        """End the persistent processes. May be called more than once."""
        kept, self._kept = self._kept, None
        if kept is not None and (steps := kept[1]._iterator) is not None:
            self._closed += 1
            (_interrupt if self._busy else _end)(steps)

    def _unless_closed(self, steps: Iterator[Made]) -> Generator[Made, None, None]:
        """Steps to their end: where its workers are ended, torch's iterator just stops."""
        closed = self._closed
        try:
            yield from steps
        # What ends a wait, see `_interrupt`, is no batch, cuts one off, or counts as one too many.
        except (TypeError, EOFError, ValueError):
            if self._closed == closed:
                raise
        if self._closed != closed:
            raise RuntimeError(
                "the loader was closed in the middle of a pass, which has ended the workers that "
                "made its batches; close it when its passes are over"
            )

    def _loader(self, recipe: Recipe) -> DataLoader[Parcel]:
        """Return the persistent loader; a new one if the recipe has changed or a worker is gone."""
        if self._kept is None or self._kept[0] != recipe or not _are_alive(self._kept[1]):
            self.close()
            self._kept = recipe, self._new(recipe, persistent=True)
        return self._kept[1]

    def _new(self, recipe: Recipe, *, persistent: bool) -> DataLoader[Parcel]:
        return DataLoader(
            _WorkerSteps(recipe),
            batch_size=None,
            num_workers=self._number,
            collate_fn=_unchanged,
            multiprocessing_context=self._context,
            prefetch_factor=self._prefetch_factor,
            persistent_workers=persistent,
            worker_init_fn=_leave_interrupts,
        )


class _WorkerSteps(IterableDataset[Parcel]):
    """The steps of one worker; the training process sets the span of each pass.

    Each step is sent as a `Parcel` and arrives as `Made`.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._note = SharedNote({})

    def begin(self, span: Span) -> None:
        """Set what the next pass makes."""
        with self._note.changing() as note:
            note["span"] = [span.start.to_dict(), span.epochs, span.steps]

    def __iter__(self) -> Iterator[Parcel]:
        info = get_worker_info()
        assert info is not None, "runs in workers only"
        with self._note.changing() as note:
            start, epochs, steps = note["span"]
        span = Span(PlanState.from_dict(start), epochs, steps)
        watch = Watch(Whose(*self._recipe.place, info.id))
        return self._followed(self._recipe.made(span, watch, info.id, info.num_workers), watch)

    def _followed(
        self, made: Generator[Made, None, None], watch: Watch
    ) -> Generator[Parcel, None, None]:
        monitor, retrievers = self._recipe.monitor, self._recipe.dataset.retrievers
        with monitor.following(watch, retrievers, speaks=False), closing(made):
            yield from map(Parcel, made)


def _leave_interrupts(_worker: int) -> None:
    """Leave Ctrl-C, which reaches all processes of a terminal, to the training process.

    Otherwise it would end the workers while that waits at a prompt, and keeps them for later.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _are_alive(loader: DataLoader[Parcel]) -> bool:
    steps: Any = loader._iterator
    return steps is None or all(worker.is_alive() for worker in steps._workers)


def _end(steps: Any) -> None:  # noqa: ANN401 (torch's own iterator)
    """End the workers of an iterator.

    Those that do not end within 2 s, because they are processing a sample, are terminated; torch
    would wait 5 s for one after the other.
    """

    def terminate() -> None:
        for worker in steps._workers:
            worker.terminate()

    timer = threading.Timer(_PATIENCE_S, terminate)
    timer.daemon = True
    timer.start()
    try:
        steps._shutdown_workers()
    finally:
        timer.cancel()


def _interrupt(steps: Any) -> None:  # noqa: ANN401
    """End the workers of an iterator, and a wait for them in another thread.

    Not through the queue: a worker that ended while it sent a batch has kept the queue's lock, for
    which the thread of the queue would wait for ever, and with it the end of this process.
    """
    _end(steps)
    steps._data_queue = _Nothing()  # a wait that begins later, or looks again, gets no batch
    pipe = steps._worker_result_queue._writer
    os.set_blocking(pipe.fileno(), False)
    with suppress(OSError):  # full: then the thread does not wait at an empty pipe
        pipe.send(None)
    pipe.close()  # ends a wait for the rest of a batch


class _Nothing:
    """Stands in for a queue that gets no more batches."""

    def get(self, timeout: float | None = None) -> None:  # noqa: ARG002
        """Return what is not a batch, so that torch raises TypeError."""
        return


def _unchanged(made: Any) -> Any:  # noqa: ANN401 (whatever torch hands over)
    return made


def worker_count(dataset: PlannedDataset, context: str | BaseContext | None) -> int:
    """Return the default number of workers: 0, or more for processors that can be sent to them."""
    processors = [part.load.processor for part in parts_of(dataset.what)]
    if all(processor is None for processor in processors):
        return 0
    if not isinstance(context, str):
        context = (context or multiprocessing.get_context()).get_start_method()
    if context != "fork" and not all(map(_travels, processors)):
        return 0
    ranks = env_number("LOCAL_WORLD_SIZE") or 1
    return min(_MOST_WORKERS, max(1, usable_cores() // ranks - 1))


def _travels(processor: Any) -> bool:  # noqa: ANN401 (any callable)
    try:
        ForkingPickler.dumps(processor)
    except Exception:  # noqa: BLE001 (pickling runs the user's code)
        return False
    return True
