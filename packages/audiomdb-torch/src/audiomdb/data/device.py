"""Move batches to a device ahead of time, in a thread."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from typing import Any, Generic, TypeVar

import torch

from audiomdb.threads import wait_for

__all__ = ["DeviceMover", "made_ahead", "map_tensors"]

T = TypeVar("T")
R = TypeVar("R")

_LOOK_S = 0.1
"""Interval in seconds at which a thread with a full queue checks whether it should stop."""


def map_tensors(batch: Any, change: Callable[[Any], Any]) -> Any:  # noqa: ANN401
    """Apply a function to every tensor of a batch.

    Recurses into dicts and other mappings, lists, tuples and named tuples. An object that has a
    method `to` but is not a tensor (a `PackedSequence`, a `BatchFeature`) is passed to `change` as
    a whole. All other values, such as text, are left unchanged.
    """
    if isinstance(batch, torch.Tensor) or hasattr(batch, "to"):
        return change(batch)
    if isinstance(batch, Mapping):
        return _like(batch, {name: map_tensors(value, change) for name, value in batch.items()})
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(value, change) for value in batch))
    if type(batch) in (list, tuple):
        return type(batch)(map_tensors(value, change) for value in batch)
    return batch


def _like(batch: Mapping[Any, Any], made: dict[Any, Any]) -> Mapping[Any, Any]:
    if type(batch) is dict:
        return made
    try:
        return type(batch)(made)  # type: ignore[call-arg]
    except TypeError:  # a class that cannot be constructed from a mapping
        return made


class DeviceMover:
    """Moves batches to a device, in two steps that may run in two threads.

    `begin` copies; on a CUDA device it only starts the copy, on a separate stream, from pinned
    memory if requested. `finish` makes the calling thread's stream wait for the copy, so that work
    launched afterwards sees the whole batch. The batch's memory is not reused before that work is
    done (`Tensor.record_stream`).

    Args:
        device: Target device; None leaves batches where they are.
        pin_memory: Copy batches to pinned memory first. None: only for a CUDA device.

    Raises:
        RuntimeError: torch does not know the device, does not find it, or cannot pin memory here.
    """

    def __init__(
        self, device: torch.device | str | int | None, *, pin_memory: bool | None = None
    ) -> None:
        self.device = None if device is None else torch.device(device)
        cuda = self.device is not None and self.device.type == "cuda"
        if cuda and not torch.cuda.is_available():
            raise RuntimeError(f"device is {self.device}, but torch finds no CUDA device here")
        if self.device == torch.device("cuda"):  # without a number: this thread's current device
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
        """Start moving a batch, and return a handle for `finish`."""
        if self._pin:
            batch = map_tensors(batch, _pinned)
        if self.device is None:
            return batch, None
        if self._stream is None:
            return map_tensors(batch, lambda value: value.to(self.device)), None
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            # From pageable memory, the call returns when the copy is done. torch's allocator keeps
            # a pinned block until the copy is done, even if nothing refers to it.
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
    """Marks the end of the prepared items, with the error that caused it, if any."""

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
    """Yield `prepare(item)` for each item, prepared in a thread up to `depth` items ahead.

    An exception of `source` or `prepare` is raised unchanged, in place of its item. The first
    `next` starts the thread; it has ended when the generator is exhausted, closed or collected.

    Args:
        source: Iterated over in the thread, and closed after the thread has ended.
        prepare: Called in the thread.
        depth: Maximum number of items that are prepared and not yet taken, at least 1. One more may
            have been drawn from `source`.
        interrupt: Called at the end, in the closing thread, to end a call of `next(source)` that
            does not return by itself.
        patience_s: Seconds that such a call is given to return by itself.
    """
    # These queues are written in C: an interrupt between two lines of `queue.Queue` could leave its
    # lock, and so the threads, in a broken state.
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
        closed.set()
        _end(thread, interrupt, patience_s)
        close = getattr(source, "close", None)
        if close is not None and not thread.is_alive():  # else the thread is in the midst of it
            close()


def _end(thread: threading.Thread, interrupt: Callable[[], None], patience_s: float) -> None:
    # The garbage collector may close a generator in any thread, including `thread` itself, and at
    # interpreter shutdown, when daemon threads are frozen.
    if thread is threading.current_thread() or sys.is_finalizing() or not thread.is_alive():
        return
    thread.join(patience_s)
    if thread.is_alive():
        interrupt()
        wait_for([thread])


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
            # Before it is prepared: on a device, each prepared item takes memory.
            if not _place(places, closed):
                return
            prepared = prepare(item)
            ready.put(prepared)
            del item, prepared  # only the consumer should hold a reference
    except BaseException as error:  # noqa: BLE001 (raised by the consumer, at its place)
        end.error = error
    ready.put(end)


def _place(places: queue.SimpleQueue[None], closed: threading.Event) -> bool:
    """Wait for a place in the queue; return False if the consumer has closed it."""
    while not closed.is_set():
        with suppress(queue.Empty):
            places.get(timeout=_LOOK_S)
            return True
    return False
