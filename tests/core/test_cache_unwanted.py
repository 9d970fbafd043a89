"""What becomes of a fetch that nobody wants any more, while others wait for its shard."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

import audiomdb.threads
from audiomdb.cache import CacheOptions, ShardCache
from audiomdb.cache.prefetch import Prefetcher
from audiomdb.errors import DownloadError
from tests.core.caches import directory_source, setting, write_store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(tmp_path / "store", 2, 30_000)


class TwoReaders:
    """Two threads that wait for a shard; when its fetcher fails, one of them fetches it.

    That takes until the other has looked at what there is.
    """

    def __init__(self, store: Path) -> None:
        self.content = (store / "shard_00001" / "data.mdb").read_bytes()
        self.found: list[bytes | DownloadError] = []
        self._store = store
        self._threads: list[threading.Thread] = []
        self._fetches, self._looked = threading.Event(), threading.Event()

    def download(self, number: int, _: Path) -> Path:
        self._fetches.set()
        assert self._looked.wait(300)
        return self._store / f"shard_{number:05d}"

    def wait_in(self, cache: ShardCache) -> None:
        for _ in range(2):
            waits = threading.Event()
            thread = threading.Thread(target=self._read, args=(cache, waits), daemon=True)
            thread.start()
            self._threads.append(thread)
            assert waits.wait(300)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(300)

    def _read(self, cache: ShardCache, waits: threading.Event) -> None:
        waiting, looking = setting(waits), setting(self._looked)

        def check() -> None:
            waiting()
            if self._fetches.is_set():
                looking()

        try:
            self.found.append(bytes(cache.lease(1, check=check)))
        except DownloadError as error:
            self.found.append(error)
            self._looked.set()


def test_closing_a_prefetch_fails_no_waiting_reader(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audiomdb.threads, "_PATIENCE_S", 0.01)
    called, go_on = threading.Event(), threading.Event()
    readers = TwoReaders(store)

    def download(number: int, folder: Path) -> Path:
        if called.is_set():
            return readers.download(number, folder)
        called.set()
        assert go_on.wait(300)
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    cache = ShardCache(tmp_path / "cache", directory_source(store, download), CacheOptions())
    prefetcher = Prefetcher(cache.fetching, lambda: [1], 1)
    prefetcher.start()
    assert called.wait(300)
    readers.wait_in(cache)
    prefetcher.close()
    go_on.set()
    readers.join()
    assert readers.found == [readers.content] * 2
    cache.close()


EXITS = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from audiomdb.cache import CacheOptions, ShardCache
from tests.core.caches import directory_source

def download(number, folder):
    print("called", flush=True)
    while True:
        pool.submit(int).result()

store, folder = map(Path, sys.argv[1:])
pool = ThreadPoolExecutor(1)
pool.submit(int)
cache = ShardCache(folder, directory_source(store, download), CacheOptions())
fetcher = threading.Thread(target=cache.lease, args=(1,), daemon=True)
fetcher.start()
# The exit takes as long as the thread needs to deal with its pool's refusal.
ThreadPoolExecutor(1).submit(fetcher.join)
sys.stdin.read()
"""


def test_a_fetching_process_that_exits_fails_no_waiting_reader(store: Path, tmp_path: Path) -> None:
    readers = TwoReaders(store)
    with subprocess.Popen(
        [sys.executable, "-c", EXITS, store, tmp_path / "cache"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "called\n"
        source = directory_source(store, readers.download)
        cache = ShardCache(tmp_path / "cache", source, CacheOptions())
        readers.wait_in(cache)
        _, said = process.communicate()
    readers.join()
    assert "cannot schedule new futures after" in said
    assert readers.found == [readers.content] * 2
    cache.close()
