"""Plan one epoch of a mixture of several datasets.

The datasets are laid end to end and their shards are numbered consecutively, so a mixture has
positions, shards and random words as one large dataset would.

The `pattern` determines which source has each turn. A mixture of P partitions cuts the pattern into
P even ranges, and cuts each source's line at the counts that the pattern has reached there: every
range has its share of every source, and a node still reads only its own shards.

A source with N samples contributes n of them to an epoch; without weights, n equals N. Its passes,
each in a new order, form an endless line, of which epoch e takes elements e * n to (e + 1) * n. So
a small source is repeated, a source that is used in part is used up before it is repeated, and
without weights pass e is the source's own epoch e. Pass 2**32 has the order of pass 0 again.

A source may itself be a mixture. Its passes are then epochs of that mixture, interleaved by its own
pattern. To the enclosing mixture, it is one dataset with as many samples as one of its epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from audiomdb.errors import PlanError
from audiomdb.lazy import cached_property
from audiomdb.plan.bits import EPOCHS
from audiomdb.plan.checks import whole_number
from audiomdb.plan.epoch import MAX_PARTITIONS, EpochPlan, check_counts
from audiomdb.plan.filters import Selection
from audiomdb.plan.mix_line import MixedLine, Weave
from audiomdb.plan.occurrences import MAX_SAMPLES
from audiomdb.plan.order import Order
from audiomdb.plan.pattern import Pattern, Weight, whole_weights
from audiomdb.plan.shuffle import MAX_WINDOW
from audiomdb.plan.sources import First, Source

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audiomdb.plan.state import OptionValue

__all__ = ["INTERLEAVES", "Interleave", "MixPlan", "Stop"]

Interleave: TypeAlias = Literal["pseudo", "ordered"] | None
"""How the samples of the sources are interleaved.

- `"ordered"`: by deadlines, so that every range of turns has the sources' proportions;
- `"pseudo"`: the same, but shuffled within blocks of 1024 turns;
- None: one source after the other, within each partition.
"""

INTERLEAVES: tuple[Interleave, ...] = ("pseudo", "ordered", None)

Stop: TypeAlias = Literal["first", "last"] | int
"""When an epoch with weights ends.

- `"first"`: when the first source is used up;
- `"last"`: when every source has been used up; the others are repeated until then;
- a number: after that many samples.
"""


class MixPlan(Order):
    """The order of one epoch of several datasets. Frozen and thread-safe; pickled as its options.

    Costs O(shards) to build and O(sources * (block + window)) to start reading at any place.

    Args:
        sources: For each source, either the number of samples in each shard of a dataset, or a
            mixture, whose own seed, epoch and partitions are ignored.
        weights: Relative frequencies of the sources: whole numbers, fractions or decimals above 0.
            None: every sample of every source is read once per epoch.
        interleave: See `Interleave`.
        stop: See `Stop`. Without weights, all sources end together, and only "last" is allowed.
        seed: 0 to 2**64 - 1.
        epoch: 0 to 2**32 - 1.
        shuffle: Whether to shuffle each dataset, see `EpochPlan`: one bool for all sources, or one
            for each. That of a nested mixture is ignored.
        window: Window of each dataset's shuffle, see `EpochPlan`: one number for all sources, or
            one for each. In each partition, a dataset has up to `window` + 1 shards alive at once.
        partitions: See `EpochPlan`.
        selections: For each source, the samples that take part. None: all.

    Raises:
        PlanError: An option is out of range, or weights and sources do not match.
    """

    __match_args__ = (
        "sources",
        "weights",
        "interleave",
        "stop",
        "seed",
        "epoch",
        "shuffle",
        "window",
        "partitions",
        "selections",
    )
    _shown = __match_args__

    sources: tuple[NDArray[np.int64] | MixPlan, ...]
    weights: tuple[int, ...] | None
    """Whole numbers without a common divisor."""

    interleave: Interleave
    stop: Stop
    seed: int
    epoch: int
    shuffle: tuple[bool, ...]
    """Whether each source is shuffled."""

    window: tuple[int, ...]
    """Shuffle window of each source."""

    partitions: int
    selections: tuple[Selection | None, ...]

    def __init__(
        self,
        sources: Sequence[Sequence[int] | NDArray[np.integer[Any]] | MixPlan],
        *,
        weights: Sequence[Weight] | None = None,
        interleave: Interleave = "pseudo",
        stop: Stop = "last",
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool | Sequence[bool] = False,
        window: int | Sequence[int] = 4,
        partitions: int = 1,
        selections: Sequence[Selection | None] | None = None,
    ) -> None:
        checked = tuple(
            counts if isinstance(counts, MixPlan) else check_counts(counts) for counts in sources
        )
        if interleave not in INTERLEAVES:
            raise PlanError(f"interleave must be one of {INTERLEAVES}, not {interleave!r}")
        if not isinstance(stop, str):
            stop = whole_number("stop, unless 'first' or 'last',", stop, low=1, high=MAX_SAMPLES)
        elif stop not in ("first", "last"):
            raise PlanError(f"stop must be 'first', 'last' or a number of samples, not {stop!r}")
        if weights is None and stop != "last":
            raise PlanError(f"stop={stop!r} needs weights: without, every sample comes once")
        vars(self).update(
            sources=checked,
            weights=None if weights is None else whole_weights(weights, len(checked)),
            interleave=interleave,
            stop=stop,
            seed=whole_number("seed", seed, high=2**64 - 1),
            epoch=whole_number("epoch", epoch, high=EPOCHS - 1),
            shuffle=tuple(map(bool, _for_each("shuffle", shuffle, checked))),
            window=tuple(
                whole_number("window", one, high=MAX_WINDOW)
                for one in _for_each("window", window, checked)
            ),
            partitions=whole_number("partitions", partitions, low=1, high=MAX_PARTITIONS),
            selections=_for_each("selections", selections, checked),
        )
        _check_fit(self)
        for number, size in enumerate(self.sizes):
            if self.weights is not None and size == 0:
                raise PlanError(f"dataset {number} has a weight but no samples; leave it out")
        _check_length(self, weights)

    def __len__(self) -> int:
        """Return the number of samples in the epoch, including repeats."""
        return self._total

    @property
    def options(self) -> dict[str, OptionValue]:
        """Options that change the order, besides seed, epoch and datasets, for `PlanState`."""
        mixtures: list[OptionValue] = [
            None if not isinstance(one, MixPlan) else _without_partitions(one.options)
            for one in self.sources
        ]
        return {
            "weights": None if self.weights is None else list(self.weights),
            "interleave": self.interleave,
            "stop": self.stop,
            "shuffle": _at_once(self.shuffle),
            "window": _at_once(self.window),
            "partitions": self.partitions,
            "selections": [None if one is None else one.digest for one in self.selections],
            **({"mixtures": mixtures} if any(mixtures) else {}),
        }

    @property
    def sizes(self) -> list[int]:
        """Number of samples of each source that take part."""
        return [len(order) for order in self._orders]

    @cached_property
    def shares(self) -> list[int]:
        """Number of samples that each source contributes to an epoch, including repeats."""
        return self.sizes if self.weights is None else self._pattern.counts(self._total)

    @cached_property
    def datasets(self) -> tuple[NDArray[np.int64], ...]:
        """Samples in each shard of each dataset; nested mixtures are expanded in place."""
        return tuple(counts for order in self._orders for counts in order.datasets)

    @property
    def unread(self) -> list[int]:
        """Numbers of the datasets, including those of nested mixtures, that an epoch never reads.

        Filters may exclude all samples of a dataset. With weights, a dataset whose first turn
        comes after the end of the epoch is never read, because every epoch restarts the pattern.
        """
        unread: list[int] = []
        first = 0
        for order, share in zip(self._orders, self.shares, strict=True):
            mine = order.unread if share else range(len(order.datasets))
            unread += [first + one for one in mine]
            first += len(order.datasets)
        return unread

    @property
    def window_shards(self) -> tuple[int, ...]:
        """Number of shards of each dataset over which a partition is shuffled at once."""
        return tuple(shards for order in self._orders for shards in order.window_shards)

    @cached_property
    def lines(self) -> tuple[MixedLine, ...]:
        """The samples of each partition in the order of the epoch."""
        whole = self.source(First(self.seed))
        cuts = [-(-p * len(self) // self.partitions) for p in range(self.partitions + 1)]
        return tuple(whole.line(self.epoch, begin, end) for begin, end in pairwise(cuts))

    def source(self, first: First) -> Weave:
        """Return this mixture as a source of another, see `Order`, or as the outermost."""
        sources: list[Source] = []
        coming = first._replace(mixture=first.mixture + 1)
        for order in self._orders:
            sources.append(order.source(coming))
            coming = sources[-1].end
        return Weave(first, sources, self._pattern, self.shares, self.interleave)

    @cached_property
    def _orders(self) -> list[EpochPlan | MixPlan]:
        """The sources, as orders whose own seed, epoch and partitions are ignored."""
        options = zip(self.sources, self.shuffle, self.window, self.selections, strict=True)
        return [
            source
            if isinstance(source, MixPlan)
            else EpochPlan(source, shuffle=shuffle, window=window, selection=selection)
            for source, shuffle, window, selection in options
        ]

    @cached_property
    def _total(self) -> int:
        if self.weights is None or isinstance(self.stop, int):
            return sum(self.sizes) if self.weights is None else int(self.stop)
        ends = [self._pattern.turn_after(source, size) for source, size in enumerate(self.sizes)]
        return min(ends) if self.stop == "first" else max(ends)

    @cached_property
    def _pattern(self) -> Pattern:
        return Pattern(self.sizes if self.weights is None else self.weights)


def _for_each(name: str, given: Any, sources: Sequence[object]) -> tuple[Any, ...]:  # noqa: ANN401
    """Return one value for each source, repeating a single value."""
    if not isinstance(given, Sequence):
        return (given,) * len(sources)
    if len(given) != len(sources):
        raise PlanError(f"{len(given)} {name} for {len(sources)} datasets; give one for each")
    return tuple(given)


def _at_once(values: Sequence[OptionValue]) -> OptionValue:
    """Return a single value if all values are equal, or else the list of them."""
    return values[0] if len(set(values)) == 1 else list(values)


def _without_partitions(options: dict[str, OptionValue]) -> dict[str, OptionValue]:
    return {name: value for name, value in options.items() if name != "partitions"}


def _check_length(plan: MixPlan, weights: Sequence[Weight] | None) -> None:
    """Reject an epoch with more than `MAX_SAMPLES` samples, naming the weights that cause it."""
    if plan._total <= MAX_SAMPLES:
        return
    if weights is None or plan.weights is None:
        raise PlanError(f"{plan._total} samples are too many for one plan, at most {MAX_SAMPLES}")
    ends = [plan._pattern.turn_after(source, size) for source, size in enumerate(plan.sizes)]
    last, largest = ends.index(plan._total), plan.weights.index(max(plan.weights))
    raise PlanError(
        f"weight {last} is {weights[last]!r}, and weight {largest} is {weights[largest]!r}: until "
        f"dataset {last} ends, an epoch would have more than {MAX_SAMPLES} samples. Give weights "
        f"that are nearer to each other, or stop='first' or a number of samples"
    )


def _check_fit(plan: MixPlan) -> None:
    if not plan.sources:
        raise PlanError("a mixture needs at least one dataset")
    for number, (source, selection) in enumerate(zip(plan.sources, plan.selections, strict=True)):
        if selection is None:
            continue
        if isinstance(source, MixPlan):
            raise PlanError(f"source {number} is a mixture; select from its own datasets")
        if not np.array_equal(selection.counts, source):
            raise PlanError(
                f"the selection of dataset {number} is of another dataset; make it of its index"
            )
    check_counts(np.concatenate(plan.datasets))
