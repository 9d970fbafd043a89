"""Decode clips directly into the rows of their batch.

Otherwise each clip is decoded into memory of its own, and collating copies it, which takes a tenth
of the time of decoding FLAC. Decoding into rows requires that the lengths of a batch's clips are
known before they are decoded, and that nothing in between needs another array
(docs/decisions/0022).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from audiomdb.locks import Lock

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Allocate", "Row", "rows_of"]

Allocate: TypeAlias = "Callable[[int, int], np.ndarray]"
"""Returns a C-contiguous float32 array `(rows, frames)` with arbitrary contents."""

Row: TypeAlias = "Callable[[], np.ndarray]"
"""Returns the memory for one clip, `(frames,)`."""


def rows_of(frames: Sequence[int | None], allocate: Allocate) -> Sequence[Row | None]:
    """Return a row for each clip of a batch, as long as the clip; all None if a length is unknown.

    The memory is allocated when the first clip asks for it, because a batch is planned long before
    it is read. Thread-safe.

    Args:
        frames: Number of frames of each clip.
        allocate: Allocates the memory for all of them, as wide as the longest.
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
        self._lock = Lock()

    def row(self, number: int, frames: int) -> np.ndarray:
        with self._lock:
            if self._made is None:
                self._made = self._allocate(*self._shape)
            made = self._made
        row: np.ndarray = made[number, :frames]
        return row
