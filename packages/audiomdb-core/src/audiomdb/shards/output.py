"""The output folder of a conversion: locked, cleared of leftovers, closed to strangers' files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from audiomdb.errors import DatasetNotFoundError, MetadataError, OutputExistsError
from audiomdb.shards.files import sync
from audiomdb.shards.folder_lock import lock_folder
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

__all__ = ["OutputFolder", "output_path"]

_PARTIAL = ".partial"
_LEFT_OVER = {INDEX_FILE, REJECTED_FILE, _PARTIAL}
"""What may be left of ours alone. Many programs have a metadata.json: that one is looked into."""


def output_path(output_dir: str | os.PathLike[str]) -> Path:
    """The path of a folder to write to.

    Raises:
        InvalidURLError: it is a URL.
    """
    return folder_path(
        output_dir,
        instead="write to a folder, and send that to the URL with `audiomdb upload` or an uploader",
    )


class OutputFolder:
    """A folder that one process writes shards to.

    Args:
        path: Made where it does not exist.

    Raises:
        OutputExistsError: when it holds something and no shard or metadata of ours.
        OutputBusyError: when another process has it.
        OutputWriteError: when it cannot be made.
    """

    _lock = -1

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made = not path.exists()
        self._lock = lock_folder(path)
        try:
            self._refuse_strangers()
            self._staging = path / _PARTIAL
            # An earlier run's half-made shards are of no use: the source is read again.
            if self._staging.exists():
                shutil.rmtree(self._staging)
            self._withdraw_metadata_of_missing_shards()
        except BaseException:
            self.close()
            raise

    def __del__(self) -> None:
        # A writer that was dropped, in a notebook say, must not keep the folder to itself.
        self.close()

    def shards(self) -> list[int]:
        """Numbers of the finished shards, sorted."""
        numbers = (shard_number(entry.name) for entry in self.path.iterdir())
        return sorted(number for number in numbers if number is not None)

    def stage(self, shard: int) -> Path:
        """Where to make a shard; its writer makes the folder."""
        return self._staging / shard_name(shard)

    def publish(self, shard: int) -> None:
        """Give a shard that was made under `stage` its final place, once it is on the disk."""
        staged, final = self.stage(shard), self.path / shard_name(shard)
        for name in (DATA_FILE, LOCK_FILE):
            sync(staged / name)
        sync(staged)
        staged.rename(final)
        sync(self.path)

    def withdraw_metadata(self, shards: Sequence[ShardEntry]) -> None:
        """Remove an earlier run's metadata, unless it promises just these shards.

        Before the index is written: metadata and index that do not belong together are no dataset.
        """
        path = self.path / METADATA_FILE
        if not path.exists():
            return
        metadata = self._metadata()
        if metadata is None or metadata.shards != tuple(shards):
            path.unlink()
            sync(self.path)

    def discard_staging(self) -> None:
        """Remove what was not published."""
        shutil.rmtree(self._staging, ignore_errors=True)

    @property
    def closed(self) -> bool:
        """Whether the lock was given up."""
        return self._lock < 0

    def close(self) -> None:
        """Unlock, and leave no empty folder behind that was made here. May be called twice."""
        if self._lock >= 0:
            if self._made:
                with suppress(OSError):  # it holds something
                    self.path.rmdir()
            os.close(self._lock)
            self._lock = -1

    def _refuse_strangers(self) -> None:
        names = sorted(entry.name for entry in self.path.iterdir())
        strangers = [name for name in names if name not in _LEFT_OVER]
        if strangers and not self.shards() and self._metadata() is None:
            raise OutputExistsError(
                f"{self.path} holds {strangers[0]!r} and no AudioMDB dataset; "
                "give an empty folder or one that does not exist"
            )

    def _withdraw_metadata_of_missing_shards(self) -> None:
        # Metadata promises every shard. Where one was deleted to be made again, the promise waits.
        metadata = self._metadata()
        there = [shard_name(number) for number in self.shards()]
        if metadata is not None and [shard.path for shard in metadata.shards] != there:
            self.withdraw_metadata(())

    def _metadata(self) -> Metadata | None:
        """What an earlier run has promised, if it has and that can be read."""
        try:
            return read_metadata(self.path)
        except (DatasetNotFoundError, MetadataError):
            return None
