"""A cache directory, or a part of it, is deleted while it is used: all goes on, or says why not."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

import audiomdb.cache.transfer
from audiomdb.cache import CacheOptions, DirectorySource, ShardCache
from audiomdb.cache.layout import _FOLDERS, CacheLayout
from audiomdb.cache.readers import live_readings
from audiomdb.errors import CacheError, CachePlaceError, CacheTooSmallError, CorruptShardError
from audiomdb.shards import read_metadata
from audiomdb.stream import SampleStream
from tests.core.caches import CopyRetriever, Opener, write_store
from tests.core.nodes import Node, smallest

pytestmark = pytest.mark.usefixtures("short_waits")

SHARDS = 6
DEADLINE_S = 60.0

T = TypeVar("T")

KINDS = pytest.mark.parametrize("kind", ["ranges", "pieces", "directories"])
LIMITS = pytest.mark.parametrize("limited", [False, True], ids=["no limit", "a budget"])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store"), SHARDS, 100_000)


class Deleter(Opener):
    """Opens caches, and deletes what lies in their directory."""

    @property
    def layout(self) -> CacheLayout:
        return CacheLayout(self.directory)

    def delete(self, name: str) -> None:
        """Delete something by its name; "*" is all there is, "." the directory itself."""
        if name == ".":
            shutil.rmtree(self.directory)
            return
        for path in self.directory.glob(name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def meet_once(self, act: Callable[[], None]) -> threading.Event:
        """Do something in the middle of the next shard that is sent."""
        done = threading.Event()

        def meet(path: str, at: int) -> None:
            if path.endswith(".mdb") and at > 30_000 and not done.is_set():
                done.set()
                act()

        self.meet = meet
        return done


@pytest.fixture
def opener(store: Path, tmp_path: Path) -> Iterator[Deleter]:
    opener = Deleter(store, tmp_path)
    yield opener
    opener.close()


@pytest.fixture
def node(store: Path, tmp_path: Path) -> Iterator[Node]:
    node = Node(store, tmp_path)
    yield node
    node.close()


def within_deadline(action: Callable[[], T]) -> T:
    """Do something that has to come to an end."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(action())
        except BaseException as error:  # noqa: BLE001 (raised below)
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    assert not thread.is_alive(), "it hangs"
    for error in errors:
        raise error
    return results[0]


def budget(store: Path, shards: int) -> int:
    return smallest(store, readers=1, at_once=shards) + 1000


def all_right(opener: Deleter, cache: ShardCache) -> bool:
    return within_deadline(
        lambda: all(cache.lease(number) == opener.content(number) for number in range(SHARDS))
    )


# What is deleted.


@LIMITS
@pytest.mark.parametrize(
    "name",
    [".", "*", *_FOLDERS, "*.lock", "*.json", "s*", "[!r]*"],
)
def test_reading_continues_whatever_is_deleted_from_the_cache(
    name: str, limited: bool, opener: Deleter
) -> None:
    cache = opener(max_bytes=budget(opener.store, 2) if limited else None, workers=2)
    registration = cache.register(1, 8)
    cache.publish(registration, list(range(SHARDS)))
    view = cache.lease(0)
    opener.delete(name)
    assert all_right(opener, cache)
    assert view == opener.content(0)
    opener.delete(name)
    assert within_deadline(lambda: cache.index_file()) is not None
    within_deadline(lambda: cache.publish(registration, [2, 1]))
    assert opener.layout.is_whole()
    assert len(list(opener.layout.readers.iterdir())) == 1
    within_deadline(lambda: cache.register(1)).close()
    registration.close()
    assert list(opener.layout.readers.iterdir()) == []


@pytest.mark.parametrize("name", [".", "*", "shards", "parts", "slots", "readers"])
def test_files_deleted_before_prefetching_are_made_again(name: str, opener: Deleter) -> None:
    cache = opener(max_bytes=budget(opener.store, 2), workers=2)
    registration = cache.register(1, 8)
    cache.publish(registration, [0, 1])
    opener.delete(name)
    assert within_deadline(lambda: cache.fetching.ahead(0, lambda: None)) == "fetched"
    assert cache.lease(0) == opener.content(0)
    assert cache.stats.hits == 1
    registration.close()


@KINDS
@pytest.mark.parametrize("name", [".", "*", "shards", "parts", "staging", "slots", "staging/*"])
def test_files_deleted_during_a_download_are_made_again(
    kind: str, name: str, opener: Deleter, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "pieces":
        monkeypatch.setattr(audiomdb.cache.transfer, "_LEAST_PIECE", 20_000)
    cache = opener(kind, max_bytes=budget(opener.store, 2))
    done = opener.meet_once(lambda: opener.delete(name))
    assert all_right(opener, cache)
    assert done.is_set()
    for folder in (opener.layout.parts, opener.layout.staging):
        assert list(folder.iterdir()) == []


@KINDS
@pytest.mark.parametrize("name", [".", "parts", "quarantine"])
def test_a_damaged_shard_is_reported_though_there_is_no_quarantine(
    kind: str, name: str, opener: Deleter, tmp_path: Path
) -> None:
    opener.store = Path(shutil.copytree(opener.store, tmp_path / "damaged"))
    path = opener.store / "shard_00001" / "data.mdb"
    path.write_bytes(path.read_bytes()[:-9] + b"something")
    cache = opener(kind)
    done = opener.meet_once(lambda: opener.delete(name))
    with pytest.raises(CorruptShardError, match="arrived damaged twice"):
        within_deadline(lambda: cache.lease(1))
    assert done.is_set()
    assert within_deadline(lambda: cache.lease(2)) == opener.content(2)


def test_many_threads_read_on_while_the_directory_is_deleted(opener: Deleter) -> None:
    cache = opener(max_bytes=budget(opener.store, 5), workers=3)
    left = [8]

    def meet(path: str, at: int) -> None:
        if path.endswith(".mdb") and at > 60_000 and left[0]:
            left[0] -= 1
            shutil.rmtree(opener.directory, ignore_errors=True)

    opener.meet = meet
    wrong: list[object] = []

    def read(first: int) -> None:
        try:
            numbers = [number % SHARDS for number in range(first, first + 2 * SHARDS)]
            wrong.extend(one for one in numbers if cache.lease(one) != opener.content(one))
        except Exception as error:  # noqa: BLE001 (seen below)
            wrong.append(error)

    threads = [threading.Thread(target=read, args=(one,), daemon=True) for one in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive(), "it hangs"
    assert wrong == []
    assert left == [0]


# What cannot be helped.


def test_deleting_every_shard_as_it_arrives_ends_in_an_error(opener: Deleter) -> None:
    cache = opener()

    def meet(path: str, _: int) -> None:
        if path.endswith(".mdb"):
            opener.delete("parts")

    opener.meet = meet
    with pytest.raises(CacheError, match=r"cache, or a part of it, is deleted as often as"):
        within_deadline(lambda: cache.lease(0))
    opener.meet = lambda _path, _at: None
    assert cache.lease(0) == opener.content(0)


def test_a_directory_that_cannot_be_made_again_is_named(
    opener: Deleter, tmp_path: Path, read_only: Callable[[Path], Path]
) -> None:
    cache = opener()
    shutil.rmtree(opener.directory)
    (tmp_path / "empty").mkdir()
    opener.directory.symlink_to(read_only(tmp_path / "empty"))
    with pytest.raises(CachePlaceError, match=f"there can be no cache at {opener.directory}"):
        within_deadline(lambda: cache.lease(0))
    with pytest.raises(CachePlaceError, match=f"there can be no cache at {opener.directory}"):
        within_deadline(lambda: cache.register(1))
    opener.directory.unlink()
    assert within_deadline(lambda: cache.lease(0)) == opener.content(0)


def test_a_file_that_a_source_misses_is_its_own_error(store: Path, tmp_path: Path) -> None:
    def metadata(folder: Path) -> str:
        return str(shutil.copy(store / "metadata.json", folder / "metadata.json"))

    def missing(*_: object) -> str:
        raise FileNotFoundError("credentials.txt")

    with pytest.raises(FileNotFoundError, match=r"credentials\.txt"):
        within_deadline(
            lambda: ShardCache(
                tmp_path / "one", DirectorySource("Mine", missing, missing), CacheOptions()
            )
        )
    cache = ShardCache(tmp_path / "two", DirectorySource("Mine", metadata, missing), CacheOptions())
    with pytest.raises(FileNotFoundError, match=r"credentials\.txt"):
        within_deadline(lambda: cache.lease(0))
    cache.close()


# What those who share it have to agree on.


@pytest.mark.parametrize("name", [".", "*", "in_use.lock"])
def test_a_restored_directory_stays_in_use_until_its_last_user_closes_it(
    name: str, opener: Deleter
) -> None:
    limits: dict[str, Any] = {"max_bytes": budget(opener.store, 3), "workers": 2}
    first, second = opener(**limits), opener(**limits)
    opener.delete(name)
    for cache in (first, second):
        within_deadline(lambda cache=cache: cache.register(1)).close()  # type: ignore[misc]
    first.close()
    third = opener(workers=7)
    assert third.options == second.options
    second.close()
    third.close()
    assert opener(workers=7).options.workers == 7


def test_the_first_to_reopen_a_deleted_directory_sets_its_limits(
    opener: Deleter, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = opener(workers=3), opener(workers=3)
    shutil.rmtree(opener.directory)
    newcomer = opener(max_bytes=budget(opener.store, 2), workers=2)
    for cache in (first, second):
        assert all_right(opener, cache)
        assert cache.options == newcomer.options
        assert cache.metadata == newcomer.metadata
    assert len(list(opener.layout.shards.iterdir())) == 2
    assert caplog.text.count(f"workers=2, which hold for process {os.getpid()} too") == 2


def test_deleted_metadata_and_limits_are_restored_unchanged(opener: Deleter) -> None:
    first = opener(max_bytes=budget(opener.store, 3), workers=2)
    opener.delete("*.json")
    first.register(1).close()
    assert opener(workers=9).options == first.options
    assert opener.log.read_text().count("metadata.json") == 1


@pytest.mark.parametrize("name", [".", "readers", "readers/*"])
def test_a_reader_whose_entry_is_deleted_is_counted_again(name: str, opener: Deleter) -> None:
    cache = opener(max_bytes=smallest(opener.store, readers=2, at_once=2) + 100)
    mine, others = cache.register(2, 8), cache.register(1, 8)
    cache.publish(mine, [0, 1, 2, 3])
    mine.advance(1)
    mine.mark_done(2)
    others.close()
    opener.delete(name)
    mine.advance(2)  # goes on in what is deleted, and is entered with it
    cache.lease(0)
    ((reading, _),) = live_readings(opener.layout.readers)
    assert reading.visits is not None
    assert reading.visits.tolist() == [-1, 3]  # the third is struck, and two are over
    assert reading.needs == 2 * read_metadata(opener.store).shards[0].bytes
    with pytest.raises(CacheTooSmallError, match="1 other reader"):
        cache.register(3, 8)
    mine.advance(3)
    ((reading, _),) = live_readings(opener.layout.readers)
    assert reading.visits is not None
    assert reading.visits.tolist() == [3]
    mine.close()
    mine.advance(4)
    assert list(live_readings(opener.layout.readers)) == []


def test_a_directory_deleted_during_opening_is_opened_anyway(
    opener: Deleter,
) -> None:
    deleted = threading.Event()

    def meet(path: str, _: int) -> None:
        if path == "metadata.json" and not deleted.is_set():
            deleted.set()
            shutil.rmtree(opener.directory)

    opener.meet = meet
    cache = within_deadline(lambda: opener(workers=2))
    assert deleted.is_set()
    assert all_right(opener, cache)
    assert opener(workers=5).options.workers == 2


@pytest.mark.parametrize("source", ["ranges", "directories"])
def test_processes_read_on_while_their_directory_is_deleted(source: str, node: Node) -> None:
    limit = smallest(node.store, readers=4, at_once=2)
    started = [
        node.start(
            seed=i, epochs=6, prefetch=2, max_bytes=limit, workers=2, source=source, pause_s=0.001
        )
        for i in range(3)
    ]
    # Whoever misses the deadline is killed, and has no result then.

    def kill() -> None:
        for process, _ in started:
            os.kill(process, signal.SIGKILL)

    overdue = threading.Timer(DEADLINE_S, kill)
    overdue.start()
    deleted, shards = 0, node.cache / "shards"
    while not all(result.exists() for _, result in started) and overdue.is_alive():
        # Not before two shards came through, or none ever would.
        if deleted < 12 and shards.exists() and len(list(shards.iterdir())) > 1:
            shutil.rmtree(node.cache, ignore_errors=True)
            deleted += 1
    assert overdue.is_alive(), "it hangs"
    results = [node.result(one) for one in started]
    overdue.cancel()
    assert [result.get("right") for result in results] == [6 * SHARDS] * 3, results
    assert deleted > 2


# What a stream makes of it.


@LIMITS
def test_a_stream_continues_its_epoch_after_its_cache_is_deleted(
    limited: bool, store: Path, tmp_path: Path
) -> None:
    limit = budget(store, 5) if limited else None
    retriever = CopyRetriever(store, cache_dir=tmp_path / "caches", max_cache_bytes=limit)
    stream = SampleStream(retriever, shuffle=True, window=1, num_threads=2)
    keys = {f"clip-{number}" for number in range(SHARDS)}
    for _ in range(3):
        assert {s["__key__"] for s in within_deadline(lambda: list(stream))} == keys
        shutil.rmtree(tmp_path / "caches")
    samples = iter(stream)
    next(samples)
    shutil.rmtree(tmp_path / "caches", ignore_errors=True)
    assert len(within_deadline(lambda: list(samples))) == SHARDS - 1
    retriever.close()
