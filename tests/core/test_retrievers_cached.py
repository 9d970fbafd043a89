"""Retrievers of remote datasets: what a subclass writes, and what the base makes of it."""

from __future__ import annotations

import contextlib
import gc
import json
import multiprocessing
import os
import pickle
import random
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import audiomdb.cache.retry
from audiomdb.errors import (
    CacheError,
    CacheTooSmallError,
    CorruptShardError,
    DownloadError,
    DownloadInterruptedError,
)
from audiomdb.retrievers.base import BaseRetriever, RemoteFile
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.shards import DatasetReader, DatasetWriter, read_metadata
from audiomdb.stream import SampleStream
from audiomdb.testing.kits.conformance import cached_bytes
from tests.core.caches import budget

SHARDS = 6
SAMPLES = 4 * SHARDS


class FolderRetriever(BaseRetriever):
    """As a user writes one: attributes and a client first, then the base."""

    def __init__(self, store: str, log: str = os.devnull, **kwargs: Any) -> None:
        self.store = store
        self.log = log
        self.client = threading.Lock()  # does not pickle
        super().__init__(**kwargs)

    def download_metadata(self) -> str:
        return shutil.copy(f"{self.store}/metadata.json", self.cache_dir)

    def download_shard(self, shard_id: int) -> str:
        name = f"shard_{shard_id:05d}"
        with Path(self.log).open("a") as log:
            log.write(f"{name}\n")
        return str(shutil.copytree(f"{self.store}/{name}", f"{self.cache_dir}/{name}"))


class RangesRetriever(BaseRetriever):
    """Reads from any byte on."""

    def __init__(self, store: str, log: str = os.devnull, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.store = store
        self.log = log

    def open_remote(self, path: str, *, start: int = 0, validator: str | None = None) -> RemoteFile:
        if path.endswith(".mdb") and start == 0:
            with Path(self.log).open("a") as log:
                log.write(f"{path.split('/')[0]}\n")
        content = (Path(self.store) / path).read_bytes()

        def chunks() -> Iterator[bytes]:
            for at in range(start, len(content), 30_000):
                if at - start >= 90_000:
                    raise DownloadInterruptedError("cut")
                yield content[at : at + 30_000]

        return RemoteFile(chunks(), start, validator or "v1", len(content))


KINDS = pytest.mark.parametrize("kind", [FolderRetriever, RangesRetriever])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "clips"
    rng = np.random.default_rng(0)
    with DatasetWriter(path, samples_per_shard=4) as writer:
        for number in range(SAMPLES):
            blob = rng.bytes(30_000)
            writer.write(f"clip-{number:02d}", {"blob": blob, "text": str(number), "n": number})
    return path


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(audiomdb.cache.retry, "FIRST_WAIT_S", 1e-6)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    yield tmp_path / "home" / "audiomdb"
    gc.collect()  # descriptors of what a test has not closed are no business of the next one's


@KINDS
def test_a_remote_dataset_reads_as_the_local_one(kind: Any, store: Path) -> None:
    retriever = kind(str(store))
    local = LocalRetriever(store)
    assert len(retriever) == SAMPLES
    assert list(retriever.open()) == list(local.open())
    assert retriever.open()["clip-07"] == local.open()["clip-07"]
    assert np.array_equal(retriever.open().index["n"], local.open().index["n"])
    assert retriever.cache_stats.fetched_shards == SHARDS
    retriever.close()


@KINDS
@pytest.mark.parametrize("threads", [0, 4])
def test_a_stream_on_the_smallest_budget_yields_every_sample_within_it(
    kind: Any, store: Path, tmp_path: Path, threads: int
) -> None:
    size = budget(store, 3) + 2 * SHARDS * 4 + 32
    with pytest.raises(CacheTooSmallError, match=f"max_cache_bytes={size};"):
        next(iter(SampleStream(kind(str(store), max_cache_bytes=size - 1), shuffle=True, window=2)))
    cache = tmp_path / "cache"
    retriever = kind(str(store), cache_dir=cache, max_cache_bytes=size)
    stream = SampleStream(retriever, shuffle=True, window=2, num_threads=threads, epochs=2)
    local = SampleStream(store, shuffle=True, window=2, epochs=2)
    most = 0
    for sample, expected in zip(stream, local, strict=True):
        assert sample == expected
        most = max(most, cached_bytes(cache))
    assert most <= size
    stats = retriever.cache_stats
    assert stats.evictions > 0
    # What was fetched ahead may have had to make way again while the first shards were opened.
    assert stats.fetched_shards <= 2 * SHARDS + 4
    assert list(tmp_path.rglob("readers/*")) == []
    retriever.close()


@pytest.mark.parametrize("seed", range(8))
def test_readers_of_any_shape_finish_on_the_smallest_budget(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    samples, window, workers = rng.randrange(1, 50), rng.randrange(4), rng.randrange(1, 4)
    epochs, threads = rng.randrange(1, 3), rng.randrange(5)
    with DatasetWriter(tmp_path / "store", samples_per_shard=rng.randrange(1, 7)) as writer:
        for number in range(samples):
            blob = rng.randbytes(rng.randrange(300, 20_000))
            writer.write(f"clip-{number:02d}", {"n": number, "blob": blob})
    sizes = sorted((s.bytes for s in read_metadata(tmp_path / "store").shards), reverse=True)
    least = min(workers * sum(sizes[: window + 1]), sum(sizes))
    notes = workers * (32 + 8 * len(sizes))
    kind: Any = rng.choice([FolderRetriever, RangesRetriever])

    def read(worker: int) -> list[int]:
        retriever = kind(
            str(tmp_path / "store"),
            cache_dir=tmp_path / "cache",
            max_cache_bytes=budget(tmp_path / "store", 0) + least + notes,
            prefetch=seed % 4,
            workers=1 + seed % 3,
        )
        stream = SampleStream(
            retriever,
            shuffle=True,
            window=window,
            worker=worker,
            num_workers=workers,
            num_threads=threads,
            epochs=epochs,
        )
        numbers = [sample["n"] for sample in stream]
        retriever.close()
        return numbers

    with ThreadPoolExecutor(workers) as pool:
        read_by_all = [n for numbers in pool.map(read, range(workers)) for n in numbers]
    assert sorted(read_by_all) == sorted(list(range(samples)) * epochs)


def test_prefetching_follows_the_order_of_the_stream(store: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    retriever = RangesRetriever(str(store), str(log), prefetch=2, workers=2)
    stream = SampleStream(retriever, shuffle=True, window=0, num_threads=0)
    met: dict[int, None] = {}
    for sample in stream:
        met[sample["n"] // 4] = None
    asked = [int(line[6:]) for line in dict.fromkeys(log.read_text().split())]
    for place, shard in enumerate(asked):
        assert abs(list(met).index(shard) - place) <= 2
    retriever.close()


def test_leaving_a_stream_early_releases_everything(store: Path, tmp_path: Path) -> None:
    size = budget(store, 3) + 2000
    retriever = FolderRetriever(str(store), cache_dir=tmp_path, max_cache_bytes=size)
    before = set(threading.enumerate())
    for _ in range(3):
        stream = SampleStream(retriever, shuffle=True, window=2)
        samples = iter(stream)
        next(samples)
        stream.close()
        assert list(tmp_path.rglob("readers/*")) == []
        for thread in set(threading.enumerate()) - before:
            thread.join(300)  # a prefetcher whose transfer took its time
            assert not thread.is_alive()
    assert len(list(SampleStream(retriever, shuffle=True, window=2))) == SAMPLES
    retriever.close()


def test_an_exception_in_a_task_ends_a_stream_on_a_short_budget(
    store: Path, tmp_path: Path
) -> None:
    def fail(sample: dict[str, Any]) -> dict[str, Any]:
        if sample["n"] == 9:
            raise RuntimeError("mine")
        return sample

    retriever = FolderRetriever(str(store), cache_dir=tmp_path, max_cache_bytes=budget(store, 2))
    stream = SampleStream(retriever, num_threads=4, processor=fail)
    met = []
    with pytest.raises(RuntimeError, match="mine"):
        met += [sample["n"] for sample in stream]
    assert list(tmp_path.rglob("readers/*")) == []
    retriever.close()


def read_share(
    retriever: BaseRetriever, worker: int, num_workers: int, results: Any, opened: bool
) -> None:
    try:
        stream = SampleStream(
            retriever, shuffle=True, window=1, worker=worker, num_workers=num_workers
        )
        texts = [sample["text"] for sample in stream]
        results.put((opened, texts, retriever.cache_stats.fetched_shards))
    except Exception as error:  # noqa: BLE001
        results.put((opened, repr(error), 0))


@KINDS
def test_forked_processes_share_one_cache(kind: Any, store: Path) -> None:
    context = multiprocessing.get_context("fork")
    retriever = kind(str(store), max_cache_bytes=budget(store, 5) + 4000)
    assert retriever.open()[0]["text"] == "0"  # the parent's reader is no use to the children
    queue = context.SimpleQueue()
    children = [
        context.Process(target=read_share, args=(retriever, i, 2, queue, True)) for i in range(2)
    ]
    for child in children:
        child.start()
    results = [queue.get() for _ in children]
    for child in children:
        child.join(300)
    texts = [text for _, found, _ in results for text in found]
    assert sorted(texts, key=int) == [str(n) for n in range(SAMPLES)], results
    retriever.close()


def test_threads_that_open_a_dataset_at_once_share_one_reader(store: Path, tmp_path: Path) -> None:
    together = threading.Barrier(4)

    class Slow(FolderRetriever):
        def make_reader(self) -> DatasetReader:
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait(10)
            return super().make_reader()

    retriever = Slow(str(store), cache_dir=tmp_path, max_cache_bytes=budget(store, 1) + 2000)
    with ThreadPoolExecutor(4) as threads:
        readers = list(threads.map(lambda _: retriever.open(), range(4)))
    assert all(reader is readers[0] for reader in readers)
    assert readers[0][0]["text"] == "0"


def test_a_retriever_pickles_without_its_client(store: Path) -> None:
    retriever = FolderRetriever(str(store), prefetch=0)
    retriever.open()
    copy = pickle.loads(pickle.dumps(retriever))
    assert copy.client is not retriever.client
    assert copy.cache_dir == retriever.cache_dir
    reader = pickle.loads(pickle.dumps(retriever.open()))
    assert reader["clip-03"]["text"] == "3"
    assert reader._source.cache.stats.hits + reader._source.cache.stats.misses == 1


def test_downloads_run_in_a_private_directory(store: Path, cache_home: Path) -> None:
    seen: list[str] = []

    class Nosy(FolderRetriever):
        def download_metadata(self) -> str:
            seen.append(self.cache_dir)
            assert not any(Path(self.cache_dir).iterdir())
            return super().download_metadata()

        def download_shard(self, shard_id: int) -> str:
            seen.append(self.cache_dir)
            assert not any(Path(self.cache_dir).iterdir())
            return super().download_shard(shard_id)

    retriever = Nosy(str(store))
    directory = retriever.cache_dir
    assert Path(directory).parent == cache_home
    retriever.open()[0]
    retriever.open()[-1]
    assert len(set(seen)) == 3
    assert all(folder.startswith(directory + "/staging/") for folder in seen)
    assert not any(Path(directory, "staging").iterdir())
    retriever.close()


def test_random_reads_on_a_short_budget_hold_one_shard(store: Path, tmp_path: Path) -> None:
    retriever = FolderRetriever(str(store), cache_dir=tmp_path, max_cache_bytes=budget(store, 2))
    for number in (0, 20, 5, 13, 1, 22):
        assert retriever.open()[number]["n"] == number
    assert retriever.open().index["n"].tolist() == list(range(SAMPLES))
    retriever.close()


def test_several_datasets_in_one_directory_have_their_own(store: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with DatasetWriter(other) as writer:
        writer.write("only", {"text": "other"})
    first = FolderRetriever(str(store), cache_dir=tmp_path / "cache")
    second = FolderRetriever(str(other), cache_dir=tmp_path / "cache")
    assert (len(first), len(second)) == (SAMPLES, 1)
    assert first.cache_dir != second.cache_dir
    first.close()
    second.close()


def test_wrong_metadata_of_a_remote_dataset_is_reported(store: Path, tmp_path: Path) -> None:
    lying = tmp_path / "lying"
    shutil.copytree(store, lying)
    metadata = json.loads((lying / "metadata.json").read_text())
    metadata["shards"][1]["sha256"] = "0" * 64
    (lying / "metadata.json").write_text(json.dumps(metadata))
    retriever = FolderRetriever(str(lying))
    assert retriever.open()[0]["n"] == 0
    with pytest.raises(CorruptShardError, match=r"shard_00001.*expected.*0000.*found"):
        retriever.open()[5]
    retriever.close()


def test_a_download_that_fails_raises_what_it_raised(store: Path) -> None:
    class Broken(FolderRetriever):
        def download_shard(self, shard_id: int) -> str:
            raise PermissionError(f"no shard {shard_id} for you")

    retriever = Broken(str(store))
    with pytest.raises(PermissionError, match="no shard 2 for you"):
        retriever.open()[8]
    retriever.close()


def test_a_download_that_times_out_is_tried_again(store: Path) -> None:
    class Flaky(FolderRetriever):
        calls = 0

        def download_shard(self, shard_id: int) -> str:
            self.calls += 1
            if self.calls < 3:
                raise TimeoutError
            return super().download_shard(shard_id)

    retriever = Flaky(str(store))
    assert retriever.open()[8]["n"] == 8
    assert retriever.cache_stats.retries == 2
    retriever.close()


class RedisLike(BaseRetriever):
    """The second example of the README: it fetches a shard and writes it nowhere."""

    def __init__(self, store: str, **kwargs: Any) -> None:
        self.store = store
        super().__init__(**kwargs)

    def download_metadata(self) -> str:
        metadata = json.loads((Path(self.store) / "metadata.json").read_text())
        local_path = os.path.join(self.cache_dir, "metadata.json")  # noqa: PTH118
        with open(local_path, "w") as f:  # noqa: PTH123
            json.dump(metadata, f)
        return local_path

    def download_shard(self, shard_id: int) -> str:
        return os.path.join(self.cache_dir, f"shard_{shard_id:05d}")  # noqa: PTH118


def test_a_download_that_wrote_no_shard_names_the_missing_file(store: Path) -> None:
    retriever = RedisLike(str(store))
    assert len(retriever) == SAMPLES
    with pytest.raises(DownloadError, match=r"RedisLike.download_shard\(3\).*no data.mdb"):
        retriever.open()[12]
    retriever.close()


def test_a_local_dataset_has_no_cache(store: Path) -> None:
    with pytest.raises(CacheError, match="in place"):
        LocalRetriever(store).cached_shards()


def test_keys_are_found_without_downloading_shards(store: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    reader = RangesRetriever(str(store), str(log)).open()
    keys = list(reader.keys())
    assert [reader.position(key) for key in keys] == list(range(len(keys)))
    assert reader.key(-1) == keys[-1]
    assert "no such key" not in reader
    assert not log.exists()
    reader[keys[-1]]
    assert len(log.read_text().split()) == 1


def test_columns_gathered_from_shards_leave_room_for_a_stream(store: Path, tmp_path: Path) -> None:
    size = budget(store, 3) + 2 * SHARDS * 4 + 32
    retriever = FolderRetriever(str(store), cache_dir=tmp_path, max_cache_bytes=size)
    assert retriever.open().index["n"].tolist() == list(range(SAMPLES))
    stream = SampleStream(retriever, shuffle=True, window=2)
    assert sorted(sample["n"] for sample in stream) == list(range(SAMPLES))
    retriever.close()


def test_threads_gathering_columns_need_room_for_one_shard(store: Path, tmp_path: Path) -> None:
    size = budget(store, 1) + 2 * SHARDS * 4 + 32
    retriever = FolderRetriever(str(store), cache_dir=tmp_path, max_cache_bytes=size)
    reader, begin = retriever.open(), threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda _: (begin.wait(), reader.index["n"].tolist())[1], range(2))
        assert list(found) == [list(range(SAMPLES))] * 2
    retriever.close()
