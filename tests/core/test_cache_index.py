"""The index file of a dataset in its cache."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

import pytest

import audiomdb.cache.waiting
from audiomdb.cache import CacheOptions, RangeSource, RemoteFile, ShardCache
from audiomdb.cache.layout import CacheLayout
from audiomdb.cache.opening import index_lock
from audiomdb.errors import AudioMDBError, DownloadInterruptedError, MetadataError
from audiomdb.shards import DatasetWriter, read_metadata
from audiomdb.shards.files import bytes_below
from tests.core.caches import Opener, beside_shards, budget, write_store

pytestmark = pytest.mark.usefixtures("short_waits")


@pytest.fixture
def opener(tmp_path: Path) -> Iterator[Opener]:
    opener = Opener(write_store(tmp_path / "store", 5, 30_000), tmp_path)
    yield opener
    opener.close()


def write_long_index(store: Path) -> None:
    """A dataset in place of any other, whose index has more than a megabyte."""
    shutil.rmtree(store, ignore_errors=True)
    with DatasetWriter(store, samples_per_shard=4000) as writer:
        for number in range(8000):
            writer.write(f"{number:0150d}", {"n": number})


@contextmanager
def hearing(text: str, call: Callable[[], None]) -> Iterator[None]:
    """Make a call whenever the cache logs this."""

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if text in record.getMessage():
                call()

    handler, log = Heard(), logging.getLogger("audiomdb.cache")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def test_an_index_download_that_breaks_off_repeatedly_resumes(tmp_path: Path) -> None:
    write_long_index(tmp_path / "store")
    sent: list[int] = []

    def open_remote(path: str, *, start: int = 0, validator: str | None = None) -> RemoteFile:  # noqa: ARG001
        content = (tmp_path / "store" / path).read_bytes()

        def chunks() -> Iterator[bytes]:
            yield content[start : start + 100_000]
            if start + 100_000 < len(content):
                raise ConnectionError("reset")

        sent.extend([start] if path == "index.bin" else [])
        return RemoteFile(chunks(), start, "v1", len(content))

    cache = ShardCache(tmp_path / "cache", RangeSource(open_remote), CacheOptions())
    size = cache.metadata.index.bytes
    assert size > 10 * 100_000
    index = cache.index_file()
    assert index is not None
    assert bytes(index) == (tmp_path / "store" / "index.bin").read_bytes()
    assert sent == list(range(0, size, 100_000))
    assert list((cache.directory / "staging").iterdir()) == []
    cache.close()


@pytest.mark.parametrize("damaged", [False, True])
def test_an_index_download_resumes_after_its_process_is_killed(
    damaged: bool, opener: Opener
) -> None:
    write_long_index(opener.store)
    content = (opener.store / "index.bin").read_bytes()
    killed_at = 20 * 16384
    assert len(content) > 2 * killed_at

    def die(path: str, at: int) -> None:
        if path == "index.bin" and at == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    reader = os.fork()
    if reader == 0:
        opener.meet = die
        opener().index_file()
        os._exit(1)
    assert os.waitpid(reader, 0)[1] == signal.SIGKILL
    if damaged:
        (part,) = (opener.directory / "parts").glob("index-????????????")
        with part.open("r+b") as file:
            file.write(b"damaged")

    opener.log.unlink()
    cache = opener()
    assert cache.index_file() == memoryview(content)
    sent = [line.split() for line in opener.log.read_text().splitlines()]
    arrived = sum(int(size) for path, size in sent if path == "index.bin")
    assert arrived == len(content) - killed_at + (len(content) if damaged else 0)
    assert list((cache.directory / "parts").iterdir()) == []


def test_a_partial_index_counts_once_and_is_removed_with_its_dataset(opener: Opener) -> None:
    write_long_index(opener.store)
    largest = max(entry.bytes for entry in read_metadata(opener.store).shards)
    needed = beside_shards(opener.store) + largest + 4096  # an entry of a reader

    def interrupt(path: str, at: int) -> None:
        if path == "index.bin" and at >= 100_000:
            raise KeyboardInterrupt

    opener.meet = interrupt
    with pytest.raises(KeyboardInterrupt):
        opener(max_bytes=needed).index_file()
    opener.close()
    opener.meet = lambda _path, _at: None
    cache = opener(max_bytes=needed)
    cache.register(1)
    assert cache.lease(0) == opener.content(0)
    (part,) = (cache.directory / "parts").glob("index-????????????")
    assert part.stat().st_size >= 100_000
    opener.close()

    shutil.rmtree(opener.store)
    write_store(opener.store, 5, 30_000)
    cache = opener(max_bytes=budget(opener.store, 2) + 4096)
    cache.register(1)
    for number in range(5):
        assert cache.lease(number) == opener.content(number)
    assert not part.exists()


def test_a_cached_index_is_opened_by_all_processes_concurrently(opener: Opener) -> None:
    cache = opener()
    assert cache.index_file() is not None
    found: list[bytes] = []
    with index_lock(CacheLayout(cache.directory)):  # as another process has it
        reader = threading.Thread(
            target=lambda: found.append(bytes(cache.index_file() or b"")), daemon=True
        )
        reader.start()
        reader.join(timeout=300)
        assert found == [(opener.store / "index.bin").read_bytes()]


@pytest.mark.parametrize("kind", ["ranges", "directories"])
def test_the_index_of_a_dataset_that_was_replaced_takes_no_room(kind: str, opener: Opener) -> None:
    write_long_index(opener.store)
    first = opener()
    assert first.index_file() is not None
    opener.close()
    shutil.rmtree(opener.store)
    write_store(opener.store, 5, 30_000)
    budget = 500_000
    cache = opener(kind, max_bytes=budget)
    cache.register(1)
    for number in range(5):
        assert cache.lease(number) == opener.content(number)
        assert bytes_below(cache.directory) <= budget


@pytest.mark.parametrize("kind", [DownloadInterruptedError, MetadataError])
def test_a_failed_index_download_is_not_repeated_by_each_waiter(
    kind: type[AudioMDBError], opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audiomdb.cache.waiting, "_LOG_EVERY_S", 0.0)
    path = opener.store / "index.bin"
    content = path.read_bytes()
    fetcher, waiter = opener(workers=2), opener(workers=2)
    asked, waits = threading.Event(), threading.Event()
    errors: list[AudioMDBError] = []

    def meet(_path: str, _at: int) -> None:
        asked.set()
        assert waits.wait(300)
        if kind is DownloadInterruptedError:
            raise DownloadInterruptedError("reset")

    def read(cache: ShardCache) -> None:
        try:
            cache.index_file()
        except AudioMDBError as error:
            errors.append(error)

    if kind is MetadataError:
        path.write_bytes(bytes(len(content)))
    opener.meet = meet
    first, second = (threading.Thread(target=read, args=(cache,)) for cache in (fetcher, waiter))
    with hearing("waiting for another process to fetch the index", waits.set):
        first.start()
        assert asked.wait(300)
        second.start()
        first.join(300)
        second.join(300)
    assert [type(error) for error in errors] == [kind] * 2
    assert len({str(error) for error in errors}) == 1
    assert waiter.stats.retries == waiter.stats.fetched_bytes == 0

    # Who comes later tries by itself, and while the store is down nothing is fetched ahead.
    with pytest.raises(kind):
        waiter.index_file()
    down = kind is DownloadInterruptedError
    assert waiter.fetching.ahead(0, lambda: None) == ("busy" if down else "fetched")
    opener.meet = lambda _path, _at: None
    path.write_bytes(content)
    assert waiter.index_file() == memoryview(content)
    assert waiter.fetching.ahead(1, lambda: None) == "fetched"


def test_the_index_counts_as_one_of_the_concurrent_downloads(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audiomdb.cache.waiting, "_LOG_EVERY_S", 0.0)
    cache = opener(workers=1)
    begun, go_on = threading.Event(), threading.Event()
    happened: SimpleQueue[str] = SimpleQueue()
    found: list[memoryview | None] = []

    def meet(path: str, _at: int) -> None:
        if path == "index.bin":
            happened.put("fetches")
            return
        begun.set()
        assert go_on.wait(300)

    opener.meet = meet
    shard = threading.Thread(target=cache.lease, args=(0,))
    index = threading.Thread(target=lambda: found.append(cache.index_file()))
    shard.start()
    assert begun.wait(300)
    with hearing("waiting to fetch the index of", lambda: happened.put("waits")):
        index.start()
        try:
            assert happened.get(timeout=300) == "waits"
        finally:
            go_on.set()
            shard.join(300)
            index.join(300)
    assert found == [memoryview((opener.store / "index.bin").read_bytes())]
