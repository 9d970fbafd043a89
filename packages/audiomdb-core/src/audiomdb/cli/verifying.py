"""Verify datasets that are not in a local folder: in a store, or the part that a cache holds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from audiomdb.cache.layout import CacheLayout, entry_name
from audiomdb.cache.lock import try_shared
from audiomdb.cli.threads import Check, each
from audiomdb.errors import CorruptShardError, DatasetNotFoundError, MetadataError
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.shards import Metadata, ShardEntry, read_metadata
from audiomdb.shards.files import sha256_file
from audiomdb.shards.layout import DATA_FILE, INDEX_FILE
from audiomdb.shards.verify import Problem, shard_damage

__all__ = ["cached_shards", "verify_cache", "verify_store"]

Begin = Callable[[Metadata, Sequence[ShardEntry]], Callable[[ShardEntry], None]]
"""Called with the metadata and the shards to check; returns a function to call for each shard
that is done."""


def cached_shards(directory: Path, metadata: Metadata) -> list[tuple[ShardEntry, Path]]:
    """Return the shards of a dataset that are complete in its cache, with their files."""
    folder = CacheLayout(directory).shards
    files = [folder / entry_name(i, entry) for i, entry in enumerate(metadata.shards)]
    pairs = zip(metadata.shards, files, strict=True)
    return [(entry, path) for entry, path in pairs if path.exists()]


def verify_cache(directory: Path, *, workers: int, begin: Begin) -> list[Problem]:
    """Check every byte that a cache holds, in place; other processes may use the cache meanwhile.

    Args:
        directory: Directory of the dataset's cache.
        workers: Number of shards checked at once.
        begin: See `Begin`.

    Raises:
        DatasetNotFoundError: when the cache holds nothing.
        MetadataError: when its metadata is damaged.
    """
    metadata = read_metadata(directory)
    shards = cached_shards(directory, metadata)

    def check_one(item: tuple[ShardEntry, Path], _: Check) -> tuple[ShardEntry, list[Problem]]:
        entry, path = item
        lease = try_shared(path)
        if lease is None:  # evicted in the meantime
            return entry, []
        with lease:
            return entry, _problems(path, entry, metadata)

    problems = list(_each(check_one, shards, workers, begin(metadata, [e for e, _ in shards])))
    index = CacheLayout(directory).index
    if index.exists() and (digest := sha256_file(index)) != metadata.index.sha256:
        problems.append(
            Problem(INDEX_FILE, f"sha256 is {digest}, metadata says {metadata.index.sha256}")
        )
    return problems


def verify_store(
    make: Callable[[Path], BaseRetriever], scratch: Path | None, *, workers: int, begin: Begin
) -> list[Problem]:
    """Download a whole dataset anew and check every byte of it, without keeping it.

    At most `workers` shards are on the disk at a time.

    Args:
        make: Creates the retriever, given the directory of its cache.
        scratch: Parent folder of that directory. None: the system's temporary folder.
        workers: Number of shards fetched and checked at once.
        begin: See `Begin`.

    Raises:
        DatasetNotFoundError: when there is no dataset.
        MetadataError: when its metadata is damaged.
        DownloadError: when the store cannot be read.
    """
    if scratch is not None:
        scratch.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory(
            prefix="audiomdb-verify-", dir=scratch, ignore_cleanup_errors=True
        ) as folder,
        contextlib.closing(make(Path(folder))) as retriever,
    ):
        cache = retriever.cached_shards().cache
        layout, metadata = CacheLayout(cache.directory), cache.metadata

        def check_one(number: int, check: Check) -> tuple[ShardEntry, list[Problem]]:
            entry = metadata.shards[number]
            path = layout.shards / entry_name(number, entry)
            try:
                view = cache.lease(number, check=check)
            except (CorruptShardError, DatasetNotFoundError) as exc:
                # The message names the file of the damaged data, which is deleted with this folder.
                reason = str(exc).partition(" (what came is in ")[0]
                return entry, [Problem(f"{entry.path}/{DATA_FILE}", reason)]
            try:
                return entry, _problems(path, entry, metadata)
            finally:
                del view
                path.unlink(missing_ok=True)

        numbers = range(len(metadata.shards))
        with contextlib.closing(cache.register(workers)):
            problems = list(_each(check_one, numbers, workers, begin(metadata, metadata.shards)))
        try:
            cache.index_file()
        except (MetadataError, DatasetNotFoundError) as exc:
            problems.append(Problem(INDEX_FILE, str(exc)))
    return problems


def _problems(path: Path, entry: ShardEntry, metadata: Metadata) -> list[Problem]:
    damage = shard_damage(path, entry, Path(metadata.name) / entry.path)
    return [Problem(f"{entry.path}/{DATA_FILE}", reason) for reason in damage]


def _each(
    check_one: Callable[..., tuple[ShardEntry, list[Problem]]],
    items: Sequence[object],
    workers: int,
    on_shard: Callable[[ShardEntry], None],
) -> Iterator[Problem]:
    found: dict[str, list[Problem]] = {}
    with contextlib.closing(each(check_one, items, workers=workers)) as checked:
        for entry, problems in checked:
            found[entry.path] = problems
            on_shard(entry)
    for path in sorted(found):
        yield from found[path]
