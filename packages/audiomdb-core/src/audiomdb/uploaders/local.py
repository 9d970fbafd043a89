"""Uploader to a folder, such as a mounted disk or a network share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from audiomdb.errors import OutputExistsError, OutputWriteError, UploadError
from audiomdb.shards.files import sha256_file, sync, version_of, write_atomically
from audiomdb.shards.folder_lock import lock_folder, unlock_folder
from audiomdb.uploaders.base import BaseUploader, UploadReport, dataset_files
from audiomdb.urls import folder_path, local_path

__all__ = ["LocalUploader"]

_CHUNK_BYTES = 1024 * 1024


class LocalUploader(BaseUploader):
    """Copies a dataset to another folder.

        LocalUploader("/media/disk/digits").upload_dir("digits")

    Each file appears under its name only once all of it is on the disk. Every copy is read back
    and compared, and so is every file that is already there.

    Args:
        path: The folder, created if it does not exist. What it holds already is not checked.
        workers: Number of files copied at once.
        progress: Whether to show a progress bar on stderr; None: only if that is a terminal.

    Raises:
        InvalidURLError: the path is a URL.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        workers: int = 2,
        progress: bool | None = None,
    ) -> None:
        super().__init__(workers=workers, progress=progress)
        self.path = folder_path(path, instead="audiomdb.registry.uploader_for takes URLs")
        self._read: dict[str, tuple[object, str]] = {}

    @classmethod
    def from_url(cls, url: str, **options: Any) -> LocalUploader:  # noqa: ANN401
        """Make an uploader for a path, or a URL like `file:///media/disk/speech`.

        Raises:
            InvalidURLError: the URL is not a path on this machine.
        """
        return cls(local_path(url), **options)

    def upload_dir(self, local_dir: str | os.PathLike[str]) -> UploadReport:
        """Copy the dataset in a folder, holding a lock on the target folder meanwhile.

        Raises:
            OutputBusyError: another process is writing there.
        """
        dataset_files(local_dir)  # report a broken dataset before the target is created
        self._read = {}
        try:
            lock, _ = lock_folder(self.path)
        except (OutputExistsError, OutputWriteError) as exc:
            raise UploadError(str(exc)) from exc
        try:
            return super().upload_dir(local_dir)
        finally:
            unlock_folder(lock)

    def upload_file(self, full_path: str, rel_path: str) -> None:
        """Copy one file."""
        target = self.path / rel_path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, _chunks(Path(full_path), self.stop_check()))
        except OSError as exc:
            raise UploadError(f"cannot copy {full_path} to {target}: {exc.strerror}") from exc

    def stat(self, rel_path: str) -> tuple[int, str | None] | None:
        """Return size and digest of a copy, read again only if it changed since the last call."""
        target = self.path / rel_path
        try:
            version = version_of(target)
            if version is None:
                return None
            known, digest = self._read.get(rel_path, (None, ""))
            if known != version:
                digest = sha256_file(target)
                self._read[rel_path] = version, digest
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise UploadError(f"cannot read {target}: {exc.strerror}") from exc
        return version.size, digest

    def read(self, rel_path: str) -> bytes | None:
        """Return the content of a copy, or None if there is none."""
        target = self.path / rel_path
        try:
            return target.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise UploadError(f"cannot read {target}: {exc.strerror}") from exc

    def remove(self, rel_path: str) -> None:
        """Delete a copy, and the folder of a shard with its last file.

        If the folder is a link, only that is deleted: what it leads to belongs to somebody else.
        """
        target = self.path / rel_path
        if target.parent != self.path and target.parent.is_symlink():
            target = target.parent
        try:
            target.unlink(missing_ok=True)
            if target.parent != self.path:
                with suppress(OSError):  # it is not empty
                    target.parent.rmdir()
                    target = target.parent
            sync(target.parent)
        except (FileNotFoundError, NotADirectoryError):
            return  # its folder is not there either
        except OSError as exc:
            raise UploadError(f"cannot delete {target}: {exc.strerror}") from exc

    def destination(self, rel_path: str) -> str:
        """Return the path of the copy."""
        return str(self.path / rel_path)


def _chunks(path: Path, check: Callable[[], None]) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            check()
            yield chunk
