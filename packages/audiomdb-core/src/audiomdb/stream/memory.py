"""Reuse the memory of decoded audio once nothing refers to it.

The C library returns the memory of a large array to the system when it is freed, and the system
provides other memory for the next one, zeroed page by page. For a clip of 8 s, this takes 0.1 ms,
longer than converting its 16-bit samples to floats (docs/decisions/0025).
"""

from __future__ import annotations

import math
import weakref
from contextlib import suppress

import numpy as np

__all__ = ["Piece", "ReusedMemory"]

_SPARE = 8
"""A piece is larger than requested by one part in this many, since the next array may be longer."""

_WASTE = 2
"""Maximum ratio of the size of a piece to the size that is used."""

_FLOAT_BYTES = 4


class Piece(np.ndarray):
    """Memory that is the `base` of exactly one array.

    It has a type of its own because the `base` of a NumPy view is the last array of the view's own
    type. Views of the array in a piece therefore refer to that array, not to the piece, so the
    array lives as long as any of its views.
    """


class ReusedMemory:
    """Allocates uninitialised float32 arrays in memory that is reused. Thread-safe.

    The memory of an array is reused once nothing refers to the array: no view, and no tensor made
    from it. This is checked on allocation rather than by a finalizer: an interrupt during a
    finalizer is lost, and each array would need one.

    Args:
        pieces: Maximum number of pieces of memory that are remembered, in use or not. Beyond it,
            the oldest is forgotten and freed with its array, as memory usually is.
    """

    def __init__(self, *, pieces: int) -> None:
        self._most = pieces
        self._known: list[_Known] = []

    def __call__(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return a C-contiguous array of the given shape."""
        size = math.prod(shape) * _FLOAT_BYTES
        piece = self._unused(size)
        if piece is None:
            piece = Piece(size + size // _SPARE, np.uint8)
        array: np.ndarray = np.ndarray(shape, np.float32, buffer=piece)
        del self._known[: max(0, len(self._known) + 1 - self._most)]
        self._known.append(_Known(piece, array))
        return array

    def _unused(self, size: int) -> Piece | None:
        """Return a free piece of about this size; if there is none, forget the smaller free ones.

        Among several, the one used last is chosen, which may still be in the CPU's caches.
        """
        # A free piece is usually among the last few, and checking whether an array is alive is
        # slow.
        all_known = tuple(self._known)
        for known in reversed(all_known):
            if size <= known.size <= _WASTE * size and known.array() is None and self._taken(known):
                return known.piece
        for known in all_known:
            if known.size < size and known.array() is None:
                self._taken(known)
        return None

    def _taken(self, known: _Known) -> bool:
        """Take a piece, and return whether this thread was the one to get it."""
        with suppress(ValueError):  # another thread took it first
            self._known.remove(known)
            return True
        return False


class _Known:
    __slots__ = ("array", "piece", "size")

    def __init__(self, piece: Piece, array: np.ndarray) -> None:
        self.piece = piece
        self.size = len(piece)
        self.array = weakref.ref(array)
