"""How many shards are downloaded ahead of a stream, and how many of them at once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from audiomdb.stream import SampleStream
from tests.core.caches import CopyRetriever, write_store

SHARDS = 6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store"), SHARDS, 1000)


def test_no_more_shards_are_prefetched_than_asked_for(store: Path, tmp_path: Path) -> None:
    asked = [threading.Event() for _ in range(SHARDS)]

    class Watched(CopyRetriever):
        def download_shard(self, shard_id: int) -> Any:
            asked[shard_id].set()
            return super().download_shard(shard_id)

    retriever = Watched(store, cache_dir=tmp_path, prefetch=2, workers=2)
    samples = iter(SampleStream(retriever, num_threads=0))
    for shard in range(2):
        next(samples)
        assert asked[shard + 2].wait(300)
        assert not asked[shard + 3].wait(0.2)
    samples.close()  # type: ignore[attr-defined]
    retriever.close()


def test_shards_are_prefetched_by_all_workers_but_the_one_for_readers(
    store: Path, tmp_path: Path
) -> None:
    together = threading.Barrier(3)

    class Meeting(CopyRetriever):
        def download_shard(self, shard_id: int) -> Any:
            if 1 <= shard_id <= together.parties:
                together.wait(300)
            return super().download_shard(shard_id)

    retriever = Meeting(store, cache_dir=tmp_path, prefetch=4, workers=4)
    assert len(list(SampleStream(retriever, num_threads=0))) == SHARDS
    retriever.close()
