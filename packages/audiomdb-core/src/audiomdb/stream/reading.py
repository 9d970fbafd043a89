"""Open the datasets of a stream and load samples by position.

Positions and shards run through several datasets in their order; those of a single dataset keep
their own numbers. This module does not determine the order in which samples are read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from audiomdb.errors import UnknownColumnError, UnknownKeyError
from audiomdb.lazy import cached_property
from audiomdb.notes import add_note
from audiomdb.plan import EpochPlan, MixPlan, Order, PlanState, Selection, select
from audiomdb.plan.durations import in_seconds
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.sample import DURATION, Sample
from audiomdb.shards import DatasetReader
from audiomdb.shards.dataset_reader import whole_position
from audiomdb.stream.findings import Findings
from audiomdb.stream.loading import SampleLoader
from audiomdb.stream.skipping import LeftOut
from audiomdb.stream.sources import SOURCE, Mixture, Part, parts_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audiomdb.plan.state import OptionValue
    from audiomdb.stream.watch import Watch

__all__ = ["Reading"]


class Reading:
    """The open datasets of an iteration.

    Thread-safe. Making one opens the metadata of the datasets, once per process.

    Args:
        what: Parts whose origins are retrievers or readers.
        findings: What is known of the index; what is found is added.
        watch: Records what the threads do.
        seed: Seed of the stream, see `SampleLoader`.

    Raises:
        DatasetError: a dataset cannot be opened.
    """

    def __init__(
        self,
        what: Part | Mixture,
        findings: Findings,
        watch: Watch | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self._what = what
        self._parts = list(parts_of(what))
        self.readers = [_open(part) for part in self._parts]
        *self._starts, self._size = accumulate(map(len, self.readers), initial=0)
        self._loaders = [
            SampleLoader(reader, part.load, watch, seed=seed, first=first)
            for reader, part, first in zip(self.readers, self._parts, self._starts, strict=True)
        ]
        self.mixed = isinstance(what, Mixture)
        self._found = findings.about(self.fingerprint)

    def __contains__(self, key: object) -> bool:
        """Whether any of the datasets has a sample with this key."""
        return any(key in reader for reader in self.readers)

    def __len__(self) -> int:
        """Return the number of samples, including those that are left out, each counted once."""
        return self._size

    @property
    def load(self) -> Callable[[int, int, int, np.ndarray | None], Sample]:
        """A function that loads the sample at a position in an epoch; see `SampleLoader.load`.

        For a single dataset, this is the loader's own method, which saves a call.
        """
        return self._load if self.mixed else self._loaders[0].load

    @property
    def load_or_skip(self) -> Callable[[int, int, int, np.ndarray | None], Sample | LeftOut]:
        """As `load`, but samples may be left out; see `SampleLoader.load_or_skip`."""
        if self.mixed:
            return self._load_or_skip
        loader = self._loaders[0]
        return loader.load_or_skip if loader.skips else loader.load  # which saves a call

    @property
    def weigh(self) -> Callable[[int], int]:
        """A function that returns the bytes of stored payload that `load` will process."""
        return self._weigh if self.mixed else self._loaders[0].weigh

    def length(self, position: int) -> int | None:
        """Return the frames of a clip, if known before it is decoded; see `SampleLoader.length`."""
        number = bisect_right(self._starts, position) - 1
        return self._loaders[number].length(position - self._starts[number])

    @property
    def only_copies(self) -> bool:
        """Whether nothing is decoded or processed."""
        return all(loader.only_copies for loader in self._loaders)

    def state(self, options: dict[str, OptionValue], *, seed: int) -> PlanState:
        """Return the state at the beginning of a plan over the datasets.

        Args:
            options: Options of the plan.
            seed: Seed of the plan.
        """
        sizes: list[OptionValue] = [len(reader) for reader in self.readers]
        # The fingerprint also covers this, but an error message can name a number that differs.
        known = {**options, "samples": sizes if self.mixed else sizes[0]}
        return PlanState.of(self.fingerprint, known, seed=seed)

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest that is equal for datasets of equal contents."""
        prints = [reader.metadata.fingerprint for reader in self.readers]
        if not self.mixed:
            return prints[0]
        import hashlib

        return hashlib.sha256("\n".join(prints).encode()).hexdigest()

    @property
    def names(self) -> str:
        """The names of the datasets, separated by commas."""
        return ", ".join(reader.metadata.name for reader in self.readers)

    def unread(self, plan: Order) -> list[str]:
        """Return numbers and names of the datasets with samples of which the plan reads none."""
        return [
            f"dataset {number} ({self.readers[number].metadata.name})"
            for number in plan.unread
            if len(self.readers[number])
        ]

    def thinned_out(self) -> list[str]:
        """Describe the datasets that are shuffled over shards most of which filters leave out."""
        found = []
        for number, part in enumerate(self._parts):
            selection = self._select(number)
            if selection is None or not part.shuffle:
                continue
            kept, shards = np.count_nonzero(selection.kept), np.count_nonzero(selection.counts)
            if 0 < kept < shards / 2 and 0 < part.window < shards - 1:
                name = self.readers[number].metadata.name
                found.append(f"{kept} of the {shards} shards of {name} (window {part.window})")
        return found

    def plan(self, *, seed: int, epoch: int, partitions: int) -> Order:
        """Return the order of an epoch.

        Raises:
            PlanError: a part has a weight but no samples, or a filter does not fit the index.
        """
        if isinstance(self._what, Part):
            return EpochPlan(
                self.readers[0].counts,
                seed=seed,
                epoch=epoch,
                shuffle=self._what.shuffle,
                window=self._what.window,
                partitions=partitions,
                selection=self._select(0),
            )
        return self._mix(self._what, 0, seed=seed, epoch=epoch, partitions=partitions)

    def durations(self) -> NDArray[np.float64]:
        """Return the seconds of every sample after cropping, also if left out; NaN if unknown.

        The array is kept, and must not be changed.

        Raises:
            PlanError: the durations of a dataset are not numbers.
        """
        if (known := self._found.durations) is not None:
            return known
        columns = [self._seconds(number) for number in range(len(self.readers))]
        found = np.concatenate(columns) if self.mixed else columns[0]
        self._found.durations = found
        return found

    @property
    def crops(self) -> list[OptionValue]:
        """For each dataset, the seconds of its crop and the option for short clips, or None."""
        crops = [part.load.crop for part in self._parts]
        return [None if crop is None else [float(crop.seconds), crop.short_clips] for crop in crops]

    def taking_part(self) -> NDArray[np.bool_] | None:
        """Return which samples are not left out, `(samples,)`; None: all of them are read."""
        masks = []
        for number, reader in enumerate(self.readers):
            selection = self._select(number)
            masks.append(np.ones(len(reader), np.bool_) if selection is None else selection.mask())
        return None if all(mask.all() for mask in masks) else np.concatenate(masks)

    def find(self, which: int | str) -> int:
        """Return the position of a key, or of a position that may be negative (from the end).

        Among several datasets, a key is looked up in the first that has it.

        Raises:
            IndexError: there is no such position.
            UnknownKeyError: there is no such key.
        """
        if not isinstance(which, str):
            position = whole_position(which)
            position += len(self) if position < 0 else 0
            if not 0 <= position < len(self):
                raise IndexError(f"position {which} is outside of {len(self)} samples")
            return position
        if not self.mixed:
            return self.readers[0].position(which)
        for reader, start in zip(self.readers, self._starts, strict=True):
            if which in reader:
                return start + reader.position(which)
        raise UnknownKeyError(f"no sample {which!r} in any of {self.names}")

    def key(self, position: int) -> tuple[str, str]:
        """Return the name of a sample's dataset and the sample's key."""
        number = bisect_right(self._starts, position) - 1
        reader = self.readers[number]
        return reader.metadata.name, reader.key(position - self._starts[number])

    @cached_property
    def shard_ends(self) -> NDArray[np.int64]:
        """The position after the last sample of each shard, over all datasets."""
        counts = [count for reader in self.readers for count in reader.counts]
        return np.fromiter(accumulate(counts), np.int64, len(counts))

    @cached_property
    def first_shards(self) -> list[int]:
        """The number of the first shard of each dataset, and the total number of shards."""
        return [0, *accumulate(len(reader.counts) for reader in self.readers)]

    def _load(self, position: int, epoch: int, repeat: int, out: np.ndarray | None) -> Sample:
        number = bisect_right(self._starts, position) - 1
        sample = self._loaders[number].load(position - self._starts[number], epoch, repeat, out)
        sample[SOURCE] = number
        return sample

    def _load_or_skip(
        self, position: int, epoch: int, repeat: int, out: np.ndarray | None
    ) -> Sample | LeftOut:
        number = bisect_right(self._starts, position) - 1
        loader, place = self._loaders[number], position - self._starts[number]
        sample = loader.load_or_skip(place, epoch, repeat, out)
        if not isinstance(sample, LeftOut):
            sample[SOURCE] = number
        return sample

    def _weigh(self, position: int) -> int:
        number = bisect_right(self._starts, position) - 1
        return self._loaders[number].weigh(position - self._starts[number])

    def _mix(
        self, what: Mixture, number: int, *, seed: int = 0, epoch: int = 0, partitions: int = 1
    ) -> MixPlan:
        """Return the plan of a mixture whose first part has this number."""
        sources: list[Sequence[int] | MixPlan] = []
        selections: list[Selection | None] = []
        shuffle, window = [], []
        for part in what.parts:
            if isinstance(part, Mixture):
                sources.append(self._mix(part, number))
                selections.append(None)
                shuffle.append(False)
                window.append(0)
                number += sum(1 for _ in parts_of(part))
            else:
                sources.append(self.readers[number].counts)
                selections.append(self._select(number))
                shuffle.append(part.shuffle)
                window.append(part.window)
                number += 1
        return MixPlan(
            sources,
            weights=what.weights,
            interleave=what.interleave,
            stop=what.stop,
            seed=seed,
            epoch=epoch,
            shuffle=shuffle,
            window=window,
            partitions=partitions,
            selections=selections,
        )

    def _seconds(self, number: int) -> NDArray[np.float64]:
        """Return the seconds of a dataset's samples after cropping; NaN if unknown."""
        reader, crop = self.readers[number], self._parts[number].load.crop
        # The index keeps its columns. That is of use only if the same array is kept here.
        index = reader.index if crop is None and not self.mixed else reader.index.apart()
        try:
            column = index[DURATION]
        except UnknownColumnError:
            column = np.full(len(reader), np.nan)
        with self._about(number, "reading the durations of"):
            seconds = in_seconds(column)
        return seconds if crop is None else crop.lasts(seconds)

    def _select(self, number: int) -> Selection | None:
        part, reader = self._parts[number], self.readers[number]
        if not part.filtered or not len(reader):  # without samples, there are no columns
            return None
        selections = self._found.selections
        if number not in selections:
            with self._about(number, "selecting from"):
                selection = select(
                    # Columns of a hundred million bytes are not kept for a result of one bit per
                    # sample.
                    reader.index.apart(),
                    reader.counts,
                    min_duration=part.min_duration,
                    max_duration=part.max_duration,
                    where=part.where,
                )
            assert selection is not None, "a filter selects"
            selections[number] = selection
        return selections[number]

    @contextmanager
    def _about(self, number: int, doing: str) -> Generator[None, None, None]:
        """Add a note to errors of the block, which names a dataset.

        Args:
            number: Number of the dataset.
            doing: What the block does to it, such as "selecting from".
        """
        try:
            yield
        except Exception as error:
            name = self.readers[number].metadata.name
            which = f"dataset {number} ({name!r})" if self.mixed else f"dataset {name!r}"
            add_note(error, f"while {doing} {which}")
            raise


def _open(part: Part) -> DatasetReader:
    origin = part.origin
    if isinstance(origin, DatasetReader):
        return origin
    assert isinstance(origin, BaseRetriever), "folders have retrievers"
    return origin.open()
