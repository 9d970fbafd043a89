"""Define `CombinedDataset`, a mixture of several datasets for torch's `DataLoader`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from audiomdb.data.batches import Collate
from audiomdb.data.collate import pad_collate
from audiomdb.data.planned import PlannedDataset, check_planned
from audiomdb.errors import PlanError
from audiomdb.plan import Interleave, Stop, Tail, Weight
from audiomdb.plan.mix import INTERLEAVES
from audiomdb.stream import Mixture, Part, Stall

__all__ = ["CombinedDataset"]


class CombinedDataset(PlannedDataset):
    """Mixes several datasets into one.

        speech = StreamingDataset(LocalRetriever("speech"), shuffle=True, sample_rate=16000)
        music = StreamingDataset(S3Retriever("bucket", "music"), shuffle=True, sample_rate=16000)
        for batch in DataLoader(CombinedDataset([speech, music]), batch_size=32, num_workers=2):
            batch["audio"], batch["__source__"]

    Without weights, every sample of every dataset comes once in an epoch. The order of the datasets
    is planned ahead, so a combination is split over ranks and workers, resumed, and batched like a
    single dataset. Each dataset keeps its own fields, decoding, processor, filters, shuffle, cache
    and prefetching. All other options are those of the combination: a dataset with its own ranks,
    batches, tail, partitions or epochs is refused, and its seed and number of threads are not used.
    Random crops depend on the combination's seed and epoch, so a clip that is repeated within an
    epoch has the same window each time.

    The field `__source__` is the number of the dataset that a sample came from, counted from 0
    through nested combinations. For a field that only some samples of a batch have, see
    `pad_collate`.

    Args:
        datasets: `StreamingDataset` objects, and combinations, which are mixed in as one dataset.
        shuffle: How to mix the datasets:

            - `"pseudo"`: at random, in proportion: with two datasets, every 1024 samples have the
              right number of each, in random order; with n datasets, within about n / 2;
            - `"ordered"`: in turns that keep the proportions equally close at every place;
            - None: one dataset after the other.

            Each dataset determines whether its own samples are shuffled.
        weights: Relative number of samples from each dataset. None: by size.
        stop: With weights, when an epoch ends: with the `"first"` dataset to end, with the `"last"`
            one, the others being repeated until then, or after a number of samples. Samples of a
            dataset that an epoch leaves unread come first in the next.
        seed: Seed of the mixing, and of every dataset's shuffle and crops; the same in all ranks.
        num_threads: Threads that decode, in each worker. None: the maximum over the datasets.
        batch_size: See `StreamingDataset`, as for all options below.
        rank: Rank of this training process.
        world_size: Number of training processes.
        partitions: Groups of shards that are read in parallel.
        tail: What happens to samples that ranks cannot share evenly. None: a single rank keeps
            them; several ranks get the same number.
        epochs: Epochs in one pass.
        collate_fn: Function from a list of samples to a batch.
        stall_after_s: Seconds of waiting after which the cause is logged.
        on_stall: Called with each `Stall`.

    Raises:
        PlanError: a number of the plan is out of range, or the weights do not fit the datasets.
        ValueError: another option is out of range, or a dataset has an option that only the
            combination may have.
        TypeError: `datasets` is not a sequence of such datasets.
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
    """Return the same part or mixture with the seed of all crops replaced."""
    if isinstance(what, Mixture):
        return replace(what, parts=[_seeded(part, seed) for part in what.parts])
    if what.load.crop is None:
        return what
    return replace(what, load=replace(what.load, crop=replace(what.load.crop, seed=seed)))


def _refuse(number: int, dataset: PlannedDataset) -> None:
    """Refuse a dataset with an option that only the combination may have."""
    check_planned(f"dataset {number}", dataset)
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
