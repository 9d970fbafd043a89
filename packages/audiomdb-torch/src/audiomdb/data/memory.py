"""Memory of batches: audio is decoded into it row by row, and it becomes the batch as it is.

Memory that nobody holds any more serves the next batch. New memory costs as much as copying the
clips into it would: the system hands it out page by page, and zero.
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
"""Of memory that are remembered. Fewer are under way at a time, unless a loop keeps its batches."""


class BatchMemory:
    """Makes arrays `(rows, frames)`, float32; see `audiomdb.stream.rows.Allocate`.

    In a DataLoader's worker they lie in shared memory, always new. Threads share one.
    """

    def __init__(self) -> None:
        self._memory = ReusedMemory(pieces=_PIECES)

    def __reduce__(self) -> tuple[type[BatchMemory], tuple[()]]:
        return BatchMemory, ()  # memory of one process is of no use to another

    def __call__(self, rows: int, frames: int) -> np.ndarray:
        """Make one. What it holds is anything; in shared memory, zeros."""
        if get_worker_info() is not None and rows and frames:
            shared: np.ndarray = uninitialised((rows, frames), torch.float32).numpy()
            return shared
        return self._memory((rows, frames))


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


_KINDS = torch.Tensor, Piece


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]  # `.ctypes.data` takes three times as long
    return address
