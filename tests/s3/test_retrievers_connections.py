"""Clients keep their connections, as far as the store does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from audiomdb.retrievers.s3 import S3Retriever
from audiomdb.shards import DatasetWriter
from audiomdb.stream import SampleStream
from audiomdb.testing import FaultProxy, MemoryServer

SHARDS = 16


@pytest.mark.usefixtures("server")  # credentials
@pytest.mark.parametrize("workers", [1, 3])
def test_connections_are_used_again(tmp_path: Path, workers: int) -> None:
    folder = tmp_path / "d"
    rng = np.random.default_rng(0)
    with DatasetWriter(folder, samples_per_shard=1) as writer:
        for number in range(SHARDS):
            writer.write(f"clip-{number:02d}", {"blob": rng.bytes(50_000)})
    # Like S3, and unlike the server of the other tests, it does not hang up after each answer.
    with MemoryServer() as store, FaultProxy(store.url()) as proxy:
        for path in folder.rglob("*.*"):
            store.files[f"bucket/d/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
        retriever = S3Retriever(
            "bucket",
            "d",
            endpoint_url=proxy.url,
            addressing_style="path",
            cache_dir=tmp_path / "cache",
            prefetch=4,
            workers=workers,
        )
        assert len(list(SampleStream(retriever))) == SHARDS
        retriever.close()
        assert len(store.requests) == SHARDS + 1
        assert 1 <= proxy.stats.connections <= workers + 1  # one more for the metadata
