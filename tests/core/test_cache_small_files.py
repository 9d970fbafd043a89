"""Files that a dataset begins with, over a line that breaks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

import audiomdb.cache.retry
from audiomdb.cache import CacheOptions, RangeSource, RemoteFile, ShardCache
from audiomdb.errors import DownloadInterruptedError, MetadataError
from audiomdb.shards import DatasetWriter

CUT = 70_000
"""Bytes of `index.bin` after which a connection breaks: a seventh of it."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store")
    with DatasetWriter(path) as writer:
        for number in range(4000):
            writer.write(f"{number:0100d}", {"n": number})
    return path


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audiomdb.cache.retry, "_FIRST_WAIT_S", 1e-6)


class Line:
    """A store whose answers for the index break off, or end, after some bytes.

    Args:
        folder: The dataset.
        ends: Answers end as if that were all.
        ranges: The store reads from the middle.
        size: It says how long the file is.
    """

    def __init__(
        self, folder: Path, *, ends: bool = False, ranges: bool = True, size: bool = True
    ) -> None:
        self.folder, self.ends, self.ranges, self.size = folder, ends, ranges, size
        self.cut = CUT
        self.version = "first"
        self.asked: list[int] = []

    def open_remote(self, path: str, *, start: int = 0, validator: str | None = None) -> RemoteFile:
        content = (self.folder / path).read_bytes()
        if not self.ranges or validator != self.version:
            start = 0
        chunks = iter([content[start:]])
        if path == "index.bin":
            self.asked.append(start)
            chunks = self.chunks(content[start:], self.cut)
        size = len(content) if self.size else None
        return RemoteFile(chunks, start, self.version if self.ranges else None, size)

    def chunks(self, content: bytes, cut: int) -> Iterator[bytes]:
        for at in itertools.count(0, 10_000):
            chunk = content[at : at + 10_000]
            if not chunk or (at >= cut and self.ends):
                return
            if at >= cut:
                raise DownloadInterruptedError("cut")
            yield chunk


def open_cache(line: Line, folder: Path) -> ShardCache:
    return ShardCache(folder / "cache", RangeSource(line.open_remote), CacheOptions())


@pytest.mark.parametrize("ends", [False, True])
def test_an_index_comes_though_the_line_breaks_again_and_again(
    store: Path, tmp_path: Path, ends: bool
) -> None:
    line = Line(store, ends=ends)
    cache = open_cache(line, tmp_path)
    before = cache.stats.fetched_bytes
    content = (store / "index.bin").read_bytes()
    assert cache.index_file() == memoryview(content)
    assert line.asked == list(range(0, len(content), CUT))
    assert len(line.asked) > audiomdb.cache.retry._ATTEMPTS_AT_THE_START
    assert cache.stats.fetched_bytes - before == len(content)
    cache.close()


def test_an_index_that_is_replaced_while_it_comes_begins_anew(store: Path, tmp_path: Path) -> None:
    line = Line(store)

    def open_remote(path: str, *, start: int = 0, validator: str | None = None) -> RemoteFile:
        if start:
            line.version = "second"
        return line.open_remote(path, start=start, validator=validator)

    cache = ShardCache(tmp_path / "cache", RangeSource(open_remote), CacheOptions())
    assert cache.index_file() == memoryview((store / "index.bin").read_bytes())
    assert line.asked[:3] == [0, 0, CUT]
    cache.close()


@pytest.mark.parametrize("ends", [False, True])
def test_a_store_without_ranges_is_not_asked_for_ever(
    store: Path, tmp_path: Path, ends: bool
) -> None:
    line = Line(store, ranges=False, ends=ends)
    cache = open_cache(line, tmp_path)
    with pytest.raises(DownloadInterruptedError, match=r"index\.bin: .*6 failed attempts"):
        cache.index_file()
    assert line.asked == [0] * 6
    line.cut = 10**9
    assert cache.index_file() == memoryview((store / "index.bin").read_bytes())
    cache.close()


def test_an_answer_that_ends_where_a_store_tells_no_size_is_what_is_there(
    store: Path, tmp_path: Path
) -> None:
    cache = open_cache(Line(store, ends=True, size=False), tmp_path)
    with pytest.raises(MetadataError, match=r"index\.bin arrived with 70000 bytes"):
        cache.index_file()
    cache.close()
