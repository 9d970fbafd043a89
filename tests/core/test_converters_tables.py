"""Rows written by the usual writers are read as they were written."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiomdb.converters.tables import read_table
from audiomdb.errors import SourceError

# The csv module leaves a lone carriage return unquoted where lines end in a newline.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=20)
NAMES = st.lists(
    st.text("abc ,;\"'\n", min_size=1, max_size=5).filter(str.strip),
    min_size=1,
    max_size=4,
    unique=True,
)
ATOMS: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers() | st.floats(0, 1) | TEXT
JSON = ATOMS | st.lists(ATOMS, max_size=2)


def rows_of(name: str, content: bytes) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        return [row for _, row in read_table(path)]


@given(st.data(), NAMES, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_what_the_csv_module_writes_is_read_back(
    data: st.DataObject, names: list[str], end: str, mark: bool
) -> None:
    cells = st.lists(TEXT, min_size=len(names), max_size=len(names))
    rows = data.draw(st.lists(cells, max_size=5))
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator=end)
    writer.writerows([names, *rows])
    content = buffer.getvalue().encode("utf-8-sig" if mark else "utf-8")
    assert rows_of("t.csv", content) == [dict(zip(names, row, strict=True)) for row in rows]


@given(st.lists(st.dictionaries(TEXT, JSON), max_size=5), st.booleans(), st.booleans())
def test_what_the_json_module_writes_is_read_back(
    rows: list[dict[str, Any]], ascii_only: bool, mark: bool
) -> None:
    lines = [json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows]
    content = "".join(lines).encode("utf-8-sig" if mark else "utf-8")
    assert rows_of("t.jsonl", content) == rows


@given(st.lists(st.dictionaries(TEXT, TEXT), min_size=1, max_size=5))
def test_a_row_knows_the_line_it_begins_on(rows: list[dict[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.csv")
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["value"])
            writer.writerows([[json.dumps(row, indent=1)] for row in rows])
        content = path.read_text(encoding="utf-8").split("\n")
        found = list(read_table(path))
    assert [json.loads(row["value"]) for _, row in found] == rows
    assert all(content[line - 1].startswith(('"{', "{}")) for line, _ in found)


@pytest.mark.parametrize(
    "row", ['{"text": "a", "text": "b"}', '{"meta": [{"text": 1, "text": 1}]}']
)
def test_two_values_of_one_name_are_refused_like_two_columns(row: str) -> None:
    with pytest.raises(SourceError, match=r"t\.jsonl:2: two values are called 'text'"):
        rows_of("t.jsonl", b'{"text": "a"}\n' + row.encode())
    with pytest.raises(SourceError, match=r"t\.csv:1: two columns are called 'text'"):
        rows_of("t.csv", b"text,text\na,b\n")


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_a_cell_may_be_long(name: str) -> None:
    text = "word " * 100_000
    assert rows_of(name, f"text\n{text}\n".encode()) == [{"text": text}]
