"""Files that a dataset begins with, over a line that breaks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import audiomdb.cache.retry
from audiomdb.cache import RemoteFile
from audiomdb.cache.counters import Counters
from audiomdb.cache.failures import Outage
from audiomdb.cache.small_file import fetch_bytes
from audiomdb.errors import DownloadInterruptedError
from audiomdb.shards import DatasetWriter

pytestmark = pytest.mark.usefixtures("short_waits")

CUT = 70_000
"""Bytes of `index.bin` after which a connection breaks: a seventh of it."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store")
    with DatasetWriter(path) as writer:
        for number in range(4000):
            writer.write(f"{number:0100d}", {"n": number})
    return path


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


def fetch(line: Line, folder: Path, counters: Counters | None = None) -> bytes | None:
    """Fetch the index as it is where no disk has room for it, and as metadata always is."""
    size = (line.folder / "index.bin").stat().st_size
    return fetch_bytes(
        line.open_remote,
        "index.bin",
        most=size,
        counters=counters or Counters(),
        outage=Outage(folder / "store"),
    )


@pytest.mark.parametrize("ends", [False, True])
def test_a_small_file_arrives_over_a_connection_that_keeps_breaking(
    store: Path, tmp_path: Path, ends: bool
) -> None:
    line, counters = Line(store, ends=ends), Counters()
    content = (store / "index.bin").read_bytes()
    assert fetch(line, tmp_path, counters) == content
    assert line.asked == list(range(0, len(content), CUT))
    assert len(line.asked) > audiomdb.cache.retry._ATTEMPTS_AT_THE_START
    assert counters.stats.fetched_bytes == len(content)


def test_a_file_replaced_during_its_download_starts_anew(store: Path, tmp_path: Path) -> None:
    class Replaced(Line):
        def open_remote(self, path: str, *, start: int = 0, validator: Any = None) -> RemoteFile:
            if start:
                self.version = "second"
            return super().open_remote(path, start=start, validator=validator)

    line = Replaced(store)
    assert fetch(line, tmp_path) == (store / "index.bin").read_bytes()
    assert line.asked[:3] == [0, 0, CUT]


@pytest.mark.parametrize("ends", [False, True])
def test_a_store_without_ranges_is_not_retried_forever(
    store: Path, tmp_path: Path, ends: bool
) -> None:
    line = Line(store, ranges=False, ends=ends)
    with pytest.raises(DownloadInterruptedError, match=r"index\.bin: .*6 failed attempts"):
        fetch(line, tmp_path)
    assert line.asked == [0] * 6
    line.cut = 10**9
    assert fetch(line, tmp_path) == (store / "index.bin").read_bytes()


def test_an_answer_without_a_size_is_complete_when_it_ends(store: Path, tmp_path: Path) -> None:
    content = fetch(Line(store, ends=True, size=False), tmp_path)
    assert content == (store / "index.bin").read_bytes()[:CUT]
