"""What becomes of a cache whose directory somebody tampers with while it is used."""

from __future__ import annotations

import gc
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import audiomdb.cache.fetching
from audiomdb.errors import (
    CachePlaceError,
    CacheTooSmallError,
    DownloadError,
    DownloadInterruptedError,
)
from tests.core.caches import Opener, budget, write_store

pytestmark = pytest.mark.usefixtures("short_waits")

SHARDS = 5


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store"), SHARDS, 200_000)


# Things that vanish, or change.


def test_a_directory_that_is_deleted_under_its_readers_is_made_again(opener: Opener) -> None:
    cache = opener(max_bytes=budget(opener.store, 3) + 1000)
    registration = cache.register(1, 8)
    cache.publish(registration, [0, 1, 2])
    view = cache.lease(0)
    shutil.rmtree(cache.directory)
    assert cache.lease(1) == opener.content(1)
    assert view == opener.content(0)
    registration.advance(1)
    cache.publish(registration, [0, 2])
    assert cache.lease(0) == opener.content(0)
    registration.close()
    assert opener().lease(2) == opener.content(2)
    assert cache.index_file() is not None


def test_a_shard_that_is_deleted_is_fetched_again(opener: Opener) -> None:
    cache = opener()
    view = cache.lease(0)
    opener.file("shards", 0).unlink()
    assert cache.lease(0) == view == opener.content(0)
    assert cache.stats.fetched_shards == 2


@pytest.mark.parametrize("other", [None, b"", b"something else"])
def test_a_part_that_somebody_replaces_never_becomes_a_shard(
    opener: Opener, other: bytes | None
) -> None:
    replaced: list[int] = []

    def meet(path: str, at: int) -> None:
        if path.endswith("data.mdb") and at > 50_000 and not replaced:
            replaced.append(at)
            part = opener.file("parts", 0)
            part.unlink()
            if other is not None:
                part.write_bytes(other)

    opener.meet = meet
    cache = opener()
    assert cache.lease(0) == opener.content(0)
    assert replaced
    assert opener.file("shards", 0).read_bytes() == opener.content(0)
    assert list((cache.directory / "parts").iterdir()) == []


@pytest.mark.parametrize("size", [0, 1000, 10**6])
def test_a_part_that_somebody_cuts_off_while_it_grows_begins_anew(
    opener: Opener, size: int
) -> None:
    done: list[int] = []

    def meet(path: str, at: int) -> None:
        if path.endswith("data.mdb") and at > 50_000 and not done:
            done.append(at)
            os.truncate(opener.file("parts", 0), size)

    opener.meet = meet
    cache = opener()
    assert cache.lease(0) == opener.content(0)
    assert cache.stats.retries == 1
    assert cache.stats.corrupt == 0


@pytest.mark.parametrize("room", [1, 2])
def test_a_damaged_file_is_kept_only_if_the_budget_allows_it(
    store: Path, tmp_path: Path, room: int
) -> None:
    opener = Opener(shutil.copytree(store, tmp_path / "damaged"), tmp_path)
    good, path = opener.content(0), opener.store / "shard_00000" / "data.mdb"
    path.write_bytes(bytes(len(good)))
    kept: list[int] = []

    def meet(asked: str, at: int) -> None:
        if asked.startswith("shard_00000") and at == 0:
            kept.append(len(list((opener.directory / "quarantine").iterdir())))
            (tmp_path / "good").write_bytes(good)
            (tmp_path / "good").replace(path)  # what is being read stays as it is

    opener.meet = meet
    cache = opener(max_bytes=budget(store, room) + 100)
    assert cache.lease(0) == good
    assert kept == [0, room - 1]
    opener.close()


@pytest.mark.parametrize("damage", ["shorter", "longer", "a folder"])
def test_a_shard_of_the_wrong_size_is_replaced_though_others_read_it(
    opener: Opener, damage: str
) -> None:
    other = opener()
    view = other.lease(0)
    path = opener.file("shards", 0)
    if damage == "longer":
        with path.open("ab") as file:
            file.write(b"more")
    else:
        path.unlink()
        if damage == "shorter":
            path.write_bytes(opener.content(0)[:-1])
        else:
            (path / "sub").mkdir(parents=True)
    assert opener().lease(0) == opener.content(0)
    assert view == opener.content(0)


def test_a_stray_folder_among_the_shards_is_ignored(opener: Opener) -> None:
    cache = opener(max_bytes=budget(opener.store, 2) + 5000)
    (cache.directory / "shards" / "mine").mkdir()
    for number in range(SHARDS):
        assert cache.lease(number) == opener.content(number)


def test_metadata_that_is_damaged_in_a_cache_in_use_is_fetched_again(opener: Opener) -> None:
    first = opener()
    (first.directory / "metadata.json").write_bytes(b"{damaged")
    second = opener()
    assert second.metadata == first.metadata
    assert second.lease(0) == opener.content(0)


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\xff\xfe garbage",
        b'{"attempt": "x"}',
        b'{"attempt": 1, "kind": "\xff", "text": "", "max_bytes": null, "workers": 0}',
        b'{"attempt": 1, "max_bytes": -1, "workers": 4, "\xff": 0}',
    ],
)
def test_notes_that_make_no_sense_are_overlooked(opener: Opener, note: bytes) -> None:
    cache = opener()
    name = cache._room.names[0]
    for path in (
        cache.directory / "failed" / name,
        cache.directory / "failed" / "metadata.json",
        cache.directory / "readers" / "1-garbage",
        cache.directory / "parts" / name,
        cache.directory / "parts" / f"{name}.validator",
        cache.directory / "parts" / f"{name}.spans",
        cache.directory / "options.json",
    ):
        path.write_bytes(note)
    again = opener(max_bytes=budget(opener.store, 2) + 1000)
    assert again.options.max_bytes == budget(opener.store, 2) + 1000
    assert again.options.workers == cache.options.workers
    registration = again.register(1, 8)
    assert again.lease(0) == opener.content(0)
    registration.close()


def test_a_failure_that_cannot_be_noted_is_raised_all_the_same(opener: Opener) -> None:
    cache = opener()
    shutil.rmtree(cache.directory / "failed")
    (cache.directory / "failed").write_bytes(b"")

    def meet(path: str, _: int) -> None:
        raise DownloadError(f"no {path} today")

    opener.meet = meet
    with pytest.raises(DownloadError, match="today"):
        cache.lease(0)
    opener.meet = lambda _path, _at: None
    assert cache.lease(0) == opener.content(0)


def test_nonsensical_file_times_only_change_the_eviction_order(opener: Opener) -> None:
    cache = opener(max_bytes=budget(opener.store, 2))
    for number, at in ((0, 2**33), (1, 0)):
        cache.lease(number)
        os.utime(opener.file("shards", number), (at, at))
    for number in (2, 3, 4, 0, 1):
        assert cache.lease(number) == opener.content(number)


# Those who share a directory, and do not agree.


def test_the_first_processs_limits_hold_for_all_and_others_are_told(
    opener: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    small = budget(opener.store, 2)
    first = opener(max_bytes=small, workers=2, prefetch=1)
    with caplog.at_level(logging.WARNING, "audiomdb.cache"):
        second = opener(max_bytes=None, workers=9, prefetch=3)
    assert f"in use with max_cache_bytes={small} and workers=2" in caplog.text
    assert (second.options.max_bytes, second.options.workers) == (small, 2)
    assert second.options.prefetch == 3
    for number in range(SHARDS):
        second.lease(number)
    assert len(list((second.directory / "shards").iterdir())) == 2
    first.close()
    second.close()
    caplog.clear()
    assert opener(workers=9).options.workers == 9
    assert caplog.text == ""


def test_leases_in_garbage_cycles_end_when_room_is_needed(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audiomdb.cache.fetching, "_COLLECT_AFTER_S", 0.0)
    cache = opener(max_bytes=budget(opener.store, 1))
    gc.disable()
    try:
        for number in range(SHARDS):
            circle: dict[str, Any] = {"view": cache.lease(number)}
            circle["circle"] = circle
            del circle
    finally:
        gc.enable()


def test_a_client_that_keeps_its_errors_keeps_no_shards(opener: Opener) -> None:
    kept: list[Exception] = []

    def cut() -> None:
        error = DownloadInterruptedError("cut")
        kept.append(error)
        raise error

    def meet(path: str, at: int) -> None:
        if path.endswith("data.mdb") and at > 150_000 and at not in cut_at:
            cut_at.add(at)
            cut()

    opener.meet = meet
    cache = opener(max_bytes=budget(opener.store, 1))
    for number in range(SHARDS):
        cut_at = set[int]()
        assert cache.lease(number) == opener.content(number)
        assert len(kept) > number


# Places and budgets that are refused.


def test_a_directory_that_cannot_be_written_is_named(
    opener: Opener, tmp_path: Path, read_only: Callable[[Path], Path]
) -> None:
    folder = tmp_path / "media"
    folder.mkdir()
    with pytest.raises(CachePlaceError, match=r"there can be no cache at .*cache_dir="):
        opener(directory=read_only(folder) / "cache")


def test_a_budget_of_zero_is_refused_with_the_smallest_that_works(opener: Opener) -> None:
    with pytest.raises(CacheTooSmallError, match="The smallest that works"):
        opener(max_bytes=0).register(1, 10)


def test_a_refusal_lists_the_needs_of_readers_that_have_not_begun(opener: Opener) -> None:
    with pytest.raises(CacheTooSmallError) as caught:
        opener(max_bytes=0).register(1, 10)
    opener.close()
    text = str(caught.value)
    least, each = (
        int(re.search(pattern, text)[1])  # type: ignore[index]
        for pattern in (r"works is max_cache_bytes=(\d+);", r"each needs up to (\d+) more")
    )
    for limit in (least + each - 1, least + each):
        cache = opener(max_bytes=limit)
        first = cache.register(1, 10)
        if limit < least + each:
            with pytest.raises(
                CacheTooSmallError, match=f"works is max_cache_bytes={least + each};"
            ):
                cache.register(1, 10)
        else:
            cache.register(1, 10).close()
        first.close()
        cache.close()
