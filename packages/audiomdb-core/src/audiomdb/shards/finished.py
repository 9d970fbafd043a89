"""Shards that are finished, by this run of a conversion or by an earlier one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from audiomdb.errors import CorruptShardError, OptionsChangedError
from audiomdb.sample import DURATION
from audiomdb.shards.columns import Column, total
from audiomdb.shards.files import sha256_file
from audiomdb.shards.journal import Journal
from audiomdb.shards.layout import DATA_FILE, shard_name
from audiomdb.shards.metadata import Feature, ShardEntry
from audiomdb.shards.shard_reader import ShardReader

__all__ = ["SOURCE_OPTIONS", "FinishedShard", "check_payloads", "find_finished"]

SOURCE_OPTIONS = "source"
"""Option that holds those of the converter, as a map."""


class FinishedShard(msgspec.Struct, frozen=True):
    """A whole shard and its account."""

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
        """A shard whose size and sha256 are not known yet; UTF-8 of its keys, sorted."""
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
        """The same with size and sha256 of its file, which lies in `directory`."""
        path = directory / DATA_FILE
        size, digest = path.stat().st_size, sha256_file(path)
        entry = msgspec.structs.replace(self.entry, bytes=size, sha256=digest)
        return msgspec.structs.replace(self, entry=entry)


def find_finished(
    output_dir: Path, numbers: Sequence[int], options: Mapping[str, Any]
) -> Iterator[tuple[FinishedShard, Sequence[bytes]]]:
    """Read what earlier runs left; size and sha256 are still to be measured.

    Yields:
        Each shard with the UTF-8 of its keys.

    Raises:
        CorruptShardError: when one is damaged.
        OptionsChangedError: when one was made with other options.
    """
    for number in numbers:
        directory = output_dir / shard_name(number)
        try:
            reader = ShardReader(directory)
            index = reader.index
            journal = msgspec.convert(dict(index.journal), Journal)
            features = msgspec.convert(dict(index.features), dict[str, Feature])
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
        CorruptShardError: when one is damaged.
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
    """Options as a user gives them, those of the converter in place of the map of them."""
    named = dict(options)
    of_source = named.pop(SOURCE_OPTIONS, None)
    if not isinstance(of_source, Mapping):
        return dict(options)
    for name, value in of_source.items():
        named[f"{SOURCE_OPTIONS}.{name}" if name in named else name] = value
    return named
