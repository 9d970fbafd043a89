"""Several ranks of a machine on one small cache, and how little they fetch."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.retrievers.base import BaseRetriever, RemoteFile
from audiomdb.shards import DatasetWriter, read_metadata
from audiomdb.stream import Mixture, Part, SampleStream, StepStream
from benchmarks.belady import belady
from tests.core.caches import beside_shards

SHARDS, EACH = 32, 8
SAMPLES = SHARDS * EACH


class FolderRetriever(BaseRetriever):
    """A store that reads ranges."""

    def __init__(self, store: str, **options: Any) -> None:
        super().__init__(**options)
        self.store = store

    def open_remote(self, path: str, *, start: int = 0, validator: str | None = None) -> RemoteFile:
        content = (Path(self.store) / path).read_bytes()

        def chunks() -> Iterator[bytes]:
            for at in range(start, len(content), 1 << 14):
                yield content[at : at + (1 << 14)]

        return RemoteFile(chunks(), start, validator or "v1", len(content))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "clips"
    rng = np.random.default_rng(0)
    with DatasetWriter(path, samples_per_shard=EACH) as writer:
        for number in range(SAMPLES):
            writer.write(f"clip-{number:03d}", {"blob": rng.bytes(4000), "n": number})
    return path


def sizes_of(store: Path) -> list[int]:
    return [shard.bytes for shard in read_metadata(store).shards]


def budget(store: Path, shard_bytes: int, readers: int) -> int:
    return shard_bytes + beside_shards(store) + readers * (32 + 2 * 4 * SHARDS)


def numbers_of(stream: SampleStream | StepStream, epochs: int, barrier: Any) -> Iterator[int]:
    """What a rank reads, each in step with the others, as the ranks of a training are."""
    if isinstance(stream, StepStream):
        for batch in stream.read(epochs=epochs):
            barrier.wait(300)
            yield from (sample["n"] for sample in batch.samples)
        return
    for place, sample in enumerate(stream):
        if place % 4 == 0:
            barrier.wait(300)
        yield sample["n"]


def run_rank(
    kind: str, store: Path, folder: Path, rank: int, options: dict[str, Any], results: Any, bar: Any
) -> None:
    try:
        retriever = FolderRetriever(str(store), cache_dir=folder, **options["cache"])
        threads = options.get("threads", 2)
        common = {"rank": rank, "world_size": options["ranks"], "num_threads": threads, "seed": 1}
        order = {"shuffle": True, "window": options["window"]}
        stream: SampleStream | StepStream
        if kind == "samples":
            stream = SampleStream(retriever, epochs=options["epochs"], **common, **order)
        else:
            partitions = options["ranks"]
            stream = StepStream(
                retriever, 4 * partitions, partitions=partitions, tail="uneven", **common, **order
            )
        numbers = list(numbers_of(stream, options["epochs"], bar))
        results.put((numbers, retriever.cache_stats.fetched_shards, ""))
        retriever.close()
    except BaseException as error:
        bar.abort()
        results.put(([], 0, repr(error)))
        raise


def run_ranks(kind: str, store: Path, folder: Path, **options: Any) -> tuple[list[int], int]:
    """What all ranks read together, and how many shards they fetched."""
    context = multiprocessing.get_context("fork")
    queue, barrier = context.SimpleQueue(), context.Barrier(options["ranks"])
    children = [
        context.Process(target=run_rank, args=(kind, store, folder, rank, options, queue, barrier))
        for rank in range(options["ranks"])
    ]
    for child in children:
        child.start()
    results = [queue.get() for _ in children]
    for child in children:
        child.join(300)
    assert [error for _, _, error in results if error] == []
    return [n for numbers, _, _ in results for n in numbers], sum(f for _, f, _ in results)


@pytest.mark.parametrize("kind", ["samples", "steps"])
@pytest.mark.parametrize("prefetch", [0, 4])
def test_ranks_get_through_the_smallest_budget_in_step(
    kind: str, prefetch: int, store: Path, tmp_path: Path
) -> None:
    needs = 4 * sum(sorted(sizes_of(store))[-2:])
    cache = {"max_cache_bytes": budget(store, needs, 4), "prefetch": prefetch, "workers": 2}
    # Samples are dealt out one by one, so all ranks read the same shards. Threads would read this
    # whole dataset ahead of the barrier, and ranks that are far apart fetch what others have had.
    threads = 0 if kind == "samples" else 2
    numbers, fetched = run_ranks(
        kind, store, tmp_path, ranks=4, window=1, epochs=2, cache=cache, threads=threads
    )
    assert sorted(numbers) == sorted(list(range(SAMPLES)) * 2)
    # Each shard twice; those on a cut are read by two ranks, maybe not at the same time.
    assert fetched <= 2 * (SHARDS + 3) + 2
    assert not list(tmp_path.rglob("readers/*"))


def test_ranks_far_apart_get_through_the_smallest_budget(store: Path, tmp_path: Path) -> None:
    needs = 4 * sum(sorted(sizes_of(store))[-2:])
    cache = {"max_cache_bytes": budget(store, needs, 4), "prefetch": 4, "workers": 2}
    numbers, _ = run_ranks("samples", store, tmp_path, ranks=4, window=1, epochs=2, cache=cache)
    assert sorted(numbers) == sorted(list(range(SAMPLES)) * 2)


def test_ranks_prefetching_in_a_small_cache_fetch_each_shard_once_an_epoch(
    store: Path, tmp_path: Path
) -> None:
    # 4 ranks that hold 1 shard each, room for 2 more, and all of them look 4 shards ahead.
    shard_bytes = 6 * max(sizes_of(store))
    cache = {"max_cache_bytes": budget(store, shard_bytes, 4), "prefetch": 4, "workers": 4}
    numbers, fetched = run_ranks("steps", store, tmp_path, ranks=4, window=0, epochs=3, cache=cache)
    assert sorted(numbers) == sorted(list(range(SAMPLES)) * 3)
    assert fetched <= 3 * (SHARDS + 3)


def roomy(store: Path, cache: Path, capacity: int, prefetch: int) -> FolderRetriever:
    """A retriever with room for so many shards."""
    limit = budget(store, capacity * max(sizes_of(store)), 1)
    return FolderRetriever(str(store), cache_dir=cache, max_cache_bytes=limit, prefetch=prefetch)


def assert_fetches_as_if_it_knew_the_future(
    stream: SampleStream, retriever: FolderRetriever, capacity: int, prefetch: int
) -> None:
    visits: list[int] = []
    for sample in stream:
        shard = sample["n"] // EACH
        if not visits or visits[-1] != shard:
            visits.append(shard)
    fetched = retriever.cache_stats.fetched_shards
    retriever.close()
    each = [1] * SHARDS
    assert fetched >= belady(visits, each, capacity)
    # What is fetched ahead takes its place from what is kept; one shard of slack for the ends.
    assert fetched <= belady(visits, each, capacity - prefetch) + 1


@pytest.mark.parametrize("shuffle", [False, True], ids=["stored order", "reshuffled"])
@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("capacity", [6, 10])
def test_one_reader_fetches_no_more_than_if_it_knew_the_whole_future(
    shuffle: bool, prefetch: int, capacity: int, store: Path, tmp_path: Path
) -> None:
    epochs = 5
    retriever = roomy(store, tmp_path, capacity, prefetch)
    stream = SampleStream(retriever, shuffle=shuffle, window=0, epochs=epochs, num_threads=0)
    assert_fetches_as_if_it_knew_the_future(stream, retriever, capacity, prefetch)


@pytest.mark.parametrize("shuffle", [False, True], ids=["stored order", "reshuffled"])
@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("often", [3, 6])
def test_a_mixture_fetches_no_more_than_if_it_knew_the_whole_future(
    often: int, prefetch: int, shuffle: bool, store: Path, tmp_path: Path
) -> None:
    """Some shards are read as often as all others: so many times more than each of these."""
    epochs, capacity = 5, 16
    retriever = roomy(store, tmp_path, capacity, prefetch)
    chosen = np.arange(SAMPLES) < often * EACH
    parts = [Part(retriever, shuffle, window=0, where=where) for where in (chosen, ~chosen)]
    stream = SampleStream(Mixture(parts, weights=[1, 1]), epochs=epochs, num_threads=0)
    assert_fetches_as_if_it_knew_the_future(stream, retriever, capacity, prefetch)
