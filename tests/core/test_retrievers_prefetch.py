"""How many shards are downloaded ahead of a stream, and how many of them at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from audiomdb.errors import DownloadError
from audiomdb.shards import DatasetWriter
from audiomdb.stream import SampleStream
from tests.core.caches import CopyRetriever, Opener, budget, setting, write_store

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


def test_a_shard_that_cannot_be_prefetched_is_left_to_its_reader(
    store: Path, tmp_path: Path
) -> None:
    asked = [threading.Event() for _ in range(SHARDS)]
    failed: list[str] = []

    class Failing(CopyRetriever):
        def download_shard(self, shard_id: int) -> Any:
            asked[shard_id].set()
            if shard_id == 3 and len(failed) < 2:
                failed.append(threading.current_thread().name)
                raise DownloadError("refused")
            return super().download_shard(shard_id)

    retriever = Failing(store, cache_dir=tmp_path, prefetch=4, workers=2)
    samples = iter(SampleStream(retriever, num_threads=0))
    for shard in range(2):
        next(samples)
        assert asked[shard + 4].wait(300)
    assert len(failed) == 1, "though shards after it have been fetched since"
    next(samples)
    with pytest.raises(DownloadError, match="refused"):
        next(samples)
    assert failed[1] == threading.current_thread().name
    retriever.close()


def test_nothing_is_prefetched_while_a_reader_waits_for_room(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "store", samples_per_shard=1) as writer:
        for number, size in enumerate((200_000, 200_000, 1000)):
            writer.write(f"clip-{number}", {"blob": bytes(size)})
    opener = Opener(tmp_path / "store", tmp_path)
    cache = opener(max_bytes=budget(opener.store, 1) + 100_000)
    registration = cache.register(1, 8)
    cache.publish(registration, [2])
    view: Any = cache.lease(0)
    waits = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cache.lease, 1, check=setting(waits))
        try:
            assert waits.wait(300)
            assert cache.fetching.ahead(2, lambda: None) == "full"
        finally:
            del view
        assert waiting.result(300) == opener.content(1)
    assert cache.fetching.ahead(2, lambda: None) == "fetched"
    registration.close()
    opener.close()
