"""Memory of decoded audio that serves again when nobody holds any more what was in it.

The C library gives the memory of a large array back to the system when that is freed, and the
system hands out other memory for the next one, page by page, and zero. For a clip of 8 s that takes
0.1 ms, longer than turning its 16-bit samples into floats (docs/decisions/0025).
"""

from __future__ import annotations

import math
import weakref
from contextlib import suppress

import numpy as np

__all__ = ["Piece", "ReusedMemory"]

_SPARE = 8
"""A piece is so much larger than asked for, one part in this many: the next array may be longer."""

_WASTE = 2
"""A piece is at most so many times as large as what it is used for."""

_FLOAT_BYTES = 4


class Piece(np.ndarray):
    """What memory is known by: the `base` of an array that lies in it, and of no other.

    A type of its own, because NumPy has views refer to the last array of their own type: to the
    array in the piece, and so its end is the end of all views.
    """


class ReusedMemory:
    """Makes float32 arrays. What they hold is anything. Threads share one.

    The memory of an array serves another when nothing refers to it any more: no view, no tensor
    made of it. Whether anything does is asked, rather than told by a finalizer: an interrupt that
    comes while a finalizer runs is lost, and there would be one for each array.

    Args:
        pieces: How many are remembered, in use or not. The oldest of more is forgotten: it is
            freed with its array, as memory usually is.
    """

    def __init__(self, *, pieces: int) -> None:
        self._most = pieces
        self._known: list[_Known] = []

    def __call__(self, shape: tuple[int, ...]) -> np.ndarray:
        """Make an array of some shape, C-contiguous."""
        size = math.prod(shape) * _FLOAT_BYTES
        piece = self._unused(size)
        if piece is None:
            piece = Piece(size + size // _SPARE, np.uint8)
        array: np.ndarray = np.ndarray(shape, np.float32, buffer=piece)
        del self._known[: max(0, len(self._known) + 1 - self._most)]
        self._known.append(_Known(piece, array))
        return array

    def _unused(self, size: int) -> Piece | None:
        """A piece of about this size that is free. If there is none, those too small are forgotten.

        Of several the one used last, which may still be in the processor's caches.
        """
        # One is mostly found among the last few, and to ask whether an array lives takes a while.
        all_known = tuple(self._known)
        for known in reversed(all_known):
            if size <= known.size <= _WASTE * size and known.array() is None and self._taken(known):
                return known.piece
        for known in all_known:
            if known.size < size and known.array() is None:
                self._taken(known)
        return None

    def _taken(self, known: _Known) -> bool:
        """Whether this thread is the one that has a piece now."""
        with suppress(ValueError):  # another thread was quicker
            self._known.remove(known)
            return True
        return False


class _Known:
    __slots__ = ("array", "piece", "size")

    def __init__(self, piece: Piece, array: np.ndarray) -> None:
        self.piece = piece
        self.size = len(piece)
        self.array = weakref.ref(array)
