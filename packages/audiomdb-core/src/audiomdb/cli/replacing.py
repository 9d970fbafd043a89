"""Keep `audiomdb upload` from replacing another dataset unless that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from audiomdb.errors import (
    DatasetNotFoundError,
    FormatVersionError,
    MetadataError,
    OutputBusyError,
    OutputExistsError,
    UploadError,
)
from audiomdb.shards import Metadata, read_metadata
from audiomdb.shards.files import sha256_file, write_atomically
from audiomdb.shards.layout import (
    DATA_FILE,
    INDEX_FILE,
    LOCK_FILE,
    METADATA_FILE,
    REJECTED_FILE,
    shard_number,
)
from audiomdb.uploaders._replaced import NOTE_FILE
from audiomdb.uploaders.base import BaseUploader
from audiomdb.uploaders.local import LocalUploader

__all__ = ["replacing"]

_MARK = ".upload"
"""Name of the file that marks a folder where a dataset is being replaced."""

_SHARD_FILES = frozenset((DATA_FILE, LOCK_FILE))
_DATASET_FILES = frozenset((INDEX_FILE, METADATA_FILE, REJECTED_FILE, NOTE_FILE, _MARK))


@contextmanager
def replacing(
    uploader: BaseUploader, target: str, folder: Path, metadata: Metadata, *, allowed: bool
) -> Iterator[None]:
    """Check what is at the target; within the `with` block, it may be replaced.

    Args:
        uploader: Uploader to the target.
        target: The target's name in errors.
        folder: Folder of the dataset that is to go there.
        metadata: Its metadata.
        allowed: Whether another dataset may be replaced.

    Raises:
        OutputExistsError: the target holds what must not be replaced.
        UploadError: the target cannot be looked at.
    """
    if not isinstance(uploader, LocalUploader):
        if not allowed and uploader.holds_another(folder):
            raise OutputExistsError(
                f"{target} holds a different dataset, or another version of this one; give another "
                "place, or --replace to put this one there"
            )
        yield
    elif uploader.path.is_dir():
        _refuse_in_folder(uploader.path, metadata, replace=allowed)
        with _marked(uploader.path, metadata):
            yield
    else:
        yield


def _refuse_in_folder(target: Path, metadata: Metadata, *, replace: bool) -> None:
    """Raise an error if a folder holds anything but this dataset or a part of it.

    Raises:
        OutputExistsError: says what the folder holds.
    """
    try:
        there = read_metadata(target)
    except DatasetNotFoundError:
        foreign = next(_foreign_files(target), None)
        if foreign is not None:
            raise OutputExistsError(
                f"{target} holds {foreign!r} and no dataset; give an empty folder or one that does "
                "not exist"
            ) from None
        if replace or _mark(target) == metadata.index.sha256:
            return
        other = next(_other_shards(target, metadata), None)
        if other is not None:
            raise OutputExistsError(
                f"{target} holds {other}, which is not of the dataset {metadata.name!r} but of a "
                "conversion or an upload that has not ended; give another folder, or --replace to "
                "put this dataset in its place"
            ) from None
        return
    except (MetadataError, FormatVersionError) as exc:
        if replace:
            return
        raise OutputExistsError(
            f"{target} holds something that cannot be read as a dataset ({exc}); give another "
            "folder, or --replace to put this dataset in its place"
        ) from exc
    if there != metadata and not replace:
        other = f"the dataset {there.name!r}, and {metadata.name!r} is to go there"
        if there.name == metadata.name:
            other = f"another version of the dataset {metadata.name!r}"
        raise OutputExistsError(
            f"{target} holds {other}; give another folder, or --replace to put this one in its "
            "place"
        )


@contextmanager
def _marked(target: Path, metadata: Metadata) -> Iterator[None]:
    """Mark a folder, until the upload is done, with the dataset that is replacing its shards.

    The metadata of the old dataset is deleted first. Without the mark, a resumed upload could not
    distinguish its shards from those of an unfinished conversion.
    """
    if not any(target.glob("shard_*")):
        yield
        return
    before = _mark(target)
    try:
        write_atomically(target / _MARK, [metadata.index.sha256.encode()])
    except OSError as exc:
        raise UploadError(f"cannot write to {target}: {exc.strerror}") from exc
    try:
        yield
    except OutputBusyError:  # nothing is replaced: the mark is that of whoever writes there
        if before is None:
            (target / _MARK).unlink(missing_ok=True)
        else:
            write_atomically(target / _MARK, [before.encode()])
        raise
    (target / _MARK).unlink(missing_ok=True)


def _mark(target: Path) -> str | None:
    """Return the index digest of the dataset that an interrupted upload was writing, or None."""
    try:
        return (target / _MARK).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _other_shards(target: Path, metadata: Metadata) -> Iterator[str]:
    """Yield the names of shard files in a folder that are not those of this dataset."""
    ours = {entry.path: entry for entry in metadata.shards}
    for path in sorted(target.glob(f"shard_*/{DATA_FILE}")):
        entry = ours.get(path.parent.name)
        if entry is None or path.stat().st_size != entry.bytes or sha256_file(path) != entry.sha256:
            yield f"{path.parent.name}/{path.name}"


def _foreign_files(folder: Path) -> Iterator[str]:
    """List what is in a folder but neither belongs to a dataset nor was left by a stopped upload.

    Yields:
        Names relative to the folder, sorted.
    """
    for entry in sorted(folder.iterdir()):
        if shard_number(entry.name) is not None and entry.is_dir():
            names = sorted(inside.name for inside in entry.iterdir())
            yield from (f"{entry.name}/{n}" for n in names if not _is_of(n, _SHARD_FILES))
        elif not _is_of(entry.name, _DATASET_FILES):
            yield entry.name


def _is_of(name: str, files: frozenset[str]) -> bool:
    """Return whether a name is one of these, or the temporary name of one being written."""
    return name in files or (name[:1] == "." and name[1:].removesuffix(".tmp") in files)
