"""Verify every byte of a dataset, without trusting any part of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from math import isclose
from pathlib import Path
from typing import Any

import msgspec

from audiomdb.errors import CorruptShardError, DatasetError
from audiomdb.sample import DURATION
from audiomdb.shards.codec import HEAD_PREFIX
from audiomdb.shards.columns import add_up, total
from audiomdb.shards.dataset_index import IndexFile
from audiomdb.shards.features import merge_features
from audiomdb.shards.files import sha256_file
from audiomdb.shards.index import ShardIndex, converted
from audiomdb.shards.layout import BLOCKS_DB, DATA_FILE, INDEX_FILE, METADATA_FILE, SAMPLES_DB
from audiomdb.shards.mapping import map_file
from audiomdb.shards.metadata import Feature, Metadata, ShardEntry, read_metadata
from audiomdb.shards.pages import places
from audiomdb.shards.shard_reader import ShardReader
from audiomdb.threads import ThreadPool
from audiomdb.urls import folder_path

__all__ = ["Problem", "shard_damage", "verify_dataset"]


_ROUNDING = 1e-6
"""Tolerance for sums of durations, relative and in seconds: a billion float64 terms lose less."""


class Problem(msgspec.Struct, frozen=True):
    """A problem found in a dataset: the file, relative to the dataset, and the reason."""

    file: str
    reason: str


def verify_dataset(
    path: str | os.PathLike[str],
    *,
    workers: int = 2,
    on_shard: Callable[[ShardEntry], None] | None = None,
) -> list[Problem]:
    """Check every byte of a dataset: sizes, digests, pages, keys, records, payloads, index.

    Args:
        path: The dataset's folder.
        workers: Number of shards checked at once.
        on_shard: Called in order as each shard is done, for progress.

    Returns:
        The problems found, in shard order; empty if the dataset is intact.

    Raises:
        InvalidURLError: when the path is a URL.
        DatasetNotFoundError: when there is no dataset.
        MetadataError: when its metadata cannot be read.
    """
    folder = folder_path(path, instead="use `audiomdb verify`, or pull the dataset first")
    metadata = read_metadata(folder)
    problems: list[Problem] = []
    pool = ThreadPool(max(1, workers), "audiomdb-verify")
    try:
        checks = [pool.submit(_shard_problems, folder, entry) for entry in metadata.shards]
        for entry, check in zip(metadata.shards, checks, strict=True):
            problems.extend(check.result())
            if on_shard is not None:
                on_shard(entry)
    finally:
        pool.shutdown(cancel_futures=True)
    problems.extend(_index_problems(folder, metadata))
    return problems


def _shard_problems(dataset: Path, entry: ShardEntry) -> list[Problem]:
    file = f"{entry.path}/{DATA_FILE}"
    return [Problem(file, reason) for reason in shard_damage(dataset / file, entry)]


def shard_damage(path: Path, entry: ShardEntry, name: Path | None = None) -> Iterator[str]:
    """Check every byte of one shard, wherever its file is.

    Args:
        path: The shard's data.mdb, whatever its file name.
        entry: The shard's entry in the metadata.
        name: The shard's folder as named in problems. None: the folder of the file.

    Yields:
        The reason of each problem found.
    """
    try:
        reader = ShardReader(name or path.parent, entry, file=map_file(path))
    except CorruptShardError as exc:
        yield str(exc)
        return
    digest = sha256_file(path)
    if digest != entry.sha256:
        yield f"sha256 is {digest}, metadata says {entry.sha256}"
    yield from _entry_reasons(reader, entry)
    yield from _page_reasons(path, reader)
    for place in range(len(reader)):
        try:
            key = reader.read(place, copy=False, verify=True)["__key__"]
            if key != reader.index.key(place):
                yield f"record {place} calls itself {key!r}, the index {reader.index.key(place)!r}"
        except (DatasetError, KeyError) as exc:
            yield str(exc)


def _entry_reasons(reader: ShardReader, entry: ShardEntry) -> Iterator[str]:
    """Compare a shard's metadata entry, which key look-ups rely on, with its index."""
    index = reader.index
    try:
        first, last = (index.key(0), index.key(len(reader) - 1)) if len(reader) else ("", "")
        duration = total(index.columns.get(DURATION))
    except CorruptShardError as exc:
        yield str(exc)
        return
    if (first, last) != (entry.first_key, entry.last_key):
        yield (
            f"its keys go from {first!r} to {last!r}, metadata says from {entry.first_key!r} to "
            f"{entry.last_key!r}"
        )
    if not _same_seconds(duration, entry.duration):
        yield f"its samples last {duration} s, metadata says {entry.duration}"


def _same_seconds(a: float, b: float) -> bool:
    """Whether two sums of durations are equal except for rounding in another order of addition."""
    return isclose(a, b, rel_tol=_ROUNDING, abs_tol=_ROUNDING)


def _page_reasons(path: Path, reader: ShardReader) -> Iterator[str]:
    """Compare the records in LMDB's tree with those in the index."""
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
        if (place.key, place.offset, place.length) != (
            index.raw_key(i),
            index.head_offset[i],
            index.head_bytes[i],
        ):
            yield f"LMDB and the index disagree on record {i}"
            continue
        if place.length < HEAD_PREFIX.size:
            continue  # reading the record reports it
        _, block, offset = HEAD_PREFIX.unpack_from(file, place.offset)
        if index.payload_bytes[i] and (
            block >= len(blocks) or blocks[block] + offset != index.payload_offset[i]
        ):
            yield f"record {i} and the index disagree on where its payloads lie"


def _index_problems(dataset: Path, metadata: Metadata) -> list[Problem]:
    path = dataset / INDEX_FILE
    try:
        reasons = list(_sums(metadata, IndexFile(map_file(path), metadata, str(path))))
    except DatasetError as exc:
        return [Problem(INDEX_FILE, str(exc))]
    digest = sha256_file(path)
    if digest != metadata.index.sha256:
        return [Problem(INDEX_FILE, f"sha256 is {digest}, metadata says {metadata.index.sha256}")]
    return [Problem(METADATA_FILE, reason) for reason in reasons]


def _sums(metadata: Metadata, parts: Iterable[ShardIndex]) -> Iterator[str]:
    """Compare the totals in the metadata with those of the shards."""
    shards, rejected = metadata.shards, 0

    def features_of_each() -> Iterator[dict[str, Feature]]:
        nonlocal rejected
        for part in parts:
            rejected += len(converted(part.journal.get("rejected"), list[Any]))
            yield converted(part.features, dict[str, Feature])

    try:
        features = merge_features(features_of_each())
    except msgspec.ValidationError as exc:
        yield f"an index does not say what metadata is made of: {exc}"
        return
    duration = add_up(shard.duration for shard in shards)
    if not _same_seconds(duration, metadata.duration):
        yield f"it says {metadata.duration} seconds of audio, the shards say {duration}"
    for what, says, found in (
        ("bytes", metadata.bytes, sum(shard.bytes for shard in shards)),
        ("rejected samples", metadata.rejected, rejected),
    ):
        if says != found:
            yield f"it says {says} {what}, the shards say {found}"
    for field in sorted(metadata.features.keys() | features):
        said, stored = metadata.features.get(field), features.get(field)
        if said != stored:
            yield f"it says {_shown(said)} of the field {field!r}, the shards say {_shown(stored)}"


def _shown(feature: Feature | None) -> str:
    return "nothing" if feature is None else msgspec.json.encode(feature).decode()
