"""Generate random bits that are identical on every machine and in every version.

A checkpoint outlives upgrades, so the order of an epoch must not change with them. NumPy keeps the
raw words of a bit generator stable, but not the results of `Generator.permutation` or `integers`.
All random choices of a plan are therefore derived from the raw 64-bit words of Philox4x64-10
(Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

Philox is a function of a key and a counter, without a state to advance: word `i` of a stream is
computed directly, and different keys give independent streams. A key has two words of 64 bits:

    word 0   seed
             63                                                            0
    word 1   epoch                          | purpose        | number
             63                          32   31          24   23          0

`purpose` separates the kinds of choices; `number` identifies a stream of one kind. There is one
stream per shard, indexed by the place in the shard, so the bits of a sample do not depend on which
other shards exist, on where partitions are cut, or on the window.

This layout is frozen, and the tests check golden values. A new kind of choice gets a new purpose.
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
"""Number of epochs with distinct random words."""

MAX_STREAMS = 2**24
"""Maximum number of streams of one purpose, and so of shards in one dataset."""

_WORDS_PER_COUNT = 4  # one step of the Philox4x64 counter yields four words


class Purpose(IntEnum):
    """The kind of choice a stream is used for. Values are part of the key and never change."""

    SHARD_ORDER = 0
    """Order of the shards; word `i` belongs to shard `i`. One stream per epoch."""

    SAMPLE_ORDER = 1
    """Order of samples; stream `number` is the shard, word `i` is for its sample at place `i`."""

    MIX_ORDER = 2
    """Order within the blocks of a mixture; word `i` belongs to turn `i` of the pattern.

    Stream `number` is the mixture: 0 is the outermost, and each mixture precedes those in it.
    """

    BUCKET_CHOICE = 3
    """Bucket that a step is made from; stream `number` is the chapter, word `i` its step `i`."""

    SLOT_ORDER = 4
    """Order of the slots of step `i`; `number` is the chapter, word `i * slots + s` is slot `s`."""

    CROP_OFFSET = 5
    """Start of a clip's random crop; word `i` belongs to the clip at position `i` of all datasets.

    Stream `number` is how often the epoch passed over its dataset before.
    """

    SAMPLE_SEED = 6
    """Seed that a processor gets; stream and word are those of `CROP_OFFSET`."""


def random_words(
    seed: int, epoch: int, purpose: Purpose, number: int = 0, *, start: int = 0, stop: int
) -> NDArray[np.uint64]:
    """Return words `start` to `stop` (half open) of one stream.

    Takes about 10 us plus 5 ns per word, regardless of `start`.

    Args:
        seed: 0 to 2**64 - 1.
        epoch: 0 to 2**32 - 1.
        purpose: The kind of choice that the words are for.
        number: The stream of this purpose, 0 to 2**24 - 1.
        start: Index of the first word.
        stop: Index after the last word.

    Raises:
        PlanError: A part of the key is out of range.
    """
    seed = whole_number("seed", seed, high=2**64 - 1)
    epoch = whole_number("epoch", epoch, high=EPOCHS - 1)
    number = whole_number("number", number, high=MAX_STREAMS - 1)
    key = np.array([seed, epoch << 32 | purpose << 24 | number], dtype=np.uint64)
    count, skip = divmod(start, _WORDS_PER_COUNT)
    philox = np.random.Philox(key=key, counter=count)
    return philox.random_raw(skip + stop - start)[skip:]


def random_order(
    seed: int, epoch: int, purpose: Purpose, size: int, *, start: int = 0
) -> NDArray[np.int64]:
    """Return the numbers 0 to `size` - 1 in a random order, `(size,)` int64.

    Numbers are sorted by their random word with a stable sort, so the result does not depend on
    how the sort is implemented. Number 0 has word `start` of the stream.
    """
    words = random_words(seed, epoch, purpose, start=start, stop=start + size)
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)
