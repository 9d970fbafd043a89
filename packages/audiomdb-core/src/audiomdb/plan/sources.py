"""Read a dataset in passes, as the whole of a plan or as one of the sources of a mixture.

A source has one line for each pass over it. It is a dataset or, for a nested mixture, a `Weave`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec
import numpy as np

from audiomdb.lazy import cached_property
from audiomdb.plan.bits import EPOCHS, Purpose, random_order
from audiomdb.plan.line import (
    Elements,
    Line,
    Run,
    SelectedLine,
    StoredLine,
    cut_line,
    cut_line_at,
)
from audiomdb.plan.shuffle import ShuffledLine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audiomdb.plan.filters import Selection

__all__ = ["DatasetSource", "First", "Source", "SourceLine"]


class First(NamedTuple):
    """Where a source begins, counted over all datasets of the outermost mixture."""

    seed: int
    """Seed of the outermost mixture."""

    mixture: int = 0
    """Number of the next mixture; each mixture precedes those nested in it."""

    dataset: int = 0
    shard: int = 0
    position: int = 0


class SourceLine(Elements, Protocol):
    """A range of the samples of a source; positions and shards count over all datasets."""

    def shards_alive(self, element: int) -> NDArray[np.int64]:
        """Return the shards over which samples are shuffled at an element, `(n,)`."""

    def shard_order(self, dataset: int, element: int) -> NDArray[np.int64]:
        """Return the distinct shards of a dataset that are read from an element on, in order."""

    def passes(self, element: int) -> tuple[tuple[int, ...], ...]:
        """Return, for each dataset, the pass of its first sample from an element on.

        The passes of a nested mixture precede those of the sources in it. The tuple of a dataset is
        empty if none of its samples is left.
        """


class Source(Protocol):
    """A source of a mixture: a dataset, or a nested mixture."""

    @property
    def size(self) -> int:
        """Number of samples in one pass."""

    @property
    def datasets(self) -> range:
        """Numbers of its datasets, counted over all datasets."""

    @property
    def end(self) -> First:
        """Where the source after it begins."""

    @property
    def repeats(self) -> int:
        """Upper bound of how often one pass passes over a dataset in it."""

    def line(self, number: int, low: int, high: int) -> SourceLine:
        """Return elements `low` to `high` of pass `number`."""

    def shards_read(self, dataset: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the shards of a dataset in a range of the endless line of all passes, `(n,)`.

        They are in the order in which they are first read, and may repeat. At most a few passes
        are looked at, however many there are.
        """


class DatasetSource(msgspec.Struct, frozen=True, dict=True):
    """One dataset, in passes of which each is an epoch of it.

    Attributes:
        first: Where it begins.
        counts: Samples in each of its shards.
        selection: The samples that take part. None: all.
        shuffle: As in `EpochPlan`.
        window: As in `EpochPlan`.
    """

    first: First
    counts: np.ndarray
    selection: Selection | None
    shuffle: bool
    window: int

    @cached_property
    def size(self) -> int:
        """Number of samples in one pass."""
        return int(self.kept.sum())

    @property
    def kept(self) -> NDArray[np.int64]:
        """Samples of each of its shards that take part."""
        return self.counts if self.selection is None else self.selection.kept

    @property
    def datasets(self) -> range:
        """The range that holds only its own number."""
        return range(self.first.dataset, self.first.dataset + 1)

    @property
    def end(self) -> First:
        """Where the source after it begins."""
        seed, mixture, dataset, shard, position = self.first
        samples = int(self.counts.sum())
        return First(seed, mixture, dataset + 1, shard + len(self.counts), position + samples)

    @property
    def repeats(self) -> int:
        """A pass over a dataset is one pass over it."""
        return 1

    def lines(self, number: int, partitions: int) -> tuple[SourceLine, ...]:
        """Return pass `number`, cut into partitions."""
        runs = cut_line(self.counts, self._order(number), partitions, kept=self.kept)
        return tuple(self._line(run, number) for run in runs)

    def line(self, number: int, low: int, high: int) -> SourceLine:
        """Return elements `low` to `high` of pass `number`."""
        cuts = np.array([low, high])
        (run,) = cut_line_at(self.counts, self._order(number), cuts, kept=self.kept)
        return self._line(run, number)

    def shards_read(self, dataset: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the shards in a range of the endless line; see `Source`."""
        orders = [np.empty(0, np.int64)]
        while start < stop:
            number, low = divmod(start, self.size)
            high = min(self.size, low + stop - start)
            orders.append(self.line(number, low, high).shard_order(dataset, 0))
            if high - low == self.size:
                break  # a whole pass: later ones read no other shards
            start += high - low
        return np.concatenate(orders)

    def _order(self, number: int) -> NDArray[np.int64]:
        """Return the numbers of its shards, in the order of pass `number`."""
        shards = len(self.counts)
        if not self.shuffle:
            return np.arange(shards, dtype=np.int64)
        seed, epoch, start = self.first.seed, number % EPOCHS, self.first.shard
        return random_order(seed, epoch, Purpose.SHARD_ORDER, shards, start=start)

    def _line(self, run: Run, number: int) -> SourceLine:
        line: Line
        if self.shuffle:
            line = ShuffledLine(
                run,
                seed=self.first.seed,
                epoch=number % EPOCHS,
                window=self.window,
                selection=self.selection,
                first_stream=self.first.shard,
            )
        elif self.selection is not None:
            line = SelectedLine(run, self.selection)
        else:
            line = StoredLine(run)
        return _DatasetLine(line, self)


class _DatasetLine(msgspec.Struct, frozen=True):
    """A line of one dataset, with positions and shards counted over all datasets."""

    line: Line
    source: DatasetSource

    def __len__(self) -> int:
        return len(self.line)

    def take(self, elements: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.line.take(elements) + self.source.first.position

    def shards_alive(self, element: int) -> NDArray[np.int64]:
        alive = self.line.alive(element)
        return self._filled(self.line.shards[alive.start : alive.stop])

    def shard_order(self, dataset: int, element: int) -> NDArray[np.int64]:  # noqa: ARG002
        if element >= len(self.line):
            return np.empty(0, np.int64)
        first = self.line.alive(element).start if element else 0
        return self._filled(self.line.shards[first:])

    def passes(self, element: int) -> tuple[tuple[int, ...], ...]:  # noqa: ARG002
        return ((),)

    def _filled(self, shards: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those of the given shards that are read, numbered over all datasets."""
        if self.source.selection is not None:
            shards = shards[self.source.selection.kept[shards] > 0]
        return shards + self.source.first.shard
