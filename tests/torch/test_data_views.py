"""Views of one dataset, each with a filter of its own, read through one cache."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.data.base import StreamingDataset
from audiomdb.sample import Sample
from audiomdb.shards import DatasetWriter, read_metadata
from audiomdb.testing import MemoryRetriever, MemoryServer
from audiomdb.testing.kits.conformance import cached_bytes

SHARDS = 12
NAMES = [f"clip-{i:02d}" for i in range(4 * SHARDS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "clips"
    rng = np.random.default_rng(0)
    with DatasetWriter(path, samples_per_shard=4) as writer:
        for i, name in enumerate(NAMES):
            writer.write(name, {"part": i % 2, "blob": rng.bytes(30_000)})
    return path


@pytest.fixture
def server(folder: Path) -> Iterator[MemoryServer]:
    with MemoryServer() as server:
        for path in folder.rglob("*"):
            if path.is_file():
                name = path.relative_to(folder).as_posix()
                server.files[f"clips/{name}"] = path.read_bytes()
        yield server


def views(server: MemoryServer, cache: Path, room: int, **how: Any) -> list[StreamingDataset]:
    """The two halves of each shard's samples, over retrievers that are equal."""
    made = []
    for part in range(2):
        retriever = MemoryRetriever(
            server.url("clips"), cache_dir=cache, max_cache_bytes=room, prefetch=1
        )
        where = [lambda index: index["part"] == 0, lambda index: index["part"] == 1][part]
        made.append(StreamingDataset(retriever, 1, where=where, **how))
    return made


def room_for(folder: Path, shards: int) -> int:
    """A budget that holds so many shards, and what lies beside them."""
    metadata = read_metadata(folder)
    beside = (folder / "metadata.json").stat().st_size + metadata.index.bytes + 70_000
    return shards * max(shard.bytes for shard in metadata.shards) + beside


def read(datasets: list[StreamingDataset], room: int) -> list[list[str]]:
    """The keys of both, read in turns, with an eye on the budget."""
    keys: list[list[str]] = [[], []]
    for samples in zip(*datasets, strict=True):
        for found, sample in zip(keys, samples, strict=True):
            found.append(sample["__key__"])
        (cache,) = {Path(one.cache_dir) for dataset in datasets for one in dataset.retrievers}
        assert cached_bytes(cache) <= room
    return keys


def test_views_side_by_side_download_each_shard_once(
    server: MemoryServer, folder: Path, tmp_path: Path
) -> None:
    room = room_for(folder, SHARDS // 2)
    assert room < read_metadata(folder).bytes
    both = threading.Barrier(2)

    def meet(sample: Sample) -> Sample:
        # What one needs is not evicted by the other, from when it has begun.
        if sample["__key__"] in NAMES[8:10]:
            both.wait(300)
        return sample

    datasets = views(server, tmp_path, room, processor=meet)
    assert read(datasets, room) == [NAMES[0::2], NAMES[1::2]]
    asked = Counter(path for _, path in server.requests if path.endswith(".mdb"))
    assert asked == {f"clips/shard_{number:05d}/data.mdb": 1 for number in range(SHARDS)}
    retrievers = [one for dataset in datasets for one in dataset.retrievers]
    fetched = sum(one.cache_stats.fetched_bytes for one in retrievers)
    shards = sum(shard.bytes for shard in read_metadata(folder).shards)
    beside = fetched - shards
    assert 0 < beside <= 2 * (room_for(folder, 0) - 70_000)
    (cache,) = tmp_path.iterdir()
    assert (cache / "shards").is_dir()
    for one in retrievers:
        one.close()


def test_views_with_different_orders_lose_nothing_and_share_the_budget(
    server: MemoryServer, folder: Path, tmp_path: Path
) -> None:
    room = room_for(folder, SHARDS // 2)
    datasets = views(server, tmp_path, room, shuffle=True, window=2)
    datasets[1].set_epoch(1)
    for _ in range(2):
        first, second = read(datasets, room)
        assert sorted(first) == NAMES[0::2]
        assert sorted(second) == NAMES[1::2]
    assert len(list(tmp_path.iterdir())) == 1
    for dataset in datasets:
        dataset.retrievers[0].close()
