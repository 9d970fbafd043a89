"""Describe what a stream reads: one dataset, or a mixture of several."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import numpy as np

from audiomdb.checks import true_or_false
from audiomdb.plan import Columns, EpochPlan, Interleave, MixPlan, Stop, Weight
from audiomdb.plan.filters import limits
from audiomdb.registry import retriever_for
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.shards import DatasetReader
from audiomdb.stream.load_options import LoadOptions
from audiomdb.stream.portable import PortableStruct

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "SOURCE",
    "Mixture",
    "Origin",
    "Part",
    "Where",
    "described",
    "parts_of",
]

SOURCE = "__source__"
"""Field of a mixture's samples: the number of the dataset that a sample came from, from 0. Datasets
of nested mixtures are numbered consecutively with the others."""

Origin: TypeAlias = str | os.PathLike[str] | BaseRetriever | DatasetReader
"""A dataset's URL or folder, a retriever, or an open reader."""

Where: TypeAlias = "Callable[[Columns], NDArray[np.bool_]] | NDArray[np.bool_]"
"""Which samples take part: a bool array `(samples,)`, or a function that makes it from the
index."""


class Part(PortableStruct, frozen=True):
    """One dataset of a stream, with the options for reading it.

        Part("speech", shuffle=True, max_duration=20, load=LoadOptions(sample_rate=16000))

    Attributes:
        origin: The dataset.
        shuffle: Whether to shuffle. False keeps the stored order.
        window: Number of shards that samples are mixed over, see `audiomdb.plan.EpochPlan`.
        min_duration: Duration in seconds below which clips are left out.
        max_duration: Duration in seconds above which clips are left out.
        where: Selection of samples; those with False are left out. Must be the same in all ranks.
        load: How samples are loaded.

    Raises:
        PlanError: an option is out of range.
        TypeError: an option has the wrong type.
    """

    origin: Origin
    shuffle: bool = False
    window: int = 4
    min_duration: float | None = None
    max_duration: float | None = None
    where: Where | None = None
    load: LoadOptions = msgspec.field(default_factory=LoadOptions)

    def __post_init__(self) -> None:
        if not isinstance(self.origin, str | os.PathLike | BaseRetriever | DatasetReader):
            raise TypeError(
                f"the dataset is {self.origin!r:.80}, expected a URL, a folder, a retriever or a "
                "reader"
            )
        if not isinstance(self.load, LoadOptions):
            raise TypeError(f"load is {self.load!r:.80}, expected LoadOptions")
        msgspec.structs.force_setattr(self, "shuffle", true_or_false("shuffle", self.shuffle))
        for name in ("min_duration", "max_duration"):
            limit = getattr(self, name)
            if limit is not None and not isinstance(limit, int | float | np.number):
                raise TypeError(f"{name} is {limit!r}, expected seconds as a number")
        limits(self.min_duration, self.max_duration)
        EpochPlan([], window=self.window)

    @property
    def filtered(self) -> bool:
        """Whether any filter is set."""
        limits = (self.min_duration, self.max_duration, self.where)
        return any(limit is not None for limit in limits)


class Mixture(msgspec.Struct, frozen=True):
    """Several datasets that are read as one.

        speech = Part("speech", shuffle=True, load=LoadOptions(sample_rate=16000))
        SampleStream(Mixture([speech, Part(noise_retriever, shuffle=True)], weights=[3, 1]))

    The field `__source__` of a sample is the number of its dataset. Each dataset has its own
    fields, cache, prefetching and shuffle options; the seed is that of the stream.

    Attributes:
        parts: The datasets. A nested mixture is read as if it were one dataset.
        weights: Relative frequencies of the parts. None: every sample of every part comes once in
            an epoch.
        interleave: "ordered" keeps the proportions everywhere, as evenly as possible; "pseudo" does
            so in blocks of 1024 samples, within which the order is random; None reads one part
            after the other.
        stop: With weights, when an epoch ends: "first", when the first part is used up; "last",
            when every part has been used up, the others being repeated until then; or after a
            number of samples.

    Raises:
        PlanError: an option is out of range, or the weights do not fit the parts.
        TypeError: an option has the wrong type.
    """

    parts: Sequence[Part | Mixture]
    weights: Sequence[Weight] | None = None
    interleave: Interleave = "pseudo"
    stop: Stop = "last"

    def __post_init__(self) -> None:
        lists: dict[str, object] = {"parts": self.parts, "weights": self.weights}
        for name, given in lists.items():
            if given is not None and (isinstance(given, str) or not hasattr(given, "__len__")):
                raise TypeError(f"{name} of a mixture are {given!r:.80}, expected a list")
        for number, part in enumerate(self.parts):
            if not isinstance(part, Part | Mixture):
                raise TypeError(
                    f"part {number} of a mixture is {part!r:.80}, expected a Part or a Mixture"
                )
        MixPlan(
            [[1]] * len(self.parts),
            weights=self.weights,
            interleave=self.interleave,
            stop=self.stop,
        )


def parts_of(what: Part | Mixture) -> Iterator[Part]:
    """Yield the datasets in order, including those of nested mixtures."""
    if isinstance(what, Part):
        yield what
        return
    for part in what.parts:
        yield from parts_of(part)


def described(
    source: Origin | Part | Mixture, given: Part, *, seed: int, partitions: int
) -> tuple[Part | Mixture, list[BaseRetriever]]:
    """Return the description of what a stream reads.

    Impossible options are refused here, not in the middle of a training run. No dataset is opened.

    Args:
        source: The stream's argument.
        given: The dataset with the stream's other options. If `source` is a part or a mixture, its
            origin is not used.
        seed: Seed of the stream.
        partitions: Partitions of the stream.

    Returns:
        The description, with retrievers in place of URLs and folders, and the retrievers that were
        made for this, which the caller has to close.

    Raises:
        PlanError: the seed or the number of partitions is out of range.
        UnknownSchemeError, InvalidURLError, BackendError: as in `audiomdb.registry.retriever_for`.
        ValueError: options are given together with a part or a mixture, which has its own.
    """
    what: Part | Mixture = given
    if isinstance(source, Part | Mixture):
        _refuse_beside(source, given)
        what = source
    EpochPlan([], seed=seed, partitions=partitions)
    made: list[BaseRetriever] = []

    def led(part: Part | Mixture) -> Part | Mixture:
        if isinstance(part, Mixture):
            return msgspec.structs.replace(part, parts=[led(one) for one in part.parts])
        if not isinstance(part.origin, str | os.PathLike):
            return part
        made.append(retriever_for(part.origin))
        return msgspec.structs.replace(part, origin=made[-1])

    return led(what), made


def _refuse_beside(source: Part | Mixture, given: Part) -> None:
    """Refuse options that were given together with a source that has its own."""
    plain = Part("")
    differs = [
        name
        for name in ("shuffle", "window", "min_duration", "max_duration", "load")
        if getattr(given, name) != getattr(plain, name)
    ]
    if given.where is not None:
        differs.append("where")
    if differs:
        raise ValueError(
            f"{', '.join(differs)}: a {type(source).__name__} says itself how it is read; give it "
            "to its Part"
        )
