"""Who waits for a shard: for how long, and what is said meanwhile."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import audiomdb.cache.fetching
import audiomdb.cache.retry
import audiomdb.cache.waiting
import audiomdb.threads
from audiomdb.cache import CacheOptions, RemoteFile, ShardCache
from audiomdb.errors import CacheTooSmallError, DownloadError, DownloadInterruptedError
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.retrievers.local import LocalRetriever
from tests.core.caches import (
    CopyRetriever,
    Opener,
    budget,
    directory_source,
    setting,
    write_store,
)

pytestmark = pytest.mark.usefixtures("short_waits")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(tmp_path / "store", 5, 30_000)


def test_a_budget_used_up_by_views_is_reported_without_waiting(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audiomdb.cache.waiting, "_STALL_S", 0.01)
    monkeypatch.setattr(audiomdb.cache.waiting, "_LOOK_EVERY_S", 0.0)
    cache = opener(max_bytes=budget(opener.store, 2))
    views = [cache.lease(0), cache.lease(1)]
    with pytest.raises(CacheTooSmallError, match="Views"):
        cache.lease(2)
    del views


def test_waiting_readers_get_the_error_of_the_fetching_one(opener: Opener) -> None:
    (opener.store / "shard_00001" / "data.mdb").unlink()
    fetcher, waiter = opener(), opener()
    asked, waiting = threading.Event(), threading.Event()
    transfer = fetcher.fetching._transfer

    def slow(*args: Any, **kwargs: Any) -> Any:
        asked.set()
        waiting.wait()
        return transfer(*args, **kwargs)

    fetcher.fetching._transfer = slow
    errors: list[BaseException] = []

    def lease(cache: ShardCache, *, check: Any = None) -> None:
        try:
            cache.lease(1, check=check)
        except DownloadError as error:
            errors.append(error)

    first = threading.Thread(target=lease, args=(fetcher,))
    first.start()
    asked.wait()
    lease(waiter, check=waiting.set)
    first.join()
    assert [str(error) for error in errors] == ["shard_00001/data.mdb is not in the store"] * 2
    assert waiter.stats.fetched_bytes == 0
    with pytest.raises(DownloadError, match="not in the store"):
        waiter.lease(1)  # who comes later tries by itself


def slowed(cache: ShardCache, asked: threading.Event, go_on: threading.Event) -> None:
    """Have a cache's next transfers wait in their middle."""
    original = cache.fetching._transfer._open  # type: ignore[attr-defined]

    def open_remote(path: str, **place: Any) -> Any:
        remote = original(path, **place)

        def chunks() -> Iterator[bytes]:
            for number, chunk in enumerate(remote.chunks):
                if number == 1:
                    asked.set()
                    go_on.wait(300)
                yield chunk

        return RemoteFile(chunks(), remote.start, remote.validator, remote.size)

    cache.fetching._transfer._open = open_remote  # type: ignore[attr-defined]


def test_waiting_and_fetching_processes_log_progress_and_speed(
    opener: Opener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audiomdb.cache.waiting, "_LOG_EVERY_S", 0.0)
    fetcher, waiter = opener(), opener()
    asked, go_on = threading.Event(), threading.Event()
    slowed(fetcher, asked, go_on)
    thread = threading.Thread(target=fetcher.lease, args=(1,))

    with caplog.at_level("WARNING", "audiomdb.cache"):
        thread.start()
        asked.wait(300)
        waiter.lease(1, check=setting(go_on))
        thread.join(300)
    progress = r"\d+\.\d kB of \d+\.\d kB are there, at \d+(\.\d)? [kMG]?B/s"
    assert re.search(
        r"waiting for shard_00001/data\.mdb of 'store': another thread or process fetches it, "
        rf"{progress} \(0 s so far\)",
        caplog.text,
    )
    assert re.search(rf"fetching shard_00001/data\.mdb for 0 s: {progress}", caplog.text)


def test_a_slow_download_method_is_logged_by_name(
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(audiomdb.cache.waiting, "_LOG_EVERY_S", 0.001)
    said = threading.Event()

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "waiting for Mine.download_shard(1)" in record.getMessage():
                said.set()

    def download(number: int, _: Path) -> Path:
        assert said.wait(300)
        return store / f"shard_{number:05d}"

    handler = Heard()
    logging.getLogger("audiomdb.cache").addHandler(handler)
    cache = ShardCache(tmp_path / "cache", directory_source(store, download), CacheOptions())
    with caplog.at_level("WARNING", "audiomdb.cache"):
        cache.lease(1)
    logging.getLogger("audiomdb.cache").removeHandler(handler)
    cache.close()


def test_a_store_that_is_down_is_not_retried_by_every_process(opener: Opener) -> None:
    cache = opener(workers=2)
    asked: list[str] = []

    def open_remote(path: str, **_: Any) -> Any:
        asked.append(path)
        raise DownloadInterruptedError("connection refused")

    original = cache.fetching._transfer._open  # type: ignore[attr-defined]
    cache.fetching._transfer._open = open_remote  # type: ignore[attr-defined]
    errors: list[str] = []

    def lease(number: int) -> None:
        try:
            cache.lease(number)
        except DownloadInterruptedError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=lease, args=(number % 5,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert len(errors) == 30
    assert all("connection refused (" in error for error in errors)
    # As many as there are slots may try with patience before the first one gives up.
    assert len(asked) <= 2 * audiomdb.cache.retry._ATTEMPTS + 30
    assert cache.fetching.ahead(0, lambda: None) == "busy"
    asked.clear()
    with pytest.raises(DownloadInterruptedError, match=r"before: .*after 8 failed attempts"):
        cache.lease(0)
    assert len(asked) == 1
    cache.fetching._transfer._open = original  # type: ignore[attr-defined]
    cache.lease(0)
    assert cache.fetching.ahead(1, lambda: None) == "fetched"


@pytest.mark.parametrize("file", ["metadata.json", "index.bin"])
def test_a_store_that_sends_a_small_file_counts_as_up_again(opener: Opener, file: str) -> None:
    def down(_path: str, _at: int) -> None:
        raise DownloadInterruptedError("connection reset")

    cache = opener()
    meet, opener.meet = opener.meet, down
    with pytest.raises(DownloadInterruptedError):
        cache.lease(0)
    assert cache.fetching.ahead(1, lambda: None) == "busy"
    opener.meet = meet
    if file == "metadata.json":
        cache.close()
        cache = opener()
    else:
        assert cache.index_file() is not None
    assert cache.fetching.ahead(1, lambda: None) == "fetched"


@pytest.mark.parametrize("lacking", ["room", "a slot"])
def test_a_stalled_prefetch_gives_way_to_a_waiting_reader(
    lacking: str, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audiomdb.cache.fetching, "_LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(audiomdb.cache.retry, "FIRST_WAIT_S", 1e6)
    store = opener.store
    shards = 1 if lacking == "room" else 3
    cache = opener(max_bytes=budget(store, shards) + 100, workers=1 if shards > 1 else 4)
    registration = cache.register(1, 8)
    cache.publish(registration, [0])
    stuck = threading.Event()
    original = cache.fetching._transfer._open  # type: ignore[attr-defined]

    def open_remote(path: str, **place: Any) -> Any:
        if "shard_00000" in path:
            stuck.set()
            raise DownloadInterruptedError("silence")
        return original(path, **place)

    cache.fetching._transfer._open = open_remote  # type: ignore[attr-defined]
    outcomes: list[str] = []
    thread = threading.Thread(target=lambda: outcomes.append(cache.fetching.ahead(0, lambda: None)))
    thread.start()
    assert stuck.wait(300)
    assert cache.lease(1) == (store / "shard_00001" / "data.mdb").read_bytes()
    thread.join(300)
    assert outcomes == ["full"]
    registration.close()


def test_a_prefetch_that_makes_progress_is_not_broken_off_for_a_reader(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audiomdb.cache.fetching, "_LOOK_EVERY_S", 0.0)
    cache = opener(max_bytes=budget(opener.store, 1) + 100)
    registration = cache.register(1, 8)
    cache.publish(registration, [0])
    begun, waits = threading.Event(), threading.Event()

    def meet(path: str, at: int) -> None:
        if path.startswith("shard_00000") and at:
            begun.set()
            assert waits.wait(300)

    opener.meet = meet
    outcomes: list[str] = []
    thread = threading.Thread(target=lambda: outcomes.append(cache.fetching.ahead(0, lambda: None)))
    thread.start()
    assert begun.wait(300)
    assert cache.lease(1, check=setting(waits)) == opener.content(1)
    thread.join(300)
    assert outcomes == ["fetched"]
    registration.close()


def test_a_reader_without_room_waits_for_a_slow_download_method(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audiomdb.cache.waiting, "_STALL_S", 0.01)
    monkeypatch.setattr(audiomdb.cache.waiting, "_LOOK_EVERY_S", 0.0)
    called, go_on = threading.Event(), threading.Event()

    def download(number: int, _: Path) -> Path:
        if number == 0:
            called.set()
            assert go_on.wait(300)
        return store / f"shard_{number:05d}"

    options = CacheOptions(max_bytes=budget(store, 1) + 100)
    cache = ShardCache(tmp_path / "cache", directory_source(store, download), options)
    registration = cache.register(1, 8)
    cache.publish(registration, [0])
    thread = threading.Thread(target=cache.fetching.ahead, args=(0, lambda: None))
    thread.start()
    assert called.wait(300)
    steps = [0]

    def check() -> None:
        steps[0] += 1
        if steps[0] == 30:  # each of them takes a while
            go_on.set()

    try:
        assert cache.lease(1, check=check) == (store / "shard_00001" / "data.mdb").read_bytes()
    finally:
        go_on.set()
        thread.join(300)
    assert steps[0] >= 30
    registration.close()
    cache.close()


def test_waiting_for_a_download_method_logs_how_much_it_has_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = write_store(tmp_path / "store", 1, 500_000)
    monkeypatch.setattr(audiomdb.cache.waiting, "_LOG_EVERY_S", 0.001)
    written, go_on = threading.Event(), threading.Event()

    def download(number: int, folder: Path) -> Path:
        content = (store / f"shard_{number:05d}" / "data.mdb").read_bytes()
        with (folder / "data.mdb").open("wb", buffering=0) as file:
            file.write(content[:300_000])
            written.set()
            assert go_on.wait(300)
            file.write(content[300_000:])
        return folder

    cache = ShardCache(tmp_path / "cache", directory_source(store, download), CacheOptions())
    thread = threading.Thread(target=cache.lease, args=(0,))

    with caplog.at_level("WARNING", "audiomdb.cache"):
        thread.start()
        assert written.wait(300)
        cache.lease(0, check=setting(go_on))
        thread.join(300)
    assert "another thread or process fetches it, 300.0 kB of " in caplog.text
    cache.close()


def test_an_error_gathering_the_index_waits_for_no_other_download(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audiomdb.threads, "_PATIENCE_S", 0.01)
    called, go_on = threading.Event(), threading.Event()
    ended: list[int] = []

    class Retriever(CopyRetriever):
        def download_shard(self, shard_id: int) -> Path:
            if shard_id == 0:
                assert called.wait(60)
                raise PermissionError("not for you")
            called.set()
            go_on.wait(60)
            ended.append(shard_id)
            return super().download_shard(shard_id)

    retriever = Retriever(store, cache_dir=tmp_path / "cache", workers=2)
    try:
        with pytest.raises(PermissionError, match="not for you"):
            retriever.open().index["blob"]
        assert ended == []
    finally:
        go_on.set()
        for thread in threading.enumerate():
            if thread.name.startswith("audiomdb-gather"):
                thread.join(60)
        retriever.close()


def test_gathering_the_index_of_one_dataset_waits_for_no_other_dataset(
    store: Path, tmp_path: Path
) -> None:
    called, go_on = threading.Event(), threading.Event()

    class Slow(CopyRetriever):
        def download_shard(self, shard_id: int) -> Path:
            called.set()
            assert go_on.wait(300)
            return super().download_shard(shard_id)

    slow = Slow(store, cache_dir=tmp_path / "cache")
    found: list[object] = []

    def read(retriever: BaseRetriever) -> None:
        found.append(retriever.open().index)

    first, second = (
        threading.Thread(target=read, args=(retriever,), daemon=True)
        for retriever in (slow, LocalRetriever(store))
    )
    first.start()
    assert called.wait(300)
    second.start()
    second.join(30)
    try:
        assert len(found) == 1
    finally:
        go_on.set()
        first.join(300)
        second.join(300)
        slow.close()
