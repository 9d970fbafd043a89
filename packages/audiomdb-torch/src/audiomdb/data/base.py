"""Datasets for torch's DataLoader."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from audiomdb.data.batches import Collate
from audiomdb.data.collate import pad_collate
from audiomdb.data.combined import CombinedDataset
from audiomdb.data.planned import PlannedDataset
from audiomdb.plan import Tail
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.stream import (
    Crop,
    JoinedColumns,
    LoadOptions,
    Part,
    Processing,
    Stall,
    Where,
)
from audiomdb.stream.crops import ShortClips
from audiomdb.stream.joined import Table

__all__ = ["CombinedDataset", "StreamingDataset"]


class StreamingDataset(PlannedDataset):
    """A dataset's samples, decoded, for `torch.utils.data.DataLoader`.

        dataset = StreamingDataset(LocalRetriever("speech"), shuffle=True, sample_rate=16000)
        for batch in DataLoader(dataset, batch_size=32, num_workers=2):
            batch["audio"], batch["audio_lengths"], batch["text"]

    Splits by itself over ranks and over the loader's workers, of any start method: in each epoch
    each sample comes once, and all ranks get equally many; `tail` says what becomes of those that
    are left over. Every pass over the loader is a new epoch, in a new order, whether
    workers are kept or started anew.

    Samples are dicts whose batches are padded by torch's default collate, see
    `audiomdb.data.collate.pad_collate`. Their arrays are writable and of their own memory.

    Where torch makes the batches, which samples come together depends on the workers. With a
    `batch_size` of its own the dataset gives whole batches, the same for every number of ranks and
    workers, and is read by `DataLoader(dataset, batch_size=None)`. `StreamingLoader` does that and
    more.

    Reads nothing until it is first used.

    Accelerate, and with it the transformers Trainer, splits whatever a `DataLoader` iterates once
    more. The dataset notices that, says so in a warning, and leaves the splitting to them, at the
    price that one process or all of them read everything. Where the first process reads for all,
    which is what they do unless told otherwise, they can send nothing but batches of tensors of one
    size: the padded batches of the default collate, with keys and text in lists, they refuse. Give
    them a `StreamingLoader` instead, which they leave alone. Lightning does not split iterable
    datasets.

    Args:
        retriever: Leads to the dataset.
        num_threads: Threads that decode, in each worker; 0 decodes in the worker itself.
        shuffle: False keeps the stored order.
        seed: Of the shuffle and the crops; the same in all ranks.
        batch_size: Samples in a batch over all ranks; each rank gets its share of every batch. A
            multiple of the world size and `partitions`. None: samples come one by one, and
            the loader makes batches.
        decode: Turn audio into float32 arrays `(frames,)` or `(frames, channels)`.
        sample_rate: Resample decoded audio to this rate in Hz.
        mono: Average the channels of decoded audio.
        seconds: Decode a random window of this many seconds of each clip, and nothing else of it.
            Where it lies depends on seed, epoch and the clip's position in the dataset alone. (In
            a `CombinedDataset` seed and epoch are its own, however often it repeats this one.)
            `crop_offset` and `crop_seconds` of a sample say which part of its clip it is, `frames`
            is its own length, `duration` stays the clip's. Batches by seconds count what is left,
            and what fills it up.
        short_clips: With `seconds`, clips that are not longer are taken whole: "keep" leaves them
            short, "pad" fills them up with zeros.
        fields: Only these fields, and the key. None: all.
        join: More fields, by key: `JoinedColumns`, or a table that it takes. They replace stored
            fields of the same name and reach the processor.
        processor: A `BaseProcessor`, several, or a function from sample to sample, applied last,
            in threads. For workers that are not forked it has to be picklable, or a function.
        rank: Which training process this is. Unless given, `torch.distributed` is asked when an
            iteration begins, then the environment (`RANK`, `WORLD_SIZE`).
        world_size: How many there are; given with `rank`.
        window: Shards that samples are mixed over, see `audiomdb.plan.EpochPlan`.
        partitions: Groups of shards read side by side, so that every node reads its own only. None:
            the number of nodes (the world size by `LOCAL_WORLD_SIZE`, as torchrun sets it), or what
            a loaded state says, since it is part of the order.
        min_duration: Seconds; shorter clips are left out.
        max_duration: Seconds; longer ones are.
        where: `(samples,)` bool, or a function that makes it from the index's columns: False for
            what is left out.
        tail: What becomes of samples that ranks cannot share evenly: "uneven" keeps them, "drop"
            leaves them out, "pad" fills up with repeats, whose field `__mask__` is False. None:
            "uneven" for one rank alone, which shares with nobody, and "drop" for several, so that
            all make equally many steps; with `batch_size`, where it is about the samples that fill
            no batch, always "drop". What is dropped is logged when the first pass begins, as a
            warning if "drop" was nobody's choice; see `dropped`.
        epochs: Epochs in one pass. None: a pass never ends.
        collate_fn: From a list of samples to a batch, with `batch_size`.
        stall_after_s: Seconds of waiting after which a warning of the logger `audiomdb.stream`
            says what is waited for: which shard, how far it is and how fast, or which sample is
            being decoded, or is with the processor. None: never.
        on_stall: Called with each such `Stall`, in a thread of the process that waits.

    Raises:
        PlanError: a number of the plan is out of range, or `batch_size` cannot be shared.
        ValueError: another option is.
    """

    def __init__(
        self,
        retriever: BaseRetriever,
        num_threads: int = 4,
        *,
        shuffle: bool = False,
        seed: int = 0,
        batch_size: int | None = None,
        decode: bool = True,
        sample_rate: int | None = None,
        mono: bool = False,
        seconds: float | None = None,
        short_clips: ShortClips = "keep",
        fields: Collection[str] | None = None,
        join: JoinedColumns | Table | None = None,
        processor: Processing | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        window: int = 4,
        partitions: int | None = None,
        min_duration: float | None = None,
        max_duration: float | None = None,
        where: Where | None = None,
        tail: Tail | None = None,
        epochs: int | None = 1,
        collate_fn: Collate = pad_collate,
        stall_after_s: float | None = 10.0,
        on_stall: Callable[[Stall], Any] | None = None,
    ) -> None:
        self.retriever = retriever
        if join is not None and not isinstance(join, JoinedColumns):
            join = JoinedColumns(join)
        load = LoadOptions(
            fields=fields,
            decode=decode,
            sample_rate=sample_rate,
            mono=mono,
            crop=None if seconds is None else Crop(seconds, seed, short_clips),
            join=join,
            processor=processor,
        )
        super().__init__(
            Part(
                retriever,
                shuffle=shuffle,
                window=window,
                min_duration=min_duration,
                max_duration=max_duration,
                where=where,
                load=load,
            ),
            num_threads=num_threads,
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
