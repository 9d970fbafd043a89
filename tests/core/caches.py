"""What tests of the cache share: a store that is a folder, and what opens caches of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from audiomdb.cache import CacheOptions, DirectorySource, RangeSource, ShardCache
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.shards import DatasetWriter, read_metadata
from tests.core.programs.cache_reader import FolderStore

__all__ = [
    "CopyRetriever",
    "Opener",
    "beside_shards",
    "budget",
    "directory_source",
    "setting",
    "write_store",
]


def write_store(path: Path, shards: int, blob_bytes: int) -> Path:
    """A dataset of shards with one blob each."""
    rng = np.random.default_rng(0)
    with DatasetWriter(path, samples_per_shard=1) as writer:
        for number in range(shards):
            writer.write(f"clip-{number}", {"blob": rng.bytes(blob_bytes)})
    return path


def beside_shards(store: Path) -> int:
    """Bytes of a budget that are for neither shards nor the entries of readers."""
    return (store / "metadata.json").stat().st_size + read_metadata(store).index.bytes + 65536


def budget(store: Path, shards: int) -> int:
    """A budget with room for so many shards, and for no reader's entry."""
    return shards * read_metadata(store).shards[0].bytes + beside_shards(store)


def directory_source(store: Path, returned: Any) -> DirectorySource:
    """A source whose shards are fetched by a function of their number and a folder."""

    def metadata(folder: Path) -> Path:
        (folder / "metadata.json").write_bytes((store / "metadata.json").read_bytes())
        return folder / "metadata.json"

    return DirectorySource("Mine", metadata, lambda number, folder: returned(number, folder))


def setting(event: threading.Event) -> Callable[[], None]:
    """A check for who waits, which sets an event when it is called for the third time."""
    calls = count(1)

    def check() -> None:
        if next(calls) == 3:
            event.set()

    return check


class Opener:
    """Opens caches of a store, all in one directory unless told otherwise, and closes them."""

    def __init__(self, store: Path, folder: Path) -> None:
        self.store, self.folder = store, folder
        self.directory = folder / "cache"
        self.log = folder / "log"
        self.opened: list[ShardCache] = []
        self.meet: Callable[[str, int], None] = lambda _path, _at: None
        """Called before each chunk that the store sends, with the path and the byte."""

    def __call__(
        self, kind: str = "ranges", *, directory: Path | None = None, **options: Any
    ) -> ShardCache:
        remote = FolderStore(str(self.store), str(self.log))
        chunks = remote._chunks

        def met(path: str, start: int, stop: int | None) -> Iterator[bytes]:
            at = start
            for chunk in chunks(path, start, stop):
                self.meet(path, at)
                at += len(chunk)
                yield chunk

        remote._chunks = met  # type: ignore[method-assign]
        source = remote.directories() if kind == "directories" else RangeSource(remote.open_remote)
        cache = ShardCache(directory or self.directory, source, CacheOptions(**options))
        self.opened.append(cache)
        return cache

    def content(self, number: int) -> bytes:
        return (self.store / f"shard_{number:05d}" / "data.mdb").read_bytes()

    def file(self, folder: str, number: int) -> Path:
        """What is in a folder of the directory of a shard."""
        (found,) = (self.directory / folder).glob(f"{number:05d}-????????????")
        return found

    def sent(self) -> list[str]:
        return [line.split()[0] for line in self.log.read_text().splitlines()]

    def close(self) -> None:
        for cache in self.opened:
            cache.close()


class CopyRetriever(BaseRetriever):
    """Fetches shards from a folder, as from a store without ranges."""

    def __init__(self, folder: Path, **kwargs: Any) -> None:
        self.folder = folder
        super().__init__(**kwargs)

    def download_metadata(self) -> Path:
        return self._copy("metadata.json")

    def download_shard(self, shard_id: int) -> Path:
        return self._copy(f"shard_{shard_id:05d}/data.mdb").parent

    def _copy(self, name: str) -> Path:
        target = Path(self.cache_dir) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((self.folder / name).read_bytes())
        return target
