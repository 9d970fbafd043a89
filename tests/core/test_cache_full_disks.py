"""What becomes of a cache whose disk is full, or too small."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from audiomdb.cache import CacheOptions, ShardCache
from audiomdb.errors import CacheFullError, DownloadError
from tests.core.caches import CopyRetriever, Opener, directory_source, write_store
from tests.core.disks import mounted_disk

pytestmark = pytest.mark.usefixtures("short_waits")

SHARDS = 5


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store"), SHARDS, 200_000)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 640 KiB: three of the shards, and not much more."""
    with mounted_disk(tmp_path / "disk", "640k", lazily=True) as folder:
        yield folder
        gc.collect()


def fill(folder: Path) -> Path:
    """Leave no room on the disk; returns the file that takes it."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return ballast


@pytest.mark.parametrize("kind", ["ranges", "directories"])
def test_a_full_disk_is_a_smaller_budget(opener: Opener, small_disk: Path, kind: str) -> None:
    cache = opener(kind, directory=small_disk / "cache")
    for number in (0, 1, 2, 3, 4, 0, 1):
        assert cache.lease(number) == opener.content(number)
    assert cache.stats.evictions >= 4
    cache.close()


@pytest.mark.parametrize("kind", ["ranges", "directories"])
def test_a_full_disk_with_every_shard_in_use_is_an_error(
    opener: Opener, small_disk: Path, kind: str
) -> None:
    cache = opener(kind, directory=small_disk / "cache")
    views: list[memoryview] = []
    with pytest.raises(CacheFullError, match="max_cache_bytes"):
        views.extend(map(cache.lease, range(SHARDS)))
    assert len(views) >= 2
    del views
    assert cache.lease(4) == opener.content(4)
    cache.close()


@pytest.mark.parametrize("kind", ["ranges", "directories"])
def test_a_full_disk_evicts_nothing_for_a_shard_needed_later(
    opener: Opener, small_disk: Path, kind: str
) -> None:
    cache = opener(kind, directory=small_disk / "cache")
    registration = cache.register(1, 8)
    cache.publish(registration, list(range(SHARDS)))

    def ahead(*numbers: int) -> list[str]:
        return [cache.fetching.ahead(number, lambda: None) for number in numbers]

    view = cache.lease(0)
    assert ahead(1, 2, 1) == ["fetched", "full", "there"]
    assert "shard_00002/data.mdb" not in opener.sent()
    del view
    registration.advance(1)
    assert ahead(2, 1) == ["fetched", "there"]
    registration.close()
    cache.close()


def test_a_disk_that_reports_what_was_evicted_late_is_not_emptied(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = opener()
    registration = cache.register(1, 8)
    cache.publish(registration, list(range(SHARDS)))
    for number in (2, 3, 4):
        cache.lease(number)
    usage = shutil.disk_usage(cache.directory)
    size = len(opener.content(1))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=size // 2))
    assert cache.fetching.ahead(1, lambda: None) == "fetched"
    assert cache.stats.evictions == 1
    registration.close()


def test_another_full_disk_evicts_no_cached_shards(opener: Opener, store: Path) -> None:
    full = True

    def shard(number: int, folder: Path) -> Path:
        if full and number == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "scratch")
        shutil.copy(store / f"shard_{number:05d}" / "data.mdb", folder)
        return folder

    source = directory_source(store, shard)
    cache = ShardCache(opener.directory, source, CacheOptions())
    cache.lease(0)
    with pytest.raises(DownloadError, match=r"'scratch', although there is room on the disk of"):
        cache.lease(1)
    assert cache.stats.evictions == 0
    full = False
    assert cache.lease(1) == opener.content(1)
    cache.close()


def test_a_quota_that_is_used_up_is_a_full_disk(opener: Opener, store: Path) -> None:
    refused: list[int] = []

    def shard(number: int, folder: Path) -> Path:
        if number == 1 and not refused:
            refused.append(number)
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(folder))
        shutil.copy(store / f"shard_{number:05d}" / "data.mdb", folder)
        return folder

    source = directory_source(store, shard)
    cache = ShardCache(opener.directory, source, CacheOptions())
    cache.lease(0)
    assert cache.lease(1) == opener.content(1)
    assert (refused, cache.stats.evictions) == ([1], 1)
    cache.close()


@pytest.mark.parametrize("pickled", [False, True])
def test_shards_kept_open_by_a_reader_are_released_on_a_full_disk(
    store: Path, small_disk: Path, pickled: bool
) -> None:
    retriever = CopyRetriever(store, cache_dir=small_disk, prefetch=0)
    reader = retriever.open()
    if pickled:
        reader = pickle.loads(pickle.dumps(reader))
    shards: Any = reader._source
    for number in (0, 1, 2, 3, 4, 0, 1):
        assert len(reader[f"clip-{number}"]["blob"]) == 200_000
    assert shards.cache.stats.evictions >= 4
    shards.close()
    retriever.close()


def test_on_a_full_disk_a_reader_waits_for_the_shard_that_another_fetches(
    opener: Opener, small_disk: Path
) -> None:
    cache = opener(directory=small_disk / "cache")
    disk = os.statvfs(small_disk)
    # There is room for one shard, or for what comes of it before `meet` and most of another.
    (small_disk / "ballast").write_bytes(bytes(disk.f_bavail * disk.f_frsize - 260_000))
    begun, go_on = threading.Event(), threading.Event()

    def meet(path: str, at: int) -> None:
        if path.startswith("shard_00000") and at > 100_000:
            begun.set()
            go_on.wait()

    opener.meet = meet
    other = threading.Thread(target=lambda: cache.lease(0))
    other.start()
    begun.wait()
    steps = 0

    def check() -> None:
        nonlocal steps
        steps += cache._room.wanted()
        if steps == 60:
            go_on.set()

    try:
        assert cache.lease(1, check=check) == opener.content(1)
        assert go_on.is_set()
        whole = len(opener.content(1)) // 16384 + 1
        assert opener.sent().count("shard_00001/data.mdb") <= 2 * whole, "it asks at every step"
    finally:
        go_on.set()
        other.join()
    cache.close()


@pytest.mark.parametrize("kind", ["ranges", "directories"])
def test_a_disk_without_any_room_is_an_error_when_the_cache_is_opened(
    opener: Opener, small_disk: Path, kind: str
) -> None:
    ballast = fill(small_disk)
    with pytest.raises(CacheFullError, match="free some space"):
        opener(kind, directory=small_disk / "cache")
    ballast.unlink()
    assert opener(kind, directory=small_disk / "cache").lease(0) == opener.content(0)
    opener.opened[-1].close()


@pytest.mark.parametrize("kind", ["ranges", "directories"])
def test_a_cache_on_a_full_disk_opens_by_evicting_the_oldest(
    opener: Opener, small_disk: Path, kind: str
) -> None:
    cache = opener(kind, directory=small_disk / "cache")
    for number in (0, 1, 0):
        cache.lease(number)
    cache.close()
    (cache.directory / "metadata.json").unlink()
    fill(small_disk)
    again = opener(kind, directory=small_disk / "cache")
    assert [path.name[:5] for path in (again.directory / "shards").iterdir()] == ["00000"]
    assert again.lease(0) == opener.content(0)
    again.close()


def test_a_reader_that_registers_on_a_full_disk_makes_room(
    opener: Opener, small_disk: Path
) -> None:
    cache = opener(directory=small_disk / "cache")
    for number in (0, 1):
        cache.lease(number)
    fill(small_disk)
    registration = cache.register(1, 100_000)
    cache.publish(registration, list(range(SHARDS)) * 20_000)
    assert len(list((cache.directory / "shards").iterdir())) < 2
    registration.close()
    cache.close()


@pytest.mark.parametrize("gathered", [False, True])
def test_the_index_evicts_shards_on_a_full_disk_or_is_read_unstored(
    opener: Opener, small_disk: Path, gathered: bool
) -> None:
    content = (opener.store / "index.bin").read_bytes()
    cache = opener(directory=small_disk / "cache")
    assert cache.lease(0) == opener.content(0)

    def read() -> None:
        if gathered:
            cache.keep_index(content)
        else:
            assert cache.index_file() == memoryview(content)

    view = cache.lease(1)
    cache.lease(0)
    fill(small_disk)
    read()
    kept = cache.directory / "index.bin"
    assert kept.read_bytes() == content
    assert cache.stats.evictions == 1  # the shard that nobody reads
    kept.unlink()
    fill(small_disk)
    read()
    assert not kept.exists()
    assert view == opener.content(1)
    cache.close()
