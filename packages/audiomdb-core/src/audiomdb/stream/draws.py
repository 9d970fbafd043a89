"""Draw a random word for each sample that an epoch reads, whoever loads it and whenever."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from audiomdb.plan.bits import Purpose, random_words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Draw", "word_of"]

_BLOCK = 1024
"""Words are drawn in blocks, since drawing takes 10 us, however few they are."""


class Draw(NamedTuple):
    """A sample that is read in an epoch.

    Attributes:
        epoch: 0 to 2**32 - 1.
        position: Position of the sample over all datasets of the stream.
        repeat: How often the epoch passed over its dataset before, see `audiomdb.plan.occurrences`.
    """

    epoch: int
    position: int
    repeat: int = 0


def word_of(seed: int, purpose: Purpose, draw: Draw) -> int:
    """Return the word of a draw, 0 to 2**64 - 1.

    Args:
        seed: Seed of the stream.
        purpose: What the word is for.
        draw: The sample and its epoch.
    """
    block, place = divmod(draw.position, _BLOCK)
    return int(_words(seed, draw.epoch, purpose, draw.repeat, block)[place])


@lru_cache(maxsize=256)
def _words(seed: int, epoch: int, purpose: Purpose, repeat: int, block: int) -> NDArray[np.uint64]:
    start = block * _BLOCK
    return random_words(seed, epoch, purpose, repeat, start=start, stop=start + _BLOCK)
