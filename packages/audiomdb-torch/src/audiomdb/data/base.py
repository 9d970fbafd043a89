"""Define `StreamingDataset`, an iterable dataset for torch's `DataLoader`."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Any

from audiomdb.data.batches import Collate
from audiomdb.data.collate import pad_collate
from audiomdb.data.combined import CombinedDataset
from audiomdb.data.planned import PlannedDataset
from audiomdb.plan import Tail
from audiomdb.registry import retriever_for
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.stream import (
    Crop,
    JoinedColumns,
    LoadOptions,
    OnError,
    Part,
    Processing,
    Stall,
    Where,
)
from audiomdb.stream.crops import ShortClips, check_short_clips
from audiomdb.stream.joined import Table
from audiomdb.stream.sources import Origin

__all__ = ["CombinedDataset", "StreamingDataset"]


class StreamingDataset(PlannedDataset):
    """Streams the decoded samples of a dataset to `torch.utils.data.DataLoader`.

        dataset = StreamingDataset("s3://bucket/speech", shuffle=True, sample_rate=16000)
        for batch in DataLoader(dataset, batch_size=32, num_workers=2):
            batch["audio"], batch["audio_lengths"], batch["text"]

    The dataset splits itself over ranks and over the loader's workers, with any start method. In
    each epoch, each sample comes once, and all ranks get the same number; `tail` determines what
    happens to the remainder. Every pass over the loader is a new epoch in a new order, with
    persistent or new workers.

    Samples are dicts that torch's default collate batches with padding, see
    `audiomdb.data.collate.pad_collate`. Their arrays are writable and own their memory.

    If torch makes the batches, the samples in a batch depend on the number of workers. With
    `batch_size`, the dataset yields whole batches, the same for every number of ranks and workers,
    for use with `DataLoader(dataset, batch_size=None)`. `StreamingLoader` does that and more.

    Nothing is read before the dataset is first used.

    Accelerate, and with it the transformers Trainer, splits the items of a `DataLoader` again. The
    dataset detects this, warns, and leaves the splitting to them, at the price that one process or
    all of them read everything. By default, the first process reads for all. It can then send only
    batches of tensors of one size, not the padded batches of the default collate, which have keys
    and text in lists. Give these frameworks a `StreamingLoader` instead, which they do not split.
    Lightning does not split iterable datasets.

    Args:
        retriever: A retriever, which has options of its own, such as for its cache; or the
            dataset's URL or folder, or an open reader.
        num_threads: Threads that decode, in each worker; 0 decodes in the worker itself.
        shuffle: Whether to shuffle. False keeps the stored order.
        seed: Seed of the shuffle and the crops; the same in all ranks.
        batch_size: Samples in a batch over all ranks; each rank gets its share of every batch. A
            multiple of the world size and `partitions`. None: samples come one by one, and
            the loader makes batches.
        decode: Whether to decode audio to float32 arrays `(frames,)` or `(frames, channels)`.
        sample_rate: Resample decoded audio to this rate in Hz.
        mono: Average the channels of decoded audio.
        seconds: Decode only a random window of this many seconds of each clip. Its offset depends
            only on seed, epoch and the clip's position in the dataset. (In a `CombinedDataset`,
            these are the seed and epoch of the combination, and a clip that it repeats within an
            epoch has another window each time.)
            The fields `crop_offset` and `crop_seconds` of a sample give its window, `frames` is the
            length of the window, and `duration` remains that of the clip. Batches by seconds count
            the windows.
        short_clips: With `seconds`, clips that are not longer are used whole: "keep" leaves them
            short, "pad" pads them with zeros, and `crop_seconds` is how much is audio.
        fields: Fields to load besides the key. None: all.
        join: Additional fields, by key: `JoinedColumns`, or a table that it takes. They replace
            stored fields of the same name and are passed to the processor.
        processor: A `BaseProcessor`, several, or a function from sample to sample, applied last, in
            threads. For workers that are not forked, it must be a function or picklable.
        on_error: "skip" leaves out samples that fail, of a batch too; see `LoadOptions`.
        rank: Rank of this training process. None: taken from `torch.distributed` when an iteration
            begins, or else from the environment (`RANK`, `WORLD_SIZE`).
        world_size: Number of training processes; given with `rank`.
        window: Number of shards that samples are mixed over, see `audiomdb.plan.EpochPlan`.
        partitions: Groups of shards that are read in parallel, so that every node reads only its
            own. None: the number of nodes (by what torchrun or srun sets; 1 if it is unknown), or
            the value in a loaded state, since it is part of the order.
        min_duration: Duration in seconds below which clips are left out.
        max_duration: Duration in seconds above which clips are left out.
        where: Selection of samples: a bool array `(samples,)`, or a function that makes it from the
            columns of the index. Samples with False are left out.
        tail: What happens to samples that ranks cannot share evenly: "uneven" keeps them, "drop"
            leaves them out, "pad" adds repeated samples, whose field `__mask__` is False. None:
            "uneven" for a single rank, and "drop" for several, so that all make the same number of
            steps. With `batch_size`, this concerns the samples that do not fill a batch, and None
            is always "drop". Dropped samples are logged when the first pass begins, as a warning
            if "drop" is only the default; see `dropped`.
        epochs: Epochs in one pass. None: a pass never ends.
        collate_fn: Function from a list of samples to a batch, with `batch_size`.
        stall_after_s: Seconds of waiting after which the logger `audiomdb.stream` warns and states
            the cause: which shard, with its progress and speed, or which sample is being decoded
            or processed. None: never.
        on_stall: Called with each such `Stall`, in a thread of the waiting process.

    Raises:
        PlanError: a number of the plan is out of range, or `batch_size` cannot be shared.
        UnknownSchemeError, InvalidURLError, BackendError: as in `audiomdb.stream.open_dataset`, for
            a URL.
        ValueError: another option is out of range.
        TypeError: `retriever` is none of these, or an option has the wrong type.
    """

    def __init__(
        self,
        retriever: Origin,
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
        on_error: OnError = "raise",
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
        # Once, not by each pass: its cache stays open between them.
        if isinstance(retriever, str | os.PathLike):
            retriever = retriever_for(retriever)
        if join is not None and not isinstance(join, JoinedColumns):
            join = JoinedColumns(join)
        check_short_clips(short_clips)
        load = LoadOptions(
            fields=fields,
            decode=decode,
            sample_rate=sample_rate,
            mono=mono,
            crop=None if seconds is None else Crop(seconds, seed, short_clips),
            join=join,
            processor=processor,
            on_error=on_error,
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

    @property
    def retriever(self) -> BaseRetriever:
        """The retriever of the dataset, also if that was given by URL or folder.

        Raises:
            TypeError: the dataset was given as an open reader.
        """
        if not self.retrievers:
            raise TypeError("the dataset was given as an open reader, which has no retriever")
        return self.retrievers[0]
