"""Read a dataset in passes, as the whole of a plan or as one of the sources of a mixture.

A source has one line for each pass over it. It is a dataset or, for a nested mixture, a `Weave`.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import msgspec
import numpy as np

from audiomdb.plan.bits import EPOCHS, Purpose, random_words
from audiomdb.plan.filters import SelectedLine, Selection
from audiomdb.plan.line import Elements, Line, Run, StoredLine, cut_line_at
from audiomdb.plan.shuffle import ShuffledLine

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DatasetSource", "Source", "SourceLine", "make_line"]


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

    def line(self, number: int, low: int, high: int) -> SourceLine:
        """Return elements `low` to `high` of pass `number`."""

    def shards_read(self, dataset: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the shards of a dataset in a range of the endless line of all passes, `(n,)`.

        They are in the order in which they are first read, and may repeat. At most a few passes
        are looked at, however many there are.
        """


class DatasetSource(msgspec.Struct, frozen=True, dict=True):
    """One dataset of a mixture.

    Attributes:
        number: Number of the dataset, counted over all datasets.
        counts: Samples in each of its shards.
        selection: The samples that take part. None: all.
        first_shard: Number of its first shard, counted over all datasets.
        first_position: Position of its first sample, counted over all datasets.
        seed: Seed of the outermost mixture.
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
        """Number of samples in one pass."""
        return int(self.counts.sum()) if self.selection is None else len(self.selection)

    @property
    def datasets(self) -> range:
        """The range that holds only its own number."""
        return range(self.number, self.number + 1)

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
        return make_line(
            run,
            seed=self.seed,
            epoch=number,
            shuffle=self.shuffle,
            window=self.window,
            selection=self.selection,
            first_shard=self.first_shard,
            first_position=self.first_position,
        )

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


def make_line(
    run: Run,
    *,
    seed: int,
    epoch: int,
    shuffle: bool,
    window: int,
    selection: Selection | None,
    first_shard: int = 0,
    first_position: int = 0,
) -> SourceLine:
    """Return the line of a run in the order that the options define; see `DatasetSource`."""
    line: Line
    if shuffle:
        line = ShuffledLine(
            run,
            seed=seed,
            epoch=epoch,
            window=window,
            selection=selection,
            first_stream=first_shard,
        )
    else:
        line = StoredLine(run) if selection is None else SelectedLine(run, selection)
    return _DatasetLine(line, selection, first_shard, first_position)


class _DatasetLine(msgspec.Struct, frozen=True):
    """A line of one dataset, with positions and shards counted over all datasets."""

    line: Line
    selection: Selection | None
    first_shard: int
    first_position: int

    def __len__(self) -> int:
        return len(self.line)

    def take(self, elements: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.line.take(elements) + self.first_position

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
        if self.selection is not None:
            shards = shards[self.selection.kept[shards] > 0]
        return shards + self.first_shard
