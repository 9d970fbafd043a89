"""Datasets for torch's DataLoader."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from contextlib import closing
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from audiomdb.data.collate import PaddingSample
from audiomdb.data.epochs import EpochCounter
from audiomdb.data.world import distributed_place, environment_place
from audiomdb.plan import Tail
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.stream import Processing, SampleStream

__all__ = ["StreamingDataset"]


class StreamingDataset(IterableDataset[PaddingSample]):
    """A dataset's samples, decoded, for `torch.utils.data.DataLoader`.

        dataset = StreamingDataset(LocalRetriever("speech"), shuffle=True, sample_rate=16000)
        for batch in DataLoader(dataset, batch_size=32, num_workers=2):
            batch["audio"], batch["audio_lengths"], batch["text"]

    Splits by itself over ranks and over the loader's workers, of any start method: in each epoch
    each sample comes once. Every pass over the loader is a new epoch, in a new order, whether
    workers are kept or started anew.

    Samples are dicts whose batches are padded by torch's default collate, see
    `audiomdb.data.collate.pad_collate`. Their arrays are writable and of their own memory.

    Reads nothing until it is first used. Do not let a framework split it once more: with
    Accelerate or the transformers Trainer, pass `rank=0, world_size=1`.

    Args:
        retriever: Leads to the dataset.
        num_threads: Threads that decode, in each worker; 0 decodes in the worker itself.
        shuffle: False keeps the stored order.
        seed: Of the shuffle; the same in all ranks.
        decode: Turn audio into float32 arrays `(frames,)` or `(frames, channels)`.
        sample_rate: Resample decoded audio to this rate in Hz.
        mono: Average the channels of decoded audio.
        fields: Only these fields, and the key. None: all.
        processor: A `BaseProcessor`, several, or a function from sample to sample, applied last,
            in threads. For workers that are not forked it has to be picklable.
        rank: Which training process this is. Unless given, `torch.distributed` is asked when an
            iteration begins, then the environment (`RANK`, `WORLD_SIZE`).
        world_size: How many there are; given with `rank`.
        window: Shards that samples are mixed over, see `audiomdb.plan.EpochPlan`.
        tail: What becomes of samples that ranks cannot share evenly: "uneven" keeps them, "drop"
            leaves them out, "pad" fills up with repeats, whose field `__mask__` is False. Training
            in lockstep needs one of the latter two.
        epochs: Epochs in one pass. None: a pass never ends.

    Raises:
        PlanError: a number of the plan is out of range.
        ValueError: another option is.
    """

    def __init__(
        self,
        retriever: BaseRetriever,
        num_threads: int = 4,
        *,
        shuffle: bool = False,
        seed: int = 0,
        decode: bool = True,
        sample_rate: int | None = None,
        mono: bool = False,
        fields: Collection[str] | None = None,
        processor: Processing | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        window: int = 4,
        tail: Tail = "uneven",
        epochs: int | None = 1,
    ) -> None:
        self.retriever = retriever
        self._given_place: tuple[int, int] | None = None
        if rank is not None and world_size is not None:
            self._given_place = (rank, world_size)
        elif rank is not None or world_size is not None:
            raise ValueError(
                f"rank={rank} and world_size={world_size}: give both, or neither to have them found"
            )
        self._options: dict[str, Any] = {
            "num_threads": num_threads,
            "shuffle": shuffle,
            "seed": seed,
            "window": window,
            "tail": tail,
            "fields": fields,
            "decode": decode,
            "sample_rate": sample_rate,
            "mono": mono,
            "processor": processor,
            "epochs": epochs,
        }
        self._makers_place: tuple[int, int] | None = None
        self._epochs = EpochCounter()
        self._stream(*(self._given_place or (0, 1)))  # refuses impossible options now

    def __getstate__(self) -> dict[str, Any]:
        # A worker that is not forked knows nothing of this process's torch.distributed.
        return {**vars(self), "_makers_place": distributed_place()}

    def __len__(self) -> int:
        """Samples in one pass of this rank, over all its workers.

        A loader with several workers may give more batches than its `len()` says, because each
        worker may end with a batch that is not full.

        Raises:
            TypeError: with `epochs=None`, a pass never ends.
        """
        return len(self._stream(*self._place()))

    def __getitem__(self, which: int | str) -> PaddingSample:
        """The sample at a position in stored order (negative from the end), or of a key."""
        return PaddingSample(self._stream(0, 1)[which])

    def __iter__(self) -> Iterator[PaddingSample]:
        """Begin a pass: the next epoch's samples of this rank and worker.

        What fails is raised where the sample would have come, and ends the pass: an exception of
        the dataset or its audio names shard and key; one of the processor carries them in a note.
        """
        worker = get_worker_info()
        stream = self._stream(
            *self._place(),
            worker=0 if worker is None else worker.id,
            num_workers=1 if worker is None else worker.num_workers,
        )
        stream.set_epoch(self._epochs.take(self._options["epochs"] or 1))
        return _padding(stream)

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass begin with this epoch; in every rank, before `iter(loader)`.

        Not needed as long as every rank begins every pass.
        """
        self._epochs.set(epoch)

    def _stream(
        self, rank: int, world_size: int, *, worker: int = 0, num_workers: int = 1
    ) -> SampleStream:
        return SampleStream(
            self.retriever,
            rank=rank,
            world_size=world_size,
            worker=worker,
            num_workers=num_workers,
            **self._options,
        )

    def _place(self) -> tuple[int, int]:
        """Rank and world size."""
        makers = self._makers_place if get_worker_info() is not None else None
        return self._given_place or makers or distributed_place() or environment_place() or (0, 1)


def _padding(stream: SampleStream) -> Generator[PaddingSample, None, None]:
    with closing(stream):
        for sample in stream:
            yield PaddingSample(sample)
