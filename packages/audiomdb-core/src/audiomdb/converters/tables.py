"""Reader for rows of JSON lines, CSV and TSV files, with the line number that each begins on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from audiomdb.errors import SourceError
from audiomdb.sample import CHANNELS, DURATION, FRAMES, SAMPLE_RATE, TEXT

__all__ = ["OFFSET", "TEXT_COLUMNS", "Row", "column", "read_table", "take_text"]

Row: TypeAlias = dict[str, Any]

OFFSET = "offset"
"""Column with the second at which a clip starts in its file."""

TEXT_COLUMNS = ("text", "sentence", "transcription", "transcript")
"""Names of the transcript in datasets on the Hub and in audiofolders, in order of precedence."""

_KINDS = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".tsv": "tsv",
}

_INTEGERS = {CHANNELS, FRAMES, SAMPLE_RATE}
_FLOATS = {DURATION, OFFSET}
_NUMBERS = _INTEGERS | _FLOATS

_LONGEST_CELL = 2**26
"""Largest size of a cell, in characters; more means a quotation mark that is never closed."""

_BOM = b"\xef\xbb\xbf"

_NOT_TEXT = (
    (b"\x1f\x8b", "compressed with gzip: decompress it first (gunzip)"),
    (b"PK\x03\x04", "a ZIP archive, or a spreadsheet: unpack it, or save it as CSV"),
    (b"PAR1", "Parquet: audiomdb.converters.hf.HFConverter reads it"),
    (b"\xff\xfe", "UTF-16: convert it to UTF-8 first (iconv -f utf-16 -t utf-8)"),
    (b"\xfe\xff", "UTF-16: convert it to UTF-8 first (iconv -f utf-16 -t utf-8)"),
)
"""First bytes of files that are often given as a table, and what to do with them."""


def read_table(path: Path) -> Iterator[tuple[int, Row]]:
    """Read a table row by row.

    The format follows from the suffix (.jsonl, .ndjson, .json, .csv, .tsv), or else from the first
    line. Text is UTF-8, with or without a byte order mark, lines end in LF or CR LF, and empty ones
    are skipped. JSON keeps its types. In CSV and TSV every value is text, except that
    `sample_rate`, `channels`, `frames`, `duration` and `offset` are numbers, left out if the cell
    is empty. CSV is quoted as usual; in TSV a quotation mark is a character like any other, as in
    Common Voice.

    Yields:
        Line number, counted from 1, and values by column.

    Raises:
        SourceError: for a file or a line that cannot be read; names both.
    """
    kind = _kind(path)
    lines = _lines(path)
    return _json_rows(path, lines) if kind == "json" else _cell_rows(path, lines, kind)


def column(path: Path, line: int, row: Mapping[str, Any], name: str, *, advice: str) -> Any:  # noqa: ANN401
    """Return the value of a column that must exist.

    Args:
        path: The table.
        line: Number of the row's line.
        row: The row.
        name: Name of the column.
        advice: What to do if there is no such column.

    Raises:
        SourceError: when the row has no such column; lists those it has.
    """
    if name not in row:
        there = ", ".join(map(repr, row)) or "none"
        raise SourceError(
            f"{path}:{line}: no column {name!r}; there are {there}. {advice}{_form(path)}"
        )
    return row[name]


def _form(path: Path) -> str:
    kind = _kind(path)
    if kind == "json":
        return ""
    separator = "commas" if kind == "csv" else "tabs"
    return (
        f". In a {kind.upper()}, {separator} separate values, and the first line has the names of "
        "the columns"
    )


def take_text(place: str, row: Row, name: str) -> None:
    """Rename the column `name` to `text`.

    Raises:
        SourceError: when there is another column `text`; begins with `place`.
    """
    if name == TEXT:
        return
    if TEXT in row:
        raise SourceError(
            f"{place}: there is a column {TEXT!r} beside {name!r}, and both would be called so; "
            "rename one of them"
        )
    row[TEXT] = row.pop(name)


def _kind(path: Path) -> str:
    return _KINDS.get(path.suffix.lower()) or _guess(path)


def _guess(path: Path) -> str:
    for _, line in _lines(path):
        if line.strip():
            if line.lstrip().startswith(("{", "[")):
                return "json"
            return "tsv" if "\t" in line else "csv"
    return "json"


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                octets = raw.removeprefix(_BOM) if number == 1 else raw
                try:
                    yield number, octets.decode()
                except UnicodeDecodeError as exc:
                    for start, meaning in _NOT_TEXT if number == 1 else ():
                        if raw.startswith(start):
                            raise SourceError(f"{path} is {meaning}") from exc
                    raise SourceError(
                        f"{path}:{number}: not UTF-8: {exc}. Convert it first, for instance with "
                        "iconv"
                    ) from exc
    except OSError as exc:
        raise SourceError(f"cannot read {path}: {exc.strerror}") from exc


def _json_rows(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, Row]]:
    import json

    decode = json.JSONDecoder(object_pairs_hook=_object).decode
    for number, line in lines:
        if not line.strip():
            continue
        try:
            row = decode(line)
        except _RepeatedNameError as exc:
            raise SourceError(f"{path}:{number}: {exc}") from exc
        except (ValueError, RecursionError) as exc:
            raise SourceError(
                f"{path}:{number}: not JSON: {exc}. Each line has to hold one object"
            ) from exc
        if not isinstance(row, dict):
            raise SourceError(
                f"{path}:{number}: a JSON {type(row).__name__}, expected one object per line"
            )
        yield number, row


class _RepeatedNameError(ValueError):
    """Raised for an object with two values of the same name, since it is unclear which is meant."""


def _object(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _RepeatedNameError(f"two values are called {twice!r}")
    return row


def _cell_rows(
    path: Path, lines: Iterable[tuple[int, str]], kind: str
) -> Iterator[tuple[int, Row]]:
    import csv

    # The limit applies to the whole process, so it is raised and never lowered.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
    texts = (line for _, line in lines)
    reader = (
        csv.reader(texts, strict=True)
        if kind == "csv"
        else csv.reader(texts, delimiter="\t", quoting=csv.QUOTE_NONE)
    )
    names: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            if not cells or (len(cells) == 1 and not cells[0].strip() and _several(names)):
                pass
            elif names is None:
                names = _header(path, line, cells)
            elif len(cells) != len(names):
                raise SourceError(
                    f"{path}:{line}: {len(cells)} values for the {len(names)} columns {names}"
                )
            else:
                pairs = zip(names, cells, strict=True)
                yield line, _typed(path, line, {name: cell for name, cell in pairs if name})
            line = reader.line_num + 1
    except csv.Error as exc:
        raise SourceError(f"{path}:{line}: {exc}") from exc


def _several(names: list[str] | None) -> bool:
    """Return whether a blank line is skipped, as it is unless the table has a single column."""
    return names is None or len(names) > 1


def _header(path: Path, line: int, names: list[str]) -> list[str]:
    # pandas writes its index as a column without a name; it is left out.
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise SourceError(f"{path}:{line}: two columns are called {twice[0]!r}")
    return names


def _typed(path: Path, line: int, row: Row) -> Row:
    typed: Row = {}
    for name, cell in row.items():
        if name not in _NUMBERS:
            typed[name] = cell
        elif cell.strip():
            try:
                typed[name] = float(cell) if name in _FLOATS else int(float(cell))
            except (ValueError, OverflowError) as exc:
                raise SourceError(f"{path}:{line}: {name} is {cell!r}, expected a number") from exc
    return typed
