"""Batches in one piece: clips are decoded into the rows of what becomes their batch.

Otherwise each clip lies in memory of its own until its batch is put together, which copies it: a
tenth of the time that decoding FLAC takes. It needs the lengths of a batch's clips before they are
decoded, and nobody in between who wants another array (docs/decisions/0022).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Allocate", "Row", "rows_of"]

Allocate: TypeAlias = "Callable[[int, int], np.ndarray]"
"""Makes a C-contiguous float32 array `(rows, frames)`; what it holds does not matter."""

Row: TypeAlias = "Callable[[], np.ndarray]"
"""Gives the memory of one clip, `(frames,)`."""


def rows_of(frames: Sequence[int | None], allocate: Allocate) -> Sequence[Row | None]:
    """Return a row for each clip of a batch, as long as the clip; all None if a length is unknown.

    The memory is made when the first clip asks for it: a batch is planned long before it is read.
    Threads may ask at the same time.

    Args:
        frames: Of each clip.
        allocate: Makes the memory of all of them, as wide as the longest.
    """
    known = [count for count in frames if count is not None]
    if len(known) < len(frames) or not known:
        return [None] * len(frames)
    block = _Block(len(known), max(known), allocate)
    return [partial(block.row, number, count) for number, count in enumerate(known)]


class _Block:
    def __init__(self, rows: int, longest: int, allocate: Allocate) -> None:
        self._shape = rows, longest
        self._allocate = allocate
        self._made: np.ndarray | None = None
        self._lock = threading.Lock()

    def row(self, number: int, frames: int) -> np.ndarray:
        with self._lock:
            if self._made is None:
                self._made = self._allocate(*self._shape)
            made = self._made
        row: np.ndarray = made[number, :frames]
        return row
