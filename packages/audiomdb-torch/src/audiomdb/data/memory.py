"""Allocate the memory of batches, which audio is decoded into row by row.

The memory becomes the batch without a copy. Memory that is no longer referenced is reused for the
next batch, because new memory costs as much as copying the clips into it: the operating system
provides it page by page, filled with zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

from audiomdb.stream.memory import Piece, ReusedMemory

__all__ = ["BatchMemory", "batch_in_place", "uninitialised"]

_PIECES = 8
"""Pieces of memory kept for reuse. Fewer are in use at a time, unless a loop keeps its batches."""


class BatchMemory:
    """Allocates float32 arrays `(rows, frames)`; see `audiomdb.stream.rows.Allocate`.

    In a worker of a DataLoader, they are in shared memory and always new. Thread-safe.
    """

    def __init__(self) -> None:
        self._memory = ReusedMemory(pieces=_PIECES)

    def __reduce__(self) -> tuple[type[BatchMemory], tuple[()]]:
        return BatchMemory, ()  # another process cannot use the memory of this one

    def __call__(self, rows: int, frames: int) -> np.ndarray:
        """Allocate an array with arbitrary contents; in shared memory, with zeros."""
        if get_worker_info() is not None and rows and frames:
            shared: np.ndarray = uninitialised((rows, frames), torch.float32).numpy()
            return shared
        return self._memory((rows, frames))


def batch_in_place(column: Sequence[Any], dtype: torch.dtype) -> torch.Tensor | None:
    """Return the tensor whose rows start with these arrays, with zeros after each.

    None unless the arrays are, in order, the rows of one array that `BatchMemory` has made.
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
    if isinstance(memory, torch.Tensor):  # shared memory, which is zero after the clips
        return memory
    for row, length in zip(whole, lengths, strict=True):
        row[length:] = 0
    return torch.from_numpy(whole)


def uninitialised(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return a new tensor; in a worker of a DataLoader, in shared memory and filled with zeros."""
    size = math.prod(shape) * dtype.itemsize
    if get_worker_info() is None or size == 0:
        return torch.empty(shape, dtype=dtype)
    storage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=dtype).set_(storage).view(shape)


_KINDS = torch.Tensor, Piece


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]  # `.ctypes.data` takes three times as long
    return address
