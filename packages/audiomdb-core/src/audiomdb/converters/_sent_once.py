"""A processor that an executor pickles with each batch, but that each worker makes only once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from audiomdb.lazy import cached_property
from audiomdb.sample import Sample
from audiomdb.shards.prepare import Process

__all__ = ["SentOnce"]


class SentOnce:
    """A stand-in for a processor in an executor of the user's, whose workers are not told of it.

    The executor sends it with each batch. Unpickled anew each time, a tokenizer would be built for
    64 clips, and a model that the processor loads in its first call would be loaded for as many.
    Here it is pickled once, and a worker keeps what it unpickled until another conversion comes.

    Args:
        process: Anything that cloudpickle can pickle.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._conversion = os.urandom(16)

    def __call__(self, sample: Sample) -> Mapping[str, Any]:
        """Process a sample in this process, as a pool of threads does."""
        return self._process(sample)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _Arrived, (self._conversion, *self._pickled)

    @cached_property
    def _pickled(self) -> tuple[Any, ...]:
        """The function that unpickles the processor, and its arguments."""
        import loky

        reduced = loky.wrap_non_picklable_objects(self._process, keep_wrapper=False).__reduce__()
        return tuple(reduced)


class _Arrived(msgspec.Struct, frozen=True):
    conversion: bytes
    unpickle: Callable[..., Process]
    arguments: tuple[Any, ...]

    def __call__(self, sample: Sample) -> Mapping[str, Any]:
        if getattr(_kept, "conversion", None) != self.conversion:
            _kept.process, _kept.conversion = self._unpickled(), self.conversion
        process: Process = _kept.process
        return process(sample)

    def _unpickled(self) -> Process:
        try:
            return self.unpickle(*self.arguments)
        except Exception as exc:
            # Of a kind that says nothing about the sample.
            raise ImportError(
                f"the processor cannot be unpickled by this worker: {type(exc).__name__}: {exc}"
            ) from exc


# By thread: a worker may have several, which would otherwise share a tokenizer that can serve one.
_kept = threading.local()
