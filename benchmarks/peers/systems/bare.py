"""Floors: the least code that does a part of the work, with nothing around it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import lmdb
import numpy as np

from benchmarks.peers.decoders import DECODERS
from benchmarks.peers.system import (
    SHARD_BYTES,
    Kind,
    Loader,
    NotOfferedError,
    Settings,
    System,
    Wish,
)

if TYPE_CHECKING:
    from benchmarks.corpus import Corpus

__all__ = ["BareLmdb", "CopyFiles", "DecodeFromMemory", "LmdbKeepingMemory", "PlainFiles"]


class CopyFiles(System):
    """`cp -r`: what writing the bytes costs."""

    name = "cp -r"
    kind: Kind = "floor"

    def write(self, corpus: Corpus, folder: Path) -> None:
        """By the system's own program; starting it costs less than what it copies."""
        subprocess.run(["cp", "-r", str(corpus.audio), str(folder)], check=True)


class PlainFiles(System):
    """Loose files, opened and read."""

    name = "plain files"
    kind: Kind = "floor"

    def write(self, corpus: Corpus, folder: Path) -> None:
        """Copy them."""
        shutil.copytree(corpus.audio, folder)

    def raw(self, folder: Path, *, shuffle: bool) -> Callable[[], Iterable[bytes]]:
        """Read them, in order of name or shuffled."""
        paths = self.paths(folder)
        order = np.random.default_rng(0).permutation(len(paths)) if shuffle else range(len(paths))
        chosen = [paths[i] for i in order]

        def read() -> Iterator[bytes]:
            for path in chosen:
                with open(path, "rb") as file:  # noqa: PTH123 (the floor does nothing slower)
                    yield file.read()

        return read

    def random(self, folder: Path) -> Callable[[int], bytes]:
        """Read the file at a position."""
        paths = self.paths(folder)

        def read(position: int) -> bytes:
            with open(paths[position], "rb") as file:  # noqa: PTH123
                return file.read()

        return read

    def paths(self, folder: Path) -> list[str]:
        """All files, by name."""
        return [str(path) for path in self.files(folder)]


class BareLmdb(System):
    """py-lmdb, one value a clip, copied out of the mapping."""

    name = "py-lmdb"
    kind: Kind = "floor"
    distributions: ClassVar[tuple[str, ...]] = ("lmdb",)

    def __init__(self) -> None:
        self._opened: dict[Path, lmdb.Environment] = {}

    def write(self, corpus: Corpus, folder: Path) -> None:
        """One environment in order of key, committed now and then."""
        folder.mkdir(parents=True)
        room = 4 * corpus.bytes + SHARD_BYTES
        with lmdb.open(str(folder), map_size=room, sync=False) as environment:
            transaction, held = environment.begin(write=True), 0
            for path in sorted(corpus.paths, key=lambda path: path.stem.encode()):
                data = path.read_bytes()
                transaction.put(path.stem.encode(), data, append=True)
                held += len(data)
                if held > SHARD_BYTES:
                    transaction.commit()
                    transaction, held = environment.begin(write=True), 0
            transaction.commit()
            environment.sync(True)

    def raw(self, folder: Path, *, shuffle: bool) -> Callable[[], Iterable[bytes]]:
        """A cursor, or `get` by shuffled keys."""
        environment = self.open(folder)
        if shuffle:
            get = self.random(folder)
            order = np.random.default_rng(0).permutation(environment.stat()["entries"]).tolist()
            return lambda: map(get, order)

        def scan() -> Iterator[bytes]:
            with environment.begin(buffers=True) as transaction:
                for value in transaction.cursor().iternext(keys=False):
                    yield bytes(value)

        return scan

    def random(self, folder: Path) -> Callable[[int], bytes]:
        """`get` by key in one long transaction."""
        transaction = self.open(folder).begin(buffers=True)
        keys = [bytes(key) for key in transaction.cursor().iternext(values=False)]
        get = transaction.get
        return lambda position: bytes(get(keys[position], b""))

    def open(self, folder: Path) -> lmdb.Environment:
        """The environment, which a process may open once only."""
        if folder not in self._opened:
            self._opened[folder] = lmdb.open(str(folder), readonly=True, lock=False)
        return self._opened[folder]


class LmdbKeepingMemory(BareLmdb):
    """py-lmdb in a process that keeps freed memory, as one with AudioMDB in it does."""

    name = "py-lmdb, freed memory kept"
    notes = "copies meet no new pages of memory, as decision 29 has it for AudioMDB"
    dataset_of = "lmdb"
    takes_part_in = ("raw",)

    def open(self, folder: Path) -> lmdb.Environment:
        """The environment, after this process was told to keep memory."""
        from audiomdb.shards.heap import keep_memory_of_copies

        keep_memory_of_copies()
        return super().open(folder)


class DecodeFromMemory(System):
    """Bytes in memory through a decoder, in a number of threads. Nothing is padded or kept.

    Args:
        decoder: Of `DECODERS`.
        threads: Each decodes every n-th clip.
    """

    kind: Kind = "floor"

    def __init__(self, decoder: str, threads: int) -> None:
        self._decoder = decoder
        self.dataset_of = "files"
        self._threads = threads
        self.name = f"bare {decoder}, {threads} threads" if threads > 1 else f"bare {decoder}"

    def decoded(self, folder: Path) -> Callable[[], Iterable[np.ndarray]]:
        """In this thread; the loader's floor has several."""
        if self._threads > 1:
            raise NotOfferedError("decodes in several threads, into nothing")
        clips = [path.read_bytes() for path in self.files(folder)]
        return lambda: map(DECODERS[self._decoder], clips)

    def settings(self, cores: int) -> list[Settings]:  # noqa: ARG002
        """There is nothing to search."""
        return [Settings(threads=self._threads, decoder=self._decoder)]

    def loader(self, folder: Path, settings: Settings, wish: Wish) -> Loader:  # noqa: ARG002
        """Decode everything, in no batches."""
        clips = [path.read_bytes() for path in self.files(folder)]
        return _Loop(DECODERS[settings.decoder], settings.threads, clips)


class _Loop(Loader):
    def __init__(
        self, decode: Callable[[bytes], np.ndarray], threads: int, clips: list[bytes]
    ) -> None:
        self._decode = decode
        self._threads = threads
        self._clips = clips

    def whole_pass(self) -> int:
        if self._threads == 1:
            return self._part(0)
        with ThreadPoolExecutor(self._threads) as pool:
            return sum(pool.map(self._part, range(self._threads)))

    def _part(self, first: int) -> int:
        frames = 0
        for clip in self._clips[first :: self._threads]:
            audio = self._decode(clip)  # kept until the next one is there, as loops do
            frames += len(audio)
        return frames
