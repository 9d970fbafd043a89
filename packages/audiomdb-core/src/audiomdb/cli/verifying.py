"""Verify a dataset in a folder, in a store, or the part of it that a cache holds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from audiomdb.cache.layout import CacheLayout, entry_name
from audiomdb.cache.lock import try_shared
from audiomdb.errors import CorruptShardError, DatasetNotFoundError, MetadataError
from audiomdb.progress import progress
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.shards import Metadata, ShardEntry, read_metadata
from audiomdb.shards.files import sha256_file
from audiomdb.shards.layout import DATA_FILE, INDEX_FILE
from audiomdb.shards.verify import Problem, shard_damage, verify_dataset
from audiomdb.threads import Check, each

__all__ = [
    "Checked",
    "cache_facts",
    "cached_shards",
    "verify_cache",
    "verify_folder",
    "verify_store",
]


class Checked(NamedTuple):
    """A dataset that was checked.

    Attributes:
        metadata: Its metadata.
        shards: Those of its shards that were there to be checked.
        problems: What is wrong, in shard order; then what is wrong with the index.
        cache: Directory of the cache that the shards are in; None if it was the dataset itself.
    """

    metadata: Metadata
    shards: Sequence[ShardEntry]
    problems: list[Problem]
    cache: Path | None = None

    @property
    def bytes(self) -> int:
        """Total size of the shards that were there."""
        return sum(shard.bytes for shard in self.shards)


def cached_shards(directory: Path, metadata: Metadata) -> list[tuple[ShardEntry, Path]]:
    """Return the shards of a dataset that are complete in its cache, with their files."""
    folder = CacheLayout(directory).shards
    files = [folder / entry_name(i, entry) for i, entry in enumerate(metadata.shards)]
    pairs = zip(metadata.shards, files, strict=True)
    return [(entry, path) for entry, path in pairs if path.exists()]


def cache_facts(directory: Path, shards: Sequence[ShardEntry]) -> dict[str, Any]:
    """Describe a cache and the complete shards in it, for `--json`."""
    total = sum(shard.bytes for shard in shards)
    return {"folder": str(directory), "shards": len(shards), "bytes": total}


def verify_folder(folder: Path, *, workers: int) -> Checked:
    """Check every byte of a dataset in a folder, `workers` shards at once.

    Raises:
        DatasetNotFoundError: when there is no dataset.
        MetadataError: when its metadata is damaged.
    """
    metadata = read_metadata(folder)
    with _progress(metadata.shards) as done:
        problems = verify_dataset(folder, workers=workers, on_shard=done)
    return Checked(metadata, metadata.shards, problems)


def verify_cache(directory: Path, *, workers: int) -> Checked:
    """Check every byte that a cache holds, in place; other processes may use the cache meanwhile.

    Args:
        directory: Directory of the dataset's cache.
        workers: Number of shards checked at once.

    Raises:
        DatasetNotFoundError: when the cache holds nothing.
        MetadataError: when its metadata is damaged.
    """
    metadata = read_metadata(directory)
    cached = cached_shards(directory, metadata)
    shards = [entry for entry, _ in cached]

    def check_one(item: tuple[ShardEntry, Path], _: Check) -> tuple[ShardEntry, list[Problem]]:
        entry, path = item
        lease = try_shared(path)
        if lease is None:  # evicted in the meantime
            return entry, []
        with lease:
            return entry, _problems(path, entry, metadata)

    problems = _each(check_one, cached, shards, workers)
    index = CacheLayout(directory).index
    if index.exists() and (digest := sha256_file(index)) != metadata.index.sha256:
        problems.append(
            Problem(INDEX_FILE, f"sha256 is {digest}, metadata says {metadata.index.sha256}")
        )
    return Checked(metadata, shards, problems, directory)


def verify_store(
    make: Callable[[Path], BaseRetriever], scratch: Path | None, *, workers: int
) -> Checked:
    """Download a whole dataset anew and check every byte of it, without keeping it.

    At most `workers` shards are on the disk at a time.

    Args:
        make: Creates the retriever, given the directory of its cache.
        scratch: Parent folder of that directory. None: the system's temporary folder.
        workers: Number of shards fetched and checked at once.

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
                return entry, [Problem(f"{entry.path}/{DATA_FILE}", str(exc))]
            try:
                return entry, _problems(path, entry, metadata)
            finally:
                del view
                path.unlink(missing_ok=True)

        numbers = range(len(metadata.shards))
        with contextlib.closing(cache.register(workers)):
            problems = _each(check_one, numbers, metadata.shards, workers)
        try:
            cache.index_file()
        except (MetadataError, DatasetNotFoundError) as exc:
            problems.append(Problem(INDEX_FILE, str(exc)))
    return Checked(metadata, metadata.shards, problems)


def _problems(path: Path, entry: ShardEntry, metadata: Metadata) -> list[Problem]:
    damage = shard_damage(path, entry, Path(metadata.name) / entry.path)
    return [Problem(f"{entry.path}/{DATA_FILE}", reason) for reason in damage]


def _each(
    check_one: Callable[..., tuple[ShardEntry, list[Problem]]],
    items: Sequence[object],
    shards: Sequence[ShardEntry],
    workers: int,
) -> list[Problem]:
    """Return the problems that `check_one` finds in the shards, called for each of the items."""
    found: dict[str, list[Problem]] = {}
    # A store that does not respond is not waited for.
    work = each(check_one, items, workers=workers, name="audiomdb-verify", give_up=True)
    with _progress(shards) as done, contextlib.closing(work) as checked:
        for entry, problems in checked:
            found[entry.path] = problems
            done(entry)
    return [problem for entry in shards for problem in found[entry.path]]


@contextlib.contextmanager
def _progress(shards: Sequence[ShardEntry]) -> Iterator[Callable[[ShardEntry], None]]:
    """Show the progress; yield a function to call for each shard that is done."""
    total = sum(shard.bytes for shard in shards)
    with progress(total, unit="B", description="verifying") as bar:
        yield lambda shard: bar.update(shard.bytes)
