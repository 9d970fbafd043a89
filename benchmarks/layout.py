"""What decided how a shard is laid out: bytes on disk and the way to a sample, by block size.

Compared are one LMDB value a clip, and AudioMDB's shards (heads in one named database, payloads
packed in blocks in another) with blocks of several sizes. docs/decisions/0006-shard-layout.md has
the table and what was made of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from unittest import mock

import lmdb
import numpy as np

from audiomdb.shards import shard_writer
from audiomdb.shards.codec import EncodedRecord, encode_record, pack_head
from audiomdb.shards.mapping import map_file
from audiomdb.shards.shard_reader import ShardReader
from audiomdb.shards.shard_writer import ShardWriter
from benchmarks import page_cache
from benchmarks.bench import Bench
from benchmarks.corpus import Corpus
from benchmarks.results import Figure
from benchmarks.timing import Case, Comparison

__all__ = ["layout"]

_BLOCKS_KIB = (64, 256, 1024)
_ONE_VALUE = "one value a clip"


@dataclass(frozen=True, slots=True)
class _Stored:
    """One way to store a corpus: its file, and how a clip's record is copied out of it."""

    name: str
    file: Path
    written_s: float
    reading: Callable[[Path], AbstractContextManager[Callable[[int], int]]]
    """Opens the file; what it gives copies the record at a position and returns its size."""


def layout(bench: Bench) -> None:
    """Measure spoken digits, values of 2 to 5 kB, and clips of speech."""
    for label, samples in _collections(bench):
        encoded = (encode_record(key, sample) for key, sample in samples)
        records = sorted(encoded, key=lambda record: record.key)
        ways = [_one_value_a_clip(bench, records)]
        ways += [_blocks(bench, records, kib * 1024) for kib in _BLOCKS_KIB]
        _sizes(bench, label, records, ways)
        _random_access(bench, label, records, ways)


_Samples: TypeAlias = "Iterator[tuple[str, Mapping[str, Any]]]"


def _collections(bench: Bench) -> Iterator[tuple[str, _Samples]]:
    yield "digits", _clips(bench.digits)
    yield "2 to 5 kB", _small_values(bench.sizes.digits)
    yield "speech", _clips(bench.speech)


def _clips(corpus: Corpus) -> _Samples:
    for entry in corpus.entries:
        path = Path(entry["audio_filepath"])
        fields = {name: value for name, value in entry.items() if name != "audio_filepath"}
        yield path.stem, {"audio": path.read_bytes(), **fields}


def _small_values(count: int) -> _Samples:
    rng = np.random.default_rng(0)
    for number, size in enumerate(rng.integers(2000, 5001, count).tolist()):
        yield f"value-{number:07d}", {"audio": rng.bytes(size)}


def _one_value_a_clip(bench: Bench, records: list[EncodedRecord]) -> _Stored:
    folder = bench.fresh("layout-one")
    folder.mkdir()
    total = sum(record.payload_bytes for record in records)
    began = time.perf_counter()
    with lmdb.open(str(folder), map_size=4 * total + (64 << 20), sync=False) as environment:
        for start in range(0, len(records), 200):
            with environment.begin(write=True) as transaction:
                for record in records[start : start + 200]:
                    value = b"".join((pack_head(record.body, 0, 0), *record.payloads))
                    transaction.put(record.key, value, append=True)
    written_s = time.perf_counter() - began
    keys = [record.key for record in records]

    @contextmanager
    def reading(file: Path) -> Iterator[Callable[[int], int]]:
        with (
            lmdb.open(str(file.parent), readonly=True, lock=False) as environment,
            environment.begin(buffers=True) as transaction,
        ):
            yield lambda position: len(bytes(transaction.get(keys[position], b"")))

    return _Stored(_ONE_VALUE, folder / "data.mdb", written_s, reading)


def _blocks(bench: Bench, records: list[EncodedRecord], block_bytes: int) -> _Stored:
    name = f"blocks of {block_bytes // 1024} KiB"
    folder = bench.fresh(f"layout-{block_bytes}")
    began = time.perf_counter()
    # The block size is a constant of the format's writer, on purpose no option of it.
    with (
        mock.patch.object(shard_writer, "BLOCK_BYTES", block_bytes),
        ShardWriter(folder) as writer,
    ):
        for record in records:
            writer.add(record)
        writer.finish(columns={}, left_out={}, features={}, journal={})
    written_s = time.perf_counter() - began
    return _Stored(name, folder / "data.mdb", written_s, _through_mapping)


@contextmanager
def _through_mapping(file: Path) -> Iterator[Callable[[int], int]]:
    index, data = ShardReader(file.parent).index, map_file(file)

    def copy(position: int) -> int:
        at = index.head_offset[position]
        head = bytes(data[at : at + index.head_bytes[position]])
        at = index.payload_offset[position]
        payload = bytes(data[at : at + index.payload_bytes[position]])
        return len(head) + len(payload)

    yield copy


def _sizes(bench: Bench, label: str, records: list[EncodedRecord], ways: list[_Stored]) -> None:
    payload = sum(record.payload_bytes for record in records)
    for way in ways:
        size = way.file.stat().st_size
        bench.figure(
            Figure(
                name=f"layout.size.{label}.{way.name}",
                title=f"{label}, {way.name}: bytes of the file beyond the audio's",
                value=100 * (size / payload - 1),
                unit="%",
                facts={
                    "clips": len(records),
                    "clip_kb": payload / len(records) / 1000,
                    "written_s": way.written_s,
                },
            )
        )


def _random_access(
    bench: Bench, label: str, records: list[EncodedRecord], ways: list[_Stored]
) -> None:
    order = np.random.default_rng(0).permutation(len(records)).tolist()

    def warm(way: _Stored) -> Case:
        def run() -> float:
            with way.reading(way.file) as copy:
                total = sum(map(copy, order))
            return float(total)

        return Case(name=way.name, run=run)

    def cold(way: _Stored) -> Case:
        return Case(name=way.name, run=warm(way).run, before=lambda: page_cache.drop([way.file]))

    kinds = [("warm", "from the page cache", warm)]
    if page_cache.can_drop():
        kinds.append(("cold", "page cache empty", cold))
    for kind, words, case in kinds:
        floor, *others = map(case, ways)
        bench.compare(
            Comparison(
                name=f"layout.{kind}.{label}",
                title=f"{label}: records copied in random order, {words}",
                floors=(floor,),
                contenders=tuple(others),
                repeatable=kind == "warm",
            )
        )
