"""Copy a whole dataset into a folder, in a way that can be resumed after an interruption.

    speech/shard_00000/data.mdb   complete and verified
    speech/.pull/                 a cache with unfinished downloads
    speech/.pull/arrived/         complete shards whose place another file has
    speech/index.bin              rebuilt from the shards, as conversion builds it
    speech/metadata.json          written last

With `metadata.json` the folder is a dataset, and `.pull` is removed. A dataset that is replaced
stays as it is until all of the new one has arrived. Then its `metadata.json` goes, shards are moved
to their places, and the new `metadata.json` comes: only renames and the index lie between the two.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from audiomdb.cache.eviction import is_full_disk
from audiomdb.cache.layout import CacheLayout, entry_name
from audiomdb.cli.origins import Origin, ShardProgress
from audiomdb.errors import (
    CorruptShardError,
    FormatVersionError,
    MetadataError,
    OutputExistsError,
    OutputWriteError,
)
from audiomdb.shards import Metadata, ShardEntry, ShardReader, read_metadata
from audiomdb.shards.dataset_index import index_file_parts
from audiomdb.shards.files import sha256_file, sync, write_atomically
from audiomdb.shards.folder_lock import lock_folder, unlock_folder
from audiomdb.shards.index import converted
from audiomdb.shards.journal import Rejection, write_rejected
from audiomdb.shards.layout import (
    DATA_FILE,
    INDEX_FILE,
    LOCK_FILE,
    METADATA_FILE,
    REJECTED_FILE,
    shard_number,
)
from audiomdb.threads import Check, each

__all__ = ["STATE", "Target", "pull"]

STATE = ".pull"
"""Folder in the target for unfinished downloads. It marks the target as one of an earlier pull."""


class Target:
    """The folder that a dataset is pulled into, locked until `close`.

    Args:
        path: A folder that is missing, empty, left by an earlier pull, or holds a dataset.

    Raises:
        OutputExistsError: when it holds something else.
        OutputBusyError: when another process is writing there.
        OutputWriteError: when it cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state = path / STATE
        self._arrived = self._state / "arrived"
        self._finished = False
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
        """Whether this pull has left, or was left, anything that a later one can resume from."""
        if any(_parts(self._state)) or any(self._arrived.glob("*")):
            return True
        return not self._has_metadata() and any(self.path.glob(f"shard_*/{DATA_FILE}"))

    def refuse_another(self, metadata: Metadata) -> None:
        """Raise an error if the folder holds a dataset other than that of `metadata`.

        Raises:
            OutputExistsError: when the folder holds another dataset.
        """
        if self._holds_another(metadata):
            raise OutputExistsError(
                f"{self.path} holds another dataset, or another version of this one; pull into a "
                "new folder, or give --replace to put this one in its place"
            )

    def files(self) -> list[Path]:
        """Return the shards in the folder, of whatever dataset and perhaps damaged."""
        named = sorted(self.path.glob(f"shard_*/{DATA_FILE}"))
        return [path for path in (*named, *sorted(self._arrived.glob("*"))) if path.is_file()]

    def place(self, entry: ShardEntry) -> Path:
        """Return where a shard belongs."""
        return self.path / entry.path / DATA_FILE

    def landing(self, number: int, entry: ShardEntry) -> Path:
        """Return where to put a shard that arrives: not into a dataset, nor over another file."""
        place = self.place(entry)
        if place.exists() or self._has_metadata():
            place = self._arrived / entry_name(number, entry)
        place.parent.mkdir(exist_ok=True)
        return place

    def finish(self, metadata: Metadata, raw: bytes, there: Mapping[int, Path]) -> None:
        """Complete the dataset, in place of another that may be in the folder.

        Args:
            metadata: Metadata of the dataset.
            raw: The bytes of its `metadata.json`, which is written last.
            there: Where in the folder each shard is, by number.
        """
        if self._holds_another(metadata):
            (self.path / METADATA_FILE).unlink()
            sync(self.path)
        self._move(metadata, there)
        if not self._has_metadata():
            self._remove_shards_of_another_version(metadata)
        self._write_index(metadata)
        write_atomically(self.path / METADATA_FILE, [raw])
        self._finished = True

    def close(self) -> None:
        """Unlock the folder, and remove leftovers that a later pull cannot resume from."""
        if self._finished or not self.begun:
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

    def _has_metadata(self) -> bool:
        return (self.path / METADATA_FILE).exists()

    def _holds_another(self, metadata: Metadata) -> bool:
        if not self._has_metadata():
            return False
        with contextlib.suppress(MetadataError, FormatVersionError):
            return read_metadata(self.path) != metadata
        return True

    def _move(self, metadata: Metadata, there: Mapping[int, Path]) -> None:
        """Move shards to their places, all by way of `arrived`: two may have to change places."""
        self._arrived.mkdir(exist_ok=True)
        moved = {
            number: self._arrived / entry_name(number, entry)
            for number, entry in enumerate(metadata.shards)
            if there[number] != self.place(entry)
        }
        for number, path in moved.items():
            there[number].replace(path)
        for number, entry in enumerate(metadata.shards):
            place = self.place(entry)
            if number in moved:
                if place.parent.is_symlink():  # what it leads to belongs to somebody else
                    place.parent.unlink()
                place.parent.mkdir(exist_ok=True)
                moved[number].replace(place)
            lock = place.parent / LOCK_FILE
            if number in moved or not lock.exists():
                lock.touch()
                sync(place.parent)

    def _remove_shards_of_another_version(self, metadata: Metadata) -> None:
        """Remove shards and rejections that the dataset does not have; anything else stays."""
        wanted = {entry.path for entry in metadata.shards}
        for folder in self.path.glob("shard_*"):
            if folder.name in wanted or shard_number(folder.name) is None:
                continue
            if folder.is_symlink():
                folder.unlink()
                continue
            for name in (DATA_FILE, LOCK_FILE):
                (folder / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()
        if not metadata.rejected:
            (self.path / REJECTED_FILE).unlink(missing_ok=True)

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

    def bring(number: int, check: Check) -> tuple[int, Path]:
        entry = metadata.shards[number]
        landing = target.landing(number, entry)
        progress = ShardProgress(on_bytes, check)
        origin.bring(number, landing, progress)
        sync(landing.parent)
        progress.at(entry.bytes)
        return number, landing

    with _full_disk(target.path):
        there = _found(target, metadata, workers=workers, on_bytes=on_bytes)
        missing = [number for number in range(len(metadata.shards)) if number not in there]
        to_come = sum(metadata.shards[number].bytes for number in missing) + metadata.index.bytes
        _refuse_full_disk(target.path, to_come - origin.begun_bytes)
        # A store that does not respond is not waited for.
        work = each(bring, missing, workers=workers, name="audiomdb-pull", give_up=True)
        with contextlib.closing(work) as brought:
            there.update(brought)
        target.finish(metadata, origin.raw_metadata, there)
    return len(missing)


def _found(
    target: Target, metadata: Metadata, *, workers: int, on_bytes: Callable[[int], None]
) -> dict[int, Path]:
    """Return where the target holds whole shards of the dataset, by number.

    They may be at the places of other shards, as in a mirror of an older version.
    """
    wanted = {(entry.bytes, entry.sha256) for entry in metadata.shards}
    sizes = {size for size, _ in wanted}
    contents: dict[Path, tuple[int, str]] = {}
    met: set[tuple[int, str]] = set()

    def look(path: Path, _: Check) -> tuple[Path, tuple[int, str]]:
        return path, (path.stat().st_size, sha256_file(path))

    files = [path for path in target.files() if path.stat().st_size in sizes]
    work = each(look, files, workers=workers, name="audiomdb-pull", give_up=True)
    with contextlib.closing(work) as looked:
        for path, content in looked:
            if content in wanted:
                contents[path] = content
                on_bytes(0 if content in met else content[0])
                met.add(content)

    there = {}
    for number, entry in enumerate(metadata.shards):
        place = target.place(entry)
        if contents.get(place) == (entry.bytes, entry.sha256):
            there[number] = place
            del contents[place]
    # Not out of a folder that is a link: what it leads to belongs to somebody else.
    elsewhere = {c: path for path, c in contents.items() if not path.parent.is_symlink()}
    for number, entry in enumerate(metadata.shards):
        content = entry.bytes, entry.sha256
        if number not in there and content in elsewhere:
            there[number] = elsewhere.pop(content)
    return there


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
