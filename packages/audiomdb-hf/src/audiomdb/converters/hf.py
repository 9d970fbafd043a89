"""Convert datasets from the Hugging Face Hub, or any that the `datasets` library opens."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from audiomdb._hf import request_errors
from audiomdb._hf_features import (
    integer_dtype,
    label_name,
    label_names,
    shown_columns,
    with_undecoded,
)
from audiomdb.checks import true_or_false
from audiomdb.converters.base import BaseConverter
from audiomdb.converters.tables import TEXT_COLUMNS
from audiomdb.errors import SourceError
from audiomdb.lazy import cached_property
from audiomdb.processors.base import BaseProcessor
from audiomdb.sample import AUDIO, KEY, SAMPLE_RATE, TEXT, Sample

__all__ = ["HFConverter"]


class HFConverter(BaseConverter):
    """Converts a dataset that the `datasets` library opens.

        HFConverter("openslr/librispeech_asr", "librispeech", data_split="test.clean").run()

    Audio is stored as the dataset holds it. No column is decoded, so torch, torchcodec and FFmpeg
    are not needed. In columns other than `audio_column`, a recording (or an image), also one nested
    in lists and dicts, is stored as the dict of "bytes" and "path" that the dataset holds. A clip
    without audio counts as one that cannot be stored (see `on_error`). For folders of loose audio
    files, use `FolderConverter`.

    Rows may hold arrays instead, alone or as "array" beside "sampling_rate". Integers are scaled by
    the range of the 8, 16 or 32-bit type of the array or of the column. Lists of ints whose column
    has no such type are refused.

    The number of a `ClassLabel` is stored as it is, and its name beside it, as a field named after
    the column with "_name" appended, unless the dataset has a column of that name. It is None where
    there is no label (-1). Labels inside of lists and dicts stay numbers.

    A stream may lack the types of its columns. Then its first row defines the columns. Further
    columns of a later row are stored too, and columns that a row lacks are left out of its sample.

    Args:
        data_id: Name of a dataset on the Hub, a local folder of Parquet files (or another kind of
            file that `load_dataset` opens), or a dataset object.
        output_dir: Folder of the dataset to make.
        data_split: Name of the split; ignored for a dataset object without splits.
        processor: See `BaseConverter`, as for all options not listed here.
        samples_per_shard: See `BaseConverter`.
        data_name: Name of the configuration ("en"), if the dataset has several.
        data_files: Files of the dataset to read, as `load_dataset` takes them: a name, a pattern,
            a list of these, or a dict of them by split. Paths may be `Path`s.
        audio_column: Column of the audio; stored as `audio`.
        text_column: Column of the text; stored as `text`. None: the first column named "text",
            "sentence", "transcription" or "transcript", in this order, if there is one.
        store_columns: Other columns to store. None: all.
        key_column: Column of the keys, whose values must be unique. None: the number of the sample
            in nine digits.
        streaming: Read the dataset while it is downloaded. False downloads it first, into the
            cache of `datasets`.
        revision: Branch, tag or commit on the Hub.
        token: Token for the Hub. None: the one of `hf auth login`.
        limit: See `BaseConverter`.
        options: See `BaseConverter`.
    """

    def __init__(
        self,
        data_id: Any,  # noqa: ANN401
        output_dir: str | os.PathLike[str],
        data_split: str = "train",
        processor: BaseProcessor | Iterable[BaseProcessor] | None = None,
        samples_per_shard: int | None = None,
        *,
        data_name: str | None = None,
        data_files: Any = None,  # noqa: ANN401
        audio_column: str = "audio",
        text_column: str | None = None,
        store_columns: Iterable[str] | None = None,
        key_column: str | None = None,
        streaming: bool = True,
        revision: str | None = None,
        token: str | None = None,
        limit: int | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(
            output_dir,
            processor=processor,
            samples_per_shard=samples_per_shard,
            limit=limit,
            **options,
        )
        if isinstance(store_columns, str):
            raise TypeError(f"store_columns is {store_columns!r}, expected a list of names")
        self._data = os.fspath(data_id) if isinstance(data_id, os.PathLike) else data_id
        self._split = data_split
        self._load_options = {
            "name": data_name,
            "data_files": _as_text(data_files),
            "streaming": true_or_false("streaming", streaming),
            "revision": revision,
            "token": token,
        }
        self._audio_column = audio_column
        self._text_column = text_column
        self._store_columns = None if store_columns is None else tuple(store_columns)
        self._key_column = key_column
        if isinstance(self._data, str):
            self.dataset_name = Path(self._data).name or self.dataset_name

    @property
    def converter_name(self) -> str:
        """Short name of the kind of source, for messages."""
        return "hf"

    def source_options(self) -> dict[str, Any]:
        """Return the options that determine the contents of samples; the location does not."""
        return {
            "data_split": str(self._split),
            "data_name": self._load_options["name"],
            "audio_column": self._audio_column,
            "text_column": self._text_column,
            "store_columns": self._store_columns,
            "key_column": self._key_column,
        }

    def sample_count(self) -> int | None:
        """Return the number of rows of the split, or None if the dataset does not state it."""
        return self._source.rows

    def sample_iterator(self) -> Iterator[tuple[str, Sample]]:
        """Yield each row as a pair of key and sample.

        Raises:
            SourceError: the dataset or one of the given columns does not exist, or reading fails.
        """
        source = self._source
        fields = source.fields
        if not fields:
            return
        with self._explained("read"):
            for number, row in enumerate(source.dataset):
                if not isinstance(row, Mapping):
                    raise SourceError(
                        f"the rows of {self._shown} are of type {type(row).__name__}, expected "
                        "dicts: give it without that format, dataset.with_format(None)"
                    )
                if source.may_grow:
                    fields = self._grown(fields, number, row)
                yield self._key(number, row), self._sample(fields, row)

    @cached_property
    def _source(self) -> _Source:
        with self._explained("open"):
            dataset = self._open()
            rows, features = _rows(dataset), shown_columns(dataset)
            if features is None:  # the columns are only known from the rows
                columns = [column for row in islice(dataset, 1) for column in row]
                fields = self._fields(columns) if columns else {}
                return _Source(dataset, fields, rows, {}, may_grow=self._store_columns is None)
            fields = self._fields(features) if features else {}
            dtype = integer_dtype(features.get(self._audio_column))
            if fields:
                needed = {*fields, self._key_column}
                dataset = with_undecoded(dataset, [c for c in features if c in needed])
            labels = self._labels(features, fields)
            return _Source(dataset, fields, rows, labels, integer_dtype=dtype)

    def _open(self) -> Any:  # noqa: ANN401
        dataset = self._data
        if isinstance(dataset, str):
            from datasets import load_dataset

            return load_dataset(dataset, split=self._split, **self._load_options)
        if isinstance(dataset, Mapping):
            if self._split not in dataset:
                raise SourceError(
                    f"{self._shown} has no split {self._split!r}; data_split= may be "
                    f"{_listed(dataset)}"
                )
            dataset = dataset[self._split]
        if not hasattr(dataset, "cast_column"):
            raise SourceError(
                f"cannot convert an object of type {type(dataset).__name__}; give a name on the "
                "Hub, a folder, or a Dataset or IterableDataset"
            )
        return dataset

    def _fields(self, columns: Iterable[str]) -> dict[str, str]:
        """Return the name of the sample field for each column to store."""
        there = list(columns)
        text = self._text_column or next((c for c in TEXT_COLUMNS if c in there), None)
        for option, column in (
            ("audio_column", self._audio_column),
            ("text_column", text),
            ("key_column", self._key_column),
            *(("store_columns", column) for column in self._store_columns or ()),
        ):
            if column is not None and column not in there:
                raise SourceError(
                    f"{self._shown} has no column {column!r}; {option}= may be {_listed(there)}"
                )
        others = there if self._store_columns is None else self._store_columns
        # WebDataset's key column has the same name as the key of every sample that is read.
        fields = {column: column for column in others if column != KEY}
        fields[self._audio_column] = AUDIO
        if text is not None:
            fields[text] = TEXT
        for column, field in fields.items():
            if column == field and list(fields.values()).count(field) > 1:
                raise SourceError(
                    f"{self._shown} has a column {column!r} besides the one to be stored under "
                    f"that name; leave it out with store_columns="
                )
        return fields

    def _labels(
        self, features: Mapping[str, Any], fields: Mapping[str, str]
    ) -> dict[str, tuple[str, list[str]]]:
        taken = {*features, *fields.values()}
        return {
            column: (name, names)
            for column, names in label_names(features).items()
            if column in fields and (name := f"{column}_name") not in taken
        }

    def _grown(
        self, fields: Mapping[str, str], number: int, row: Mapping[str, Any]
    ) -> Mapping[str, str]:
        """Return the fields, extended by the columns that first appear in this row."""
        new = [column for column in row if column not in fields and column != KEY]
        if not new:
            return fields
        grown = dict(fields)
        text = None
        if self._text_column is None and TEXT not in grown.values():
            text = next((c for c in TEXT_COLUMNS if c in new), None)
        for column in new:
            field = TEXT if column == text else column
            if field in grown.values():
                other = next(c for c, taken in grown.items() if taken == field)
                raise SourceError(
                    f"{self._shown} has a column {column!r} in row {number}, under which name "
                    f"{other!r} is stored; leave it out with store_columns="
                )
            grown[column] = field
        return grown

    def _sample(self, fields: Mapping[str, str], row: Mapping[str, Any]) -> Sample:
        sample = {field: row[column] for column, field in fields.items() if column in row}
        for column, (field, names) in self._source.labels.items():
            if column in row:
                sample[field] = label_name(names, row[column])
        return {**sample, **self._audio(row.get(self._audio_column))}

    def _audio(self, value: Any) -> Sample:  # noqa: ANN401
        """Return the audio fields of a sample, from any form of audio in an undecoded row."""
        if isinstance(value, Mapping):
            if value.get("bytes") is not None:
                value = value["bytes"]
            elif value.get("array") is not None:
                array = self._array(value["array"])
                return {AUDIO: array, SAMPLE_RATE: value.get("sampling_rate")}
            else:
                value = value.get("path")
        if isinstance(value, list) or (hasattr(value, "ndim") and value.ndim):
            value = self._array(value)
        # Empty bytes are not audio: the check of clips reports that, with the key of the sample.
        return {AUDIO: b"" if value is None else value}

    def _array(self, value: Any) -> np.ndarray:  # noqa: ANN401
        """Return a float32 array, or an integer array of its own dtype, which core scales."""
        try:
            array = np.asarray(value)
        except ValueError:  # ragged lists: the check of clips reports them, with the key
            return np.asarray(value, object)
        if array.dtype.kind == "f":
            return np.asarray(array, np.float32)
        if array.dtype.kind in "iu" and array.dtype.itemsize > 4:
            # The rows of `datasets` hold Python ints, or 64-bit arrays (in "numpy" format).
            dtype = self._source.integer_dtype
            if dtype is not None and dtype.itemsize <= 4:
                return array.astype(dtype)
            raise SourceError(
                f"{self._shown} holds audio as {array.dtype} in its column "
                f"{self._audio_column!r}, which Python's ints become whatever their range is: "
                "how to scale them is not known. Give them the type that they were recorded as "
                '(such as "int16"), in the features of the dataset or as NumPy arrays, or store '
                "floats from -1 to 1"
            )
        return array

    def _key(self, number: int, row: Mapping[str, Any]) -> str:
        if self._key_column is None:
            return f"{number:09d}"
        key = row.get(self._key_column)
        if key is None:
            raise SourceError(
                f"{self._shown} has no value in row {number} of its column {self._key_column!r}, "
                "which is to give the keys"
            )
        return str(key)

    @property
    def _shown(self) -> str:
        if isinstance(self._data, str):
            name = self._load_options["name"]
            return f"{self._data} ({name})" if name else self._data
        return f"the {type(self._data).__name__}"

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        """Turn errors of `datasets` about a source into a SourceError that says what to do."""
        from datasets.exceptions import DatasetsError

        try:
            yield
        except SourceError:
            raise
        except (DatasetsError, ValueError, *request_errors()) as exc:
            hint = _hint(exc, self._data)
            raise SourceError(f"cannot {doing} {self._shown}: {_said(exc)}{hint}") from exc
        except (ImportError, RuntimeError) as exc:
            hint = _hint(exc, self._data)
            if not hint:
                raise
            raise SourceError(f"cannot {doing} {self._shown}: {_said(exc)}{hint}") from exc


@dataclass(frozen=True, slots=True)
class _Source:
    """An open dataset and its properties."""

    dataset: Any
    fields: Mapping[str, str]
    """Name of the sample field for each column to store."""

    rows: int | None
    labels: Mapping[str, tuple[str, list[str]]]
    """For each column of labels, the field for the name of a row's label, and all names."""

    may_grow: bool = False
    """Whether to store columns that first appear in a later row."""

    integer_dtype: np.dtype[Any] | None = None
    """Dtype of audio that is held as lists of integers, which have no dtype themselves."""


def _rows(dataset: Any) -> int | None:  # noqa: ANN401
    """Return the number of rows, or None if the dataset does not state it."""
    if hasattr(dataset, "__len__"):
        return len(dataset)
    splits = getattr(dataset.info, "splits", None) or {}
    split = splits.get(str(dataset.split))
    return split.num_examples or None if split else None


def _as_text(files: Any) -> Any:  # noqa: ANN401
    """Turn all paths of `data_files` into text, the only form that `load_dataset` knows."""
    if isinstance(files, os.PathLike):
        return os.fspath(files)
    if isinstance(files, Mapping):
        return {split: _as_text(of_split) for split, of_split in files.items()}
    if isinstance(files, list | tuple):
        return [_as_text(file) for file in files]
    return files


def _said(error: BaseException) -> str:
    """Return an error's text on one line, without its example of how to call `load_dataset`."""
    said = str(error).partition("Example of usage")[0]
    return " ".join(said.split()).rstrip(".")


def _hint(error: BaseException, data: object) -> str:
    said = str(error)
    if "torchcodec" in said and not isinstance(data, str):
        return (
            "; this audio is decoded, or encoded, before the converter can see to it: cast its "
            "columns to Audio(decode=False) before any map() or filter(), and give a generator "
            "that yields audio no features"
        )
    hints = {
        "torchcodec": "; this dataset is made of loose audio files, or of tar archives: download "
        "it (huggingface_hub.snapshot_download) and use FolderConverter, which needs no "
        "torchcodec; unpack archives first, or read them as docs/guides/converting.md shows",
        "Dataset scripts": '; revision="refs/convert/parquet" may hold the same data as Parquet',
        "Config name is missing": "; give data_name=",
        "BuilderConfig": "; give another data_name=",
        "split": "; give another data_split=",
        "gated": "; accept its conditions on the Hub and log in (hf auth login, or token=)",
    }
    return next((hint for word, hint in hints.items() if word in said), "")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
