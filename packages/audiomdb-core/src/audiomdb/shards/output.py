"""The folder that a dataset is made in: locked, cleared of leftovers, and free of foreign files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from audiomdb.errors import DatasetNotFoundError, MetadataError, OutputExistsError
from audiomdb.shards.files import sync, temporary_name
from audiomdb.shards.folder_lock import lock_folder, unlock_folder
from audiomdb.shards.layout import (
    DATA_FILE,
    INDEX_FILE,
    LOCK_FILE,
    METADATA_FILE,
    REJECTED_FILE,
    shard_name,
    shard_number,
)
from audiomdb.shards.metadata import Metadata, ShardEntry, read_metadata
from audiomdb.urls import folder_path

__all__ = ["OutputFolder", "folder_name", "output_path"]

_PARTIAL = ".partial"
_WRITTEN = (INDEX_FILE, REJECTED_FILE, METADATA_FILE)
_LEFT_OVER = {INDEX_FILE, REJECTED_FILE, _PARTIAL, *map(temporary_name, _WRITTEN)}
"""Names that an interrupted run may leave on their own. `metadata.json` is not among them: other
programs write such a file too, so its contents are checked."""


def output_path(output_dir: str | os.PathLike[str]) -> Path:
    """Return the path of a folder to write to, absolute: the source may change directories.

    Raises:
        InvalidURLError: when it is a URL.
    """
    return folder_path(
        output_dir,
        instead="write to a folder, and send that to the URL with `audiomdb upload` or an uploader",
    ).absolute()


def folder_name(path: Path) -> str:
    """Return the name of the folder that a path leads to; of the path, if it leads nowhere."""
    return Path(os.path.realpath(path)).name  # resolve() raises for a link to itself


class OutputFolder:
    """A locked folder that this process writes shards to.

    Args:
        path: The folder; created if missing.

    Raises:
        OutputExistsError: when it holds other files and no AudioMDB shard or metadata.
        OutputBusyError: when another process has locked it.
        OutputWriteError: when it cannot be created.
    """

    _lock = -1

    def __init__(self, path: Path) -> None:
        self.path = path
        self._staging = path / _PARTIAL
        self._owner = os.getpid()
        self._lock, self._made = lock_folder(path)
        try:
            self._refuse_strangers()
            # Unfinished shards of an earlier run are useless: their source is read again.
            if self._staging.exists():
                shutil.rmtree(self._staging)
            self._withdraw_metadata_of_missing_shards()
        except BaseException:
            self._unlock()
            raise

    def __del__(self) -> None:
        # A writer that was dropped without `close`, as in a notebook, must not keep the lock.
        self._unlock()

    def shards(self) -> list[int]:
        """Return the numbers of the finished shards, sorted."""
        numbers = (shard_number(entry.name) for entry in self.path.iterdir())
        return sorted(number for number in numbers if number is not None)

    def metadata(self) -> Metadata | None:
        """Return the metadata of an earlier run, or None if it is missing or unreadable."""
        try:
            return read_metadata(self.path)
        except (DatasetNotFoundError, MetadataError):
            return None

    def stage(self, shard: int) -> Path:
        """Return the folder to write a shard to; its writer creates it."""
        return self._staging / shard_name(shard)

    def publish(self, shard: int) -> None:
        """Sync a shard that was written to `stage` and move it to its final path."""
        staged, final = self.stage(shard), self.path / shard_name(shard)
        for name in (DATA_FILE, LOCK_FILE):
            sync(staged / name)
        sync(staged)
        staged.rename(final)
        sync(self.path)

    def withdraw_metadata(self, shards: Sequence[ShardEntry]) -> None:
        """Remove the metadata of an earlier run, unless it lists exactly these shards.

        Call this before the index is written: metadata must never be found with another index.
        """
        path = self.path / METADATA_FILE
        if not path.exists():
            return
        metadata = self.metadata()
        if metadata is None or metadata.shards != tuple(shards):
            path.unlink()
            sync(self.path)

    def close(self) -> None:
        """Remove shards that were not published, and unlock the folder. Idempotent.

        The folder is removed too if it was created here and is empty. In a forked child, nothing is
        removed.
        """
        if self._lock >= 0 and os.getpid() == self._owner:
            shutil.rmtree(self._staging, ignore_errors=True)
        self._unlock()

    def _unlock(self) -> None:
        lock, self._lock = self._lock, -1
        if lock < 0:
            return
        if os.getpid() != self._owner:  # a copy in a forked child
            os.close(lock)
            return
        if self._made:
            with suppress(OSError):  # it is not empty
                self.path.rmdir()
        unlock_folder(lock)

    def _refuse_strangers(self) -> None:
        if self.shards():
            return
        # The cache of a remote dataset has its metadata, and shards in a folder of another name.
        ours = _LEFT_OVER if self.metadata() is None else {*_LEFT_OVER, METADATA_FILE}
        names = sorted(entry.name for entry in self.path.iterdir())
        strangers = [name for name in names if name not in ours]
        if strangers:
            raise OutputExistsError(
                f"{self.path} holds {strangers[0]!r} and no AudioMDB dataset; "
                "give an empty folder or one that does not exist"
            )

    def _withdraw_metadata_of_missing_shards(self) -> None:
        # Metadata must not list a shard that was deleted in order to be converted again.
        metadata = self.metadata()
        there = [shard_name(number) for number in self.shards()]
        if metadata is not None and [shard.path for shard in metadata.shards] != there:
            self.withdraw_metadata(())
