"""Copy a whole dataset into a folder, in a way that can be resumed after an interruption.

    speech/shard_00000/data.mdb   complete and verified
    speech/.pull/                 a cache with unfinished downloads
    speech/index.bin              rebuilt from the shards, as conversion builds it
    speech/metadata.json          written last

With `metadata.json` the folder is a dataset, and `.pull` is removed.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from audiomdb.cache.eviction import is_full_disk
from audiomdb.cache.layout import CacheLayout
from audiomdb.cli.origins import Origin, ShardProgress
from audiomdb.errors import CorruptShardError, MetadataError, OutputExistsError, OutputWriteError
from audiomdb.shards import Metadata, ShardEntry, ShardReader, read_metadata
from audiomdb.shards.dataset_index import index_file_parts
from audiomdb.shards.files import sha256_file, sync, write_atomically
from audiomdb.shards.folder_lock import lock_folder, unlock_folder
from audiomdb.shards.index import converted
from audiomdb.shards.journal import Rejection, write_rejected
from audiomdb.shards.layout import DATA_FILE, INDEX_FILE, LOCK_FILE, METADATA_FILE
from audiomdb.threads import Check, each

__all__ = ["STATE", "Target", "pull"]

STATE = ".pull"
"""Folder in the target for unfinished downloads. It marks the target as one of an earlier pull."""


class Target:
    """The folder that a dataset is pulled into, locked until `close`.

    Args:
        path: A folder that is missing, empty, left by an earlier pull, or holds the same dataset.

    Raises:
        OutputExistsError: when it holds something else.
        OutputBusyError: when another process is writing there.
        OutputWriteError: when it cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state = path / STATE
        self._lock, self._made = lock_folder(path)
        try:
            self._refuse_strangers()
            self._state.mkdir(exist_ok=True)
        except OSError as exc:
            unlock_folder(self._lock)
            if isinstance(exc, OutputExistsError):
                raise
            raise OutputWriteError(f"cannot write to {path}: {exc.strerror}") from exc

    @property
    def begun(self) -> bool:
        """Whether the folder holds anything that a later pull can resume from."""
        return any(self.path.glob(f"shard_*/{DATA_FILE}")) or any(_parts(self._state))

    def refuse_another(self, metadata: Metadata) -> None:
        """Raise an error if the folder holds a dataset other than that of `metadata`.

        Raises:
            OutputExistsError: when the folder holds another dataset.
        """
        if not (self.path / METADATA_FILE).exists():
            return
        with contextlib.suppress(MetadataError):
            if read_metadata(self.path) == metadata:
                return
        raise OutputExistsError(
            f"{self.path} holds another dataset, or another version of this one; pull into a new "
            "folder, or delete this one first"
        )

    def missing_bytes(self, metadata: Metadata) -> int:
        """Return the total size of the index and of the shards without a file in the folder."""
        there = (self.path / entry.path / DATA_FILE for entry in metadata.shards)
        missing = sum(
            entry.bytes
            for entry, path in zip(metadata.shards, there, strict=True)
            if not path.exists()
        )
        return missing + metadata.index.bytes

    def finish(self, metadata: Metadata, raw: bytes) -> None:
        """Complete the dataset: write the index, the rejections and, last, the metadata."""
        if not (self.path / METADATA_FILE).exists():
            self._remove_shards_of_another_version(metadata)
        self._write_index(metadata)
        write_atomically(self.path / METADATA_FILE, [raw])

    def close(self) -> None:
        """Unlock the folder, and remove leftovers that a later pull cannot resume from."""
        if (self.path / METADATA_FILE).exists() or not self.begun:
            shutil.rmtree(self._state, ignore_errors=True)
        for folder in (*self.path.glob("shard_*"), *([self.path] if self._made else [])):
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()
        unlock_folder(self._lock)

    def _refuse_strangers(self) -> None:
        names = sorted(entry.name for entry in self.path.iterdir())
        if names and METADATA_FILE not in names and STATE not in names:
            raise OutputExistsError(
                f"{self.path} holds {names[0]!r} and no dataset that was pulled there; give an "
                "empty folder or one that does not exist"
            )

    def _remove_shards_of_another_version(self, metadata: Metadata) -> None:
        """Remove shards that the dataset no longer has, if it shrank since an interrupted pull."""
        wanted = {entry.path for entry in metadata.shards}
        for folder in self.path.glob("shard_*"):
            if folder.name not in wanted:
                shutil.rmtree(folder)

    def _write_index(self, metadata: Metadata) -> None:
        """Write the index file and the rejections from the shards, which are complete by now."""
        parts = index_file_parts(self.path, metadata.shards)
        _, digest = write_atomically(self.path / INDEX_FILE, parts)
        if digest != metadata.index.sha256:
            raise MetadataError(
                f"the indexes of the shards make an {INDEX_FILE} with sha256 {digest}, "
                f"metadata.json says {metadata.index.sha256}: they are not of one dataset"
            )
        if metadata.rejected:
            shards = (ShardReader(self.path / entry.path, entry) for entry in metadata.shards)
            write_rejected(self.path, [one for shard in shards for one in _rejected(shard)])


def pull(origin: Origin, target: Target, *, workers: int, on_bytes: Callable[[int], None]) -> int:
    """Copy a dataset into a folder, as a whole or not at all, resuming an interrupted pull.

    Args:
        origin: Where to read the dataset from.
        target: Where to write it to.
        workers: Number of shards copied at once.
        on_bytes: Called with the number of bytes of shards that have arrived since the last call.

    Returns:
        The number of shards that had to be fetched.

    Raises:
        DatasetError: when a shard is damaged or missing.
        DownloadError: when the store cannot be read.
        OutputWriteError: when the disk is full.
    """
    metadata = origin.metadata

    def bring(number: int, check: Check) -> bool:
        entry = metadata.shards[number]
        final = target.path / entry.path / DATA_FILE
        progress = ShardProgress(on_bytes, check)
        there = _is_whole(final, entry)
        if not there:
            final.parent.mkdir(exist_ok=True)
            origin.bring(number, final, progress)
        lock = final.parent / LOCK_FILE
        if not (there and lock.exists()):
            lock.touch()
            sync(final.parent)
        progress.at(entry.bytes)
        return not there

    with _full_disk(target.path):
        _refuse_full_disk(target.path, target.missing_bytes(metadata) - origin.begun_bytes)
        numbers = range(len(metadata.shards))
        # A store that does not respond is not waited for.
        work = each(bring, numbers, workers=workers, name="audiomdb-pull", give_up=True)
        with contextlib.closing(work) as brought:
            fetched = sum(brought)
        target.finish(metadata, origin.raw_metadata)
    return fetched


def _rejected(shard: ShardReader) -> list[Rejection]:
    try:
        return converted(shard.index.journal.get("rejected"), list[Rejection])
    except msgspec.ValidationError as exc:
        raise CorruptShardError(
            f"{shard.directory}: its journal lists no rejected samples: {exc}"
        ) from exc


def _parts(state: Path) -> Iterator[Path]:
    """Yield the complete and partial shard files in the caches of an unfinished pull."""
    for cache in state.glob("*"):
        layout = CacheLayout(cache)
        for folder in (layout.parts, layout.shards, layout.staging):
            if folder.is_dir():
                yield from folder.iterdir()


def _is_whole(path: Path, entry: ShardEntry) -> bool:
    try:
        return path.stat().st_size == entry.bytes and sha256_file(path) == entry.sha256
    except FileNotFoundError:
        return False


def _refuse_full_disk(folder: Path, missing: int) -> None:
    """Raise an error before the first download if the disk has too little free space."""
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise OutputWriteError(
            f"{missing} bytes are to come and the disk of {folder} has {free} free; make room, or "
            "give a folder on another disk"
        )


@contextlib.contextmanager
def _full_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if not is_full_disk(exc):
            raise
        raise OutputWriteError(f"the disk of {folder} is full; make room for the rest") from exc
