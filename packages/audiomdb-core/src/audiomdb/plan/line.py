"""Cut the sequence of all samples of an epoch into partitions.

The S shards, in the order of the epoch, are laid end to end and form a line of N samples. It is cut
into P even runs, one per partition: run p begins at ceil(p * N / P). A shard that lies on a cut
belongs to both neighbours, so P partitions read at most S + P - 1 shards in total.

Such cuts nest: if P and R have a common divisor n, the cuts into n runs are among the cuts into P
and among the cuts into R. Ranks and nodes also take even shares, so they read only their own
partitions, down to the last sample (see `split`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audiomdb.plan.filters import Selection

__all__ = ["Elements", "Line", "Run", "SelectedLine", "StoredLine", "cut_line", "cut_line_at"]


class Run(NamedTuple):
    """The shards of one partition, in the order in which they are read. All arrays `(n,)` int64."""

    shards: NDArray[np.int64]
    """Shard numbers."""

    starts: NDArray[np.int64]
    """Samples skipped at the start of each shard; non-zero only for the first shard of a run."""

    counts: NDArray[np.int64]
    """Samples taken from each shard; 0 only inside a run, if a filter keeps none of the shard."""

    offsets: NDArray[np.int64]
    """Position of the first sample of each shard, whether or not it is taken."""

    @property
    def ends(self) -> NDArray[np.int64]:
        """Cumulative `counts`, starting with 0, `(n + 1,)` int64."""
        return np.concatenate(([0], np.cumsum(self.counts)))


class Elements(Protocol):
    """A sequence of samples that can be read from any index on."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def take(self, elements: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions of ascending `elements`; both `(n,)` int64."""


class Line(Elements, Protocol):
    """The samples of one partition of a dataset in the order of an epoch."""

    @property
    def shards(self) -> NDArray[np.int64]:
        """Shard numbers in the order in which they are read."""

    def alive(self, element: int) -> range:
        """Return the range of `shards` over which samples are shuffled at `element`."""


def cut_line(
    counts: NDArray[np.int64],
    order: NDArray[np.int64],
    partitions: int,
    *,
    kept: NDArray[np.int64] | None = None,
) -> tuple[Run, ...]:
    """Lay the shards of `order` end to end and cut the line into `partitions` runs.

    Shards without samples are left out, because they need not be fetched.

    Args:
        counts: Samples of every shard, by shard number.
        order: Shard numbers in the order in which they are laid.
        partitions: Number of runs. Their lengths differ by at most one sample.
        kept: Number of samples of each shard that a filter keeps; only these count. None: all.
    """
    total = (counts if kept is None else kept)[order].sum()
    cuts = -(-np.arange(partitions + 1, dtype=np.int64) * total // partitions)
    return cut_line_at(counts, order, cuts, kept=kept)


def cut_line_at(
    counts: NDArray[np.int64],
    order: NDArray[np.int64],
    cuts: NDArray[np.int64],
    *,
    kept: NDArray[np.int64] | None = None,
) -> tuple[Run, ...]:
    """Lay the shards of `order` end to end and return the runs between the `cuts`.

    Args:
        counts: Samples of every shard, by shard number.
        order: Shard numbers in the order in which they are laid.
        cuts: Indices into the line, ascending; run p goes from cut p to cut p + 1.
        kept: Number of samples of each shard that a filter keeps; only these count. None: all.
    """
    offsets = np.concatenate(([0], np.cumsum(counts)))
    # Empty shards are left out of the order. A shard of which a filter keeps nothing stays in it,
    # so that filters do not move the samples of other shards; `firsts` and `stops` leave it out at
    # the ends of a run.
    order = order[counts[order] > 0]
    sizes = (counts if kept is None else kept)[order]
    ends = np.concatenate(([0], np.cumsum(sizes)))
    firsts = np.searchsorted(ends, cuts[:-1], side="right") - 1
    stops = np.searchsorted(ends, cuts[1:], side="left")
    runs = []
    for low, high, first, stop in zip(cuts, cuts[1:], firsts, stops, strict=False):
        inside = slice(first, stop if low < high else first)
        shards, begins = order[inside], ends[:-1][inside]
        starts = np.maximum(low - begins, 0)
        places_end = np.minimum(high - begins, sizes[inside])
        runs.append(Run(shards, starts, places_end - starts, offsets[shards]))
    return tuple(runs)


class StoredLine:
    """A partition in stored order, with one shard alive at a time and computed positions."""

    def __init__(self, run: Run) -> None:
        self.shards = run.shards
        self._ends = run.ends
        self._first = int(run.offsets[0] + run.starts[0]) if len(run.shards) else 0

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, elements: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions of `elements`, `(n,)` int64."""
        return self._first + elements

    def alive(self, element: int) -> range:
        """Return the shard that holds `element`, as a range of indices into `shards`."""
        ordinal = int(np.searchsorted(self._ends, element, side="right")) - 1
        return range(ordinal, ordinal + 1)


class SelectedLine(StoredLine):
    """The kept samples of a partition in stored order, with one shard alive at a time."""

    def __init__(self, run: Run, selection: Selection) -> None:
        super().__init__(run)
        self._run = run
        self._selection = selection
        self._last: tuple[int, NDArray[np.int64]] | None = None

    def take(self, elements: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions of ascending `elements`; both `(n,)` int64."""
        positions = np.empty(len(elements), dtype=np.int64)
        done = 0
        while done < len(elements):
            ordinal = self.alive(int(elements[done])).start
            inside = slice(done, int(np.searchsorted(elements, self._ends[ordinal + 1])))
            within = elements[inside] - self._ends[ordinal] + self._run.starts[ordinal]
            positions[inside] = self._run.offsets[ordinal] + self._places(ordinal)[within]
            done = inside.stop
        return positions

    def _places(self, ordinal: int) -> NDArray[np.int64]:
        last = self._last
        if last is None or last[0] != ordinal:
            last = self._last = ordinal, self._selection.places(int(self.shards[ordinal]))
        return last[1]
