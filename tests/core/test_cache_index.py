"""The index file of a dataset in its cache."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from audiomdb.cache import CacheOptions, RangeSource, RemoteFile, ShardCache
from audiomdb.cache.layout import CacheLayout
from audiomdb.cache.opening import index_lock
from audiomdb.shards import DatasetWriter
from audiomdb.shards.files import bytes_below
from tests.core.caches import Opener, write_store

pytestmark = pytest.mark.usefixtures("short_waits")


@pytest.fixture
def opener(tmp_path: Path) -> Iterator[Opener]:
    opener = Opener(write_store(tmp_path / "store", 5, 30_000), tmp_path)
    yield opener
    opener.close()


def test_an_index_that_breaks_off_again_and_again_is_gone_on_with(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "store") as writer:
        for number in range(8000):
            writer.write(f"{number:0150d}", {"n": number})
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


def test_an_index_that_is_there_is_opened_by_all_processes_at_once(opener: Opener) -> None:
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
    shutil.rmtree(opener.store)
    with DatasetWriter(opener.store, samples_per_shard=4000) as writer:
        for number in range(8000):
            writer.write(f"{number:0150d}", {"n": number})
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
