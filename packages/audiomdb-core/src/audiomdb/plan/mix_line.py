"""Interleave the passes over several sources into the lines of a mixture.

source 0   pass 3 ───┤├─── pass 4 ──         interleaved by the pattern, block by block
source 1   ── pass 0 ───────────────   ─►    0 1 0 0 1 0 1 ...
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from audiomdb.plan.bits import EPOCHS, Purpose, random_words
from audiomdb.plan.occurrences import again
from audiomdb.plan.sources import First, Source, SourceLine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audiomdb.plan.mix import Interleave
    from audiomdb.plan.pattern import Pattern

__all__ = ["BLOCK", "MixedLine", "Weave"]

BLOCK = 1024
"""Number of turns that are interleaved at once and, if requested, shuffled. Frozen."""

_KEPT_BLOCKS = 4
"""Number of blocks kept: more than one stretch of steps spans.

Steps are read ahead in stretches, and the shards alive are queried for steps behind that.
"""


class Weave(msgspec.Struct, frozen=True):
    """A mixture independent of any epoch, which can be a source of another mixture.

    Attributes:
        first: Where it begins.
        sources: The sources to interleave.
        pattern: Which source has each turn.
        shares: Number of samples of each source in one pass.
        interleave: How the samples of the sources are interleaved, see `audiomdb.plan.mix`.
    """

    first: First
    sources: Sequence[Source]
    pattern: Pattern
    shares: Sequence[int]
    interleave: Interleave

    @property
    def size(self) -> int:
        """Number of samples in one pass."""
        return sum(self.shares)

    @property
    def datasets(self) -> range:
        """Numbers of the datasets in it, counted over all datasets."""
        return range(self.sources[0].datasets.start, self.sources[-1].datasets.stop)

    @property
    def end(self) -> First:
        """Where the source after it begins."""
        return self.sources[-1].end

    @property
    def repeats(self) -> int:
        """Upper bound of how often one pass passes over a dataset in it."""
        pairs = zip(self.sources, self.shares, strict=True)
        bound = max(
            source.repeats * (1 if share == source.size else share // source.size + 2)
            for source, share in pairs
        )
        return bound | 1  # its multiples are all different modulo a power of two

    def line(self, number: int, low: int, high: int) -> MixedLine:
        """Return turns `low` to `high` of pass `number`."""
        return MixedLine(self, number, low, high)

    def shards_read(self, dataset: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the shards of a dataset in a range of the endless line; see `Source`."""
        if start == stop:
            return np.empty(0, np.int64)
        which = next(at for at, one in enumerate(self.sources) if dataset in one.datasets)
        # Pass after pass reads on from where the last one stopped, so this is a range there too.
        low, high = (self._elements_before(which, endless) for endless in (start, stop))
        return self.sources[which].shards_read(dataset, low, high)

    def _elements_before(self, which: int, endless: int) -> int:
        """Return how many elements of a source precede a place on the endless line."""
        number, turn = divmod(endless, self.size)
        return number * self.shares[which] + self.pattern.counts(turn)[which]


class _Pass(msgspec.Struct, frozen=True):
    """The part of a pass that lies in a `_PassesLine`; it begins at `low` of the endless line."""

    number: int
    low: int
    line: SourceLine


class _PassesLine:
    """Elements `start` to `stop` of the endless line of a source. Thread-safe.

    Repeats are counted from pass `first`, in which the epoch begins.
    """

    def __init__(self, source: Source, start: int, stop: int, first: int) -> None:
        self._source = source
        self._start = start
        self._stop = stop
        self._first = first
        self._kept: _Pass | None = None

    @property
    def datasets(self) -> range:
        """Numbers of its datasets, counted over all datasets."""
        return self._source.datasets

    def __len__(self) -> int:
        return self._stop - self._start

    def take(self, elements: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the occurrences, over all datasets, at ascending `elements`; both `(n,)`."""
        occurrences = np.empty(len(elements), dtype=np.int64)
        done = 0
        while done < len(elements):
            part = self._pass(self._start + int(elements[done]))
            first = part.low - self._start  # the endless line may exceed int64
            inside = slice(done, int(np.searchsorted(elements, first + len(part.line))))
            times = (part.number - self._first) * self._source.repeats
            occurrences[inside] = again(part.line.take(elements[inside] - first), times)
            done = inside.stop
        return occurrences

    def shards_alive(self, element: int) -> NDArray[np.int64]:
        """Return the shards that are shuffled at an element, numbered over all datasets."""
        endless = self._start + element
        part = self._pass(endless)
        return part.line.shards_alive(endless - part.low)

    def shard_order(self, dataset: int, element: int) -> NDArray[np.int64]:
        """Return the distinct shards of a dataset that are read from an element on, in order."""
        endless = self._start + element
        if endless >= self._stop:
            return np.empty(0, np.int64)
        part = self._make(endless)
        now = part.line.shard_order(dataset, endless - part.low)
        later = self._source.shards_read(dataset, part.low + len(part.line), self._stop)
        met = np.concatenate((now, later))
        return met[np.sort(np.unique(met, return_index=True)[1])]

    def passes(self, element: int) -> tuple[tuple[int, ...], ...]:
        """Return the passes of each dataset at an element; see `SourceLine`."""
        endless = self._start + element
        if endless >= self._stop:
            return ((),) * len(self._source.datasets)
        part = self._pass(endless)
        return tuple((part.number, *inner) for inner in part.line.passes(endless - part.low))

    def _pass(self, endless: int) -> _Pass:
        part = self._kept
        if part is None or part.number != endless // self._source.size:
            part = self._kept = self._make(endless)
        return part

    def _make(self, endless: int) -> _Pass:
        number, size = endless // self._source.size, self._source.size
        low = max(self._start, number * size)
        high = min(self._stop, (number + 1) * size)
        line = self._source.line(number, low - number * size, high - number * size)
        return _Pass(number, low, line)


class _Block(msgspec.Struct, frozen=True):
    """A block of consecutive elements of a mixed line."""

    begin: int
    occurrences: np.ndarray
    owners: np.ndarray
    """Number of the source that each element comes from."""

    firsts: list[int]
    """For each source, the index of its first element in this block or a later one."""

    @property
    def end(self) -> int:
        return self.begin + len(self.occurrences)


class MixedLine:
    """A partition of a mixture: a range of the turns of one of its passes.

    Reading at any element costs one block. The most recent blocks are kept. Thread-safe.

    Args:
        mixture: The mixture.
        number: Number of the pass.
        begin: First turn.
        end: Turn after the last.
    """

    def __init__(self, mixture: Weave, number: int, begin: int, end: int) -> None:
        self._mixture = mixture
        self._number = number
        self._begin = begin
        self._end = end
        self._before, after = map(mixture.pattern.counts, (begin, end))
        bounds = zip(mixture.sources, mixture.shares, self._before, after, strict=True)
        self._sources = [
            _PassesLine(
                source,
                number * share + low,
                number * share + high,
                number * share // source.size if source.size else 0,
            )
            for source, share, low, high in bounds
        ]
        self._kept: tuple[_Block, ...] = ()

    def __len__(self) -> int:
        return self._end - self._begin

    def take(self, elements: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the occurrences at ascending `elements`; both `(n,)` int64."""
        occurrences = np.empty(len(elements), dtype=np.int64)
        done = 0
        while done < len(elements):
            block = self._block(int(elements[done]))
            inside = slice(done, int(np.searchsorted(elements, block.end)))
            occurrences[inside] = block.occurrences[elements[inside] - block.begin]
            done = inside.stop
        return occurrences

    def shards_alive(self, element: int) -> NDArray[np.int64]:
        """Return the shards that are shuffled at an element, numbered over all datasets."""
        alive = [source.shards_alive(at) for source, at in self._coming(element)]
        return np.unique(np.concatenate(alive))

    def shard_order(self, dataset: int, element: int) -> NDArray[np.int64]:
        """Return the distinct shards of a dataset that are read from an element on, in order."""
        for source, at in self._coming(element):
            if dataset in source.datasets:
                return source.shard_order(dataset, at)
        return np.empty(0, np.int64)

    def passes(self, element: int) -> tuple[tuple[int, ...], ...]:
        """Return the passes of each dataset at an element; see `SourceLine`."""
        at = {id(source): place for source, place in self._coming(element)}
        ends = [source.passes(at.get(id(source), len(source))) for source in self._sources]
        return tuple(one for passes in ends for one in passes)

    def _coming(self, element: int) -> list[tuple[_PassesLine, int]]:
        """Return the sources with samples left from an element on, and the next element of each."""
        if element >= len(self):
            return []
        block = self._block(element)
        past = block.owners[: element - block.begin]
        coming = (block.firsts + np.bincount(past, minlength=len(self._sources))).tolist()
        pairs = zip(self._sources, coming, strict=True)
        return [(source, at) for source, at in pairs if at < len(source)]

    def _block(self, element: int) -> _Block:
        begin = element - element % BLOCK
        for block in self._kept:
            if block.begin == begin:
                return block
        block = self._weave(begin, min(begin + BLOCK, len(self)))
        self._kept = (*self._kept[1 - _KEPT_BLOCKS :], block)
        return block

    def _weave(self, begin: int, end: int) -> _Block:
        occurrences = np.empty(end - begin, dtype=np.int64)
        owners, firsts = self._owners(begin, end)
        for number, source in enumerate(self._sources):
            mine = np.flatnonzero(owners == number)
            if len(mine):
                occurrences[mine] = source.take(firsts[number] + np.arange(len(mine)))
        return _Block(begin, occurrences, owners, firsts)

    def _owners(self, begin: int, end: int) -> tuple[NDArray[np.int64], list[int]]:
        """Return the source of elements `begin` to `end`, and the first element of each source."""
        mixture, start, stop = self._mixture, self._begin + begin, self._begin + end
        if mixture.interleave is None:
            ends = np.cumsum([len(source) for source in self._sources])
            owners = np.searchsorted(ends, np.arange(begin, end), side="right")
            starts = [0, *ends[:-1].tolist()]
            return owners, [max(0, begin - start) for start in starts]
        owners = mixture.pattern.sources(start, stop)
        if mixture.interleave == "pseudo":
            epoch, purpose = self._number % EPOCHS, Purpose.MIX_ORDER
            seed, number = mixture.first[:2]
            words = random_words(seed, epoch, purpose, number, start=start, stop=stop)
            owners = owners[np.argsort(words, kind="stable")]
        counts = mixture.pattern.counts(start)
        return owners, [count - skip for count, skip in zip(counts, self._before, strict=True)]
