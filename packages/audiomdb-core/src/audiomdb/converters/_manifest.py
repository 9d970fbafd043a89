"""Converter for manifests, in which each row describes one sample."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import numpy as np

from audiomdb.audio.window import AudioWindow
from audiomdb.converters._manifest_files import Place, all_rows, manifest_files
from audiomdb.converters.base import BaseConverter
from audiomdb.converters.tables import (
    OFFSET,
    TEXT_COLUMNS,
    Row,
    column,
    take_text,
)
from audiomdb.errors import SampleError, SourceError
from audiomdb.log import logger
from audiomdb.quantities import counted
from audiomdb.sample import AUDIO, DURATION, TEXT, SourceSample

__all__ = ["ManifestConverter"]

_KEY_COLUMNS = ("key", "id")

_CHANNEL_COLUMN = "channel_selector"
"""Name of the column that selects a channel in manifests of NeMo."""

_MOST_DIGITS = 5
"""Digits of the number of a channel; no format has more channels."""


class ManifestConverter(BaseConverter):
    """Converts the rows of a manifest: JSON lines as NeMo writes them, CSV, or TSV.

        ManifestConverter("train.jsonl", output_dir="train").run()
        ManifestConverter("cv/train.tsv", output_dir="cv_lmdb", audio_column="path",
                          text_column="sentence", audio_dir="cv/clips").run()
        ManifestConverter(sorted(Path("nemo").glob("*/train.jsonl")), output_dir="all").run()

    The file becomes `audio`, the transcript `text`, and every other column keeps its name. JSON
    keeps its types; in CSV and TSV everything is text except `sample_rate`, `channels`, `frames`,
    `duration` and `offset`.

    A row with an `offset` is a part of its file: `duration` seconds from there, or all that
    follows. The workers cut it out and store it as 16-bit FLAC, whatever the format of the file. A
    part that reaches past the end of the file by more than 0.25 s cannot be stored. Where the part
    is the whole file, and without an `offset`, the file is stored as it is, and `duration` is
    checked against the audio.

    Where `channel_column` holds the number of a channel, counted from 0, or a list of just one, the
    row is that channel alone: cut out and stored in the same way, unless it is all that the file
    has. Without a number (None, an empty cell, no such column), a row has all channels.

    A sample's key is its value in `key_column`, or else its path as given in the manifest, followed
    by `@offset` for a part, and by `#line` if several rows would have the same key. Of several
    manifests, such paths start from the folder that all of them lie in, and `#2:line` is a line of
    the second one.

    A manifest is read twice, so that a broken line is found before any work is done; it is never
    held in memory, only 8 bytes for each row.

    Args:
        manifest: Path of the manifest; or a list of paths, to read one after the other.
        output_dir: Folder of the dataset.
        audio_column: Column with the path of the audio file.
        text_column: Column to store as `text`. Columns named here must exist, except for the
            default "text"; if no row has that, but the first one has a column "sentence",
            "transcription" or "transcript", the log says so.
        key_column: Column with the keys. By default "key" or "id", if the first row has one.
        channel_column: Column that selects a channel; None if no column does. A name other than the
            default must occur in one row at least.
        audio_dir: Folder that relative paths start from; by default that of each manifest.
        options: See `BaseConverter`.

    Raises:
        SourceError: when there is no such file, or audio and text are the same column; from `run`,
            when it cannot be used; names the line.
        SampleError: from `run`, before any work, for a row with an impossible `offset` or
            `duration`, or one that selects no single channel (several, or NeMo's "average"), unless
            `on_error` is "skip".
        InvalidURLError: when the manifest is given by a URL.
    """

    def __init__(
        self,
        manifest: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        output_dir: str | os.PathLike[str],
        *,
        audio_column: str = "audio_filepath",
        text_column: str = TEXT,
        key_column: str | None = None,
        channel_column: str | None = _CHANNEL_COLUMN,
        audio_dir: str | os.PathLike[str] | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(output_dir, **options)
        if isinstance(manifest, str | os.PathLike) or not isinstance(manifest, Iterable):
            manifest = [manifest]  # what is no path is refused below
        given = list(manifest)
        if not given:
            raise SourceError(f"manifest is {manifest!r}, expected a path or a list of paths")
        if text_column == audio_column:
            raise SourceError(
                f"{audio_column!r} is given as the column of the audio and of the text; they are "
                "named by audio_column and text_column"
            )
        self.audio_column = audio_column
        self.text_column = text_column
        self.key_column = key_column
        self.channel_column = channel_column
        self._files = manifest_files(given, audio_dir)
        self._survey: _Survey | None = None

    @property
    def converter_name(self) -> str:
        """Short name of the kind of source."""
        return "manifest"

    def source_options(self) -> dict[str, Any]:
        """Return the options that decide what samples hold; the location of the clips does not."""
        options = {
            "audio_column": self.audio_column,
            "text_column": self.text_column,
            "key_column": self.key_column,
        }
        if self.channel_column != _CHANNEL_COLUMN:
            options["channel_column"] = self.channel_column
        return options

    def sample_count(self) -> int:
        """Return the number of rows of the manifests; reads and checks all of them."""
        self._survey = self._look()
        return self._survey.rows

    def sample_iterator(self) -> Iterator[tuple[str, SourceSample]]:
        """Yield a sample for each row, in the order of the manifests."""
        survey = self._survey or self._look()
        self._survey = None  # valid for one run: the manifest may have changed before the next one
        if survey.likely_text is not None:
            logger("converters").warning(
                "%s: no row has a column 'text', so no sample has a text. If it is in the column "
                "%r, name that with text_column= (--text-column)",
                self._shown,
                survey.likely_text,
            )
        if repeated := len(survey.repeated):
            logger("converters").info(
                "%s: %s in several rows: #line is added to their keys",
                self._shown,
                counted(repeated, "path occurs", "paths occur"),
            )
        for place, row in all_rows(self._files):
            name = self._name(place, row, survey.key_column)
            key = f"{name}#{place.number}" if survey.repeats(name) else name
            yield key, self._sample(place, row)

    @property
    def _shown(self) -> str:
        first, *others = self._files
        return f"{first.path} and {len(others)} more" if others else f"{first.path}"

    def _look(self) -> _Survey:
        from array import array

        names, key_column = array("Q"), self.key_column
        likely_text: str | None = None
        no_channels = self.channel_column not in (None, _CHANNEL_COLUMN)
        for place, row in all_rows(self._files):
            if not names and key_column is None:
                key_column = next((name for name in _KEY_COLUMNS if name in row), None)
            if not names and self.text_column == TEXT:
                likely_text = next((name for name in TEXT_COLUMNS if name in row), None)
            if TEXT in row:
                likely_text = None
            no_channels = no_channels and self.channel_column not in row
            sample = self._sample(place, row)
            if isinstance(sample, SampleError) and self.on_error == "raise":
                raise sample
            names.append(_digest(self._name(place, row, key_column)))
        if not names:
            raise SourceError(f"{self._shown} has no rows")
        if no_channels:
            raise SourceError(
                f"{self._shown}: no row has a column {self.channel_column!r}, named by "
                "channel_column= (--channel-column)"
            )
        found = np.sort(np.frombuffer(names, np.uint64))
        # Keys from a column are not changed: the writer reports one that occurs twice.
        again = found[1:] == found[:-1] if key_column is None else slice(0)
        repeated = np.unique(found[1:][again])
        return _Survey(len(found), key_column, likely_text, repeated)

    def _name(self, place: Place, row: Row, key_column: str | None) -> str:
        if key_column is not None:
            key = self._column(place, row, key_column, "keys", "key_column")
            if isinstance(key, bool) or not isinstance(key, str | int) or key == "":
                raise SourceError(f"{place}: {key_column} is {key!r}, expected text or an integer")
            return str(key)
        path = place.file.key(row[self.audio_column])
        offset = row.get(OFFSET)
        return path if offset is None else f"{path}@{_seconds(offset)}"

    def _column(self, place: Place, row: Row, name: str, what: str, option: str) -> Any:  # noqa: ANN401
        flag = option.replace("_", "-")
        advice = f"Name the column of the {what} with {option}= (--{flag})"
        return column(place.file.path, place.line, row, name, advice=advice)

    def _sample(self, place: Place, row: Row) -> SourceSample:
        path = self._column(place, row, self.audio_column, "paths", "audio_column")
        if not isinstance(path, str) or not path:
            raise SourceError(f"{place}: {self.audio_column} is {path!r}, expected a path")
        sample = dict(row)
        del sample[self.audio_column]
        if AUDIO in sample:
            raise SourceError(
                f"{place}: there is a column {AUDIO!r} beside {self.audio_column!r}; name the one "
                "to use with audio_column"
            )
        if self.text_column != TEXT:
            self._column(place, row, self.text_column, "texts", "text_column")
            take_text(str(place), sample, self.text_column)
        try:
            sample[AUDIO] = self._audio(place, row, os.path.join(place.file.audio_dir, path))  # noqa: PTH118
        except SampleError as exc:
            return exc
        return sample

    def _audio(self, place: Place, row: Row, path: str) -> str | AudioWindow:
        offset, duration = row.get(OFFSET), row.get(DURATION)
        channel = self._channel(place, row)
        if offset is None and channel is None:
            return path
        if offset is None:
            offset, duration = 0.0, None  # the duration of a whole file is only compared
        for name, value in ((OFFSET, offset), (DURATION, duration)):
            if isinstance(value, bool) or not isinstance(value, int | float | None):
                raise SourceError(f"{place}: {name} is {value!r}, expected seconds")
        try:
            seconds = None if duration is None else float(duration)
            return AudioWindow(path, float(offset), seconds, channel)
        except (ValueError, OverflowError) as exc:
            raise SampleError(f"{place}: {exc}") from exc

    def _channel(self, place: Place, row: Row) -> int | None:
        """Return the number of the channel that a row selects; None for all of them."""
        given = None if self.channel_column is None else row.get(self.channel_column)
        value = given.strip() if isinstance(given, str) else given
        if value is None or value == "":
            return None
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, str) and value.isdecimal() and len(value) <= _MOST_DIGITS:
            value = int(value)  # from CSV or TSV
        if type(value) is int and value >= 0:
            return value
        raise SampleError(
            f"{place}: {self.channel_column} is {given!r:.80}, expected the number of one channel, "
            "from 0. To average the channels of all clips, give mono=True (--mono), and "
            "channel_column=None (--channel-column '') to use no such column"
        )


class _Survey(msgspec.Struct, frozen=True):
    """Result of the first pass over the manifest."""

    rows: int
    key_column: str | None
    likely_text: str | None
    """Column that probably holds texts, where no row has the column of texts."""

    repeated: np.ndarray
    """Sorted digests, uint64, of the names that several rows have."""

    def repeats(self, name: str) -> bool:
        if not len(self.repeated):  # nearly always
            return False
        digest = np.uint64(_digest(name))
        place = int(np.searchsorted(self.repeated, digest))
        return place < len(self.repeated) and bool(self.repeated[place] == digest)


def _seconds(offset: float) -> str:
    try:
        return f"{offset:.3f}"
    except OverflowError:  # an integer larger than any float, in a row that is rejected
        return "inf" if offset > 0 else "-inf"


def _digest(name: str) -> int:
    from hashlib import blake2b

    octets = name.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(octets, digest_size=8).digest(), "little")
