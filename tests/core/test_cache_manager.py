from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import audiomdb.cache.fetching
import audiomdb.cache.retry
import audiomdb.cache.waiting
from audiomdb.cache import CacheOptions, DirectorySource, RangeSource, RemoteFile, ShardCache
from audiomdb.errors import (
    CacheTooSmallError,
    CorruptShardError,
    DownloadError,
    DownloadInterruptedError,
    MetadataError,
)
from audiomdb.shards import DatasetWriter, read_metadata
from tests.core.caches import Opener, write_store

pytestmark = pytest.mark.usefixtures("short_waits")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(tmp_path / "store", 5, 30_000)


@pytest.fixture
def opener(store: Path, tmp_path: Path) -> Iterator[Opener]:
    opener = Opener(store, tmp_path)
    yield opener
    opener.close()


def size_of(store: Path) -> int:
    return read_metadata(store).shards[0].bytes


def fixed(store: Path) -> int:
    return (store / "metadata.json").stat().st_size + read_metadata(store).index.bytes + 65536


def names(cache: ShardCache, folder: str) -> list[int]:
    return sorted(int(path.name[:5]) for path in (cache.directory / folder).iterdir())


def damage(store: Path, number: int) -> None:
    path = store / f"shard_{number:05d}" / "data.mdb"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)


def test_a_shard_is_fetched_once_and_then_found(opener: Opener) -> None:
    cache = opener()
    expected = (opener.store / "shard_00003" / "data.mdb").read_bytes()
    assert cache.lease(3) == expected
    assert cache.lease(3) == expected
    stats = cache.stats
    assert (stats.misses, stats.hits, stats.fetched_shards) == (1, 1, 1)
    assert stats.fetched_bytes == len(expected) + (opener.store / "metadata.json").stat().st_size
    assert stats.wait_s > 0


def test_without_a_plan_the_least_recently_used_shard_goes(opener: Opener) -> None:
    cache = opener(max_bytes=3 * size_of(opener.store) + fixed(opener.store))
    for number in (0, 1, 2, 0, 3):
        cache.lease(number)
    assert names(cache, "shards") == [0, 2, 3]
    assert cache.stats.evictions == 1
    assert cache.stats.evicted_bytes == size_of(opener.store)


def test_with_a_plan_the_shard_needed_last_goes(opener: Opener) -> None:
    store = opener.store
    cache = opener(max_bytes=3 * size_of(store) + fixed(store) + 1000)
    registration = cache.register(2, 8)
    cache.publish(registration, [0, 1, 2, 3, 0, 1])
    for done, number in enumerate((0, 1, 2, 3)):
        registration.advance(done)
        cache.lease(number)
    assert names(cache, "shards") == [0, 1, 3]
    registration.close()


def test_a_shard_that_is_read_does_not_go(opener: Opener) -> None:
    cache = opener(max_bytes=2 * size_of(opener.store) + fixed(opener.store))
    view = cache.lease(0)[100:200]
    for number in (1, 2, 3):
        cache.lease(number)
    assert 0 in names(cache, "shards")
    del view
    cache.lease(1)
    cache.lease(2)
    assert 0 not in names(cache, "shards")


def test_prefetching_evicts_only_what_is_needed_later(opener: Opener) -> None:
    store = opener.store
    cache = opener(max_bytes=2 * size_of(store) + fixed(store) + 1000)
    registration = cache.register(1, 8)
    cache.lease(4)
    cache.publish(registration, [0, 1, 2, 3, 4])
    go_on = lambda: None  # noqa: E731
    assert cache.fetching.ahead(0, go_on) == "fetched"
    assert cache.fetching.ahead(0, go_on) == "there"
    assert cache.fetching.ahead(1, go_on) == "fetched"
    assert cache.fetching.ahead(2, go_on) == "full"
    assert names(cache, "shards") == [0, 1]
    registration.close()


def test_what_would_have_to_go_before_it_is_read_is_not_fetched_ahead(opener: Opener) -> None:
    store = opener.store
    cache = opener(max_bytes=2 * size_of(store) + fixed(store) + 1000)
    mine, others = cache.register(1, 8), cache.register(1, 8)
    cache.publish(mine, [0, 1, 2])
    cache.publish(others, [3, 4, 0])
    go_on = lambda: None  # noqa: E731
    # There is room for 1 now; but 0 and 3 are needed sooner, by one reader each.
    assert cache.fetching.ahead(1, go_on) == "full"
    assert cache.fetching.ahead(3, go_on) == "fetched"
    assert cache.fetching.ahead(0, go_on) == "fetched"
    others.advance(3)
    others.close()
    assert cache.fetching.ahead(1, go_on) == "fetched"
    assert names(cache, "shards") == [0, 1]
    mine.close()


def test_a_budget_that_views_use_up_is_reported_instead_of_waiting_for_ever(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audiomdb.cache.waiting, "_STALL_S", 0.01)
    monkeypatch.setattr(audiomdb.cache.waiting, "_LOOK_EVERY_S", 0.0)
    cache = opener(max_bytes=2 * size_of(opener.store) + fixed(opener.store))
    views = [cache.lease(0), cache.lease(1)]
    with pytest.raises(CacheTooSmallError, match="Views"):
        cache.lease(2)
    del views


def test_a_damaged_source_is_reported_with_what_was_expected_and_found(opener: Opener) -> None:
    damage(opener.store, 2)
    cache = opener()
    with pytest.raises(CorruptShardError) as caught:
        cache.lease(2)
    entry = cache.metadata.shards[2]
    text = str(caught.value)
    assert "shard_00002" in text
    assert f"expected {entry.bytes} bytes with sha256 {entry.sha256}" in text
    assert f"found {entry.bytes} bytes with sha256" in text
    assert opener.sent().count("shard_00002/data.mdb") == 2 * -(-entry.bytes // 16384)
    assert names(cache, "shards") == names(cache, "parts") == []
    assert names(cache, "quarantine") == [2]
    assert cache.stats.corrupt == 2
    assert cache.lease(1)[:100] == (opener.store / "shard_00001/data.mdb").read_bytes()[:100]


def test_what_is_quarantined_goes_when_room_is_needed(opener: Opener) -> None:
    damage(opener.store, 2)
    cache = opener(max_bytes=1 * size_of(opener.store) + fixed(opener.store))
    with pytest.raises(CorruptShardError):
        cache.lease(2)
    cache.lease(1)
    assert names(cache, "quarantine") == []


def test_a_truncated_shard_in_the_cache_is_fetched_again(opener: Opener) -> None:
    cache = opener()
    cache.lease(0)
    (path,) = (cache.directory / "shards").iterdir()
    path.write_bytes(b"half")
    assert cache.lease(0) == (opener.store / "shard_00000/data.mdb").read_bytes()


def test_who_waits_gets_the_fetchers_error(opener: Opener) -> None:
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


def test_who_waits_and_who_fetches_say_how_far_and_how_fast_it_goes(
    opener: Opener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audiomdb.cache.waiting, "_SAY_SO_EVERY_S", 0.0)
    fetcher, waiter = opener(), opener()
    asked, go_on = threading.Event(), threading.Event()
    slowed(fetcher, asked, go_on)
    thread = threading.Thread(target=fetcher.lease, args=(1,))
    steps = [0]

    def check() -> None:
        steps[0] += 1
        if steps[0] == 3:
            go_on.set()

    with caplog.at_level("WARNING", "audiomdb.cache"):
        thread.start()
        asked.wait(300)
        waiter.lease(1, check=check)
        thread.join(300)
    assert re.search(
        r"waiting for shard_00001/data\.mdb of 'store': another thread or process fetches it, "
        r"0\.0 of 0\.1 MB are there, at \d+\.\d\d MB/s \(0 s so far\)",
        caplog.text,
    )
    assert re.search(
        r"fetching shard_00001/data\.mdb for 0 s: 0\.0 of 0\.1 MB are there, at \d+\.\d\d MB/s",
        caplog.text,
    )


def test_a_method_that_takes_long_is_named_while_it_does(
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(audiomdb.cache.waiting, "_SAY_SO_EVERY_S", 0.001)
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


def test_a_store_that_is_down_is_not_asked_by_everybody_again_and_again(opener: Opener) -> None:
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


@pytest.mark.parametrize("lacking", ["room", "a slot"])
def test_a_prefetch_that_brings_nothing_gives_way_to_who_waits(
    lacking: str, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audiomdb.cache.fetching, "_LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(audiomdb.cache.retry, "_FIRST_WAIT_S", 1e6)
    store = opener.store
    shards = 1 if lacking == "room" else 3
    cache = opener(
        max_bytes=shards * size_of(store) + fixed(store) + 100, workers=1 if shards > 1 else 4
    )
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


def test_a_failed_prefetch_is_counted_and_left_to_whoever_needs_it(opener: Opener) -> None:
    cache = opener()
    hidden = opener.store / "hidden"
    path = opener.store / "shard_00001" / "data.mdb"
    path.rename(hidden)
    assert cache.fetching.ahead(1, lambda: None) == "failed"
    assert cache.stats.prefetch_errors == 1
    hidden.rename(path)
    assert len(cache.lease(1)) == size_of(opener.store)


def test_the_first_to_open_sees_a_new_version_and_keeps_what_has_not_changed(
    opener: Opener,
) -> None:
    first = opener()
    first.lease(0)
    first.lease(4)
    empty = opener(directory=opener.folder / "other")
    with DatasetWriter(opener.folder / "new", samples_per_shard=1) as writer:
        rng = np.random.default_rng(0)
        for number in range(5):
            blob = rng.bytes(30_000)
            writer.write(f"clip-{number}", {"blob": blob if number < 4 else b"new" * 9000})
    opener.store.rename(opener.folder / "old")
    (opener.folder / "new").rename(opener.store)
    second = opener()
    assert second.metadata == first.metadata, "while one uses the directory, all see the same"
    with pytest.raises(CorruptShardError, match=r"replaced .*in all processes .*open it again"):
        empty.lease(4)
    first.close()
    second.close()
    third = opener()
    assert third.metadata.fingerprint != first.metadata.fingerprint
    third.lease(0)
    assert (third.stats.hits, third.stats.misses) == (1, 0)
    assert third.lease(4) == (opener.store / "shard_00004/data.mdb").read_bytes()


def test_a_smaller_budget_trims_what_an_earlier_run_left(opener: Opener) -> None:
    cache = opener()
    for number in range(5):
        cache.lease(number)
    cache.close()
    small = opener(max_bytes=2 * size_of(opener.store) + fixed(opener.store))
    small.register(1).close()
    assert len(names(small, "shards")) <= 2


def test_the_index_is_fetched_once_and_checked(opener: Opener) -> None:
    cache = opener()
    expected = (opener.store / "index.bin").read_bytes()
    for _ in range(2):
        index = cache.index_file()
        assert index is not None
        assert bytes(index) == expected
    assert opener.sent().count("index.bin") == 1
    (cache.directory / "index.bin").unlink()
    (opener.store / "index.bin").write_bytes(b"damaged")
    with pytest.raises(MetadataError, match="sha256"):
        cache.index_file()


def test_metadata_that_cannot_be_had_is_an_error_each_time(tmp_path: Path) -> None:
    calls: list[str] = []

    def open_remote(path: str, **_: Any) -> Any:
        calls.append(path)
        raise DownloadInterruptedError("busy")

    for attempt in (1, 2):
        with pytest.raises(DownloadInterruptedError, match="busy"):
            ShardCache(tmp_path / "cache", RangeSource(open_remote), CacheOptions())
        assert len(calls) == attempt * audiomdb.cache.retry._ATTEMPTS_AT_THE_START


def directory_source(store: Path, returned: Any) -> DirectorySource:
    def metadata(folder: Path) -> Path:
        (folder / "metadata.json").write_bytes((store / "metadata.json").read_bytes())
        return folder / "metadata.json"

    return DirectorySource("Mine", metadata, lambda number, folder: returned(number, folder))


def test_a_directory_somewhere_else_is_copied_and_left_alone(store: Path, tmp_path: Path) -> None:
    source = directory_source(store, lambda number, _: store / f"shard_{number:05d}")
    cache = ShardCache(tmp_path / "cache", source, CacheOptions())
    assert cache.lease(1) == (store / "shard_00001/data.mdb").read_bytes()
    assert list((cache.directory / "staging").iterdir()) == []
    assert list((cache.directory / "parts").iterdir()) == []
    cache.close()


def test_a_hard_link_is_copied_and_left_alone(store: Path, tmp_path: Path) -> None:
    original = store / "shard_00001" / "data.mdb"
    original.chmod(0o444)
    os.utime(original, (1, 1))

    def linked(_: int, folder: Path) -> Path:
        (folder / "data.mdb").hardlink_to(original)
        return folder

    source = directory_source(store, linked)
    caches = [ShardCache(tmp_path / name, source, CacheOptions()) for name in ("one", "two")]
    leases = [cache.lease(1) for cache in caches]
    assert leases == [original.read_bytes()] * 2
    facts = original.stat()
    assert (facts.st_mtime, facts.st_mode & 0o777, facts.st_nlink) == (1, 0o444, 1)
    for cache in caches:
        cache.close()


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (lambda _, folder: str(folder / "shard_00001"), "no data.mdb"),
        (lambda *_: None, "returned None, expected a directory"),
    ],
)
def test_a_method_that_leaves_no_shard_is_named(
    store: Path, tmp_path: Path, returned: Any, text: str
) -> None:
    cache = ShardCache(tmp_path / "cache", directory_source(store, returned), CacheOptions())
    with pytest.raises(DownloadError, match=text) as caught:
        cache.lease(1)
    assert "Mine.download_shard(1)" in str(caught.value)
    cache.close()
