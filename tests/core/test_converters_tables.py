"""Rows written by the usual writers are read as they were written."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
import unicodedata
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiomdb.converters.files import ManifestConverter
from audiomdb.converters.tables import read_table
from audiomdb.errors import SourceError, UnreadableAudioError

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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl.gz", gzip.compress(b'{"text": "a"}\n'), r"t\.jsonl\.gz is compressed with gzip"),
        ("t.csv", "text\na\n".encode("utf-16"), r"t\.csv is UTF-16: convert it to UTF-8 first"),
        (
            "t.xlsx",
            b"PK\x03\x04\x14\0\x08\x08\x08\0\xff",
            r"t\.xlsx is .* a spreadsheet: .* as CSV",
        ),
        ("t.parquet", b"PAR1\x15\x04\x15\xff\n", r"t\.parquet is Parquet: .*HFConverter reads it"),
        ("t.csv", "text\né\n".encode("latin-1"), r"t\.csv:2: not UTF-8: .* Convert it first"),
    ],
)
def test_a_table_that_is_not_utf8_text_is_refused_with_advice(
    name: str, content: bytes, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        rows_of(name, content)


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("metadata.csv", "LJ001-0001|Printing|Printing\n" * 2, "In a CSV, commas separate values"),
        ("train.tsv", "path\tsentence\na.mp3\thello\n", "In a TSV, tabs separate values"),
        ("train.jsonl", '{"path": "a.mp3"}\n', None),
    ],
)
def test_a_manifest_without_the_expected_column_says_how_to_name_another(
    tmp_path: Path, name: str, content: str, form: str | None
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(SourceError, match=r"paths with audio_column= \(--audio-column\)") as caught:
        ManifestConverter(path, tmp_path / "out").run()
    said = str(caught.value)
    assert form in said if form else "separate values" not in said


@pytest.mark.parametrize(
    ("listed", "advice"),
    [
        ("clips\\a.wav", "/ separates folders"),
        ("https://example.org/a.wav", "It is a URL: download it"),
        ("gone.wav", r"No such file or directory(\n|$)"),
    ],
)
def test_a_missing_path_in_a_table_gets_a_likely_explanation(
    tmp_path: Path, listed: str, advice: str
) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"audio_filepath": listed}) + "\n")
    with pytest.raises(UnreadableAudioError, match=advice):
        ManifestConverter(path, tmp_path / "out").run()


@pytest.mark.parametrize(("on_disk", "listed"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_a_similarly_named_file_is_suggested_for_a_missing_one(
    tmp_path: Path, on_disk: Literal["NFC", "NFD"], listed: Literal["NFC", "NFD"]
) -> None:
    clip = tmp_path / unicodedata.normalize(on_disk, "é.wav")
    clip.write_bytes(b"")
    if (tmp_path / unicodedata.normalize(listed, "é.wav")).exists():
        pytest.skip("this file system takes both for the same name")
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"audio_filepath": unicodedata.normalize(listed, "é.wav")}) + "\n")
    with pytest.raises(UnreadableAudioError, match=f"looks the same .* Unicode's form {on_disk}"):
        ManifestConverter(path, tmp_path / "out").run()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.jsonl", b"[" * 200_000, r"t\.jsonl:1: not JSON"),
        ("t.csv", b"sample_rate\n1e999\n", r"t\.csv:2: sample_rate is '1e999', expected a number"),
    ],
)
def test_what_no_number_and_no_stack_can_hold_is_refused_by_line(
    name: str, content: bytes, says: str
) -> None:
    with pytest.raises(SourceError, match=says):
        rows_of(name, content)


def test_a_larger_limit_on_cells_that_the_program_has_set_stays() -> None:
    before = csv.field_size_limit(2**28)
    try:
        assert rows_of("t.csv", b"a\n1\n") == [{"a": "1"}]
        assert csv.field_size_limit() == 2**28
    finally:
        csv.field_size_limit(before)
