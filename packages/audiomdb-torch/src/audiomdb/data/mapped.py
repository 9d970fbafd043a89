"""Define `MapView`, a map-style view of a dataset for torch's samplers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, SupportsIndex

import numpy as np
from torch.utils.data import Dataset

from audiomdb.data.collate import PaddingSample
from audiomdb.data.epochs import EpochCounter
from audiomdb.shards.dataset_reader import whole_position
from audiomdb.stream.ahead import in_order
from audiomdb.stream.findings import Findings
from audiomdb.stream.loading import held_bytes
from audiomdb.stream.reading import Reading
from audiomdb.stream.sources import Mixture, Part, parts_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MapView"]


class MapView(Dataset[PaddingSample]):
    """Provides samples by number, for torch's samplers and other code that chooses numbers.

        view = dataset.as_map()
        sampler = DistributedSampler(view)
        for batch in DataLoader(view, batch_size=32, sampler=sampler, num_workers=2):
            ...

    Sample i is the i-th in stored order among those that the dataset's filters keep. The view is
    not split over ranks: that is the task of the sampler. `dataset[i]` loads samples one by one; a
    loader fetches whole batches from a view, in threads.

    Numbers in random order access shards in random order: a cache with room for the whole dataset
    downloads each shard once, a smaller one many times. A stream mixes neighbouring shards instead.

    Made by `StreamingDataset.as_map`. Picklable; workers of every start method read independently.

    Args:
        what: The dataset or mixture to read.
        num_threads: Threads that decode a batch, in each worker; 0 decodes in the worker itself.
        epoch: Epoch that determines random windows.
    """

    def __init__(self, what: Part | Mixture, *, num_threads: int = 4, epoch: int = 0) -> None:
        self._what = what
        self._num_threads = num_threads
        self._epochs = EpochCounter(epoch)
        self._findings = Findings()
        self._kept: tuple[str, NDArray[np.int64] | None] | None = None

    def __repr__(self) -> str:
        origins = ", ".join(repr(part.origin) for part in parts_of(self._what))
        return f"<MapView of {origins}>"

    def __len__(self) -> int:
        """Return the number of samples that the filters keep."""
        return self._size(self._reading())

    def __contains__(self, key: object) -> bool:
        """Whether there is a sample with this key, filtered out or not; reads no sample."""
        return key in self._reading()

    def __getitem__(self, which: SupportsIndex | str) -> PaddingSample:
        """Return the sample with a number (negative from the end) or a key.

        A key may also be that of a sample that the filters leave out.

        Raises:
            IndexError: there is no such number.
            UnknownKeyError: there is no such key.
            DatasetError, AudioError, Exception: as for iterating over the dataset.
        """
        reading = self._reading()
        if isinstance(which, str):
            position = reading.find(which)
        else:
            position = self._position(whole_position(which), reading)
        return PaddingSample(reading.load(position, self._epochs.next_epoch, 0, None))

    def __getitems__(self, numbers: Sequence[SupportsIndex]) -> list[PaddingSample]:
        """Return the samples of several numbers, in their order; `DataLoader` calls it.

        If a number comes several times in one call, each has a random window and a seed of its own.
        """
        reading, epoch = self._reading(), self._epochs.next_epoch
        positions = [self._position(whole_position(number), reading) for number in numbers]
        repeats = _repeats(positions)
        # Load in stored order, shard by shard, because a cache may have room for few shards.
        order = sorted(range(len(positions)), key=positions.__getitem__)
        samples: list[PaddingSample | None] = [None] * len(positions)
        loaded = in_order(
            lambda at: reading.load(positions[at], epoch, repeats[at], None),
            order,
            num_threads=0 if reading.only_copies else min(self._num_threads, len(order)),
            weigh=lambda at: reading.weigh(positions[at]),
            size=held_bytes,
        )
        for at, sample in zip(order, loaded, strict=True):
            samples[at] = PaddingSample(sample)
        return samples  # type: ignore[return-value]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that determines random windows; workers use it from their next batch on.

        Raises:
            PlanError: it is no number from 0 to 2**32 - 1.
        """
        self._epochs.set(epoch)

    def column(self, name: str) -> np.ndarray:
        """Return a column of the index, `(len(self),)`, for samplers that sort or bucket.

        The columns of several datasets are concatenated. No audio is read.

        Raises:
            UnknownColumnError: the index of a dataset has no such column.
        """
        reading = self._reading()
        # A copy in any case: what the index keeps serves filters and plans, too.
        column = np.concatenate([reader.index[name] for reader in reading.readers])
        kept = self._positions(reading)
        return column if kept is None else column[kept]

    @property
    def durations(self) -> NDArray[np.float64]:
        """Duration of each sample as loaded, in seconds, `(len(self),)`; NaN without audio."""
        reading = self._reading()
        kept, seconds = self._positions(reading), reading.durations()
        return seconds.copy() if kept is None else seconds[kept]

    def _reading(self) -> Reading:
        return Reading(self._what, self._findings)

    def _size(self, reading: Reading) -> int:
        kept = self._positions(reading)
        return len(reading) if kept is None else len(kept)

    def _positions(self, reading: Reading) -> NDArray[np.int64] | None:
        """Return the positions of the samples that the filters keep; None: all."""
        if self._kept is None or self._kept[0] != reading.fingerprint:
            mask = reading.taking_part()
            self._kept = reading.fingerprint, None if mask is None else np.flatnonzero(mask)
        return self._kept[1]

    def _position(self, number: int, reading: Reading) -> int:
        size = self._size(reading)
        at = number + size if number < 0 else number
        if not 0 <= at < size:
            raise IndexError(f"sample {number} is outside of {size}")
        kept = self._positions(reading)
        return at if kept is None else int(kept[at])


def _repeats(positions: Sequence[int]) -> list[int]:
    """Return how often each position came before in the sequence."""
    met = dict[int, int]()
    repeats = []
    for position in positions:
        repeats.append(met.get(position, 0))
        met[position] = repeats[-1] + 1
    return repeats
