"""Memory of batches: audio is decoded into it row by row, and it becomes the batch as it is.

Memory that nobody holds any more serves the next batch. New memory costs as much as copying the
clips into it would: the system hands it out page by page, and zero.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

__all__ = ["BatchMemory", "batch_in_place", "uninitialised"]

_KEPT = 8
"""Pieces that are remembered. Fewer are under way at a time, unless a loop keeps its batches."""

_SPARE = 8
"""A piece is so much larger than asked for, one part in this many: the next batch may be longer."""


class BatchMemory:
    """Makes arrays `(rows, frames)`, float32; see `audiomdb.stream.rows.Allocate`.

    In a DataLoader's worker they lie in shared memory, always new. Threads share one.
    """

    def __init__(self) -> None:
        self._pieces: list[_Piece] = []

    def __reduce__(self) -> tuple[type[BatchMemory], tuple[()]]:
        return BatchMemory, ()  # memory of one process is of no use to another

    def __call__(self, rows: int, frames: int) -> np.ndarray:
        """Make one. What it holds is anything; in shared memory, zeros."""
        if get_worker_info() is not None and rows and frames:
            shared: np.ndarray = uninitialised((rows, frames), torch.float32).numpy()
            return shared
        size = rows * frames * np.dtype(np.float32).itemsize
        memory = self._unused(size)
        if memory is None:
            memory = _Memory(size + size // _SPARE, np.uint8)
        block: np.ndarray = np.ndarray((rows, frames), np.float32, buffer=memory)
        del self._pieces[: 1 - _KEPT]
        self._pieces.append(_Piece(memory, block))
        return block

    def _unused(self, size: int) -> _Memory | None:
        """Memory whose batch is gone and that is large enough. What is too small is forgotten."""
        for piece in reversed(tuple(self._pieces)):  # what was used last is warm
            if piece.is_free():
                try:
                    self._pieces.remove(piece)
                except ValueError:  # another thread was quicker
                    continue
                if len(piece.memory) >= size:
                    return piece.memory
        return None


class _Piece:
    """Memory and its block. Rows of it, and tensors made of it, keep the block alive.

    Whether they do is asked, rather than told by a finalizer: an interrupt that comes while a
    finalizer runs is lost, and there was one for each batch of a loop.
    """

    __slots__ = ("_block", "memory")

    def __init__(self, memory: _Memory, block: np.ndarray) -> None:
        self.memory = memory
        self._block = weakref.ref(block)

    def is_free(self) -> bool:
        """Whether nobody holds the block any more."""
        return self._block() is None


def batch_in_place(column: Sequence[Any], dtype: torch.dtype) -> torch.Tensor | None:
    """The tensor whose rows begin with these arrays, zero behind each.

    None unless they are the rows of one array that `BatchMemory` has made, in their order.
    """
    whole = getattr(column[0], "base", None)
    memory = getattr(whole, "base", None)
    if not isinstance(whole, np.ndarray) or dtype != torch.float32 or whole.ndim != 2:
        return None
    if not isinstance(memory, _KINDS):
        return None
    lengths = [len(array) for array in column if getattr(array, "base", None) is whole]
    if len(lengths) < len(column) or whole.shape != (len(lengths), max(lengths)):
        return None
    first, step = _address(whole), whole.strides[0]
    if any(_address(array) != first + number * step for number, array in enumerate(column)):
        return None
    if isinstance(memory, torch.Tensor):  # shared: nothing but the clips has touched it
        return memory
    for row, length in zip(whole, lengths, strict=True):
        row[length:] = 0
    return torch.from_numpy(whole)


def uninitialised(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A new tensor; in a DataLoader's worker, in shared memory, and zero."""
    size = math.prod(shape) * dtype.itemsize
    if get_worker_info() is None or size == 0:
        return torch.empty(shape, dtype=dtype)
    storage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=dtype).set_(storage).view(shape)


class _Memory(np.ndarray):
    """Memory of one batch after another. NumPy's is not filled with zeros first."""


_KINDS = torch.Tensor, _Memory


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]  # `.ctypes.data` takes three times as long
    return address
