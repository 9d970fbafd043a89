"""What streams of samples and of steps have in common: the datasets, their order and a share."""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING

from audiomdb.plan import Order, Split
from audiomdb.plan.checks import whole_number
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.stream.findings import Findings
from audiomdb.stream.reading import Reading
from audiomdb.stream.sources import Mixture, Origin, Part, described

if TYPE_CHECKING:
    from audiomdb.stream.watch import Watch

__all__ = ["PlannedStream"]


class PlannedStream:
    """Base of `SampleStream` and `StepStream`.

    Args:
        source: The datasets.
        given: The dataset with the stream's other options, see `described`.
        split: The share of this rank and worker.
        seed: Seed of the shuffle.
        num_threads: Threads that read, decode and process.
    """

    def __init__(
        self,
        source: Origin | Part | Mixture,
        given: Part,
        split: Split,
        *,
        seed: int,
        num_threads: int,
    ) -> None:
        self._num_threads = whole_number("num_threads", num_threads)
        self._what, self._made = described(source, given, seed=seed, partitions=split.partitions)
        self._split = split
        self._seed = index(seed)  # a state holds plain numbers
        self._says = split.rank == split.worker == 0
        self._findings = Findings()

    def __repr__(self) -> str:
        what = self._what
        source = what.origin if isinstance(what, Part) else what
        return f"<{type(self).__name__} of {source!r}>"

    def __exit__(self, *exc: object) -> None:
        self.close()

    def share(self, findings: Findings) -> None:
        """Take over what is known of the index of the same datasets, and add what is missing."""
        self._findings = findings

    def adopt(self, retriever: BaseRetriever) -> None:
        """Close a retriever that was made for this stream whenever the stream is closed."""
        self._made.append(retriever)

    def close(self) -> None:
        """Close datasets that were given as URLs or folders; they are opened again when needed."""
        for retriever in self._made:
            retriever.close()

    def _reading(self, watch: Watch | None = None) -> Reading:
        return Reading(self._what, self._findings, watch, seed=self._seed)

    def _plan(self, reading: Reading, epoch: int) -> Order:
        return reading.plan(seed=self._seed, epoch=epoch, partitions=self._split.partitions)
