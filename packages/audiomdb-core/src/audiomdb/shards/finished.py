"""Describe finished shards, of this run of a conversion or an earlier one, and check the latter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from audiomdb.errors import CorruptShardError, OptionsChangedError
from audiomdb.sample import DURATION
from audiomdb.shards.columns import Column, total
from audiomdb.shards.files import sha256_file
from audiomdb.shards.index import converted
from audiomdb.shards.journal import Journal
from audiomdb.shards.layout import DATA_FILE, shard_name
from audiomdb.shards.metadata import Feature, ShardEntry
from audiomdb.shards.shard_reader import ShardReader

__all__ = ["SOURCE_OPTIONS", "FinishedShard", "check_payloads", "find_finished"]

SOURCE_OPTIONS = "source"
"""Name of the option that holds the converter's own options, as a map."""


class FinishedShard(msgspec.Struct, frozen=True):
    """A complete shard with its metadata entry, features and journal."""

    number: int
    entry: ShardEntry
    features: Mapping[str, Feature]
    journal: Journal

    @classmethod
    def unmeasured(
        cls,
        number: int,
        keys: Sequence[bytes],
        index_place: tuple[int, int],
        *,
        columns: Mapping[str, Column],
        features: Mapping[str, Feature],
        journal: Journal,
    ) -> FinishedShard:
        """Describe a shard whose size and SHA-256 are not known yet; `keys` are sorted UTF-8."""
        offset, length = index_place
        entry = ShardEntry(
            path=shard_name(number),
            samples=len(keys),
            bytes=0,
            sha256="",
            duration=total(columns.get(DURATION)),
            first_key=keys[0].decode() if keys else "",
            last_key=keys[-1].decode() if keys else "",
            index_offset=offset,
            index_bytes=length,
        )
        return cls(number, entry, features, journal)

    def measured(self, directory: Path) -> FinishedShard:
        """Return a copy with the size and SHA-256 of its data.mdb, which is in `directory`."""
        path = directory / DATA_FILE
        size, digest = path.stat().st_size, sha256_file(path)
        entry = msgspec.structs.replace(self.entry, bytes=size, sha256=digest)
        return msgspec.structs.replace(self, entry=entry)


def find_finished(
    output_dir: Path, numbers: Sequence[int], options: Mapping[str, Any]
) -> Iterator[tuple[FinishedShard, Sequence[bytes]]]:
    """Read the finished shards of earlier runs; their size and SHA-256 are not measured yet.

    Yields:
        Each shard with its keys as UTF-8.

    Raises:
        CorruptShardError: when a shard is damaged.
        OptionsChangedError: when a shard was made with other options.
    """
    for number in numbers:
        directory = output_dir / shard_name(number)
        try:
            reader = ShardReader(directory)
            index = reader.index
            journal = converted(index.journal, Journal)
            features = converted(index.features, dict[str, Feature])
        except (CorruptShardError, msgspec.ValidationError) as exc:
            raise _damaged(directory, exc) from exc
        _compare_options(directory, journal.options, options)
        keys = [key.encode() for key in index.all_keys()]
        shard = FinishedShard.unmeasured(
            number,
            keys,
            reader.index_place,
            columns=index.columns,
            features=features,
            journal=journal,
        )
        yield shard, keys


def check_payloads(directory: Path) -> None:
    """Check every record of a shard, payloads included.

    Raises:
        CorruptShardError: when a record is damaged.
    """
    shard = ShardReader(directory)
    try:
        for place in range(len(shard)):
            shard.read(place, copy=False, verify=True)
    except CorruptShardError as exc:
        raise _damaged(directory, exc) from exc


def _damaged(directory: Path, cause: Exception) -> CorruptShardError:
    return CorruptShardError(
        f"{directory} is damaged: {cause}. Delete that folder to have the shard made again"
    )


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
