"""Merge finished datasets into one, whose shards are theirs: hard links to the files, or copies."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec

from audiomdb.checks import true_false_or_none, true_or_false
from audiomdb.errors import (
    CorruptShardError,
    DuplicateKeyError,
    OptionsChangedError,
    OutputExistsError,
    SourceError,
)
from audiomdb.log import logger
from audiomdb.progress import Progress
from audiomdb.progress import progress as progress_bar
from audiomdb.shards.completion import complete_dataset
from audiomdb.shards.disk_errors import disk_errors
from audiomdb.shards.features import merge_features
from audiomdb.shards.files import sha256_file, write_atomically
from audiomdb.shards.index import converted
from audiomdb.shards.journal import Rejection, utf8
from audiomdb.shards.key_set import KeySet
from audiomdb.shards.layout import (
    DATA_FILE,
    INDEX_FILE,
    LOCK_FILE,
    METADATA_FILE,
    REJECTED_FILE,
    shard_name,
)
from audiomdb.shards.metadata import Feature, Metadata, ShardEntry, read_metadata
from audiomdb.shards.mixed_types import warn_of_mixed_types
from audiomdb.shards.output import OutputFolder, folder_name, output_path
from audiomdb.shards.shard_reader import ShardReader
from audiomdb.urls import folder_path

__all__ = ["merge_datasets"]

_CHUNK_BYTES = 1024 * 1024


def merge_datasets(
    folders: Sequence[str | os.PathLike[str]],
    output_dir: str | os.PathLike[str],
    *,
    name: str | None = None,
    copy: bool = False,
    progress: bool | None = None,
) -> Metadata:
    """Merge finished datasets into one that holds their shards, in the order given.

        merge_datasets(["part-0", "part-1"], "speech")

    No audio is read or stored again. Where the file system allows it, the new dataset's shards are
    hard links to the files of the old ones: they take no space, and either folder may be deleted.
    A file that a program changes in place changes in both.

    A merge that was interrupted is continued by the same call. If the output is complete, it is
    left as it is. A field that is text in one dataset and a number in another is logged.

    Args:
        folders: Folders of the datasets, all made with the same processors.
        output_dir: Folder of the new dataset; missing, empty, or left by an earlier merge of these.
        name: Name of the new dataset; the folder's name by default.
        copy: Copy the shards, checking each against its sha256, even where they could be links.
        progress: Whether to show progress bars on stderr; None: only if that is a terminal.

    Returns:
        The metadata of the new dataset.

    Raises:
        InvalidURLError: when a folder is a URL.
        DatasetNotFoundError, MetadataError, FormatVersionError: when a folder holds no dataset that
            can be read.
        SourceError: when the datasets have different processors.
        DuplicateKeyError: when two shards hold the same key.
        CorruptShardError: when a shard is missing, has another size than its metadata says, or is
            found to be damaged.
        OutputExistsError: when the output folder holds something else, or is in one of `folders`.
        OptionsChangedError: when an earlier merge linked shards that are to be copied now.
        OutputBusyError: when another process is writing there.
        OutputWriteError: when the output cannot be written.
    """
    true_or_false("copy", copy)
    true_false_or_none("progress", progress)
    output = output_path(output_dir)
    parts = _parts(folders)
    _refuse_different_processors(parts)
    _refuse_output_within(parts, output)
    name = utf8(name or folder_name(output))
    shards = _numbered_anew(parts)
    with disk_errors(output, job="merge"):
        folder = OutputFolder(output)
    with closing(folder):
        before = _metadata_of_earlier_merge(folder, shards)
        with disk_errors(output, job="merge"):
            missing = _missing(shards, folder, copy=copy, show=progress)
        if before is not None and before.name == name and not missing and _is_whole(output, before):
            logger("shards").info("%s holds this dataset already", output)
            return before
        warn_of_mixed_types(parts)
        features, rejected = _look_into(shards, show=progress)
        with disk_errors(output, job="merge"):
            _bring(missing, folder, copy=copy, show=progress)
            return complete_dataset(
                folder,
                [shard.entry for shard in shards],
                name=name,
                features=features,
                processors=parts[0].metadata.processors,
                rejected=rejected,
            )


class _Part(NamedTuple):
    """A dataset that is merged."""

    folder: Path
    metadata: Metadata


class _Shard(NamedTuple):
    """A shard of a part: where it lies, and its number and entry in the merged dataset."""

    directory: Path
    number: int
    entry: ShardEntry

    @property
    def file(self) -> Path:
        return self.directory / DATA_FILE


def _parts(folders: Sequence[str | os.PathLike[str]]) -> list[_Part]:
    if isinstance(folders, str | os.PathLike):
        raise TypeError(f"folders is {folders!r}, expected a list of folders")
    paths = [folder_path(folder, instead="pull the dataset first") for folder in folders]
    if not paths:
        raise ValueError("folders is empty: there is nothing to merge")
    parts = [_Part(path, read_metadata(path)) for path in paths]
    for path, metadata in parts:
        for entry in metadata.shards:
            if not (path / entry.path).is_dir():
                raise CorruptShardError(
                    f"{path / entry.path} is missing, and {path / METADATA_FILE} lists it. If "
                    f"{path} is the cache of a dataset at a URL, pull the dataset into a folder"
                )
    return parts


def _refuse_different_processors(parts: Sequence[_Part]) -> None:
    first = parts[0]
    for other in parts[1:]:
        if other.metadata.processors != first.metadata.processors:
            raise SourceError(
                f"{first.folder} was made with {_named(first.metadata.processors)}, "
                f"{other.folder} with {_named(other.metadata.processors)}: the samples of one "
                "dataset have gone through the same processors"
            )


def _named(processors: Sequence[str]) -> str:
    if not processors:
        return "no processor"
    return f"the processor{'s' if len(processors) > 1 else ''} {', '.join(processors)}"


def _refuse_output_within(parts: Sequence[_Part], output: Path) -> None:
    place = Path(os.path.realpath(output))
    for part in parts:
        theirs = Path(os.path.realpath(part.folder))
        if theirs in (place, *place.parents):
            raise OutputExistsError(
                f"{output} is {part.folder} or lies in it: that is merged, and stays as it is. "
                "Give a folder beside it"
            )


def _numbered_anew(parts: Sequence[_Part]) -> list[_Shard]:
    theirs = [(part.folder, entry) for part in parts for entry in part.metadata.shards]
    return [
        _Shard(folder / entry.path, i, msgspec.structs.replace(entry, path=shard_name(i)))
        for i, (folder, entry) in enumerate(theirs)
    ]


def _metadata_of_earlier_merge(folder: OutputFolder, shards: Sequence[_Shard]) -> Metadata | None:
    """Return the metadata in the output folder, if there is any; refuse that of another dataset."""
    metadata = folder.metadata()
    if metadata is not None and list(metadata.shards) != [shard.entry for shard in shards]:
        raise OutputExistsError(
            f"{folder.path} holds another dataset; give an empty folder or one that does not exist"
        )
    if (numbers := folder.shards()) and numbers[-1] >= len(shards):
        raise _strange(folder.path / shard_name(numbers[-1]), "none of those that are merged")
    return metadata


def _missing(
    shards: Sequence[_Shard], folder: OutputFolder, *, copy: bool, show: bool | None
) -> list[_Shard]:
    """Return the shards that no earlier merge brought into the folder."""
    there = len(folder.shards())
    if not there:
        return list(shards)
    missing = []
    with progress_bar(there, unit="shards", description="checking", show=show) as bar:
        for shard in shards:
            if _is_there(shard, folder.path, copy=copy):
                bar.update()
            else:
                missing.append(shard)
    return missing


def _is_there(shard: _Shard, output: Path, *, copy: bool) -> bool:
    """Whether an earlier merge brought a shard; another one in its place is refused.

    What is no link is read and compared: an interrupted conversion may have left it.
    """
    place = output / shard.entry.path
    if not place.exists():
        return False
    file = place / DATA_FILE
    if file.is_file() and shard.file.exists() and file.samefile(shard.file):
        if copy:
            raise OptionsChangedError(
                f"{place} is a link to {shard.directory}, made by a merge without copies; delete "
                f"{output} to have copies made, or merge into another folder"
            )
        return True
    same_size = file.is_file() and file.stat().st_size == shard.entry.bytes
    if not same_size or sha256_file(file) != shard.entry.sha256:
        raise _strange(place, f"not {shard.directory}")
    return True


def _strange(place: Path, what: str) -> OutputExistsError:
    return OutputExistsError(
        f"{place} is {what}: it is damaged, or of another dataset. Delete that folder to have it "
        "made again, or merge into another folder"
    )


def _is_whole(output: Path, metadata: Metadata) -> bool:
    """Whether the files beside shards and metadata are as the merge wrote them."""
    index = output / INDEX_FILE
    return (
        index.is_file()
        and sha256_file(index) == metadata.index.sha256
        and (output / REJECTED_FILE).is_file() == bool(metadata.rejected)
    )


def _look_into(
    shards: Sequence[_Shard], *, show: bool | None
) -> tuple[dict[str, Feature], list[Rejection]]:
    """Compare the keys of all shards; return their features and the rejected samples."""
    keys = KeySet()
    features: dict[str, Feature] = {}
    rejected: list[Rejection] = []
    with progress_bar(len(shards), unit="shards", description="comparing keys", show=show) as bar:
        for shard in shards:
            index = ShardReader(shard.directory, shard.entry).index
            held = [key.encode() for key in index.all_keys()]
            _refuse_duplicates(held, shard, keys, shards)
            keys.add(shard.number, held)
            try:
                theirs = converted(index.features, dict[str, Feature])
                rejected += converted(index.journal.get("rejected"), list[Rejection])
            except msgspec.ValidationError as exc:
                raise CorruptShardError(f"{shard.directory}: its index is damaged: {exc}") from exc
            features = merge_features((features, theirs))
            bar.update()
    return features, rejected


def _refuse_duplicates(
    held: Sequence[bytes], shard: _Shard, keys: KeySet, shards: Sequence[_Shard]
) -> None:
    for number, suspects in sorted(keys.maybe(held).items()):
        earlier = shards[number]
        index = ShardReader(earlier.directory, earlier.entry).index
        for key in map(bytes.decode, sorted(suspects)):
            if index.find(key) is not None:
                raise DuplicateKeyError(
                    f"key {key!r} occurs twice: {earlier.directory} and {shard.directory} hold it. "
                    "In one dataset, each key occurs once: leave one of the two out, or convert it "
                    "with other keys"
                )


def _bring(
    shards: Sequence[_Shard], folder: OutputFolder, *, copy: bool, show: bool | None
) -> None:
    """Link or copy shards into the folder, one after the other, each as a whole or not at all."""
    announced = copy  # who asked for copies knows
    total = sum(shard.entry.bytes for shard in shards)
    with progress_bar(total, unit="B", description="merging", show=show) as bar:
        for shard in shards:
            staged = folder.stage(shard.number)
            staged.mkdir(parents=True)
            if not copy and _linked(shard.file, staged / DATA_FILE):
                bar.update(shard.entry.bytes)
            else:
                if not announced:
                    logger("shards").info(
                        "%s allows no links to %s: copying", folder.path, shard.directory
                    )
                announced = True
                _copy(shard, staged / DATA_FILE, bar)
            (staged / LOCK_FILE).touch()
            folder.publish(shard.number)


def _linked(file: Path, target: Path) -> bool:
    """Make a hard link; False where the system refuses, as between two disks."""
    try:
        # If it is a link itself, as in the Hub's cache, then to what it leads to.
        os.link(os.path.realpath(file), target)
    except OSError:  # a copy fails, too, if that is no reason against copying
        return False
    return True


def _copy(shard: _Shard, target: Path, bar: Progress) -> None:
    _, digest = write_atomically(target, _chunks(shard.file, bar))
    if digest != shard.entry.sha256:
        raise CorruptShardError(
            f"{shard.file} has sha256 {digest}, metadata says {shard.entry.sha256}: it was damaged "
            "since it was made"
        )


def _chunks(path: Path, bar: Progress) -> Iterator[bytes]:
    try:
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
                bar.update(len(chunk))
    except OSError as exc:  # of this disk; one of the output's is raised where that is written
        raise CorruptShardError(f"cannot read {path}: {exc.strerror}") from exc
