"""The lines of a mixture: several sources, each pass after pass, woven into one.

source 0   pass 3 ───┤├─── pass 4 ──         woven by the pattern, block by block
source 1   ── pass 0 ───────────────   ─►    0 1 0 0 1 0 1 ...

A source is a dataset or, in a nested mixture, a weave itself: it has a line for every pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import msgspec
import numpy as np

from audiomdb.plan.bits import EPOCHS, Purpose, random_words
from audiomdb.plan.epoch import make_line
from audiomdb.plan.filters import Selection
from audiomdb.plan.line import Elements, Line, cut_line_at

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audiomdb.plan.pattern import Pattern

__all__ = ["BLOCK", "DatasetSource", "MixedLine", "Source", "SourceLine", "Weave"]

BLOCK = 1024
"""Turns woven at once, and shuffled among each other where that is asked for. Frozen."""

_KEPT_BLOCKS = 4
"""More than a stretch of steps has, because what is mixed is asked for behind it."""


class SourceLine(Elements, Protocol):
    """A stretch of what a source gives, positions and shards numbered through all datasets."""

    def shards_alive(self, element: int) -> NDArray[np.int64]:
        """Return the shards that are mixed around an element, `(n,)`."""

    def shard_order(self, dataset: int, element: int) -> NDArray[np.int64]:
        """Return the shards of a dataset met from an element on, in order, each once."""

    def passes(self, element: int) -> tuple[tuple[int, ...], ...]:
        """Return, for each dataset, which pass the element or the one after it is of.

        In a nested mixture, the passes of the mixtures around it come first. Empty where the
        dataset gives nothing more.
        """


class Source(Protocol):
    """What a mixture weaves: a dataset, or several that are woven."""

    @property
    def size(self) -> int:
        """Samples in one pass."""

    @property
    def datasets(self) -> range:
        """Numbers of its datasets, counted through all."""

    @property
    def even(self) -> bool:
        """Whether every pass meets the same shards."""

    def line(self, number: int, low: int, high: int) -> SourceLine:
        """Return elements `low` to `high` of pass `number`."""


class DatasetSource(msgspec.Struct, frozen=True, dict=True):
    """One dataset of a mixture.

    Attributes:
        number: Of the dataset, counted through all.
        counts: Samples in each of its shards.
        selection: Which of them take part.
        first_shard: Number of its first shard, counted through all datasets.
        first_position: Position of its first sample, likewise.
        seed: Of the mixture.
        shuffle: As in `EpochPlan`.
        window: As in `EpochPlan`.
    """

    number: int
    counts: np.ndarray
    selection: Selection | None
    first_shard: int
    first_position: int
    seed: int
    shuffle: bool
    window: int

    @cached_property
    def size(self) -> int:
        """Samples in one pass."""
        return int(self.counts.sum()) if self.selection is None else len(self.selection)

    @property
    def datasets(self) -> range:
        """Its number alone."""
        return range(self.number, self.number + 1)

    @property
    def even(self) -> bool:
        """True: a pass has all of the dataset."""
        return True

    def line(self, number: int, low: int, high: int) -> SourceLine:
        """Return elements `low` to `high` of pass `number`."""
        number %= EPOCHS
        shards = len(self.counts)
        order = np.arange(shards, dtype=np.int64)
        if self.shuffle:
            first, purpose = self.first_shard, Purpose.SHARD_ORDER
            words = random_words(self.seed, number, purpose, start=first, stop=first + shards)
            order = np.argsort(words, kind="stable")
        kept = None if self.selection is None else self.selection.kept
        (run,) = cut_line_at(self.counts, order, np.array([low, high]), kept=kept)
        line = make_line(
            run,
            seed=self.seed,
            epoch=number,
            shuffle=self.shuffle,
            window=self.window,
            selection=self.selection,
            first_stream=self.first_shard,
        )
        return _DatasetLine(line, kept, self.first_position, self.first_shard)


class _DatasetLine(msgspec.Struct, frozen=True):
    """A line of one dataset, numbered through all."""

    line: Line
    kept: np.ndarray | None
    """How many of each shard's samples a filter keeps; one of no samples is not read."""

    first_position: int
    first_shard: int

    def __len__(self) -> int:
        return len(self.line)

    def take(self, elements: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.line.take(elements) + self.first_position

    def shards_alive(self, element: int) -> NDArray[np.int64]:
        alive = self.line.alive(element)
        return self._filled(self.line.shards[alive.start : alive.stop])

    def shard_order(self, dataset: int, element: int) -> NDArray[np.int64]:  # noqa: ARG002
        return self._filled(self.line.shards[self.line.alive(element).start :])

    def passes(self, element: int) -> tuple[tuple[int, ...], ...]:  # noqa: ARG002
        return ((),)

    def _filled(self, shards: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of some shards that are read, numbered through all."""
        if self.kept is not None:
            shards = shards[self.kept[shards] > 0]
        return shards + self.first_shard


class Weave(msgspec.Struct, frozen=True):
    """Sources that are woven: a mixture without an epoch, a source itself.

    Attributes:
        sources: What is woven.
        pattern: Whose turn it is.
        shares: Samples of each source in one pass.
        interleaved: False lays the sources one after the other.
        words: Random words of turns `start` to `stop` in an epoch, by which blocks are shuffled.
            None keeps the pattern.
    """

    sources: Sequence[Source]
    pattern: Pattern
    shares: Sequence[int]
    interleaved: bool
    words: Callable[[int, int, int], np.ndarray] | None

    @property
    def size(self) -> int:
        """Samples in one pass."""
        return sum(self.shares)

    @property
    def datasets(self) -> range:
        """Numbers of the datasets in it, counted through all."""
        return range(self.sources[0].datasets.start, self.sources[-1].datasets.stop)

    @property
    def even(self) -> bool:
        """Whether a pass has whole passes of every source, and these meet the same shards."""
        pairs = zip(self.sources, self.shares, strict=True)
        return all(not share or (share % one.size == 0 and one.even) for one, share in pairs)

    def line(self, number: int, low: int, high: int) -> MixedLine:
        """Return turns `low` to `high` of pass `number`."""
        before, after = (
            [0] * len(self.sources) if not at else self.pattern.counts(at) for at in (low, high)
        )
        stretches = [
            _PassesLine(source, number * share + begin, number * share + end)
            for source, share, begin, end in zip(
                self.sources, self.shares, before, after, strict=True
            )
        ]
        return MixedLine(
            stretches,
            begin=low,
            end=high,
            before=before,
            pattern=self.pattern if self.interleaved else None,
            shuffled=None if self.words is None else _of_pass(self.words, number),
        )


def _of_pass(
    words: Callable[[int, int, int], NDArray[np.uint64]], number: int
) -> Callable[[int, int], NDArray[np.uint64]]:
    return lambda start, stop: words(number, start, stop)


class _Pass(msgspec.Struct, frozen=True):
    """The part of a pass that lies in a stretch: its line begins at `low` of the endless one."""

    number: int
    low: int
    line: SourceLine


class _PassesLine:
    """Elements `start` to `stop` of a source's endless line. May be used from several threads."""

    def __init__(self, source: Source, start: int, stop: int) -> None:
        self._source = source
        self._start = start
        self._stop = stop
        self._kept: _Pass | None = None

    @property
    def datasets(self) -> range:
        """Numbers of its datasets, counted through all."""
        return self._source.datasets

    def __len__(self) -> int:
        return self._stop - self._start

    def take(self, elements: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions of `elements`, which ascend, among all datasets; both `(n,)`."""
        positions = np.empty(len(elements), dtype=np.int64)
        done = 0
        while done < len(elements):
            part = self._pass(self._start + int(elements[done]))
            first = part.low - self._start  # the endless line may be longer than int64 counts
            inside = slice(done, int(np.searchsorted(elements, first + len(part.line))))
            positions[inside] = part.line.take(elements[inside] - first)
            done = inside.stop
        return positions

    def shards_alive(self, element: int) -> NDArray[np.int64]:
        """Return the shards mixed around an element, numbered through all datasets."""
        endless = self._start + element
        part = self._pass(endless)
        return part.line.shards_alive(endless - part.low)

    def shard_order(self, dataset: int, element: int) -> NDArray[np.int64]:
        """Return the shards of a dataset met from an element on, in order, each once."""
        endless, size = self._start + element, self._source.size
        orders = []
        while endless < self._stop:
            part = self._make(endless)
            orders.append(part.line.shard_order(dataset, endless - part.low))
            if self._source.even and len(part.line) == size and endless == part.low:
                break  # a whole pass: after it, none comes for the first time
            endless = part.low + len(part.line)
        if not orders:
            return np.empty(0, np.int64)
        met = np.concatenate(orders)
        return met[np.sort(np.unique(met, return_index=True)[1])]

    def passes(self, element: int) -> tuple[tuple[int, ...], ...]:
        """Return, for each dataset, its passes at an element; see `SourceLine`."""
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
    """Some consecutive elements of the mixed line, in their order."""

    begin: int
    positions: np.ndarray
    owners: np.ndarray
    """Whose they are."""

    firsts: list[int]
    """The first element that comes of each source, whether it comes here or later."""

    @property
    def end(self) -> int:
        return self.begin + len(self.positions)


class MixedLine:
    """A partition of a mixture: turns `begin` to `end` of the pattern.

    Entering anywhere costs a block. The last blocks are kept. May be used from several threads.

    Args:
        sources: What each source gives to this partition.
        begin: First turn of the pattern.
        end: Turn after the last.
        before: How often each source comes in the pattern before `begin`.
        pattern: None lays the sources one after the other.
        shuffled: Random words of turns, by which blocks are shuffled. None keeps the pattern.
    """

    def __init__(
        self,
        sources: Sequence[_PassesLine],
        *,
        begin: int,
        end: int,
        before: Sequence[int],
        pattern: Pattern | None,
        shuffled: Callable[[int, int], NDArray[np.uint64]] | None,
    ) -> None:
        self._sources = sources
        self._begin = begin
        self._end = end
        self._before = before
        self._pattern = pattern
        self._shuffled = shuffled
        self._kept: tuple[_Block, ...] = ()

    def __len__(self) -> int:
        return self._end - self._begin

    def take(self, elements: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions of `elements`, which ascend; both `(n,)` int64."""
        positions = np.empty(len(elements), dtype=np.int64)
        done = 0
        while done < len(elements):
            block = self._block(int(elements[done]))
            inside = slice(done, int(np.searchsorted(elements, block.end)))
            positions[inside] = block.positions[elements[inside] - block.begin]
            done = inside.stop
        return positions

    def shards_alive(self, element: int) -> NDArray[np.int64]:
        """Return the shards mixed when an element is read, numbered through all datasets."""
        alive = [source.shards_alive(at) for source, at in self._coming(element)]
        return np.unique(np.concatenate(alive))

    def shard_order(self, dataset: int, element: int) -> NDArray[np.int64]:
        """Return the shards of a dataset met from an element on, in order, each once."""
        for source, at in self._coming(element):
            if dataset in source.datasets:
                return source.shard_order(dataset, at)
        return np.empty(0, np.int64)

    def passes(self, element: int) -> tuple[tuple[int, ...], ...]:
        """Return, for each dataset, its passes at an element; see `SourceLine`."""
        at = {id(source): place for source, place in self._coming(element)}
        ends = [source.passes(at.get(id(source), len(source))) for source in self._sources]
        return tuple(one for passes in ends for one in passes)

    def _coming(self, element: int) -> list[tuple[_PassesLine, int]]:
        """The sources that give something from an element on, and what they give first."""
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
        positions = np.empty(end - begin, dtype=np.int64)
        owners, firsts = self._owners(begin, end)
        for number, source in enumerate(self._sources):
            mine = np.flatnonzero(owners == number)
            if len(mine):
                positions[mine] = source.take(firsts[number] + np.arange(len(mine)))
        return _Block(begin, positions, owners, firsts)

    def _owners(self, begin: int, end: int) -> tuple[NDArray[np.int64], list[int]]:
        """Return whose elements `begin` to `end` are, and each source's first element there."""
        if self._pattern is None:
            ends = np.cumsum([len(source) for source in self._sources])
            owners = np.searchsorted(ends, np.arange(begin, end), side="right")
            starts = [0, *ends[:-1].tolist()]
            return owners, [max(0, begin - start) for start in starts]
        start = self._begin + begin
        owners = self._pattern.sources(start, self._begin + end)
        counts = self._pattern.counts(start) if start else [0] * len(self._sources)
        if self._shuffled is not None:
            words = self._shuffled(start, self._begin + end)
            owners = owners[np.argsort(words, kind="stable")]
        return owners, [count - skip for count, skip in zip(counts, self._before, strict=True)]
