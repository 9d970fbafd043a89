"""Random bits that are the same on every machine, in every version, for ever.

A checkpoint outlives upgrades, so the order of an epoch must too. NumPy keeps the raw words of a
bit generator stable, but not what `Generator.permutation` or `integers` make of them. Every random
choice of a plan is therefore made here, from raw 64-bit words of Philox4x64-10 (Salmon, Moraes,
Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

Philox is a function of a key and a counter, not a state that is stepped: word `i` of a stream is
computed directly, and different keys give independent streams. A key has two words of 64 bits:

    word 0   seed
             63                                                            0
    word 1   epoch                          | purpose        | number
             63                          32   31          24   23          0

`purpose` separates the kinds of choices from each other; `number` counts streams of one kind. One
stream per shard, indexed by the place in the shard, means that no sample's bits depend on which
other shards exist, on where partitions are cut, or on the window.

This layout is frozen: golden values in the tests hold it. New kinds of choices take new purposes.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from audiomdb.plan.checks import whole_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["EPOCHS", "MAX_STREAMS", "Purpose", "random_order", "random_words"]

EPOCHS = 2**32
"""Epochs that have words of their own."""

MAX_STREAMS = 2**24
"""Streams of one purpose, hence shards of one dataset."""

_WORDS_PER_COUNT = 4  # one step of the Philox4x64 counter yields four words


class Purpose(IntEnum):
    """What a stream decides. Values are part of the key and never change."""

    SHARD_ORDER = 0
    """Order of the shards; word `i` belongs to shard `i`. One stream an epoch."""

    SAMPLE_ORDER = 1
    """Order of samples; stream `number` is the shard, word `i` its sample at place `i`."""

    MIX_ORDER = 2
    """Order inside the blocks of a mixture; word `i` belongs to turn `i` of the pattern.

    Stream `number` is the mixture: 0 the outermost, then each before those nested in it.
    """

    BUCKET_CHOICE = 3
    """Which bucket a step takes; stream `number` is the chapter, word `i` its step `i`."""

    SLOT_ORDER = 4
    """Order of a step's slots; stream `number` is the chapter, word `i * slots + s` slot `s`."""

    CROP_OFFSET = 5
    """Where a clip's random window begins; word `i` belongs to the clip at position `i`."""


def random_words(
    seed: int, epoch: int, purpose: Purpose, number: int = 0, *, start: int = 0, stop: int
) -> NDArray[np.uint64]:
    """Return words `start` to `stop` (half open) of one stream.

    Costs about 10 us and 5 ns a word, whatever `start` is.

    Args:
        seed: 0 to 2**64 - 1.
        epoch: 0 to 2**32 - 1.
        purpose: What the words decide.
        number: Which stream of this purpose, 0 to 2**24 - 1.
        start: First word, counted from 0.
        stop: Word after the last.

    Raises:
        PlanError: A part of the key is out of range.
    """
    seed = whole_number("seed", seed, high=2**64 - 1)
    epoch = whole_number("epoch", epoch, high=2**32 - 1)
    number = whole_number("number", number, high=MAX_STREAMS - 1)
    key = np.array([seed, epoch << 32 | purpose << 24 | number], dtype=np.uint64)
    count, skip = divmod(start, _WORDS_PER_COUNT)
    philox = np.random.Philox(key=key, counter=count)
    return philox.random_raw(skip + stop - start)[skip:]


def random_order(seed: int, epoch: int, purpose: Purpose, size: int) -> NDArray[np.int64]:
    """Return the numbers 0 to `size` - 1 in a random order, `(size,)` int64.

    Numbers are sorted by their random word. Equal words keep their order, so the result does not
    depend on how the sort is implemented.
    """
    words = random_words(seed, epoch, purpose, stop=size)
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)
