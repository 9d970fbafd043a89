"""Base class of uploaders, which copy a finished dataset elsewhere, whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from audiomdb.checks import true_false_or_none, whole_number
from audiomdb.errors import CorruptShardError
from audiomdb.progress import progress as progress_bar
from audiomdb.shards.files import sha256_file, sha256_hex
from audiomdb.shards.journal import Rejection
from audiomdb.shards.layout import (
    DATA_FILE,
    INDEX_FILE,
    LOCK_FILE,
    METADATA_FILE,
    REJECTED_FILE,
)
from audiomdb.shards.metadata import Metadata, metadata_bytes, parse_metadata
from audiomdb.uploaders._sending import DatasetFile, Sending, stop_check
from audiomdb.urls import folder_path

__all__ = ["BaseUploader", "DatasetFile", "UploadReport", "dataset_files"]

_U = TypeVar("_U", bound="BaseUploader")

_LOCK_MAGIC = b"\xde\xc0\xef\xbe"
"""Beginning of a lock file that LMDB has used."""


class UploadReport(msgspec.Struct, frozen=True):
    """What an upload did.

    Attributes:
        files: Number of files in the dataset, all of which are now at the destination.
        bytes: Their total size.
        sent_files: Number of files that were sent; the others were there already.
        sent_bytes: Total size of the files that were sent.
        deleted_files: Number of files that only a replaced dataset had, and that were deleted.
    """

    files: int
    bytes: int
    sent_files: int
    sent_bytes: int
    deleted_files: int = 0


class BaseUploader:
    """Copies the files of a dataset to where a retriever reads them.

    A subclass implements one of two interfaces.

    The simple one overrides `upload_dir` and loops over `iter_files`, whose order alone makes the
    upload safe: `metadata.json` comes last, and without it there is no dataset.

        class CopyUploader(BaseUploader):
            def upload_dir(self, local_dir):
                for full_path, rel_path in self.iter_files(local_dir):
                    put(full_path, rel_path)

    The per-file one defines `upload_file` and `stat` instead. `upload_dir` then sends several files
    at once, skips those that are already there with the same content, checks after each that it
    arrived, and sends `metadata.json` once all others have. If it sent anything, it checks all
    files again at the end, so that of two concurrent uploads to one place at least one fails.

    Uploading a different dataset over an existing one replaces it file by file. If `remove` is
    defined, the old `metadata.json` is deleted before the first file that it names is replaced, so
    that readers find no dataset meanwhile. Readers that have the old dataset open, and all readers
    if `remove` is not defined, meet shards that do not match their metadata and get an error.
    If `read` is defined too, and `stat` knows sha256, the files that only the old dataset had are
    deleted at the end, once the new one is there; otherwise they stay behind, referenced by
    nothing. An empty destination has none of these problems.

    Args:
        workers: Number of files sent at once by the per-file interface.
        progress: Whether to show a progress bar on stderr; None: only if that is a terminal.
    """

    # On the class, so that a subclass may leave out `super().__init__`.
    workers: int = 4
    progress: bool | None = None

    def __new__(cls: type[_U], *_args: Any, **_kwargs: Any) -> _U:  # noqa: ANN401, PYI019
        """Refuse a class that implements neither interface, as an abstract class would."""
        if cls.upload_dir is BaseUploader.upload_dir:
            for name in ("upload_file", "stat"):
                if getattr(cls, name) is getattr(BaseUploader, name):
                    raise TypeError(
                        f"{cls.__name__} does not define {name}: an uploader defines upload_dir, "
                        "or both upload_file and stat"
                    )
        return super().__new__(cls)

    def __init__(self, *, workers: int | None = None, progress: bool | None = None) -> None:
        if workers is not None:
            self.workers = whole_number("workers", workers, low=1)
        self.progress = true_false_or_none("progress", progress)

    @classmethod
    def from_url(cls: type[_U], url: str, **options: Any) -> _U:  # noqa: ANN401, PYI019
        """Make an uploader for a URL.

        Only needed for a class that a package registers for a scheme, see `audiomdb.registry`.

        Args:
            url: The URL, with its scheme in lower case; `audiomdb.urls` has functions to parse it.
            options: Keyword arguments of the class; their names have been checked.

        Raises:
            InvalidURLError: the URL names no destination.
        """
        raise NotImplementedError(f"{cls.__name__} is not made from URLs: {url!r}, {options}")

    # Any, not None: the report is there, unless a subclass defines this method anew without one.
    def upload_dir(self, local_dir: str | os.PathLike[str]) -> UploadReport | Any:  # noqa: ANN401
        """Upload the dataset in a folder.

        After a failure or an interruption, the call can simply be repeated.

        Returns:
            What was done; None from a subclass that does not keep count.

        Raises:
            DatasetNotFoundError: when the folder holds no finished dataset.
            CorruptShardError: when a file is missing, or is not what conversion wrote.
            UploadError: when a file cannot be sent, or did not arrive whole.
        """
        *data, metadata = dataset_files(local_dir)
        total = sum(file.bytes for file in data) + metadata.bytes
        description = f"uploading {Path(local_dir).name}"
        with progress_bar(total, unit="B", description=description, show=self.progress) as bar:
            sending = Sending(self, data, metadata, bar.update)
            sent = sending.run()
        sent_bytes = sum(file.bytes for file in sent)
        return UploadReport(len(data) + 1, total, len(sent), sent_bytes, sending.deleted)

    def holds_another(self, local_dir: str | os.PathLike[str]) -> bool:
        """Return whether the destination holds another dataset than that in a folder.

        Another version of the same dataset is another one. False if there is none, if `stat` is not
        defined, or if it cannot tell.

        Raises:
            CorruptShardError: when the folder has no metadata.json.
            UploadError: when the destination cannot be queried.
        """
        if type(self).stat is BaseUploader.stat:
            return False
        metadata = _expect(_local(local_dir), METADATA_FILE)
        return Sending(self, [], metadata, lambda _: None).meets_another()

    def iter_files(self, local_dir: str | os.PathLike[str]) -> Iterator[tuple[str, str]]:
        """Iterate over the files of the dataset in a folder, in the order to publish them in.

        Shards in order, then the index, the list of rejected samples if there is one, and
        `metadata.json` last. Only files that belong to the dataset are included, not the remains of
        an interrupted conversion or anything else in the folder. All sizes are checked before the
        first file is yielded.

        Yields:
            Full path, and path relative to the folder, with "/" and at most one directory deep.

        Raises:
            DatasetNotFoundError: when the folder holds no finished dataset.
            CorruptShardError: when a file is missing or has another size than metadata says.
        """
        for file in dataset_files(local_dir):
            yield file.full_path, file.rel_path

    def upload_file(self, full_path: str, rel_path: str) -> None:
        """Send one file, replacing what is at its destination. Part of the per-file interface.

        Called from several threads at once, and again for the same file after a failure. Once it
        returns, `stat` must see the file; until then, `stat` sees the previous file or none.

        Raises:
            UploadError: naming the destination. Translate the backend's own errors to it here.
        """
        raise NotImplementedError

    def stat(self, rel_path: str) -> tuple[int, str | None] | None:
        """Return size and sha256 (hex) of a file at the destination, or None if there is none.

        Part of the per-file interface. Called from several threads at once, several times for
        each file. A backend that knows no sha256 returns None in its place: the file is then sent
        even if one of the same size is there, only its size is checked afterwards, and no shard of
        a replaced dataset is deleted.

        Raises:
            UploadError: when the destination cannot be queried.
        """
        raise NotImplementedError

    def remove(self, rel_path: str) -> None:
        """Delete a file at the destination, if it exists. Part of the per-file interface.

        Called for `metadata.json`, so that a mixture of two datasets is not taken for one, and at
        the end for files that only a replaced dataset had, from several threads at once. Need not
        be defined if the backend cannot delete.

        Raises:
            UploadError: when the file could not be deleted.
        """

    def read(self, rel_path: str) -> bytes | None:  # noqa: ARG002
        """Return the content of a file at the destination, or None if there is none.

        Part of the per-file interface. Called for the `metadata.json` of a dataset that is about to
        be replaced, which is kept as `.replaced.json` until the files that only it had are deleted.
        Need not be defined: then they stay.

        Raises:
            UploadError: when the file cannot be read.
        """
        return None

    def stop_check(self) -> Callable[[], None]:
        """Return a function that raises once the upload of the current file has become pointless.

        For use in `upload_file`: it raises after Ctrl-C, or when another file has failed. Call
        `stop_check` in the thread that calls `upload_file`, call its result from time to time, in
        any thread, while a large file is sent, and let the exception through. Without it, a failed
        upload ends only when this file has been sent.
        """
        return stop_check()

    def destination(self, rel_path: str) -> str:
        """Return the name that errors use for a file at the destination.

        Override it: the default has the name of the class, but no place.
        """
        return f"{rel_path} ({type(self).__name__})"

    @staticmethod
    def sha256(full_path: str) -> str:
        """Return the hex digest of a local file, for backends that store one with each file."""
        return sha256_file(Path(full_path))


def dataset_files(folder: str | os.PathLike[str]) -> list[DatasetFile]:
    """Return the files of a dataset, with size and digest, in the order of `iter_files`.

    Raises:
        InvalidURLError: when the folder is given by a URL.
        DatasetNotFoundError: when the folder holds no finished dataset.
        CorruptShardError: when a file is missing or has another size than metadata says.
    """
    dataset = _local(folder)
    raw = metadata_bytes(dataset)
    metadata = parse_metadata(raw, str(dataset / METADATA_FILE))
    files = []
    for shard in metadata.shards:
        data = f"{shard.path}/{DATA_FILE}"
        files.append(_expect(dataset, data, shard.bytes, shard.sha256))
        files.append(_expect(dataset, f"{shard.path}/{LOCK_FILE}"))
        _refuse_strange_lock(dataset, files[-1])
    files.append(_expect(dataset, INDEX_FILE, metadata.index.bytes, metadata.index.sha256))
    if _has_rejected(dataset, metadata):
        files.append(_expect(dataset, REJECTED_FILE))
        _refuse_strange_rejections(dataset)
    files.append(_expect(dataset, METADATA_FILE, sha256=sha256_hex(raw)))
    return files


def _local(folder: str | os.PathLike[str]) -> Path:
    return folder_path(folder, instead="pull the dataset first")


def _has_rejected(dataset: Path, metadata: Metadata) -> bool:
    return metadata.rejected > 0 and (dataset / REJECTED_FILE).exists()


# Digests in the metadata say what the other files hold. These two could be links, put into a folder
# by whoever made it, to a file of the user's that is then published.


def _refuse_strange_lock(dataset: Path, file: DatasetFile) -> None:
    with Path(file.full_path).open("rb") as lock:
        if lock.read(len(_LOCK_MAGIC)) not in (b"", _LOCK_MAGIC):
            raise CorruptShardError(
                f"{file.rel_path} of the dataset in {dataset} is not a lock file of LMDB; an empty "
                "file will do"
            )


def _refuse_strange_rejections(dataset: Path) -> None:
    try:
        with (dataset / REJECTED_FILE).open("rb") as lines:
            for line in lines:
                msgspec.json.decode(line, type=Rejection)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise CorruptShardError(
            f"{REJECTED_FILE} of the dataset in {dataset} is not a list of rejected samples: "
            f"{exc}; delete it"
        ) from exc


def _expect(
    dataset: Path, rel_path: str, size: int | None = None, sha256: str | None = None
) -> DatasetFile:
    path = dataset / rel_path
    try:
        found = path.stat().st_size
        if not path.is_file():
            raise FileNotFoundError(errno.ENOENT, "no file", str(path))
    except OSError as exc:
        hint = "an empty file will do" if path.name == LOCK_FILE else "convert again"
        raise CorruptShardError(
            f"the dataset in {dataset} is not whole: {rel_path} is missing; {hint}"
        ) from exc
    if size is not None and found != size:
        raise CorruptShardError(
            f"the dataset in {dataset} is not whole: {rel_path} has {found} bytes, metadata says "
            f"{size}. Delete the shard and convert again"
        )
    return DatasetFile(str(path), rel_path, found, sha256)
