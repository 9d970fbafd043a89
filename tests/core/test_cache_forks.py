"""A process forks while its threads fetch and read: whatever the child does, both go on."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.errors import CacheTooSmallError
from audiomdb.retrievers.base import BaseRetriever, RemoteFile
from audiomdb.shards import DatasetWriter, read_metadata
from audiomdb.stream import SampleStream
from tests.core.caches import CopyRetriever, budget, write_store

SHARDS, EACH = 24, 6
SAMPLES = SHARDS * EACH


class SlowRetriever(BaseRetriever):
    """A store that takes its time, so that something is always under way."""

    def __init__(self, store: str, **options: Any) -> None:
        super().__init__(**options)
        self.store = store

    def open_remote(
        self, path: str, *, start: int = 0, stop: int | None = None, validator: str | None = None
    ) -> RemoteFile:
        content = (Path(self.store) / path).read_bytes()

        def chunks() -> Iterator[bytes]:
            for at in range(start, stop or len(content), 1 << 13):
                threading.Event().wait(0.0005)
                yield content[at : min(at + (1 << 13), stop or len(content))]

        return RemoteFile(chunks(), start, validator or "v1", len(content))


@pytest.fixture
def retriever(tmp_path: Path) -> Iterator[SlowRetriever]:
    rng = np.random.default_rng(0)
    store = tmp_path / "store"
    with DatasetWriter(store, samples_per_shard=EACH) as writer:
        for number in range(SAMPLES):
            writer.write(f"clip-{number:03d}", {"blob": rng.bytes(4000), "n": number})
    shard_bytes = max(shard.bytes for shard in read_metadata(store).shards)
    retriever = SlowRetriever(
        str(store), cache_dir=tmp_path / "cache", max_cache_bytes=9 * shard_bytes + 100_000
    )
    yield retriever
    retriever.close()


def in_a_child(retriever: SlowRetriever, samples: list[Any], what: int) -> None:
    if what in (0, 1):
        # The parent's iteration, of whose threads there are none here.
        samples.clear()
        gc.collect()
    if what in (1, 2):
        numbers = [sample["n"] for sample in SampleStream(retriever, num_threads=2)]
        assert numbers == list(range(SAMPLES))
        retriever.close()


def test_a_fork_in_the_middle_harms_neither_side(retriever: SlowRetriever, tmp_path: Path) -> None:
    stream = SampleStream(
        retriever, shuffle=True, window=1, num_threads=3, processor=lambda sample: sample
    )
    samples = [iter(stream)]
    numbers: list[int] = []
    children: list[int] = []
    for sample in samples[0]:
        numbers.append(sample["n"])
        if len(numbers) % 12 == 0:
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                try:
                    del sample
                    in_a_child(retriever, samples, len(children) % 4)
                except BaseException:  # noqa: BLE001
                    os._exit(1)
                os._exit(0)
            children.append(child)
    assert sorted(numbers) == list(range(SAMPLES))
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 12
    assert list(tmp_path.rglob("readers/*")) == []


@pytest.mark.parametrize("num_threads", [0, 3])
def test_an_iteration_of_the_parent_is_refused_in_a_child(
    num_threads: int, retriever: SlowRetriever
) -> None:
    stream = SampleStream(
        retriever, shuffle=True, num_threads=num_threads, processor=lambda sample: sample
    )
    samples = iter(stream)
    for _ in range(2 * EACH):  # by now threads fetch ahead
        next(samples)
    children = []
    for _ in range(10):
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            try:
                with pytest.raises(RuntimeError, match=r"call iter\(\) here"):
                    list(samples)
            except BaseException:  # noqa: BLE001
                os._exit(1)
            os._exit(0)
        children.append(child)
        next(samples)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 10
    assert len(list(samples)) == SAMPLES - 2 * EACH - 10


def test_a_reader_that_a_child_inherits_counts_as_another_one(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", 2, 30_000)
    limit = budget(store, 1) + 100
    retriever = CopyRetriever(store, cache_dir=tmp_path / "cache", max_cache_bytes=limit)
    reader = retriever.open()
    assert len(reader["clip-0"]["blob"]) == 30_000
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            with pytest.raises(CacheTooSmallError, match="beside 1 other reader"):
                reader["clip-1"]
        except BaseException:  # noqa: BLE001
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert len(reader["clip-1"]["blob"]) == 30_000
    retriever.close()


def test_a_reader_that_a_child_inherits_waits_for_no_thread_of_the_parent(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", 2, 30_000)
    retriever = CopyRetriever(store, cache_dir=tmp_path / "cache")
    reader = retriever.open()
    assert len(reader["clip-0"]["blob"]) == 30_000
    cache = retriever.cached_shards().cache
    with cache._use._lock, cache._counters._lock:  # as threads that read may have them
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            try:
                assert len(reader["clip-1"]["blob"]) == 30_000
                assert cache.stats.fetched_shards == 1
            except BaseException:  # noqa: BLE001
                os._exit(1)
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    retriever.close()
