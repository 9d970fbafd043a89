"""Shuffle samples over a few shards at a time, with direct access to any place in the order.

The algorithm was designed for this library. Shard number j in the order of the partition occupies
the interval [j, j + w + 1) of an axis, where w is the window. Each of its samples draws a number u,
uniform in [0, 1), and is placed at the point j + (w + 1) * u. The order of the epoch is the order
of the points.

                 strip 0 │ strip 1 │ strip 2 │ strip 3 │ strip 4 │
    shard 0      · ·· ·    ··  ·     · · ··                            w = 2
    shard 1                ·  ···    ··  ·     · ·  ··
    shard 2                          · · ··    ··· ·     · ·   ·

A **strip** is one unit of the axis. It follows that:

- Only shards j = m - w to m can have samples in strip m, so at most w + 1 shards are alive at any
  time. From one strip to the next, one shard enters and one leaves, so the load on a cache is even,
  and the first samples need only one shard. w = 0 shuffles within each shard.
- Strip m begins after all samples of the shards before m - w and some of those of the w shards from
  there on. An element in shard j's range of the unshuffled line therefore lies in one of the w + 1
  strips from j on. It is found by binary search over those, without a table that grows with the
  dataset.
- The drawback is that the first and the last w strips mix fewer shards.

Points are integers: the upper 48 bits of a sample's random word times w + 1. The bits above the
lower 48 are the strip, counted from j, and the lower 48 bits give the order within the strip. Equal
points are ordered by (shard, place).
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from audiomdb.plan.bits import Purpose, random_words

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audiomdb.plan.filters import Selection
    from audiomdb.plan.line import Run

__all__ = ["MAX_WINDOW", "ShuffledLine"]

_POINT_BITS = 48

_MOST_SPANS = 2**13
"""Maximum number of strips whose ranges of elements are remembered."""

MAX_WINDOW = 2 ** (64 - _POINT_BITS) - 1
"""The widest window with which points fit 64 bits."""


class _Piece(msgspec.Struct, frozen=True):
    """The samples of one shard, grouped by strip."""

    positions: NDArray[np.int64]
    fractions: NDArray[np.uint64]
    """Offset of each sample within its strip, in units of 2**-48."""

    borders: NDArray[np.int64]
    """Cumulative number of samples before each of the shard's strips, `(w + 2,)`."""


class _Strip(msgspec.Struct, frozen=True):
    """One strip in its final order: elements `begin` to `end` of the line."""

    number: int
    begin: int
    positions: NDArray[np.int64]
    pieces: dict[int, _Piece]
    """Pieces of the shards alive, kept because all but one are alive in the next strip too."""

    @property
    def end(self) -> int:
        return self.begin + len(self.positions)


class ShuffledLine:
    """The samples of a partition, shuffled over `window` + 1 shards at a time.

    With n samples per shard, finding a place takes about (2w + 1) n random words; reading on from
    there sorts each sample once. The strip read last is kept together with its shards, which takes
    16 bytes per sample of w + 1 shards, so reading in small steps costs no more than reading at
    once.

    In a mixture, `first_stream` is the number of the dataset's first shard, counted over all
    datasets.

    Results depend only on the arguments. Thread-safe: the strip that is kept is immutable and held
    by a single reference, and losing it to another thread only costs time.
    """

    def __init__(
        self,
        run: Run,
        *,
        seed: int,
        epoch: int,
        window: int,
        selection: Selection | None = None,
        first_stream: int = 0,
    ) -> None:
        self.shards = run.shards
        self._run = run
        self._ends = run.ends
        self._seed = seed
        self._epoch = epoch
        self._window = window
        self._selection = selection
        self._first_stream = first_stream
        self._kept: _Strip | None = None
        self._spans: dict[int, tuple[int, int]] = {}
        self._asked = 0

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, elements: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions of ascending `elements`; both `(n,)` int64."""
        positions = np.empty(len(elements), dtype=np.int64)
        done = 0
        while done < len(elements):
            strip = self._strip_of(int(elements[done]))
            inside = slice(done, int(np.searchsorted(elements, strip.end)))
            positions[inside] = strip.positions[elements[inside] - strip.begin]
            done = inside.stop
        return positions

    def alive(self, element: int) -> range:
        """Return the shards alive in the strip of `element`, as a range of indices of `shards`."""
        # Steps are read ahead in stretches, and this is called for single steps behind that point.
        # Searching for the strip would draw all its shards again, as would reading on afterwards.
        number, spans = self._asked, self._spans
        span = spans.get(number)
        while span is not None and element >= span[1]:
            number += 1
            span = spans.get(number)
        if span is None or element < span[0]:
            number = self._strip_of(element).number
        self._asked = number
        return self._alive(number)

    def _strip_of(self, element: int) -> _Strip:
        strip = self._kept
        ordinal = int(np.searchsorted(self._ends, element, side="right")) - 1
        # An element of shard j lies in one of the strips j to j + w. If it is after the strip kept,
        # the next strip is therefore the wanted one or at most w before it. For elements further
        # ahead, a search is faster than reading on.
        if strip is None or element < strip.begin or ordinal > strip.number + 1:
            strip = self._search(element, ordinal)
            self._note(strip)
        while element >= strip.end:
            strip = self._make_strip(strip.number + 1, strip.end, strip.pieces)
            self._note(strip)
        self._kept = strip
        return strip

    def _note(self, strip: _Strip) -> None:
        """Remember the range of elements of a strip, for up to `_MOST_SPANS` strips."""
        spans = self._spans
        spans[strip.number] = strip.begin, strip.end
        if len(spans) > _MOST_SPANS:
            near = range(strip.number - _MOST_SPANS // 2, strip.number + _MOST_SPANS // 4)
            self._spans = {at: spans[at] for at in near if at in spans}

    def _search(self, element: int, ordinal: int) -> _Strip:
        pieces: dict[int, _Piece] = {}
        later = range(ordinal + 1, ordinal + 1 + self._window)
        found = bisect_right(later, element, key=lambda number: self._before(number, pieces))
        number = ordinal + found
        return self._make_strip(number, self._before(number, pieces), pieces)

    def _before(self, number: int, pieces: dict[int, _Piece]) -> int:
        """Count the samples before strip `number`, adding the pieces this draws to `pieces`."""
        alive = self._alive(number)
        entered = range(alive.start, min(alive.stop, number))
        for ordinal in entered:
            if ordinal not in pieces:
                pieces[ordinal] = self._draw(ordinal)
        partly = sum(int(pieces[ordinal].borders[number - ordinal]) for ordinal in entered)
        return int(self._ends[alive.start]) + partly

    def _alive(self, number: int) -> range:
        return range(max(0, number - self._window), min(len(self.shards), number + 1))

    def _make_strip(self, number: int, begin: int, pieces: dict[int, _Piece]) -> _Strip:
        kept = {
            ordinal: pieces[ordinal] if ordinal in pieces else self._draw(ordinal)
            for ordinal in self._alive(number)
        }
        positions, fractions = [], []
        for ordinal, piece in kept.items():
            low, high = piece.borders[number - ordinal : number - ordinal + 2]
            positions.append(piece.positions[low:high])
            fractions.append(piece.fractions[low:high])
        order = np.argsort(np.concatenate(fractions), kind="stable")
        return _Strip(number, begin, np.concatenate(positions)[order], kept)

    def _draw(self, ordinal: int) -> _Piece:
        """Draw the points of one shard and group them by strip, O(n)."""
        shard = int(self.shards[ordinal])
        start = int(self._run.starts[ordinal])
        stop = start + int(self._run.counts[ordinal])
        if self._selection is None:
            places = np.arange(start, stop, dtype=np.int64)
            words = self._words(shard, start, stop)
        else:
            places = self._selection.places(shard)[start:stop]
            words = self._words(shard, 0, int(places[-1]) + 1 if len(places) else 0)[places]
        strips = self._window + 1
        points = (words >> np.uint64(64 - _POINT_BITS)) * np.uint64(strips)
        strip = (points >> np.uint64(_POINT_BITS)).astype(np.uint16)
        grouped = np.argsort(strip, kind="stable")  # a radix sort for 16 bits
        sizes = np.bincount(strip, minlength=strips)
        return _Piece(
            positions=self._run.offsets[ordinal] + places[grouped],
            fractions=points[grouped] & np.uint64(2**_POINT_BITS - 1),
            borders=np.concatenate(([0], np.cumsum(sizes))),
        )

    def _words(self, shard: int, start: int, stop: int) -> NDArray[np.uint64]:
        return random_words(
            self._seed,
            self._epoch,
            Purpose.SAMPLE_ORDER,
            self._first_stream + shard,
            start=start,
            stop=stop,
        )
