"""Checking a dataset from end to end, without trusting any of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from audiomdb.errors import CorruptShardError, DatasetError
from audiomdb.shards.codec import HEAD_PREFIX
from audiomdb.shards.dataset_index import split_index_file
from audiomdb.shards.files import sha256_file
from audiomdb.shards.layout import BLOCKS_DB, DATA_FILE, INDEX_FILE, SAMPLES_DB
from audiomdb.shards.mapping import map_file
from audiomdb.shards.metadata import Metadata, ShardEntry, read_metadata
from audiomdb.shards.pages import places
from audiomdb.shards.shard_reader import ShardReader

__all__ = ["Problem", "shard_damage", "verify_dataset"]


class Problem(msgspec.Struct, frozen=True):
    """Something wrong: the file it is in, relative to the dataset, and what it is."""

    file: str
    reason: str


def verify_dataset(
    path: Path,
    *,
    workers: int = 2,
    on_shard: Callable[[ShardEntry], None] | None = None,
) -> list[Problem]:
    """Check every byte of a dataset: sizes, digests, pages, keys, records, payloads, index.

    Args:
        path: The dataset's folder.
        workers: Shards checked at once.
        on_shard: Called as each shard is done, for progress.

    Returns:
        What is wrong, in order of shard; empty for a dataset that is whole.

    Raises:
        DatasetNotFoundError: when there is no dataset.
        MetadataError: when its metadata cannot be read.
    """
    from concurrent.futures import ThreadPoolExecutor

    metadata = read_metadata(path)
    problems: list[Problem] = []
    with ThreadPoolExecutor(max(1, workers), "audiomdb-verify") as pool:
        checks = [pool.submit(_shard_problems, path, entry) for entry in metadata.shards]
        try:
            for entry, check in zip(metadata.shards, checks, strict=True):
                problems.extend(check.result())
                if on_shard is not None:
                    on_shard(entry)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    problems.extend(_index_problems(path, metadata))
    return problems


def _shard_problems(dataset: Path, entry: ShardEntry) -> list[Problem]:
    file = f"{entry.path}/{DATA_FILE}"
    return [Problem(file, reason) for reason in shard_damage(dataset / file, entry)]


def shard_damage(path: Path, entry: ShardEntry, name: Path | None = None) -> Iterator[str]:
    """Check every byte of one shard, wherever it lies.

    Args:
        path: Its data.mdb.
        entry: What metadata says of it.
        name: What problems call the shard's folder. None: the folder that the file is in.

    Yields:
        What is wrong.
    """
    try:
        reader = ShardReader(name or path.parent, entry, file=map_file(path))
    except CorruptShardError as exc:
        yield str(exc)
        return
    digest = sha256_file(path)
    if digest != entry.sha256:
        yield f"sha256 is {digest}, metadata says {entry.sha256}"
    yield from _page_reasons(path, reader)
    for place in range(len(reader)):
        try:
            key = reader.read(place, copy=False, verify=True)["__key__"]
            if key != reader.index.key(place):
                yield f"record {place} calls itself {key!r}, the index {reader.index.key(place)!r}"
        except (DatasetError, KeyError, UnicodeDecodeError) as exc:
            yield str(exc)


def _page_reasons(path: Path, reader: ShardReader) -> Iterator[str]:
    """Whether LMDB's tree leads to the same records as the index."""
    index = reader.index
    try:
        file = map_file(path)
        blocks = [place.offset for place in places(file, BLOCKS_DB)]
        found = list(places(file, SAMPLES_DB))
    except CorruptShardError as exc:
        yield str(exc)
        return
    if len(found) != index.samples:
        yield f"LMDB holds {len(found)} samples, the index {index.samples}"
        return
    for i, place in enumerate(found):
        if place.key != index.key(i).encode() or place.offset != index.head_offset[i]:
            yield f"LMDB and the index disagree on record {i}"
            continue
        _, block, offset = HEAD_PREFIX.unpack_from(file, place.offset)
        if index.payload_bytes[i] and (
            block >= len(blocks) or blocks[block] + offset != index.payload_offset[i]
        ):
            yield f"record {i} and the index disagree on where its payloads lie"


def _index_problems(dataset: Path, metadata: Metadata) -> list[Problem]:
    path = dataset / INDEX_FILE
    try:
        split_index_file(map_file(path), metadata, str(path))
    except DatasetError as exc:
        return [Problem(INDEX_FILE, str(exc))]
    digest = sha256_file(path)
    if digest != metadata.index.sha256:
        return [Problem(INDEX_FILE, f"sha256 is {digest}, metadata says {metadata.index.sha256}")]
    return []
