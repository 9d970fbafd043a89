"""Files of manifests: their rows one after the other, and where the paths in them start."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from audiomdb.converters.tables import Row, read_table
from audiomdb.errors import SourceError
from audiomdb.urls import folder_path

__all__ = ["ManifestFile", "Place", "all_rows", "manifest_files"]

_INSTEAD = "give the path of a copy on this machine"


class ManifestFile(msgspec.Struct, frozen=True):
    """One of the manifests of a dataset.

    Attributes:
        path: The file.
        number: Its number among the manifests, from 1; None if it is the only one.
        audio_dir: Absolute folder that relative paths in it start from.
        root: Absolute folder that keys start from. The `audio_dir` of every manifest lies in it.
    """

    path: Path
    number: int | None
    audio_dir: str
    root: str

    def key(self, path: str) -> str:
        """Return the key of the clip that one of its rows gives the path of."""
        inside = self.audio_dir[len(self.root) :].lstrip(os.sep)
        key = os.path.normpath(os.path.join(inside, path))  # noqa: PTH118
        return key.removeprefix(self.root + os.sep)


class Place(msgspec.Struct, frozen=True):
    """A line of a manifest. Its text begins messages about the line."""

    file: ManifestFile
    line: int

    def __str__(self) -> str:
        return f"{self.file.path}:{self.line}"

    @property
    def number(self) -> str:
        """The number of the line, after that of its manifest if there are several."""
        return f"{self.line}" if self.file.number is None else f"{self.file.number}:{self.line}"


def manifest_files(
    paths: Iterable[str | os.PathLike[str]], audio_dir: str | os.PathLike[str] | None
) -> tuple[ManifestFile, ...]:
    """Return the files of manifests.

    Args:
        paths: Paths of the manifests, at least one.
        audio_dir: Folder that relative paths start from; None: that of each manifest.

    Raises:
        InvalidURLError: when a manifest, or `audio_dir`, is given by a URL.
        SourceError: when there is no such file.
    """
    found = [_found(path) for path in paths]
    if audio_dir is not None:
        audio_dir = folder_path(audio_dir, instead=_INSTEAD)
    folders = [os.path.abspath(audio_dir or path.parent) for path in found]  # noqa: PTH100 (no `..`)
    root = os.path.commonpath(folders)
    return tuple(
        ManifestFile(path, number if len(found) > 1 else None, folder, root)
        for number, (path, folder) in enumerate(zip(found, folders, strict=True), 1)
    )


def _found(manifest: str | os.PathLike[str]) -> Path:
    path = folder_path(manifest, expected="a file", instead=_INSTEAD).absolute()
    if not path.is_file():
        raise SourceError(f"there is no manifest {path}")
    return path


def all_rows(files: Sequence[ManifestFile]) -> Iterator[tuple[Place, Row]]:
    """Read manifests one after the other; yield each row with its place.

    Raises:
        SourceError: for a file or a line that cannot be read.
    """
    for file in files:
        for line, row in read_table(file.path):
            yield Place(file, line), row
