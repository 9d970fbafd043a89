"""Datasets that are merged although a field is text in one and a number in another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from audiomdb.shards import DatasetWriter, merge_datasets
from audiomdb.stream import SampleStream


def part(folder: Path, **fields: Any) -> Path:
    with DatasetWriter(folder) as writer:
        writer.write(folder.name, fields)
    return folder


def test_a_field_of_two_types_is_named_with_the_datasets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weeks = [part(tmp_path / f"week-{n}", speaker_id=str(n) if n else 3, n=n) for n in range(6)]
    merge_datasets(weeks, tmp_path / "all")
    (warning,) = (record.getMessage() for record in caplog.records)
    texts = ", ".join(str(week) for week in weeks[1:4])
    assert warning.startswith(
        f"field 'speaker_id' is int in {weeks[0]} and str in {texts} and 2 more: "
    )
    with SampleStream(tmp_path / "all", where=lambda c: c["speaker_id"] == "3") as stream:
        assert len(stream) == 1, "it finds one of the two with this speaker"


@pytest.mark.parametrize("others", [(1, 2.5), (1, None), ("a", None), (True, 1), ("a", "b")])
def test_numbers_of_several_types_and_missing_values_go_together(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, others: tuple[Any, Any]
) -> None:
    one, other = others
    weeks = [part(tmp_path / "one", field=one, blob=b"1"), part(tmp_path / "other", field=other)]
    merge_datasets(weeks, tmp_path / "all")
    assert not caplog.records


def test_a_field_that_has_both_types_in_one_dataset_is_named_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with DatasetWriter(tmp_path / "both", samples_per_shard=1) as writer:
        writer.write("a", {"speaker_id": "3"})
        writer.write("b", {"speaker_id": 3})
    other = part(tmp_path / "other", speaker_id="4")
    merge_datasets([tmp_path / "both", other], tmp_path / "all")
    said = f"field 'speaker_id' is int or str in {tmp_path / 'both'} and str in {other}: "
    assert said in caplog.text
