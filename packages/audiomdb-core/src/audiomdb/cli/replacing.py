"""Keep `audiomdb upload` from replacing another dataset unless that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from audiomdb.errors import (
    AudioMDBError,
    DatasetNotFoundError,
    FormatVersionError,
    MetadataError,
    OutputExistsError,
    UploadError,
)
from audiomdb.shards import Metadata, read_metadata
from audiomdb.shards.layout import (
    DATA_FILE,
    INDEX_FILE,
    LOCK_FILE,
    METADATA_FILE,
    REJECTED_FILE,
    shard_number,
)
from audiomdb.uploaders._replaced import NOTE_FILE, left_over
from audiomdb.uploaders.base import BaseUploader
from audiomdb.uploaders.local import LocalUploader

__all__ = ["refuse_another"]

_SHARD_FILES = frozenset((DATA_FILE, LOCK_FILE))
_DATASET_FILES = frozenset((INDEX_FILE, METADATA_FILE, REJECTED_FILE, NOTE_FILE))


def refuse_another(
    uploader: BaseUploader, target: str, folder: Path, metadata: Metadata, *, replace: bool
) -> None:
    """Raise an error if the target holds something that must not be replaced.

    Args:
        uploader: Uploader to the target.
        target: The target's name in errors.
        folder: Folder of the dataset that is to go there.
        metadata: Its metadata.
        replace: Whether another dataset may be replaced.

    Raises:
        OutputExistsError: the target holds what must not be replaced.
        UploadError: the target cannot be looked at.
    """
    if isinstance(uploader, LocalUploader):
        try:
            if uploader.path.is_dir():
                _refuse_in_folder(uploader, metadata, replace=replace)
        except AudioMDBError:
            raise
        except OSError as exc:
            raise UploadError(f"cannot look at {target}: {exc.strerror}") from exc
    elif not replace and uploader.holds_another(folder):
        raise OutputExistsError(
            f"{target} holds a different dataset, or another version of this one; give another "
            "place, or --replace to put this one there"
        )


def _refuse_in_folder(uploader: LocalUploader, metadata: Metadata, *, replace: bool) -> None:
    """Raise an error if a folder holds anything but this dataset or a part of it.

    Raises:
        OutputExistsError: says what the folder holds.
    """
    target = uploader.path
    try:
        there = read_metadata(target)
    except DatasetNotFoundError:
        foreign = next(_foreign_files(target), None)
        if foreign is not None:
            raise OutputExistsError(
                f"{target} holds {foreign!r} and no dataset; give an empty folder or one that does "
                "not exist"
            ) from None
        other = None if replace else next(_other_shards(uploader, metadata), None)
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


def _other_shards(uploader: LocalUploader, metadata: Metadata) -> Iterator[str]:
    """Yield the shard files that are neither this dataset's nor of one that is being replaced."""
    known = left_over(uploader.read(NOTE_FILE) or b"[]", ())
    for entry in metadata.shards:
        known.setdefault(f"{entry.path}/{DATA_FILE}", set()).add((entry.bytes, entry.sha256))
    for path in sorted(uploader.path.glob(f"shard_*/{DATA_FILE}")):
        name = f"{path.parent.name}/{path.name}"
        if uploader.stat(name) not in known.get(name, ()):
            yield name


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
