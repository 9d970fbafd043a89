"""Mixtures: the epoch of several datasets together.

The datasets are laid end to end and their shards numbered through, so that a mixture has positions,
shards and random words as one large dataset would; `locate` says whose a position is.

Which source has the next turn is the `pattern`. A mixture of P partitions cuts the pattern into P
even stretches, and each source's line where the pattern's counts are at the cuts: every stretch
has its share of every source, and a node still reads its own shards only.

A source gives n of its N samples to an epoch; n and N are equal without weights. Its samples lie
on an endless line, pass after pass in ever new orders, and epoch e takes the stretch from e * n to
(e + 1) * n. So a small source is repeated, one that is used in part is used up before it is
repeated, and without weights pass e is the source's own epoch e.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from audiomdb.errors import PlanError
from audiomdb.plan.bits import Purpose, random_words
from audiomdb.plan.checks import whole_number
from audiomdb.plan.epoch import MAX_PARTITIONS, check_counts
from audiomdb.plan.filters import Selection
from audiomdb.plan.mix_line import MixedLine, PassesLine, Source
from audiomdb.plan.pattern import Pattern, Weight, whole_weights
from audiomdb.plan.shuffle import MAX_WINDOW
from audiomdb.plan.turns import Turns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audiomdb.plan.state import OptionValue

__all__ = ["INTERLEAVES", "Interleave", "MixPlan", "Stop"]

Interleave: TypeAlias = Literal["pseudo", "ordered"] | None
"""How the samples of the sources follow each other.

- `"ordered"`: by deadlines, so that every stretch of turns has the sources' proportions;
- `"pseudo"`: the same, shuffled inside blocks of 1024 turns;
- None: one source after the other, inside each partition.
"""

INTERLEAVES: tuple[Interleave, ...] = ("pseudo", "ordered", None)

Stop: TypeAlias = Literal["first", "last"] | int
"""With weights, when an epoch ends: with the `"first"` source that ends, with the `"last"`, whose
companions are repeated until then, or after a number of samples."""


@dataclass(frozen=True, init=False, eq=False)
class MixPlan(Turns):
    """The order of one epoch of several datasets. Frozen, thread-safe, pickles as its options.

    Costs O(shards) to build and O(sources * (block + window)) to enter anywhere.

    Args:
        sources: For each dataset, the samples in each of its shards.
        weights: How many of its samples come for how many of the others: whole numbers, fractions
            or decimals above 0. None: every sample of every source comes once an epoch.
        interleave: See `Interleave`.
        stop: See `Stop`; without weights, all end together.
        seed: 0 to 2**64 - 1.
        epoch: 0 to 2**32 - 1.
        shuffle: Shuffle each source; see `EpochPlan`.
        window: Of each source's shuffle; see `EpochPlan`. So many shards more are alive at once.
        partitions: See `EpochPlan`.
        selections: For each dataset, which samples take part; None: all.

    Raises:
        PlanError: An option is out of range, or weights and sources do not fit each other.
    """

    sources: tuple[NDArray[np.int64], ...]
    weights: tuple[int, ...] | None
    """Without common divisor."""

    interleave: Interleave
    stop: Stop
    seed: int
    epoch: int
    shuffle: bool
    window: int
    partitions: int
    selections: tuple[Selection | None, ...]

    def __init__(
        self,
        sources: Sequence[Sequence[int] | NDArray[np.integer[Any]]],
        *,
        weights: Sequence[Weight] | None = None,
        interleave: Interleave = "pseudo",
        stop: Stop = "last",
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = False,
        window: int = 4,
        partitions: int = 1,
        selections: Sequence[Selection | None] | None = None,
    ) -> None:
        checked = tuple(check_counts(counts) for counts in sources)
        chosen = (None,) * len(checked) if selections is None else tuple(selections)
        if interleave not in INTERLEAVES:
            raise PlanError(f"interleave must be one of {INTERLEAVES}, not {interleave!r}")
        if not isinstance(stop, str):
            stop = whole_number("stop, unless 'first' or 'last',", stop, low=1)
            if weights is None:
                raise PlanError(f"stop={stop} needs weights: without, every sample comes once")
        elif stop not in ("first", "last"):
            raise PlanError(f"stop must be 'first', 'last' or a number of samples, not {stop!r}")
        vars(self).update(
            sources=checked,
            weights=None if weights is None else whole_weights(weights, len(checked)),
            interleave=interleave,
            stop=stop,
            seed=whole_number("seed", seed, high=2**64 - 1),
            epoch=whole_number("epoch", epoch, high=2**32 - 1),
            shuffle=bool(shuffle),
            window=whole_number("window", window, high=MAX_WINDOW),
            partitions=whole_number("partitions", partitions, low=1, high=MAX_PARTITIONS),
            selections=chosen,
        )
        _check_fit(checked, chosen)
        for number, size in enumerate(self.sizes):
            if self.weights is not None and size == 0:
                raise PlanError(f"dataset {number} has a weight but no samples; leave it out")

    def __getstate__(self) -> dict[str, object]:
        return {name: vars(self)[name] for name in self.__dataclass_fields__}

    def __len__(self) -> int:
        """Samples in the epoch, repeats counted."""
        return self._total

    @property
    def options(self) -> dict[str, OptionValue]:
        """What changes the order beside seed, epoch and the datasets, for `PlanState`."""
        return {
            "weights": None if self.weights is None else list(self.weights),
            "interleave": self.interleave,
            "stop": self.stop,
            "shuffle": self.shuffle,
            "window": self.window,
            "partitions": self.partitions,
            "selections": [None if one is None else one.digest for one in self.selections],
        }

    @property
    def sizes(self) -> list[int]:
        """Samples that take part, of each source."""
        pairs = zip(self.sources, self.selections, strict=True)
        return [int(counts.sum()) if one is None else len(one) for counts, one in pairs]

    @cached_property
    def shares(self) -> list[int]:
        """Samples that each source gives to an epoch, repeats counted."""
        return self.sizes if self.weights is None else self._pattern.counts(self._total)

    def locate(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return which datasets positions lie in, and at which position there; both `(n,)`."""
        datasets = np.searchsorted(self._ends, positions, side="right") - 1
        return datasets, positions - self._ends[datasets]

    def shards_alive(self, turn: int) -> NDArray[np.int64]:
        """Return the shards over which the turn's partition is mixed there, `(n,)` int64.

        Numbered through all datasets in order. At most `window` + 1 of each source (one without
        shuffle).

        Raises:
            PlanError: There is no such turn.
        """
        if not len(self):
            raise PlanError(f"turn {turn} does not exist: the epoch has no samples")
        turn = whole_number("turn", turn, high=len(self) - 1)
        place = self._everything.places(turn, turn + 1)
        return self.lines[int(place.partitions[0])].shards_alive(int(place.elements[0]))

    @cached_property
    def lines(self) -> tuple[MixedLine, ...]:
        """The samples of each partition in their order."""
        cuts = [-(-p * len(self) // self.partitions) for p in range(self.partitions + 1)]
        counts = [self._pattern.counts(cut) if cut else [0] * len(self.sources) for cut in cuts]
        lines = []
        for begin, end, before, after in zip(cuts, cuts[1:], counts, counts[1:], strict=False):
            stretches = [
                PassesLine(source, self.epoch * share + low, self.epoch * share + high)
                for source, share, low, high in zip(
                    self._sources, self.shares, before, after, strict=True
                )
            ]
            lines.append(
                MixedLine(
                    stretches,
                    begin=begin,
                    end=end,
                    before=before,
                    pattern=None if self.interleave is None else self._pattern,
                    shuffled=self._block_words if self.interleave == "pseudo" else None,
                )
            )
        return tuple(lines)

    def _block_words(self, start: int, stop: int) -> NDArray[np.uint64]:
        return random_words(self.seed, self.epoch, Purpose.MIX_ORDER, start=start, stop=stop)

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(int(counts.sum()) for counts in self.sources)])

    @cached_property
    def _total(self) -> int:
        if self.weights is None or isinstance(self.stop, int):
            return sum(self.sizes) if self.weights is None else int(self.stop)
        ends = [self._pattern.turn_after(source, size) for source, size in enumerate(self.sizes)]
        return min(ends) if self.stop == "first" else max(ends)

    @cached_property
    def _pattern(self) -> Pattern:
        return Pattern(self.sizes if self.weights is None else self.weights)

    @cached_property
    def _sources(self) -> list[Source]:
        first_shard, sources = 0, []
        parts = zip(self.sources, self.selections, self._ends[:-1].tolist(), strict=True)
        for counts, selection, offset in parts:
            sources.append(
                Source(
                    counts=counts,
                    selection=selection,
                    first_shard=first_shard,
                    first_position=offset,
                    seed=self.seed,
                    shuffle=self.shuffle,
                    window=self.window,
                )
            )
            first_shard += len(counts)
        return sources


def _check_fit(
    sources: tuple[NDArray[np.int64], ...], selections: tuple[Selection | None, ...]
) -> None:
    if not sources:
        raise PlanError("a mixture needs at least one dataset")
    check_counts(np.concatenate(sources))
    if len(selections) != len(sources):
        raise PlanError(f"{len(selections)} selections for {len(sources)} datasets")
    for number, (counts, selection) in enumerate(zip(sources, selections, strict=True)):
        if selection is not None and not np.array_equal(selection.counts, counts):
            raise PlanError(
                f"the selection of dataset {number} is of another dataset; make it of its index"
            )
