"""Fields that are joined to samples by key, without rewriting the dataset."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.errors import SourceError, UnknownColumnError, UnknownKeyError
from audiomdb.sample import Sample
from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.stream import JoinedColumns
from audiomdb.stream.load_options import LoadOptions
from audiomdb.stream.loading import SampleLoader

ROWS = [{"key": f"clip-{i}", "text": f"better {i}", "grade": i / 2} for i in range(4)]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> DatasetReader:
    path = tmp_path_factory.mktemp("data") / "clips"
    with DatasetWriter(path, samples_per_shard=3) as writer:
        for i in range(4):
            audio = np.full(100, i, np.float32)
            writer.write(f"clip-{i}", {"audio": audio, "sample_rate": 8000, "text": f"old {i}"})
    return DatasetReader.open(path)


def load(reader: DatasetReader, position: int, **options: Any) -> Sample:
    return SampleLoader(reader, LoadOptions(**options)).load(position)


class Polars:
    """What Polars shows of a table."""

    def to_dicts(self) -> list[dict[str, Any]]:
        return ROWS


def rows() -> Any:
    return ROWS


def rows_once() -> Any:
    return iter(ROWS)


def mapping() -> Any:
    return {row["key"]: {"text": row["text"], "grade": row["grade"]} for row in ROWS}


def pandas() -> Any:
    return pytest.importorskip("pandas").DataFrame(ROWS)


def pyarrow() -> Any:
    return pytest.importorskip("pyarrow").Table.from_pylist(ROWS)


@pytest.mark.parametrize("table", [rows, rows_once, mapping, pandas, pyarrow, Polars])
def test_a_sample_gets_the_fields_of_its_row(
    reader: DatasetReader, table: Callable[[], Any]
) -> None:
    joined = JoinedColumns(table())
    assert len(joined) == 4
    assert joined.columns == ("text", "grade")
    sample = load(reader, 2, join=joined)
    assert (sample["text"], sample["grade"], sample["__key__"]) == ("better 2", 1.0, "clip-2")
    assert "key" not in sample
    assert np.all(sample["audio"] == 2)
    assert reader[2]["text"] == "old 2"


def as_json(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def as_csv(path: Path) -> None:
    lines = ["key,text,grade", *(f"{row['key']},{row['text']},{row['grade']}" for row in ROWS)]
    path.write_text("\n".join(lines))


@pytest.mark.parametrize(("name", "write"), [("a.jsonl", as_json), ("a.csv", as_csv)])
def test_a_file_is_a_table(
    reader: DatasetReader, tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / name)
    joined = JoinedColumns(tmp_path / name)
    (tmp_path / name).unlink()  # a copy for another process has the rows
    sample = load(reader, 3, join=pickle.loads(pickle.dumps(joined)))
    assert sample["text"] == "better 3"
    assert sample["grade"] == (1.5 if name == "a.jsonl" else "1.5")


def test_joined_fields_ignore_fields_and_precede_the_processor(
    reader: DatasetReader,
) -> None:
    joined = JoinedColumns(ROWS, columns=["text"])
    assert load(reader, 1, join=joined, fields=["text"]) == {
        "__key__": "clip-1",
        "text": "better 1",
    }
    shouted = load(reader, 1, join=joined, processor=lambda s: {"text": s["text"].upper()})
    assert shouted["text"] == "BETTER 1"


def test_the_column_with_the_keys_can_be_named(reader: DatasetReader) -> None:
    rows = [{"clip": f"clip-{i}", "id": i} for i in range(4)]
    assert load(reader, 0, join=JoinedColumns(rows, key="clip"))["id"] == 0
    with pytest.raises(UnknownKeyError, match="no row for sample 'clip-0'"):
        load(reader, 0, join=JoinedColumns(rows))


def test_a_key_may_be_an_integer(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "numbered") as writer:
        writer.write("7", {"n": 1})
    with DatasetReader.open(tmp_path / "numbered") as reader:
        for key in (7, np.int64(7), np.str_("7")):
            assert load(reader, 0, join=JoinedColumns({key: {"text": "seven"}}))["text"] == "seven"


def test_a_missing_row_is_an_error_or_keeps_the_sample(reader: DatasetReader) -> None:
    with pytest.raises(UnknownKeyError, match=r"no row for sample 'clip-3' of .*shard_00001"):
        load(reader, 3, join=JoinedColumns(ROWS[:2]))
    sample = load(reader, 3, join=JoinedColumns(ROWS[:2], missing="keep"))
    assert (sample["text"], sample["grade"]) == ("old 3", None)


def test_a_table_that_matches_nothing_is_named_once_with_a_key_of_each_side(
    reader: DatasetReader, caplog: pytest.LogCaptureFixture
) -> None:
    joined = JoinedColumns({"data/clip-0.wav": {"text": "better"}}, missing="keep")
    for _ in range(2):
        for position in range(4):
            load(reader, position, join=joined)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        "the joined table has 1 row, and none for the first 4 samples read: a key of it is "
        "'data/clip-0.wav', one of the samples 'clip-3'"
    )


def test_rows_for_samples_that_are_read_late_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="audiomdb")
    with DatasetWriter(tmp_path / "many") as writer:
        for number in range(100):
            writer.write(f"clip-{number:02d}", {"text": "old"})
    table = {f"clip-{number:02d}": {"text": "better"} for number in range(60, 100)}
    joined = JoinedColumns(table, missing="keep")
    with DatasetReader.open(tmp_path / "many") as many:
        texts = [load(many, at, join=joined)["text"] for at in range(100)]
    assert texts == ["old"] * 60 + ["better"] * 40
    (record,) = caplog.records
    assert "had a row for 40 of the first 100 samples read" in record.getMessage()


def test_how_many_samples_had_a_row_is_logged_once(
    reader: DatasetReader, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="audiomdb")
    joined = JoinedColumns([*ROWS[:2], {"key": "clip-9"}], missing="keep")
    for _ in range(2):
        for position in range(4):
            load(reader, position, join=joined)
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert record.getMessage() == (
        "the joined table had a row for 2 of the first 4 samples read, and has 3 rows"
    )


def test_joined_rows_have_none_for_columns_they_lack(reader: DatasetReader) -> None:
    joined = JoinedColumns([{"id": "clip-0", "a": 1}, {"id": "clip-1", "b": 2}])
    sample = load(reader, 1, join=joined)
    assert (sample["a"], sample["b"]) == (None, 2)


def test_changing_a_sample_does_not_change_the_joined_table(reader: DatasetReader) -> None:
    joined = JoinedColumns({"clip-0": {"label": np.zeros(2), "times": [[0.0, 1.0]], "n": 1}})
    for _ in range(2):
        sample = load(reader, 0, join=joined)
        assert sample["label"].tolist() == [0, 0]
        assert sample["times"] == [[0.0, 1.0]]
        sample["label"] += 1
        sample["times"][0].append(2.0)


@pytest.mark.parametrize(
    ("table", "options", "kind", "words"),
    [
        ([*ROWS, ROWS[1]], {}, SourceError, "row 4: a second row for the key 'clip-1'"),
        ([{"name": "x"}], {}, SourceError, "say which has the keys"),
        ([{"key": "x"}, {"k": "y"}], {}, SourceError, "row 1: no column 'key'"),
        ([{"key": None}], {}, SourceError, "the key is None"),
        (ROWS, {"columns": ["txt"]}, UnknownColumnError, "no column 'txt'"),
        (ROWS, {"columns": "text"}, TypeError, "columns is 'text', expected a list of names"),
        (ROWS, {"missing": "skip"}, ValueError, "'error' or 'keep'"),
        ([{"key": "x", "audio": b""}], {}, ValueError, "column 'audio'"),
        ([1], {}, TypeError, "row 0 is int"),
        ({"clip-0": 1}, {}, TypeError, "row 0 is int"),
        (7, {}, TypeError, "table is int"),
        ("nowhere.csv", {}, SourceError, "cannot read nowhere.csv"),
    ],
)
def test_an_object_that_is_not_a_table_is_refused(
    table: Any, options: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        JoinedColumns(table, **options)
