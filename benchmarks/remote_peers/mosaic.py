"""mosaicml-streaming: MDS shards, `StreamingDataset` and a `DataLoader` of two workers.

Settings are its documentation's: `batch_size` is given, `predownload` is left at eight batches,
shuffling is py1e. Its block is as many clips as AudioMDB mixes at a time: by default it mixes
262,144, which with half the room fetches everything five times an epoch. Clips are stored as bytes,
because MDS knows no audio, and decoded by what AudioMDB decodes with, which is faster than what its
users have. `hashes` are written, and compared where `validate` says so: it does not do that of
itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from benchmarks.peers.decoders import DECODERS, Decode
from benchmarks.peers.systems.mosaic import library
from benchmarks.remote_reader import Batch, Task

__all__ = ["read", "write"]

_WORKERS = 2


class _Clips(library().StreamingDataset):  # type: ignore[misc]
    decode: Decode

    def __getitem__(self, at: Any) -> tuple[str, np.ndarray]:  # noqa: ANN401
        sample = super().__getitem__(at)
        return sample["key"], self.decode(sample["audio"])


def write(entries: list[dict[str, Any]], folder: Path, shard_bytes: int) -> None:
    """Write a corpus."""
    columns = {"key": "str", "audio": "bytes", "text": "str", "speaker": "str"}
    options = {"hashes": ["sha1"], "size_limit": shard_bytes}
    with library().MDSWriter(out=str(folder), columns=columns, **options) as writer:
        for entry in entries:
            path = Path(entry["audio_filepath"])
            named = {"text": entry["text"], "speaker": entry["speaker"]}
            writer.write({"key": path.stem, "audio": path.read_bytes(), **named})


def read(task: Task) -> Iterator[Iterable[Batch]]:
    """Each epoch is one of the loader."""
    os.environ["S3_ENDPOINT_URL"] = task.url
    _be_a_rank(task)
    dataset = _Clips(
        remote=f"s3://{task.bucket}/{task.prefix}",
        local=task.cache,
        cache_limit=task.budget,
        shuffle=task.shuffle,
        shuffle_block_size=task.options["mixed"],
        batch_size=task.batch,
        validate_hash="sha1" if task.options.get("validate") else None,
    )
    dataset.decode = DECODERS[task.options.get("decoder", "dr_flac")]
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=task.batch, num_workers=_WORKERS, collate_fn=list
    )
    for _ in range(task.epochs):
        yield loader


def _be_a_rank(task: Task) -> None:
    """Say what a launcher would."""
    if task.world > 1:
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(task.options["port"])}
        ranks = {"RANK": task.rank, "LOCAL_RANK": task.rank}
        worlds = {"WORLD_SIZE": task.world, "LOCAL_WORLD_SIZE": task.world}
        os.environ.update(where)
        os.environ.update({name: str(number) for name, number in {**ranks, **worlds}.items()})
