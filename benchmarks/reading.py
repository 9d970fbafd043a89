"""Samples as they are stored, without decoding: in order, at random, cold.

The floor is py-lmdb itself on a file of one value a clip, the most direct way to the bytes. The
dataset gives more (text, speaker and the facts about the audio come along), for the same audio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from zlib import crc32

import lmdb
import numpy as np

from audiomdb.sample import KEY
from audiomdb.shards import DatasetReader
from benchmarks import page_cache
from benchmarks.bench import Bench
from benchmarks.corpus import Corpus
from benchmarks.timing import Case, Comparison

__all__ = ["read_samples", "write_plain_lmdb"]


def read_samples(bench: Bench) -> None:
    """Measure on both corpora. Goals are those for clips of speech."""
    for label, corpus, goals in (("speech", bench.speech, True), ("digits", bench.digits, False)):
        dataset = bench.dataset(corpus)
        plain = write_plain_lmdb(corpus, bench.fresh(f"lmdb-{label}"))
        with DatasetReader.open(dataset) as reader, _open(plain) as environment:
            keys = [key.encode() for key in reader.index[KEY]]
            _in_order(bench, label, reader, environment, goals)
            _at_random(bench, label, reader, environment, keys, goals)
        if page_cache.can_drop():
            _cold(bench, label, corpus, dataset, goals)


def write_plain_lmdb(corpus: Corpus, folder: Path) -> Path:
    """The corpus as an LMDB environment with one value a clip, the file's bytes."""
    folder.mkdir(parents=True)
    room = 4 * corpus.bytes + (64 << 20)
    with lmdb.open(str(folder), map_size=room, sync=False) as environment:
        for path in sorted(corpus.paths, key=lambda path: path.stem.encode()):
            with environment.begin(write=True) as transaction:
                transaction.put(path.stem.encode(), path.read_bytes(), append=True)
        environment.sync(True)
    return folder


def _open(folder: Path) -> lmdb.Environment:
    return lmdb.open(str(folder), readonly=True, lock=False)


def _in_order(
    bench: Bench,
    label: str,
    reader: DatasetReader,
    environment: lmdb.Environment,
    goals: bool,
) -> None:
    def ours(*, copy: bool = True, verify: bool = True) -> Callable[[], float]:
        def run() -> float:
            samples = reader.scan(copy=copy, verify=verify)
            return float(sum(len(sample["audio"]) for sample in samples))

        return run

    # Both keep each value until they have the next, as every loop over samples does.
    def copying() -> float:
        total = 0
        with environment.begin(buffers=True) as transaction:
            for value in transaction.cursor().iternext(keys=False):
                data = bytes(value)
                total += len(data)
        return total

    def copying_and_checking() -> float:
        total = 0
        with environment.begin(buffers=True) as transaction:
            for value in transaction.cursor().iternext(keys=False):
                data = bytes(value)
                crc32(data)
                total += len(data)
        return total

    bench.compare(
        Comparison(
            name=f"read.order.{label}",
            title=f"{label}: all samples in order, without checks",
            floors=(Case(name="py-lmdb cursor, copying", run=copying),),
            contenders=(
                Case(name="AudioMDB", run=ours(verify=False)),
                Case(name="AudioMDB, no copies", run=ours(verify=False, copy=False)),
            ),
            goals={"AudioMDB": 0.9, "AudioMDB, no copies": 3.0} if goals else {},
        )
    )
    bench.compare(
        Comparison(
            name=f"read.checked.{label}",
            title=f"{label}: all samples in order, every byte checked",
            floors=(Case(name="py-lmdb cursor, copying, crc32", run=copying_and_checking),),
            contenders=(Case(name="AudioMDB", run=ours()),),
            goals={"AudioMDB": 0.9} if goals else {},
        )
    )


def _at_random(
    bench: Bench,
    label: str,
    reader: DatasetReader,
    environment: lmdb.Environment,
    keys: list[bytes],
    goals: bool,
) -> None:
    order = np.random.default_rng(0).permutation(len(keys)).tolist()
    shuffled = [keys[position] for position in order]
    names = [key.decode() for key in shuffled]

    def get() -> float:
        total = 0
        with environment.begin(buffers=True) as transaction:
            for key in shuffled:
                data = bytes(transaction.get(key, b""))
                total += len(data)
        return total

    def ours(which: Sequence[int | str]) -> Callable[[], float]:
        def run() -> float:
            total, read = 0, reader.read
            for one in which:
                sample = read(one, verify=False)
                total += len(sample["audio"])
            return total

        return run

    bench.compare(
        Comparison(
            name=f"read.random.{label}",
            title=f"{label}: all samples in random order, without checks",
            floors=(Case(name="py-lmdb get, copying", run=get),),
            contenders=(
                Case(name="AudioMDB by position", run=ours(order)),
                Case(name="AudioMDB by key", run=ours(names)),
            ),
            goals={"AudioMDB by position": 0.5} if goals else {},
        )
    )


def _cold(bench: Bench, label: str, corpus: Corpus, dataset: Path, goals: bool) -> None:
    everything = [*corpus.paths, *(path for path in dataset.rglob("*") if path.is_file())]
    paths = [str(path) for path in corpus.paths]

    def drop_all() -> None:
        # Both sides each time: what one leaves behind must not make room for the other.
        page_cache.drop(everything)
        left = page_cache.resident_bytes(everything)
        if left > 0.02 * corpus.bytes:
            raise RuntimeError(f"{left} bytes stayed in the page cache")

    def files() -> float:
        total = 0
        for path in paths:
            with open(path, "rb") as file:  # noqa: PTH123 (the floor does nothing slower)
                total += len(file.read())
        return total

    def ours() -> float:
        with DatasetReader.open(dataset) as reader:
            return sum(len(sample["audio"]) for sample in reader.scan(verify=False))

    bench.compare(
        Comparison(
            name=f"read.cold.{label}",
            title=f"{label}: all samples in order, page cache empty",
            floors=(Case(name="the files", run=files, before=drop_all),),
            contenders=(Case(name="AudioMDB", run=ours, before=drop_all),),
            goals={"AudioMDB": 1.0} if goals else {},
            repeatable=False,
        )
    )
