from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import audiomdb.cache.retry
from audiomdb.cache import CacheOptions, RangeSource, ShardCache
from audiomdb.errors import (
    CorruptShardError,
    DownloadError,
    DownloadInterruptedError,
    MetadataError,
)
from audiomdb.shards import DatasetWriter, read_metadata
from tests.core.caches import Opener, budget, directory_source, write_store

pytestmark = pytest.mark.usefixtures("short_waits")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(tmp_path / "store", 5, 30_000)


def size_of(store: Path) -> int:
    return read_metadata(store).shards[0].bytes


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


@pytest.mark.parametrize("kind", ["ranges", "directories"])
def test_a_shard_is_on_the_disk_before_it_counts_as_whole(
    opener: Opener, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole shards are not checked again, also not after the power has failed."""
    synced: list[tuple[int, bool]] = []
    fsync, cache = os.fsync, opener(kind)

    def noting(fd: int) -> None:
        fsync(fd)
        whole = list((opener.directory / "shards").glob("00000-*"))
        synced.append((os.fstat(fd).st_ino, bool(whole)))

    monkeypatch.setattr(os, "fsync", noting)
    cache.lease(0)
    assert (opener.file("shards", 0).stat().st_ino, False) in synced


def test_the_least_recently_used_shard_is_evicted_without_a_plan(opener: Opener) -> None:
    cache = opener(max_bytes=budget(opener.store, 3))
    for number in (0, 1, 2, 0, 3):
        cache.lease(number)
    assert names(cache, "shards") == [0, 2, 3]
    assert cache.stats.evictions == 1
    assert cache.stats.evicted_bytes == size_of(opener.store)


def test_the_shard_needed_last_is_evicted_if_there_is_a_plan(opener: Opener) -> None:
    store = opener.store
    cache = opener(max_bytes=budget(store, 3) + 1000)
    registration = cache.register(2, 8)
    cache.publish(registration, [0, 1, 2, 3, 0, 1])
    for done, number in enumerate((0, 1, 2, 3)):
        registration.advance(done)
        cache.lease(number)
    assert names(cache, "shards") == [0, 1, 3]
    registration.close()


def test_a_shard_in_use_is_not_evicted(opener: Opener) -> None:
    cache = opener(max_bytes=budget(opener.store, 2))
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
    cache = opener(max_bytes=budget(store, 2) + 1000)
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


def test_shards_that_would_be_evicted_before_use_are_not_prefetched(opener: Opener) -> None:
    store = opener.store
    cache = opener(max_bytes=budget(store, 2) + 1000)
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


def test_quarantined_files_are_removed_when_room_is_needed(opener: Opener) -> None:
    damage(opener.store, 2)
    cache = opener(max_bytes=budget(opener.store, 1))
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


def test_a_failed_prefetch_is_counted_and_retried_on_demand(opener: Opener) -> None:
    cache = opener()
    hidden = opener.store / "hidden"
    path = opener.store / "shard_00001" / "data.mdb"
    path.rename(hidden)
    assert cache.fetching.ahead(1, lambda: None) == "failed"
    assert cache.stats.prefetch_errors == 1
    hidden.rename(path)
    assert len(cache.lease(1)) == size_of(opener.store)


def test_reopening_finds_a_new_version_and_keeps_unchanged_shards(
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
    small = opener(max_bytes=budget(opener.store, 2))
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


def test_unavailable_metadata_is_an_error_on_every_attempt(tmp_path: Path) -> None:
    calls: list[str] = []

    def open_remote(path: str, **_: Any) -> Any:
        calls.append(path)
        raise DownloadInterruptedError("busy")

    for attempt in (1, 2):
        with pytest.raises(DownloadInterruptedError, match="busy"):
            ShardCache(tmp_path / "cache", RangeSource(open_remote), CacheOptions())
        assert len(calls) == attempt * audiomdb.cache.retry._ATTEMPTS_AT_THE_START


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
