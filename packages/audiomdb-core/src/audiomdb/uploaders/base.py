"""The contract of uploaders: a finished dataset goes somewhere else, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from audiomdb.errors import CorruptShardError
from audiomdb.progress import progress as progress_bar
from audiomdb.shards.files import sha256_file
from audiomdb.shards.layout import (
    DATA_FILE,
    INDEX_FILE,
    LOCK_FILE,
    METADATA_FILE,
    REJECTED_FILE,
)
from audiomdb.shards.metadata import Metadata, read_metadata
from audiomdb.uploaders._sending import DatasetFile, Sending, stop_check

__all__ = ["BaseUploader", "DatasetFile", "UploadReport", "dataset_files"]

_U = TypeVar("_U", bound="BaseUploader")


class UploadReport(msgspec.Struct, frozen=True):
    """What an upload did.

    Attributes:
        files: Files of the dataset, all of them at the destination now.
        bytes: Their size.
        sent_files: Those that were sent; the others were there already.
        sent_bytes: The size of those.
    """

    files: int
    bytes: int
    sent_files: int
    sent_bytes: int


class BaseUploader:
    """Puts a dataset's files where retrievers will look for them.

    A subclass takes one of two levels.

    The short one overrides `upload_dir` and loops over `iter_files`, whose order alone makes the
    upload safe: `metadata.json` comes last, and without it there is no dataset.

        class CopyUploader(BaseUploader):
            def upload_dir(self, local_dir):
                for full_path, rel_path in self.iter_files(local_dir):
                    put(full_path, rel_path)

    The finer one defines `upload_file` and `stat` instead. `upload_dir` then sends several files
    at once, leaves out those that are there with the same content, looks after each whether it
    arrived, and sends `metadata.json` when all others have. Then it looks at all once more: of two
    uploads to one place at once, at least one fails.

    Uploading another dataset over one replaces it file by file. With `remove`, the old
    `metadata.json` goes before the first file that it names is replaced: who comes meanwhile finds
    no dataset. Who had opened the old one, and all where there is no `remove`, meet shards that are
    not those its metadata names, and are told so. Shards that only the old dataset had stay behind,
    named by nothing. An empty destination has none of these troubles.

    Args:
        workers: Files sent at once, at the finer level.
        progress: Show a progress bar on stderr; None: where that is a terminal.
    """

    # On the class, so that a subclass may leave out `super().__init__`.
    workers: int = 4
    progress: bool | None = None

    def __new__(cls, *_args: Any, **_kwargs: Any) -> BaseUploader:  # noqa: ANN401
        """Refuse a class that fills neither level, as an abstract class would."""
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
            if workers < 1:
                raise ValueError(f"workers is {workers}, expected at least 1")
            self.workers = workers
        self.progress = progress

    @classmethod
    def from_url(cls: type[_U], url: str, **options: Any) -> _U:  # noqa: ANN401, PYI019
        """Make an uploader for a URL.

        Needed only of a class that a package registers for a scheme, see `audiomdb.registry`.

        Args:
            url: Its scheme is in small letters; `audiomdb.urls` takes it apart.
            options: Arguments of the class by name, checked to be such.

        Raises:
            InvalidURLError: the URL leads nowhere.
        """
        raise NotImplementedError(f"{cls.__name__} is not made from URLs: {url!r}, {options}")

    def upload_dir(self, local_dir: str | os.PathLike[str]) -> UploadReport | None:
        """Upload the dataset in a folder. Interrupted or failed, it may simply be called again.

        Returns:
            What was done; None from a subclass that keeps no account.

        Raises:
            DatasetNotFoundError: when the folder holds no finished dataset.
            CorruptShardError: when a file is missing, or is not what conversion wrote.
            UploadError: when a file cannot be sent, or did not arrive whole.
        """
        *data, metadata = dataset_files(Path(local_dir))
        total = sum(file.bytes for file in data) + metadata.bytes
        description = f"uploading {Path(local_dir).name}"
        with progress_bar(total, unit="B", description=description, show=self.progress) as bar:
            sent = Sending(self, data, metadata, bar.update).run()
        return UploadReport(len(data) + 1, total, len(sent), sum(file.bytes for file in sent))

    def iter_files(self, local_dir: str | os.PathLike[str]) -> Iterator[tuple[str, str]]:
        """The files of the dataset in a folder, in the order in which they may be published.

        Shards in order, then the index, then `metadata.json`. Only what metadata names: neither
        the remains of an interrupted conversion nor anything else that lies in the folder. The
        sizes are checked before the first file is given.

        Yields:
            Full path, and path relative to the folder, with "/" and at most one directory deep.

        Raises:
            DatasetNotFoundError: when the folder holds no finished dataset.
            CorruptShardError: when a file is missing or has another size than metadata says.
        """
        for file in dataset_files(Path(local_dir)):
            yield file.full_path, file.rel_path

    def upload_file(self, full_path: str, rel_path: str) -> None:
        """Send one file, replacing what is at its destination. The finer level.

        Called from several threads at once, and again for the same file after a failure. When it
        returns, `stat` has to see the file; until then, what was there before or nothing.

        Raises:
            UploadError: naming the destination. Translate the backend's own errors to it here.
        """
        raise NotImplementedError

    def stat(self, rel_path: str) -> tuple[int, str | None] | None:
        """Size and sha256 (hex) of a file at the destination, None where there is none.

        The finer level. Called from several threads at once, up to three times for each file. Where
        the backend knows no sha256, None in its place: the file is then sent even when one of the
        same size is there, and only its size is checked afterwards.

        Raises:
            UploadError: when the destination cannot be asked.
        """
        raise NotImplementedError

    def remove(self, rel_path: str) -> None:
        """Delete a file at the destination; nothing, where there is none. The finer level.

        Called for `metadata.json`, so that nobody takes a mixture of two datasets for one. May be
        left out where the backend cannot delete.

        Raises:
            UploadError: when it could not be deleted.
        """

    def stop_check(self) -> Callable[[], None]:
        """For `upload_file`: a function that raises once the upload of this file is of no use.

        After Ctrl-C, or when another file has failed. To be made in the thread that calls
        `upload_file`, and called now and then, in any thread, while a large file is sent; what it
        raises is to be let through. Without it, the end of the upload waits for the file's.
        """
        return stop_check()

    def destination(self, rel_path: str) -> str:
        """What errors call a file's place at the destination."""
        return f"{rel_path} ({type(self).__name__})"

    @staticmethod
    def sha256(full_path: str) -> str:
        """Hex digest of a local file, for backends that keep one beside each file."""
        return sha256_file(Path(full_path))


def dataset_files(dataset: Path) -> list[DatasetFile]:
    """The files of a dataset in the order of `BaseUploader.iter_files`, with what is known of them.

    Raises:
        DatasetNotFoundError: when the folder holds no finished dataset.
        CorruptShardError: when a file is missing or has another size than metadata says.
    """
    metadata = read_metadata(dataset)
    files = []
    for shard in metadata.shards:
        data = f"{shard.path}/{DATA_FILE}"
        files.append(_expect(dataset, data, shard.bytes, shard.sha256))
        files.append(_expect(dataset, f"{shard.path}/{LOCK_FILE}"))
    files.append(_expect(dataset, INDEX_FILE, metadata.index.bytes, metadata.index.sha256))
    if _has_rejected(dataset, metadata):
        files.append(_expect(dataset, REJECTED_FILE))
    files.append(_expect(dataset, METADATA_FILE))
    return files


def _has_rejected(dataset: Path, metadata: Metadata) -> bool:
    return metadata.rejected > 0 and (dataset / REJECTED_FILE).exists()


def _expect(
    dataset: Path, rel_path: str, size: int | None = None, sha256: str | None = None
) -> DatasetFile:
    path = dataset / rel_path
    try:
        found = path.stat().st_size
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
