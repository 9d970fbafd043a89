"""Shuffling in strips: mix over a few shards at a time, find any place at once.

The method is our own. Shard number j of the partition's order occupies the interval [j, j + w + 1)
of an axis, w being the window. Each of its samples draws a number u, uniform in [0, 1), and is put
at the point j + (w + 1) * u. The order of the epoch is the order of the points.

                 strip 0 │ strip 1 │ strip 2 │ strip 3 │ strip 4 │
    shard 0      · ·· ·    ··  ·     · · ··                            w = 2
    shard 1                ·  ···    ··  ·     · ·  ··
    shard 2                          · · ··    ··· ·     · ·   ·

A **strip** is one unit of the axis. Seen from it:

- Only shards j = m - w to m can have samples in strip m. At any time exactly w + 1 shards are
  alive; from strip to strip one enters and one leaves, so a cache works evenly, and the first
  samples need one shard only. w = 0 shuffles inside each shard.
- Strip m begins after all samples of shards before m - w and some of the w shards from there on.
  An element of shard j's stretch of the unshuffled line therefore lies in one of the w + 1 strips
  from j on: a binary search over those, and no table that grows with the dataset.
- The price: the first and the last w strips mix fewer shards.

Points are integers: the upper 48 bits of a sample's random word times w + 1. The bits above the
48th are the strip, counted from j; the lower 48 order the strip. Equal points keep the order
(shard, place).
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
"""Strips of which it is remembered where they lie."""

MAX_WINDOW = 2 ** (64 - _POINT_BITS) - 1
"""Points must fit 64 bits."""


class _Piece(msgspec.Struct, frozen=True):
    """The samples of one shard, grouped by strip."""

    positions: NDArray[np.int64]
    fractions: NDArray[np.uint64]
    """Where in its strip each sample lies, in units of 2**-48."""

    borders: NDArray[np.int64]
    """Samples before each of the shard's strips, `(w + 2,)`."""


class _Strip(msgspec.Struct, frozen=True):
    """One strip in its final order: elements `begin` to `end` of the line."""

    number: int
    begin: int
    positions: NDArray[np.int64]
    pieces: dict[int, _Piece]
    """The shards alive, kept because all but one are alive in the next strip too."""

    @property
    def end(self) -> int:
        return self.begin + len(self.positions)


class ShuffledLine:
    """A partition's samples, shuffled over `window` + 1 shards at a time.

    With n samples in a shard, a place costs about (2w + 1) n random words to find; going on from
    there costs one sort of each sample. The strip read last is kept, with its shards, so reading
    in small steps costs no more than reading at once: 16 bytes a sample for w + 1 shards.

    In a mixture, `first_stream` is the number of the dataset's first shard among all.

    Results depend on the arguments only. May be used from several threads: what is kept is one
    reference to an immutable strip, and losing it costs time only.
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
        """Return the positions of `elements`, `(n,)` int64. The elements must ascend."""
        positions = np.empty(len(elements), dtype=np.int64)
        done = 0
        while done < len(elements):
            strip = self._strip_of(int(elements[done]))
            inside = slice(done, int(np.searchsorted(elements, strip.end)))
            positions[inside] = strip.positions[elements[inside] - strip.begin]
            done = inside.stop
        return positions

    def alive(self, element: int) -> range:
        """Return the shards that share the strip of `element`, as a range of `shards`."""
        # Steps are read ahead in stretches, and this is asked one by one behind that: a search for
        # the strip would draw all its shards again, and so would going on to read.
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
        # A strip never lies before its element's shard, so from here the next strip is either the
        # one wanted or at most w before it. Further on, a search is shorter than the walk.
        if strip is None or element < strip.begin or ordinal > strip.number + 1:
            strip = self._search(element, ordinal)
            self._note(strip)
        while element >= strip.end:
            strip = self._make_strip(strip.number + 1, strip.end, strip.pieces)
            self._note(strip)
        self._kept = strip
        return strip

    def _note(self, strip: _Strip) -> None:
        """Remember which elements a strip has, of some thousand strips."""
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
        """Count the samples before strip `number`; pieces drawn on the way are put in `pieces`."""
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
