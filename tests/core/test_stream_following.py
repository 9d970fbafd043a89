"""What an iteration tells a cache of its way through the shards, and what comes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomdb.cache import CacheOptions, ShardCache
from audiomdb.cache.course import CacheCourse
from audiomdb.plan import Order
from audiomdb.retrievers.base import BaseRetriever, RemoteFile
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.stream import BySeconds, Mixture, Part, SampleStream, StepStream
from tests.core.caches import CopyRetriever


class _NoRegistration:
    def mark_done(self, visit: int) -> None:
        assert visit >= 0

    def advance(self, done: int) -> None:
        assert done >= 0

    def close(self) -> None:
        pass


class _Metadata:
    shards = range(20)


class _SmallCache:
    """Of a cache, what a course sees of one that cannot hold everything."""

    holds_everything = False
    metadata = _Metadata()
    options = CacheOptions(prefetch=0)

    def register(self, *_: int, **__: int) -> _NoRegistration:
        return _NoRegistration()

    def publish(self, registration: Any, visits: Sequence[int]) -> None:  # noqa: ARG002
        assert set(visits) <= set(range(20))


class _Run:
    """Threads that work through tasks in order, as a stream's do."""

    def __init__(self, at_once: int, num_threads: int) -> None:
        self.at_once = at_once
        self.open: set[int] = set()
        self.most = 0
        self.done: list[int] = []
        self._lock = threading.Lock()
        self._num_threads = num_threads
        self.course = CacheCourse(
            cast("ShardCache", _SmallCache()),
            at_once,
            open_shard=self._open,
            close_shard=self._close_shard,
        )

    def _open(self, number: int, check: Callable[[], None]) -> None:
        check()
        with self._lock:
            assert number not in self.open
            self.open.add(number)
            self.most = max(self.most, len(self.open))

    def _close_shard(self, number: int) -> None:
        with self._lock:
            self.open.remove(number)

    def work(self, draws: Sequence[tuple[Sequence[int], Collection[int]]]) -> bool:
        """Whether all tasks came to an end."""
        tasks = [
            (number, shard)
            for shards, needed in draws
            for number, shard in zip(self.course.draw(shards, needed), shards, strict=True)
        ]
        coming = iter(tasks)

        def run() -> None:
            while True:
                with self._lock:
                    task = next(coming, None)
                if task is None:
                    return
                self.course.enter(task[0])
                assert task[1] in self.open
                with self._lock:
                    self.done.append(task[1])
                self.course.leave(task[0])

        threads = [threading.Thread(target=run, daemon=True) for _ in range(self._num_threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        ended = not any(thread.is_alive() for thread in threads)
        self.course.close()
        return ended


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 7), max_size=12),
            st.sets(st.integers(0, 7), max_size=6),
        ),
        max_size=6,
    ),
    st.integers(1, 4),
    st.integers(1, 4),
)
@settings(max_examples=60)
def test_all_tasks_finish_with_at_most_at_once_shards_open(
    draws: list[tuple[list[int], set[int]]], at_once: int, num_threads: int
) -> None:
    run = _Run(at_once, num_threads)
    run.course.begin(list(range(8)), [3, 2, 1])
    draws = [*draws, ([], set())]
    assert run.work(draws)
    assert sorted(run.done) == sorted(shard for shards, _ in draws for shard in shards)
    assert run.most <= at_once
    assert not run.open


def test_a_shard_missing_from_the_order_is_still_opened() -> None:
    run = _Run(1, 2)
    run.course.begin([4, 5])
    assert run.work([([4, 9, 5, 9], set())])
    assert run.most == 1


def test_an_order_may_begin_anew_in_the_middle() -> None:
    run = _Run(2, 2)
    run.course.begin([1, 2, 3])
    first = run.course.draw([1, 2, 2], {2})
    run.course.begin([2, 1, 3], [1])
    second = run.course.draw([2, 1, 3], set())
    assert first[1] == first[2] == second[0]
    assert len({*first, *second}) == 4
    run.course.close()


class RangeRetriever(BaseRetriever):
    """Fetches files from a folder, as from a store that has the index file by itself."""

    def __init__(self, folder: Path, **kwargs: Any) -> None:
        self.folder = folder
        super().__init__(**kwargs)

    def open_remote(self, path: str, *, start: int = 0, validator: str | None = None) -> RemoteFile:
        content = (self.folder / path).read_bytes()
        start = 0 if validator != "only" else start
        return RemoteFile(iter([content[start:]]), start, "only", len(content))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three datasets of 40, 25 and 3 samples, in shards of 4."""
    folders = []
    for number, size in enumerate([40, 25, 3]):
        folders.append(tmp_path_factory.mktemp("data") / "clips")
        with DatasetWriter(folders[-1], samples_per_shard=4) as writer:
            for i in range(size):
                audio = np.full(80 + (37 * i) % 100, i / 100, np.float32)
                writer.write(f"{number}-{i:03d}", {"audio": audio, "sample_rate": 100})
    return folders


def small(folder: Path, cache: Path, shards: int, prefetch: int = 1) -> CopyRetriever:
    """A retriever whose cache has room for so many shards."""
    with LocalRetriever(folder).open() as reader:
        largest = max(shard.bytes for shard in reader.metadata.shards)
        other = reader.metadata.index.bytes
    room = 2**16 + 2**14 + other + largest * shards
    return CopyRetriever(folder, cache_dir=cache, max_cache_bytes=room, prefetch=prefetch)


def keys(samples: Any) -> list[str]:
    return [sample["__key__"] for sample in samples]


def test_steps_of_the_last_possible_epoch_work_with_a_cache(
    folders: list[Path], tmp_path: Path
) -> None:
    def steps(source: CopyRetriever | Path) -> list[list[str]]:
        stream = StepStream(source, 8, shuffle=True)
        return [keys(batch.samples) for batch in stream.read(stream.state(2**32 - 1))]

    assert steps(small(folders[0], tmp_path, 6)) == steps(folders[0])


@pytest.mark.parametrize("partitions", [1, 2, 5])
def test_partitions_that_share_a_shard_finish_with_the_smallest_cache(
    folders: list[Path], tmp_path: Path, partitions: int
) -> None:
    retriever = small(folders[0], tmp_path, partitions)
    how: dict[str, Any] = {"shuffle": True, "window": 0, "partitions": partitions, "epochs": 2}
    stream = SampleStream(retriever, num_threads=3, **how)
    assert keys(stream) == keys(SampleStream(folders[0], **how))
    assert retriever.cache_stats.evictions > 0
    retriever.close()


def test_padding_works_with_a_cache_and_fewer_samples_than_ranks(
    folders: list[Path], tmp_path: Path
) -> None:
    for partitions in (1, 3):
        for rank in range(5):
            retriever = small(folders[2], tmp_path, 3)
            how: dict[str, Any] = {"rank": rank, "world_size": 5, "tail": "pad"}
            got = keys(SampleStream(retriever, partitions=partitions, **how))
            assert got == keys(SampleStream(folders[2], partitions=partitions, **how))
            assert len(got) == 1
            steps = StepStream(retriever, 15, partitions=partitions, **how)
            assert [len(batch.samples) for batch in steps.read()] == [3]
            retriever.close()


@pytest.mark.parametrize("own_reader", [True, False])
def test_ranks_in_step_share_one_small_cache(
    folders: list[Path], tmp_path: Path, own_reader: bool
) -> None:
    """Each rank waits for the others after every step, as training does."""
    ranks = 3
    retriever = small(folders[0], tmp_path, ranks * 2)
    retrievers = [retriever] * ranks
    if own_reader:
        retrievers = [small(folders[0], tmp_path, ranks * 2) for _ in range(ranks)]
    barrier = threading.Barrier(ranks, timeout=300)
    how: dict[str, Any] = {"shuffle": True, "window": 1, "tail": "pad", "seed": 3}
    got: list[list[list[str]]] = [[] for _ in range(ranks)]

    def train(rank: int) -> None:
        stream = StepStream(retrievers[rank], 6, rank=rank, world_size=ranks, num_threads=2, **how)
        try:
            for batch in stream.read(epochs=3):
                got[rank].append(keys(batch.samples))
                barrier.wait()
        except BaseException:
            barrier.abort()
            raise

    threads = [threading.Thread(target=train, args=(rank,), daemon=True) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    expected = [keys(batch.samples) for batch in StepStream(folders[0], 6, **how).read(epochs=3)]
    assert [sum(parts, []) for parts in zip(*got, strict=True)] == expected  # noqa: RUF017
    assert sum(one.cache_stats.evictions for one in retrievers) > 0
    for one in retrievers:
        one.close()


@pytest.mark.parametrize("nodes", [2, 5])
def test_nodes_that_divide_the_partitions_fetch_cut_shards_twice_at_most(
    folders: list[Path], tmp_path: Path, nodes: int
) -> None:
    for kind in ("samples", "steps", "seconds"):
        fetched = 0
        for node in range(nodes):
            cache = tmp_path / f"{kind} {node}"
            retriever = RangeRetriever(folders[0], cache_dir=cache, prefetch=2)
            how: dict[str, Any] = {
                "shuffle": True,
                "partitions": nodes,
                "rank": node,
                "world_size": nodes,
            }
            if kind == "samples":
                list(SampleStream(retriever, tail="pad", **how))
            elif kind == "steps":
                list(StepStream(retriever, nodes, tail="pad", **how).read())
            else:
                list(StepStream(retriever, BySeconds(6.0), **how).read())
            fetched += retriever.cache_stats.fetched_shards
            retriever.close()
        assert 10 <= fetched <= 10 + nodes - 1


MIXES: list[dict[str, Any]] = [
    {},
    {"interleave": "ordered"},
    {"interleave": None},
    {"weights": [1, 3, 2], "stop": 90},
    {"weights": [1, 3, 2], "stop": "last", "interleave": "ordered"},
]


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("partitions", [1, 3])
def test_each_dataset_of_a_mixture_has_a_cache_of_its_own(
    folders: list[Path], tmp_path: Path, mix: dict[str, Any], partitions: int
) -> None:
    window, shuffle = 1, True
    retrievers = [
        small(folder, tmp_path / str(number), 2 * partitions)
        for number, folder in enumerate(folders)
    ]
    parts = [Part(one, shuffle, window) for one in retrievers]
    local = [Part(one, shuffle, window) for one in folders]
    how: dict[str, Any] = {"seed": 2, "partitions": partitions}
    expected = keys(SampleStream(Mixture(local, **mix), epochs=2, **how))
    stream = SampleStream(Mixture(parts, **mix), epochs=2, num_threads=3, **how)
    assert keys(stream) == expected
    steps = StepStream(Mixture(parts, **mix), 2 * partitions, tail="pad", num_threads=2, **how)
    same = StepStream(Mixture(local, **mix), 2 * partitions, tail="pad", **how)
    start = steps.state(1, 3)
    assert [keys(batch.samples) for batch in steps.read(start)] == [
        keys(batch.samples) for batch in same.read(start)
    ]
    assert retrievers[0].cache_stats.evictions > 0 or partitions > 1
    for retriever in retrievers:
        retriever.close()


def test_two_views_of_one_dataset_share_its_cache(folders: list[Path], tmp_path: Path) -> None:
    def views(origin: Path | CopyRetriever) -> Mixture:
        short = Part(origin, shuffle=True, window=1, max_duration=1.3)
        long = Part(origin, shuffle=True, window=1, min_duration=1.31)
        return Mixture([short, long, Part(origin, max_duration=0.9)], weights=[2, 1, 1])

    # Two shards of each of the first two, one of the third: of five there is room for four.
    retriever = small(folders[0], tmp_path, 4)
    with pytest.raises(ValueError, match="max_cache_bytes"):
        list(SampleStream(views(retriever), seed=1))
    retriever.close()
    retriever = small(folders[0], tmp_path, 5)
    stream = SampleStream(views(retriever), seed=1, epochs=2, num_threads=3)
    assert keys(stream) == keys(SampleStream(views(folders[0]), seed=1, epochs=2))
    assert retriever.cache_stats.evictions > 0
    retriever.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_by_seconds_come_through_a_small_cache(
    folders: list[Path], tmp_path: Path, workers: int
) -> None:
    batches = BySeconds(6.0, num_buckets=2, increment=4, max_age=2, chapter=3)
    how: dict[str, Any] = {"shuffle": True, "window": 0, "num_workers": workers}
    for worker in range(workers):
        retriever = small(folders[0], tmp_path / str(worker), 8)
        stream = StepStream(retriever, batches, worker=worker, num_threads=2, **how)
        same = StepStream(folders[0], batches, worker=worker, **how)
        expected = [keys(batch.samples) for batch in same.read(epochs=2)]
        assert [keys(batch.samples) for batch in stream.read(epochs=2)] == expected
        middle = stream.state(0, 2, chapter=2)
        assert [keys(batch.samples) for batch in stream.read(middle)] == [
            keys(batch.samples) for batch in same.read(middle)
        ]
        assert retriever.cache_stats.evictions > 0
        retriever.close()


def test_a_resumed_worker_requests_only_the_shards_of_its_steps(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    follow = DatasetReader.follow

    def noted(reader: DatasetReader, at_once: int, **how: int) -> Any:
        asked.append(at_once)
        return follow(reader, at_once, **how)

    monkeypatch.setattr(DatasetReader, "follow", noted)
    batches = BySeconds(4.0, num_buckets=3, increment=4, max_age=6)
    for seed in range(8):
        for worker, step in ((1, 0), (0, 1)):  # both make steps 1, 3, 5 and so on
            retriever = CopyRetriever(folders[0], cache_dir=tmp_path)
            how: dict[str, Any] = {"shuffle": True, "window": 0, "seed": seed}
            stream = StepStream(retriever, batches, worker=worker, num_workers=2, **how)
            next(stream.read(stream.state(0, step)))
            retriever.close()
    assert asked[::2] == asked[1::2]


def test_a_step_reads_nothing_of_datasets_without_samples_in_it(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, passes = CacheCourse.draw, Order.passes
    drawn: list[int] = []
    asked: list[int] = []

    def noted_draw(
        course: CacheCourse, shards: Sequence[int], needed: Collection[int]
    ) -> list[int]:
        drawn.append(len(shards))
        return draw(course, shards, needed)

    def noted_passes(plan: Order, partition: int, element: int) -> Any:
        asked.append(element)
        return passes(plan, partition, element)

    monkeypatch.setattr(CacheCourse, "draw", noted_draw)
    monkeypatch.setattr(Order, "passes", noted_passes)
    retrievers = [
        CopyRetriever(folder, cache_dir=tmp_path / str(number))
        for number, folder in enumerate(folders)
    ]
    parts = [Part(retriever, shuffle=True, window=1) for retriever in retrievers]
    steps = list(StepStream(Mixture(parts, interleave=None), 4).read(epochs=2))
    assert len(steps) == 2 * (68 // 4)
    assert drawn.count(0) <= 2 * len(folders)
    assert len(asked) <= len(steps) + 2
    for retriever in retrievers:
        retriever.close()
