"""Describe finished shards by what their files hold, and check those of earlier runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from audiomdb.errors import CorruptShardError, OptionsChangedError
from audiomdb.sample import DURATION
from audiomdb.shards.columns import total
from audiomdb.shards.files import sha256_file
from audiomdb.shards.index import converted
from audiomdb.shards.journal import Journal
from audiomdb.shards.layout import DATA_FILE
from audiomdb.shards.metadata import Feature, ShardEntry
from audiomdb.shards.shard_reader import ShardReader

__all__ = [
    "SOURCE_OPTIONS",
    "FinishedShard",
    "Origin",
    "check_shard",
    "finished_shard",
    "look_into",
    "plain_options",
]

SOURCE_OPTIONS = "source"
"""Name of the option that holds the converter's own options, as a map."""


class FinishedShard(msgspec.Struct, frozen=True):
    """A complete shard's metadata entry, features and journal.

    A dataset may have 100,000 of them in memory: equal features are one object, and the options in
    the journal, which are those of the run, are left out.
    """

    entry: ShardEntry
    features: Mapping[str, Feature]
    journal: Journal


class Origin(NamedTuple):
    """What a shard was made of: the number of source samples, and their digest."""

    samples: int
    digest: str


def finished_shard(shard: ShardReader) -> FinishedShard:
    """Describe a complete shard, whose folder has its final name; reads and hashes its file."""
    path, index, samples = shard.directory / DATA_FILE, shard.index, len(shard)
    offset, length = shard.index_place
    entry = ShardEntry(
        path=shard.directory.name,
        samples=samples,
        bytes=path.stat().st_size,
        sha256=sha256_file(path),
        duration=total(index.column(DURATION)),
        first_key=index.key(0) if samples else "",
        last_key=index.key(samples - 1) if samples else "",
        index_offset=offset,
        index_bytes=length,
    )
    features = _one_object(tuple(converted(index.features, dict[str, Feature]).items()))
    journal = msgspec.structs.replace(converted(index.journal, Journal), options={})
    return FinishedShard(entry, features, journal)


def look_into(directory: Path, options: Mapping[str, Any]) -> tuple[Origin, Sequence[bytes]]:
    """Return what a shard of an earlier run was made of, and its keys as UTF-8.

    Raises:
        CorruptShardError: when the shard is damaged.
        OptionsChangedError: when it was made with other options.
    """
    with _damage_explained(directory):
        index = ShardReader(directory).index
        journal = converted(index.journal, Journal)
        keys = [key.encode() for key in index.all_keys()]
    _compare_options(directory, journal.options, options)
    return Origin(journal.samples, journal.digest), keys


def check_shard(directory: Path) -> FinishedShard:
    """Check every record of a shard of an earlier run, payloads included, and describe it.

    Raises:
        CorruptShardError: when the shard is damaged.
    """
    with _damage_explained(directory):
        shard = ShardReader(directory)
        # Hashed first: that reads the file in order, and other threads run meanwhile. The records
        # are then in the page cache, while a page that is not would be waited for with the GIL.
        described = finished_shard(shard)
        for place in range(len(shard)):
            shard.read(place, copy=False, verify=True)
        return described


@lru_cache(maxsize=16)
def _one_object(features: tuple[tuple[str, Feature], ...]) -> Mapping[str, Feature]:
    """Return a mapping of these items; for equal ones, the same object."""
    return dict(features)


@contextmanager
def _damage_explained(directory: Path) -> Iterator[None]:
    try:
        yield
    except (CorruptShardError, msgspec.ValidationError) as exc:
        raise CorruptShardError(
            f"{directory} is damaged: {exc}. Delete that folder to have the shard made again"
        ) from exc


def plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as a finished shard holds them: as JSON has it, with 64-bit integers.

    Raises:
        TypeError, ValueError, OverflowError: when a shard cannot hold them.
    """
    plain = msgspec.to_builtins(dict(options), str_keys=True)
    return msgspec.msgpack.decode(msgspec.msgpack.encode(plain), type=dict[str, Any])


def _compare_options(directory: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    old, new = _by_name(old), _by_name(new)
    changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if changed:
        was = ", ".join(f"{name}={old.get(name)!r}" for name in changed)
        now = ", ".join(f"{name}={new.get(name)!r}" for name in changed)
        raise OptionsChangedError(
            f"{directory} was made with {was}; this run has {now}. "
            "Use the same options to go on, or another output folder"
        )


def _by_name(options: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten options to the names that a user gives, with the converter's own among them."""
    named = dict(options)
    of_source = named.pop(SOURCE_OPTIONS, None)
    if not isinstance(of_source, Mapping):
        return dict(options)
    for name, value in of_source.items():
        named[f"{SOURCE_OPTIONS}.{name}" if name in named else name] = value
    return named
