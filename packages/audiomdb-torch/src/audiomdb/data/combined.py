"""Several datasets as one, for torch's DataLoader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from audiomdb.data.batches import Collate
from audiomdb.data.collate import pad_collate
from audiomdb.data.planned import PlannedDataset
from audiomdb.errors import PlanError
from audiomdb.plan import INTERLEAVES, Interleave, Stop, Tail, Weight
from audiomdb.stream import Mixture, Part, Stall

__all__ = ["CombinedDataset"]


class CombinedDataset(PlannedDataset):
    """Several datasets mixed into one.

        speech = StreamingDataset(LocalRetriever("speech"), shuffle=True, sample_rate=16000)
        music = StreamingDataset(S3Retriever("bucket", "music"), shuffle=True, sample_rate=16000)
        for batch in DataLoader(CombinedDataset([speech, music]), batch_size=32, num_workers=2):
            batch["audio"], batch["__source__"]

    Without weights every sample of every dataset comes once in an epoch. Which dataset has the next
    turn is known beforehand, so a combination is split over ranks and workers, resumed, and made
    into batches like a single dataset. Each dataset keeps what it was made with: fields, decoding,
    processor, filters, its own shuffle, its cache and its prefetching. Everything else is the
    combination's: a dataset that has ranks, batches, a tail, partitions or epochs of its own is
    refused; its seed is not used, nor its threads. Random crops are drawn by the combination's seed
    and epoch, so that a clip that is repeated within an epoch has the same window each time.

    The field `__source__` says which dataset a sample came from, counted from 0 and through nested
    combinations. A field that only some samples of a batch have is None for the others; see
    `pad_collate`.

    Args:
        datasets: `StreamingDataset` objects, and combinations, which are mixed in as one dataset.
        shuffle: How they are mixed:

            - `"pseudo"`: at random, in proportion: of two datasets, every 1024 samples have the
              right number of each, in random order; of n, within n / 2 or so;
            - `"ordered"`: in turns that keep the proportions at every place, as closely;
            - None: one dataset after the other.

            Whether a dataset's own samples are shuffled is said by that dataset.
        weights: How many samples of each come for how many of the others. None: by size.
        stop: With weights, when an epoch ends: with the `"first"` dataset that ends, with the
            `"last"`, the others being repeated until then, or after a number of samples. What an
            epoch leaves of a dataset is read first in the next.
        seed: Of the mixing, and of every dataset's shuffle and crops; the same in all ranks.
        num_threads: Threads that decode, in each worker. None: the most that a dataset has.
        batch_size: As for `StreamingDataset`, and so is what follows.
        rank: Which training process this is.
        world_size: How many there are.
        partitions: Groups of shards read side by side.
        tail: What becomes of samples that ranks cannot share evenly. None: one rank keeps all,
            several get equally many.
        epochs: Epochs in one pass.
        collate_fn: From a list of samples to a batch.
        stall_after_s: Seconds of waiting after which it is said what is waited for.
        on_stall: Called with each `Stall`.

    Raises:
        PlanError: a number of the plan is out of range, or the weights do not fit the datasets.
        ValueError: another option is, or a dataset has what only the combination may have.
        TypeError: something else than such datasets was given.
    """

    def __init__(
        self,
        datasets: Sequence[PlannedDataset],
        shuffle: Interleave = "pseudo",
        *,
        weights: Sequence[Weight] | None = None,
        stop: Stop = "last",
        seed: int = 0,
        num_threads: int | None = None,
        batch_size: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        partitions: int | None = None,
        tail: Tail | None = None,
        epochs: int | None = 1,
        collate_fn: Collate = pad_collate,
        stall_after_s: float | None = 10.0,
        on_stall: Callable[[Stall], Any] | None = None,
    ) -> None:
        if not isinstance(datasets, Sequence):
            raise TypeError(f"datasets is {type(datasets).__name__}, expected a list of datasets")
        if not datasets:
            raise ValueError("datasets is empty, expected at least one")
        for number, dataset in enumerate(datasets):
            _refuse(number, dataset)
        if shuffle not in INTERLEAVES:
            raise PlanError(f"shuffle is {shuffle!r}, expected one of {INTERLEAVES}")
        self.datasets = list(datasets)
        super().__init__(
            Mixture([_seeded(one.what, seed) for one in datasets], weights, shuffle, stop),
            num_threads=max(one.num_threads for one in datasets)
            if num_threads is None
            else num_threads,
            seed=seed,
            batch_size=batch_size,
            collate_fn=collate_fn,
            rank=rank,
            world_size=world_size,
            partitions=partitions,
            tail=tail,
            epochs=epochs,
            stall_after_s=stall_after_s,
            on_stall=on_stall,
        )


def _seeded(what: Part | Mixture, seed: int) -> Part | Mixture:
    """The same, with crops of this seed."""
    if isinstance(what, Mixture):
        return replace(what, parts=[_seeded(part, seed) for part in what.parts])
    if what.load.crop is None:
        return what
    return replace(what, load=replace(what.load, crop=replace(what.load.crop, seed=seed)))


def _refuse(number: int, dataset: PlannedDataset) -> None:
    """Refuse a dataset that has what only the combination may have."""
    if not isinstance(dataset, PlannedDataset):
        raise TypeError(
            f"dataset {number} is {type(dataset).__name__}, expected a StreamingDataset or a "
            "CombinedDataset"
        )
    own = {
        "rank and world_size": (dataset.given_place, None),
        "batch_size": (dataset.batch_size, None),
        "partitions": (dataset.partitions, None),
        "tail": (dataset.tail, None),
        "epochs": (dataset.epochs, 1),
    }
    for name, (value, usual) in own.items():
        if value != usual:
            raise ValueError(
                f"dataset {number} was made with {name} {value!r}, but its samples are dealt out "
                f"by the combination: give {name} to CombinedDataset instead"
            )
