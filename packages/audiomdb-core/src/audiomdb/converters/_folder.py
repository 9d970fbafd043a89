"""Converter for folders of audio files."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from audiomdb.converters.base import BaseConverter
from audiomdb.converters.tables import TEXT_COLUMNS, Row, column, read_table, take_text
from audiomdb.errors import SourceError
from audiomdb.log import logger
from audiomdb.quantities import counted
from audiomdb.sample import AUDIO, TEXT, Sample
from audiomdb.urls import folder_path

__all__ = ["AUDIO_SUFFIXES", "FolderConverter"]

_READ = """
    .aif .aifc .aiff .au .bwf .caf .flac .mp1 .mp2 .mp3 .nist .oga .ogg .opus .rf64 .snd .sph
    .voc .w64 .wav .wave
"""
_REFUSED = ".aac .amr .ape .m4a .mka .spx .webm .wma .wv"

AUDIO_SUFFIXES = frozenset((_READ + _REFUSED).split())
"""File name suffixes of audio, in upper or lower case.

Some of these formats cannot be read: an error is better than silently leaving clips out.
"""

_TABLES = ("metadata.csv", "metadata.jsonl")
_SIDECARS = (".txt", ".TXT")
_TEXTS = (".csv", ".json", ".jsonl", ".tsv", ".txt")
"""Suffixes of files that may hold transcripts in a form that is not read here."""
_FILE_NAME = "file_name"
_LABEL = "label"
_ADVICE = f"The column of the paths has to be called {_FILE_NAME}"


class FolderConverter(BaseConverter):
    """Converts all audio files in a folder and its sub-folders.

        FolderConverter("recordings", output_dir="recordings_lmdb").run()

    The fields of a sample other than its audio come from

    - a table `metadata.csv` or `metadata.jsonl`, in the format of Hugging Face's audiofolder: the
      column `file_name` is a path, relative to the table or absolute, and the other columns become
      fields. The table decides which files of its folder and sub-folders belong to the dataset, and
      in which order;
    - or else a text file beside the audio file (`clip.wav`, `clip.txt`), which becomes `text`, and
      the name of its folder, which becomes `label` unless that folder is `input_dir` itself.

    Files are taken in order of name, those of a folder before those of its sub-folders. A key is
    the path relative to `input_dir`, suffix included; the key of a file outside of it, which only a
    table can name, is the path to the file. Links to folders are followed, except to a folder that
    contains the link. Names that begin with a dot, and suffixes not in `AUDIO_SUFFIXES`, are
    skipped and counted in the log. Memory holds the names of one folder at a time, and 16 bytes for
    each file that a table decides about.

    Args:
        input_dir: The folder.
        output_dir: Folder of the dataset.
        text_column: Column of a table to store as `text`. By default, the first one of "text",
            "sentence", "transcription" and "transcript" that a row has.
        options: See `BaseConverter`.

    Raises:
        SourceError: when there is no such folder; from `run`, when it cannot be used.
        InvalidURLError: when the folder is given by a URL.
    """

    def __init__(
        self,
        input_dir: str | os.PathLike[str],
        output_dir: str | os.PathLike[str],
        *,
        text_column: str | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(output_dir, **options)
        self.input_dir = folder_path(input_dir, instead="give the path of a copy on this machine")
        if not self.input_dir.is_dir():
            raise SourceError(f"there is no folder {self.input_dir}")
        self.text_column = text_column

    @property
    def converter_name(self) -> str:
        """Short name of the kind of source."""
        return "folder"

    def source_options(self) -> dict[str, Any]:
        """Return the options that decide what samples hold."""
        return {"text_column": self.text_column}

    def sample_count(self) -> int:
        """Return the number of files to convert, `limit` at most.

        Walks the folder and reads its tables, as far as that takes.
        """
        return sum(1 for _ in islice(_Walk(self.input_dir).clips(), self.limit))

    def sample_iterator(self) -> Iterator[tuple[str, Sample]]:
        """Yield a sample for each file."""
        walk = _Walk(self.input_dir)
        clip, described = None, False
        for clip in walk.clips():
            described = described or clip.row is not None or clip.sidecar is not None
            yield clip.name, self._sample(clip)
        if clip is None:
            raise SourceError(
                f"{self.input_dir} holds no audio files{walk.skipped_text()}; looked for the "
                f"suffixes {' '.join(sorted(AUDIO_SUFFIXES))}"
            )
        if not described and not walk.skipped.keys().isdisjoint(_TEXTS):
            logger("converters").warning(
                "%s: no clip has a text%s. Transcripts are read from a .txt of the same name, or "
                "from metadata.csv or metadata.jsonl beside the files; ManifestConverter reads "
                "other tables",
                self.input_dir,
                walk.skipped_text(),
            )
        elif walk.skipped:
            logger("converters").info("%s: audio files only%s", self.input_dir, walk.skipped_text())
        if unlisted := walk.unlisted():
            logger("converters").warning(
                "%s: %s left out: not in the table of the folder",
                self.input_dir,
                counted(unlisted, "audio file is", "audio files are"),
            )

    def _sample(self, clip: _Clip) -> Sample:
        path = os.path.join(self.input_dir, clip.path)  # noqa: PTH118
        if clip.row is None:
            if self.text_column is not None:
                raise SourceError(
                    f"{path}: no metadata.csv or metadata.jsonl has a row for it, so it has no "
                    f"column {self.text_column!r}; add the table, or leave text_column out"
                )
            sample: Sample = {AUDIO: path}
            if clip.sidecar is not None:
                sample[TEXT] = _read_text(self.input_dir / clip.sidecar)
            if "/" in clip.name:
                sample[_LABEL] = clip.name.split("/")[-2]
            return sample
        sample = {name: value for name, value in clip.row.items() if name != _FILE_NAME}
        text = self.text_column or next((name for name in TEXT_COLUMNS if name in sample), TEXT)
        if text in sample:
            take_text(path, sample, text)
        elif self.text_column is not None:
            raise SourceError(
                f"{path}: its row has no column {text!r} of text; beside {_FILE_NAME!r} there are "
                f"{', '.join(map(repr, sample)) or 'none'}"
            )
        if AUDIO in sample:
            raise SourceError(f"{path}: its row has a column {AUDIO!r} beside {_FILE_NAME!r}")
        sample[AUDIO] = path
        return sample


class _Clip(msgspec.Struct, frozen=True):
    """A file to convert: paths relative to the root, and its row if a table has one.

    `path` is the one to open. `name` is the key: in it, `..` is resolved as if no folder were a
    link, whereas the system resolves it relative to the target of the link.
    """

    name: str
    path: str
    row: Row | None = None
    sidecar: str | None = None


class _Walk:
    """One walk through a folder, and counts of what it left out."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._inside = os.path.join(os.path.abspath(root), "")  # noqa: PTH100, PTH118
        self.skipped: Counter[str] = Counter()
        # Hashes of names, since a corpus may have millions: of those in tables, and of files beside
        # or below a table.
        self._named, self._met = array("q"), array("q")

    def clips(self) -> Iterator[_Clip]:
        """Yield all files to convert, in order."""
        return self._folder("", (), listed=False)

    def unlisted(self) -> int:
        """Return the number of files met so far that the table of their folder leaves out."""
        left_out = np.isin(self._met, self._named, invert=True)
        return int(np.count_nonzero(left_out))

    def skipped_text(self) -> str:
        """Describe what was skipped, as the continuation of a sentence."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.skipped.most_common(10))
        return f", skipped {counted(self.skipped.total(), 'file')}: {kinds}" if kinds else ""

    def _folder(
        self, prefix: str, above: tuple[tuple[int, int], ...], *, listed: bool
    ) -> Iterator[_Clip]:
        path = self._root / prefix
        try:
            facts = path.stat()
            here = (facts.st_dev, facts.st_ino)
            if here in above:
                logger("converters").info(
                    "%s leads back to a folder that it lies in: not followed", path
                )
                return
            files, folders = self._list(path)
        except OSError as exc:
            raise SourceError(f"cannot read the folder {path}: {exc.strerror}") from exc
        tables = [name for name in _TABLES if _has(files, name)]
        if len(tables) > 1:
            raise SourceError(f"{path} holds both {' and '.join(tables)}; keep one")
        if tables:
            listed = True
            yield from self._rows(path / tables[0], prefix)
        for name in files:
            if not _is_audio(name):
                self._skip(name, files)
            elif listed:
                self._met.append(hash(prefix + name))
            else:
                texts = (_stem(name) + suffix for suffix in _SIDECARS)
                sidecar = next((prefix + text for text in texts if _has(files, text)), None)
                yield _Clip(prefix + name, prefix + name, None, sidecar)
        for name in folders:
            yield from self._folder(f"{prefix}{name}/", (*above, here), listed=listed)

    def _list(self, path: Path) -> tuple[list[str], list[str]]:
        files, folders = [], []
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    self.skipped["hidden"] += 1
                elif _leads_to_folder(entry):
                    folders.append(entry.name)
                elif entry.is_symlink() or entry.is_file():  # a broken link is a missing clip
                    files.append(entry.name)
                else:
                    self.skipped["neither file nor folder"] += 1
        return sorted(files), sorted(folders)

    def _rows(self, table: Path, prefix: str) -> Iterator[_Clip]:
        for line, row in read_table(table):
            name = column(table, line, row, _FILE_NAME, advice=_ADVICE)
            if not isinstance(name, str) or not name:
                raise SourceError(f"{table}:{line}: {_FILE_NAME} is {name!r}, expected a path")
            path = os.path.join(prefix, name)  # noqa: PTH118 (Path would drop a `.`)
            inside = os.path.normpath(path).removeprefix(self._inside)
            self._named.append(hash(inside))
            yield _Clip(inside, path, row)

    def _skip(self, name: str, files: Sequence[str]) -> None:
        stem, suffix = _stem(name), _suffix(name)
        sidecar = name.endswith(_SIDECARS) and _has_audio(files, stem)
        if name in _TABLES or sidecar:
            return
        self.skipped[suffix or "without a suffix"] += 1


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself is reported later, as a clip that cannot be read
        return False


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122


def _is_audio(name: str) -> bool:
    return _suffix(name) in AUDIO_SUFFIXES


def _has(names: Sequence[str], name: str) -> bool:
    place = bisect_left(names, name)
    return place < len(names) and names[place] == name


def _has_audio(names: Sequence[str], stem: str) -> bool:
    """Return whether an audio file belongs to the text file with this stem."""
    start = bisect_left(names, stem + ".")
    for name in names[start : start + len(AUDIO_SUFFIXES)]:
        if _stem(name) == stem and _is_audio(name):
            return True
    return False


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except OSError as exc:
        raise SourceError(f"cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise SourceError(f"{path} is not UTF-8: {exc}") from exc
