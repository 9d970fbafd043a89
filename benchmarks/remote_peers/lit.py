# mypy: disable-error-code="import-not-found, import-untyped, misc"
"""litdata: chunks, `StreamingDataset` and a `StreamingDataLoader` of two workers.

Settings are its documentation's: `max_cache_size` is the budget, `max_pre_download` is left at two
chunks a worker. Clips are stored as bytes and decoded by what AudioMDB decodes with, which is
faster than what its users have. It knows no digests: there is nothing to be compared. Its faster
client insists on TLS, which the server here does not speak; it is told otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from litdata import StreamingDataLoader, StreamingDataset, optimize
from litdata.streaming import downloader

from benchmarks.peers.decoders import DECODERS, Decode
from benchmarks.remote_reader import Batch, Task

__all__ = ["read", "write"]

_WORKERS = 2

downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = "true"


class _Clips(StreamingDataset):
    decode: Decode

    def __getitem__(self, at: Any) -> tuple[str, np.ndarray]:  # noqa: ANN401
        sample = super().__getitem__(at)
        return sample["key"], self.decode(sample["audio"])


def _sample(entry: dict[str, Any]) -> dict[str, Any]:
    path = Path(entry["audio_filepath"])
    named = {"text": entry["text"], "speaker": entry["speaker"]}
    return {"key": path.stem, "audio": path.read_bytes(), **named}


def write(entries: list[dict[str, Any]], folder: Path, shard_bytes: int) -> None:
    """Write a corpus."""
    optimize(
        _sample,
        entries,
        str(folder),
        chunk_bytes=shard_bytes,
        num_workers=1,
        keep_data_ordered=True,
        verbose=False,
    )


def read(task: Task) -> Iterator[Iterable[Batch]]:
    """Each epoch is one of the loader."""
    if task.world > 1:
        ranks = {"WORLD_SIZE": task.world, "GLOBAL_RANK": task.rank, "NNODES": 1}
        os.environ.update({name: str(number) for name, number in ranks.items()})
    dataset = _Clips(
        f"s3://{task.bucket}/{task.prefix}",
        cache_dir=task.cache,
        max_cache_size=task.budget,
        shuffle=task.shuffle,
        drop_last=False,
        storage_options={"endpoint_url": task.url},
    )
    dataset.decode = DECODERS[task.options.get("decoder", "dr_flac")]
    loader = StreamingDataLoader(
        dataset, batch_size=task.batch, num_workers=_WORKERS, collate_fn=list
    )
    for _ in range(task.epochs):
        yield loader
