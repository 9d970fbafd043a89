"""Batches on a device before they are asked for."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from typing import Any, Generic, TypeVar

import torch

__all__ = ["DeviceMover", "made_ahead", "map_tensors"]

T = TypeVar("T")
R = TypeVar("R")

_LOOK_S = 0.1
"""How often a thread that has nowhere to put a batch looks whether it is still wanted."""


def map_tensors(batch: Any, change: Callable[[Any], Any]) -> Any:  # noqa: ANN401
    """Apply a function to every tensor of a batch.

    Goes into dicts and other mappings, lists, tuples and named tuples, of any depth. What has a
    method `to` without being a tensor (a `PackedSequence`, a `BatchFeature`) is given to `change`
    as a whole. All else, such as text, stays.
    """
    if isinstance(batch, torch.Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        made = {name: map_tensors(value, change) for name, value in batch.items()}
        return change(batch) if hasattr(batch, "to") else _like(batch, made)
    if isinstance(batch, tuple) and hasattr(batch, "_fields") and not hasattr(batch, "to"):
        return type(batch)(*(map_tensors(value, change) for value in batch))
    if type(batch) in (list, tuple):
        return type(batch)(map_tensors(value, change) for value in batch)
    return change(batch) if hasattr(batch, "to") else batch


def _like(batch: Mapping[Any, Any], made: dict[Any, Any]) -> Mapping[Any, Any]:
    if type(batch) is dict:
        return made
    try:
        return type(batch)(made)  # type: ignore[call-arg]
    except TypeError:  # one that is not made of a mapping
        return made


class DeviceMover:
    """Moves batches to a device, in two steps that two threads may take.

    `begin` copies; on a CUDA device it only starts the copy, on a stream of its own, out of pinned
    memory if asked to. `finish` makes the calling thread's stream wait for it, so that work which
    is launched afterwards finds the batch whole. The batch's memory is not given to others before
    that work is done (`Tensor.record_stream`).

    Args:
        device: Where to; None leaves batches where they are.
        pin_memory: Copy batches into pinned memory first. None: where the device is CUDA.

    Raises:
        RuntimeError: torch does not know the device, or cannot pin memory here.
    """

    def __init__(
        self, device: torch.device | str | int | None, *, pin_memory: bool | None = None
    ) -> None:
        self.device = None if device is None else torch.device(device)
        cuda = self.device is not None and self.device.type == "cuda"
        if self.device == torch.device("cuda"):  # without a number: this thread's
            self.device = torch.device("cuda", torch.cuda.current_device())
        self._pin = cuda if pin_memory is None else pin_memory
        if self._pin and not torch.cuda.is_available():
            raise RuntimeError(
                "pin_memory=True, but there is no CUDA device to copy to; leave it out"
            )
        self._stream: Any = None
        if cuda:
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def begin(self, batch: Any) -> tuple[Any, Any]:  # noqa: ANN401
        """Start moving a batch; the result is for `finish`."""
        if self._pin:
            batch = map_tensors(batch, _pinned)
        if self.device is None:
            return batch, None
        if self._stream is None:
            return map_tensors(batch, lambda value: value.to(self.device)), None
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            # Out of pageable memory the call returns when the copy is done. A pinned block is kept
            # by torch's allocator until the copy is done, whoever forgets it.
            moved = map_tensors(batch, lambda value: value.to(self.device, non_blocking=True))
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(self._stream)
        return moved, done

    def finish(self, begun: tuple[Any, Any]) -> Any:  # noqa: ANN401
        """Return the batch, on the device, for use by the calling thread."""
        batch, done = begun
        if done is None:
            return batch
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(done)

        def used_here(value: Any) -> Any:  # noqa: ANN401
            if hasattr(value, "record_stream"):
                if value.device.type == "cuda":
                    value.record_stream(stream)
            elif isinstance(value, Mapping):
                map_tensors(dict(value), used_here)
            elif isinstance(value, tuple):  # a PackedSequence
                map_tensors(tuple(value), used_here)
            return value

        map_tensors(batch, used_here)
        return batch


def _pinned(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, torch.Tensor) and (value.device.type != "cpu" or value.is_sparse):
        return value
    return value.pin_memory() if hasattr(value, "pin_memory") else value


class _End(Generic[T]):
    """The end of what is made, and the error that ended it."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def made_ahead(
    source: Iterator[T],
    prepare: Callable[[T], R],
    *,
    depth: int = 2,
    interrupt: Callable[[], None] = lambda: None,
    patience_s: float = 0.0,
) -> Generator[R, None, None]:
    """Yield `prepare(item)` for each item, made in a thread, up to `depth` of them ahead.

    An exception of either is raised at its place, as itself. The thread is started by the first
    `next`, and gone when the generator has ended, was closed or was collected.

    Args:
        source: Iterated in the thread, and closed when the thread is gone.
        prepare: Called in the thread.
        depth: Items held ready.
        interrupt: Called at the end, in the closing thread: ends a `next(source)` under way that
            would not end by itself.
        patience_s: Seconds that it is given to end by itself.
    """
    # Queues of C: an interrupt between two lines of `queue.Queue` leaves its lock as it should not
    # be, and the threads with it.
    ready: queue.SimpleQueue[R | _End[R]] = queue.SimpleQueue()
    places: queue.SimpleQueue[None] = queue.SimpleQueue()
    for _ in range(depth):
        places.put(None)
    closed = threading.Event()
    thread = threading.Thread(
        target=_make,
        args=(source, prepare, ready, places, closed),
        name="audiomdb-stream-batches",
        daemon=True,
    )
    try:
        thread.start()
        while not isinstance(item := ready.get(), _End):
            places.put(None)
            yield item
        if (error := item.error) is not None:
            item.error = None
            try:
                raise error
            finally:
                del error
    finally:
        # When the interpreter ends, daemon threads stand still; from Python 3.13 on they never end.
        if not sys.is_finalizing():
            closed.set()
            _wait_for(thread, interrupt, patience_s)
        close = getattr(source, "close", None)
        if close is not None:
            close()


def _wait_for(thread: threading.Thread, interrupt: Callable[[], None], patience_s: float) -> None:
    # The garbage collector may close a generator in any thread, that one among them.
    if thread is threading.current_thread() or thread.ident is None:
        return
    thread.join(patience_s)
    if thread.is_alive():
        interrupt()
        thread.join()


def _make(
    source: Iterator[T],
    prepare: Callable[[T], R],
    ready: queue.SimpleQueue[R | _End[R]],
    places: queue.SimpleQueue[None],
    closed: threading.Event,
) -> None:
    end: _End[R] = _End(None)
    try:
        for item in source:
            prepared = prepare(item)
            if not _place(places, closed):
                return
            ready.put(prepared)
            del item, prepared  # held by whoever takes it, and by nobody else
    except BaseException as error:  # noqa: BLE001 (raised by the consumer, at its place)
        end.error = error
    ready.put(end)


def _place(places: queue.SimpleQueue[None], closed: threading.Event) -> bool:
    """Wait for a place in the queue; False when nobody wants more."""
    while not closed.is_set():
        with suppress(queue.Empty):
            places.get(timeout=_LOOK_S)
            return True
    return False
