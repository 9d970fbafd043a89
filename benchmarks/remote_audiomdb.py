"""AudioMDB as a reader of a remote dataset: `S3Retriever` and `SampleStream`, torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

# Not part of what is measured.
import boto3.s3.transfer  # noqa: F401
import numpy as np

from audiomdb.retrievers.s3 import S3Retriever
from audiomdb.stream import Mixture, Part, SampleStream
from benchmarks.remote_reader import Batch, Task

__all__ = ["read", "stats"]

_THREADS = 2
_retrievers: list[S3Retriever] = []


def read(task: Task) -> Iterator[Iterable[Batch]]:
    """Each epoch is an iteration of its own, as in a usual training loop."""
    retriever = S3Retriever(
        task.bucket,
        task.prefix,
        endpoint_url=task.url,
        cache_dir=task.cache,
        max_cache_bytes=task.budget,
    )
    _retrievers.append(retriever)
    often = task.options.get("often")
    stream = SampleStream(
        retriever if often is None else _mixture(retriever, often),
        num_threads=_THREADS,
        shuffle=task.shuffle and often is None,
        rank=task.rank,
        world_size=task.world,
    )
    for _ in range(task.epochs):
        yield _batches(stream, task.batch)
    stream.close()


def _mixture(retriever: S3Retriever, often: float) -> Mixture:
    """The first shards as often as all the rest: so many times more than each of these."""
    samples = len(retriever)
    border = sum(retriever.open().counts[: round(often * len(retriever.open().counts))])
    first = np.arange(samples) < border
    parts = [Part(retriever, shuffle=True, where=chosen) for chosen in (first, ~first)]
    return Mixture(parts, weights=[1, 1])


def stats() -> dict[str, Any]:
    """What the cache counted."""
    found = _retrievers[-1].cache_stats
    return {name: getattr(found, name) for name in type(found).__struct_fields__}


def _batches(stream: SampleStream, size: int) -> Iterator[Batch]:
    samples = iter(stream)
    while batch := [(sample["__key__"], sample["audio"]) for sample in islice(samples, size)]:
        yield batch
