"""Draw a random word for each sample of an epoch, whoever loads it and whenever."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from audiomdb.plan.bits import Purpose, random_words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["word_of"]

_BLOCK = 1024
"""Words are drawn in blocks, since drawing takes 10 us, however few they are."""


def word_of(seed: int, epoch: int, purpose: Purpose, position: int) -> int:
    """Return the word of a sample, 0 to 2**64 - 1.

    Args:
        seed: Seed of the stream.
        epoch: 0 to 2**32 - 1.
        purpose: What the word is for.
        position: Position of the sample in its dataset.
    """
    block, place = divmod(position, _BLOCK)
    return int(_words(seed, epoch, purpose, block)[place])


@lru_cache(maxsize=256)
def _words(seed: int, epoch: int, purpose: Purpose, block: int) -> NDArray[np.uint64]:
    start = block * _BLOCK
    return random_words(seed, epoch, purpose, start=start, stop=start + _BLOCK)
