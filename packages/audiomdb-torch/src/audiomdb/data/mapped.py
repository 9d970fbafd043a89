"""A dataset as torch's samplers want it: samples by number."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import TYPE_CHECKING, SupportsIndex

import numpy as np
from torch.utils.data import Dataset

from audiomdb.data.collate import PaddingSample
from audiomdb.data.epochs import EpochCounter
from audiomdb.stream.ahead import in_order
from audiomdb.stream.loading import held_bytes
from audiomdb.stream.reading import Reading, Selections
from audiomdb.stream.sources import Mixture, Part

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MapView"]


class MapView(Dataset[PaddingSample]):
    """Samples by number, for torch's samplers and others that choose numbers.

        view = dataset.as_map()
        sampler = DistributedSampler(view)
        for batch in DataLoader(view, batch_size=32, sampler=sampler, num_workers=2):
            ...

    Number i is the i-th sample in stored order of those that the dataset's filters keep. Nothing
    is split over ranks here: that is the sampler's task. `dataset[i]` would do the same one by
    one; a loader fetches a view's batches whole, in threads.

    Numbers in random order make shards come and go: a cache with room for the whole dataset
    downloads each once, a smaller one many times. A stream mixes shards that are near each other
    instead.

    Made by `StreamingDataset.as_map`. Picklable; workers of every start method read for
    themselves.

    Args:
        what: What is read, and how.
        num_threads: Threads that decode a batch, in each worker; 0 decodes in the worker itself.
        epoch: Which windows are cut, where random ones are.
    """

    def __init__(self, what: Part | Mixture, *, num_threads: int = 4, epoch: int = 0) -> None:
        self._what = what
        self._num_threads = num_threads
        self._epochs = EpochCounter(epoch)
        self._selections: Selections = {}
        self._kept: tuple[NDArray[np.int64] | None] | None = None

    def __len__(self) -> int:
        """Samples that the filters keep."""
        kept = self._positions()
        return len(self._reading()) if kept is None else len(kept)

    def __getitem__(self, which: SupportsIndex | str) -> PaddingSample:
        """The sample of a number (negative from the end), or of a key, kept or not.

        Raises:
            IndexError: no such number.
            UnknownKeyError: no such key.
            DatasetError, AudioError, Exception: as iterating the dataset does.
        """
        reading = self._reading()
        position = reading.find(which) if isinstance(which, str) else self._position(index(which))
        return PaddingSample(reading.load(position, self._epochs.next_epoch, None))

    def __getitems__(self, numbers: Sequence[SupportsIndex]) -> list[PaddingSample]:
        """The samples of several numbers, in their order. `DataLoader` calls it for a batch."""
        reading, epoch = self._reading(), self._epochs.next_epoch
        positions = [self._position(index(number)) for number in numbers]
        # Shard by shard, whatever the order: a cache may have room for few.
        order = sorted(range(len(positions)), key=positions.__getitem__)
        samples: list[PaddingSample | None] = [None] * len(positions)
        loaded = in_order(
            lambda at: reading.load(positions[at], epoch, None),
            order,
            num_threads=0 if reading.only_copies else min(self._num_threads, len(order)),
            weigh=lambda at: reading.weigh(positions[at]),
            size=held_bytes,
        )
        for at, sample in zip(order, loaded, strict=True):
            samples[at] = PaddingSample(sample)
        return samples  # type: ignore[return-value]

    def set_epoch(self, epoch: int) -> None:
        """Say which random windows are cut from now on; workers see it at their next batch."""
        self._epochs.set(epoch)

    def column(self, name: str) -> np.ndarray:
        """A column of the index, for samplers that sort or bucket: `(len(self),)`.

        Of several datasets one after the other. Read without any audio.

        Raises:
            UnknownColumnError: a dataset's index has no such column.
        """
        columns = [np.asarray(reader.index[name]) for reader in self._reading().readers]
        column = columns[0] if len(columns) == 1 else np.concatenate(columns)
        kept = self._positions()
        return column if kept is None else column[kept]

    @property
    def durations(self) -> NDArray[np.float64]:
        """Seconds of each sample as it is read, `(len(self),)`; NaN where there is no audio."""
        kept = self._positions()
        seconds = self._reading().durations()
        return seconds if kept is None else seconds[kept]

    def _reading(self) -> Reading:
        return Reading(self._what, self._selections)

    def _positions(self) -> NDArray[np.int64] | None:
        """Positions of what is kept; None: all."""
        if self._kept is None:
            mask = self._reading().taking_part()
            self._kept = (None if mask is None else np.flatnonzero(mask),)
        return self._kept[0]

    def _position(self, number: int) -> int:
        size = len(self)
        at = number + size if number < 0 else number
        if not 0 <= at < size:
            raise IndexError(f"sample {number} is outside of {size}")
        kept = self._positions()
        return at if kept is None else int(kept[at])
