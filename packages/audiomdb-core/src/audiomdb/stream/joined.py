"""Join columns of another table to samples by key while reading."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from audiomdb.converters.tables import read_table
from audiomdb.errors import SourceError, UnknownColumnError, UnknownKeyError
from audiomdb.sample import AUDIO, KEY, Sample
from audiomdb.stream.matches import Matches
from audiomdb.urls import folder_path

__all__ = ["JoinedColumns", "Table"]

Table: TypeAlias = Any
"""A path, a mapping from key to row, rows, or a table of pandas, Polars or PyArrow."""

_KEY_COLUMNS = (KEY, "key", "id")

_PLAIN = frozenset({str, int, float, bool, bytes, type(None)})
"""Types of values that nobody can change."""

_Keyed: TypeAlias = tuple[str, str, Mapping[str, Any]]
"""A row: its place in the table, its key and its fields."""


class JoinedColumns:
    """Additional fields for samples, joined by key, such as corrected transcripts or new labels.

        better = JoinedColumns("transcripts.csv", columns=["text"], missing="keep")
        StreamingDataset(retriever, join=better)

    A sample gets the fields of its row when it is read, before it is passed to the processor. They
    replace stored fields of the same name. The dataset and its order do not change, and filters
    still use the dataset's own index.

    The table is read once, by the constructor, and held in memory; it is pickled with all its rows.
    Thread-safe.

    Args:
        table: The path of a CSV, TSV or JSON lines file (see `ManifestConverter` for the types of
            its values); a mapping from key to a mapping of fields; an iterable of such mappings,
            each with its key in a column; or a table of pandas, Polars or PyArrow. Parquet is read
            through PyArrow: `JoinedColumns(pyarrow.parquet.read_table(path))`.
        key: Name of the key column. By default, the first of `__key__`, `key` and `id` that the
            first row has. Not used with a mapping from key to row.
        columns: Columns to join. None: all but the key column.
        missing: What happens to samples without a row in the table: "error" raises, "keep" leaves
            them as they are stored, with None in columns that they lack. How many have a row is
            logged once per process, after as many samples as the dataset has: as INFO, or as a
            WARNING if none has.

    Raises:
        SourceError: the table cannot be read, or has a key twice; the message says where.
        UnknownColumnError: no row has a requested column.
        ValueError: an option is out of range, or a column is called `audio`.
        TypeError: `table` or `columns` is of a wrong type.
    """

    def __init__(
        self,
        table: Table,
        *,
        key: str | None = None,
        columns: Iterable[str] | None = None,
        missing: Literal["error", "keep"] = "error",
    ) -> None:
        if missing not in ("error", "keep"):
            raise ValueError(f"missing is {missing!r}, expected 'error' or 'keep'")
        if isinstance(columns, str) or not isinstance(columns, Iterable | None):
            raise TypeError(f"columns is {columns!r}, expected a list of names")
        self.missing = missing
        if isinstance(table, str | os.PathLike):
            table = folder_path(table, expected="a file", instead="give the path of a copy")
        self.name = str(table) if isinstance(table, Path) else "the joined table"
        wanted = None if columns is None else frozenset(columns)
        # A row is a tuple of its column names, shared between rows, and its values. This takes a
        # fifth of the memory of a dict.
        self._rows: dict[str, tuple[Any, ...]] = {}
        shapes: dict[tuple[str, ...], tuple[str, ...]] = {}
        for place, name, row in self._keyed(table, key):
            if name in self._rows:
                raise SourceError(f"{place}: a second row for the key {name!r}")
            names = tuple(c for c in row if wanted is None or c in wanted)
            names = shapes.setdefault(names, names)
            self._rows[name] = (names, *(row[c] for c in names))
        self.columns = tuple(dict.fromkeys(c for names in shapes for c in names))
        self._plain = all(type(value) in _PLAIN for row in self._rows.values() for value in row[1:])
        self._check(wanted)
        self._matches = None
        if missing == "keep" and self._rows:
            self._matches = Matches(self.name, len(self._rows), next(iter(self._rows)))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def add_to(self, sample: Sample, place: str, *, among: int) -> None:
        """Add the fields of its row to a sample.

        Args:
            sample: The sample, with its key.
            place: Where the sample is stored, for the error message.
            among: Number of samples of its dataset.

        Raises:
            UnknownKeyError: there is no row for the sample, and `missing` is "error".
        """
        row = self._rows.get(sample[KEY])
        if row is not None:
            # A sample belongs to whoever reads it, who may change lists and arrays in place.
            values = row[1:] if self._plain else deepcopy(row[1:])
            sample.update(zip(row[0], values, strict=True))
        elif self.missing == "error":
            raise UnknownKeyError(
                f"{self.name} has no row for sample {sample[KEY]!r} of {place}; add one, or pass "
                "missing='keep'"
            )
        for name in self.columns:
            sample.setdefault(name, None)
        if self._matches is not None:
            self._matches.add(sample[KEY], found=row is not None, among=among)

    def _check(self, wanted: frozenset[str] | None) -> None:
        if AUDIO in self.columns:
            raise ValueError(
                f"{self.name} has a column {AUDIO!r}, which cannot be joined; name others in "
                "columns="
            )
        lost = sorted((wanted or frozenset()).difference(self.columns))
        if lost and self._rows:
            raise UnknownColumnError(
                f"{self.name} has no column {lost[0]!r}; it has "
                f"{', '.join(self.columns) or 'none of them'}"
            )

    def _keyed(self, table: Table, column: str | None) -> Iterator[_Keyed]:
        if isinstance(table, Mapping):
            for number, (key, row) in enumerate(table.items()):
                yield self._place(number), _key(self._place(number), key), _row(number, row)
            return
        for place, row in self._rows_of(table):
            if column is None:
                column = next((name for name in _KEY_COLUMNS if name in row), None)
                if column is None:
                    raise SourceError(
                        f"{place}: none of the columns {', '.join(map(repr, row))} is called "
                        f"{', '.join(_KEY_COLUMNS)}; say which has the keys with key="
                    )
            if column not in row:
                raise SourceError(
                    f"{place}: no column {column!r} with the key; there are "
                    f"{', '.join(map(repr, row)) or 'none'}"
                )
            yield place, _key(place, row[column]), {c: v for c, v in row.items() if c != column}

    def _rows_of(self, table: Table) -> Iterator[tuple[str, Mapping[str, Any]]]:
        if isinstance(table, Path):
            for line, row in read_table(table):
                yield f"{table}:{line}", row
            return
        for number, row in enumerate(_records(table)):
            yield self._place(number), _row(number, row)

    def _place(self, number: int) -> str:
        return f"{self.name}, row {number}"


def _records(table: Table) -> Iterable[Any]:
    if hasattr(table, "to_pylist"):  # PyArrow
        records: Iterable[Any] = table.to_pylist()
    elif hasattr(table, "to_dicts"):  # Polars
        records = table.to_dicts()
    elif hasattr(table, "to_dict") and hasattr(table, "columns"):  # pandas; a Series has none
        records = table.to_dict("records")
    elif isinstance(table, Iterable):
        records = table
    else:
        raise TypeError(
            f"table is {type(table).__name__}, expected a path, a mapping from key to row, rows, "
            "or a table of pandas, Polars or PyArrow"
        )
    return records


def _row(number: int, row: Any) -> Mapping[str, Any]:  # noqa: ANN401 (whatever a table holds)
    if not isinstance(row, Mapping):
        raise TypeError(f"row {number} is {type(row).__name__}, expected a mapping from column")
    return row


def _key(place: str, key: Any) -> str:  # noqa: ANN401 (whatever a table holds)
    if isinstance(key, bool) or not isinstance(key, str | int | np.integer):
        raise SourceError(f"{place}: the key is {key!r}, expected text or an integer")
    return str(key)
