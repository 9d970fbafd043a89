"""Keys, names and texts of classes that stand for text: NumPy's, enums, a user's own."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from audiomdb.processors.base import BaseProcessor
from audiomdb.sample import Sample
from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.shards.codec import encode_record
from audiomdb.shards.shard_writer import ShardWriter
from tests.core.conversions import Listed, clip, digests, rejections


class Lang(str, enum.Enum):
    FR = "fr"


class Shown(str):
    """Text that is shown as something else."""

    __slots__ = ()

    def __str__(self) -> str:
        return "shown"


class Size(int, enum.Enum):
    BIG = 7


LIKE_TEXT = [np.str_("fr"), Lang.FR, Shown("fr")]


def ids(value: Any) -> str:
    return type(value).__name__


@pytest.mark.parametrize("text", LIKE_TEXT, ids=ids)
def test_keys_of_str_subclasses_are_stored_as_plain_text(tmp_path: Path, text: str) -> None:
    for name, key in (("plain", "fr"), ("like", text)):
        Listed([(key, {"text": "a"})], tmp_path / name / "out").run()
    assert digests(tmp_path / "like") == digests(tmp_path / "plain")
    assert Listed([(text, {"text": "a"})], tmp_path / "plain" / "out").run().reused_shards == 1
    with DatasetReader.open(tmp_path / "like" / "out") as dataset:
        assert list(dataset.keys()) == ["fr"]
        assert dataset[text]["text"] == "a"
    report = Listed(
        [(text, {"audio": b"none"}), (text, {"n": 1}), (text, {"n": 2})],
        tmp_path / "bad",
        on_error="skip",
    ).run()
    assert (report.samples, report.rejected) == (1, 2)
    assert {rejected["key"] for rejected in rejections(tmp_path / "bad")} == {"fr"}


@pytest.mark.parametrize("text", LIKE_TEXT, ids=ids)
def test_values_of_str_subclasses_are_stored_as_plain_text(tmp_path: Path, text: str) -> None:
    def sample(value: str) -> Sample:
        nested = {"in": {value: [value, {value: value}]}}
        return {"audio": clip(1), "text": value, "lang": value, "list": [value], **nested}

    for name, value in (("plain", "fr"), ("like", text)):
        Listed([("k", sample(value))], tmp_path / name / "out").run()
    assert digests(tmp_path / "like") == digests(tmp_path / "plain")
    with DatasetReader.open(tmp_path / "like" / "out") as dataset:
        assert dataset.index["lang"].tolist() == ["fr"]
        stored = dataset["k"]
    assert stored["in"] == {"fr": ["fr", {"fr": "fr"}]}
    assert {type(stored["lang"]), type(stored["text"]), type(stored["list"][0])} == {str}


@pytest.mark.parametrize("text", LIKE_TEXT, ids=ids)
def test_field_names_of_str_subclasses_are_stored_as_plain_text(tmp_path: Path, text: str) -> None:
    class Renames(BaseProcessor):
        def process(self, sample: Sample, **_: Any) -> dict[str, Any]:
            return {text: sample["fr"]}

    for name, field in (("plain", "fr"), ("like", text)):
        Listed([("k", {field: 1})], tmp_path / name / "out").run()
    assert digests(tmp_path / "like") == digests(tmp_path / "plain")
    Listed([("k", {"fr": 1})], tmp_path / "out", processor=Renames(), num_workers=1).run()
    with DatasetReader.open(tmp_path / "out") as dataset:
        assert dataset["k"] == {"__key__": "k", "fr": 1}
        assert list(dataset.metadata.features) == ["fr"]
        assert type(next(iter(dataset.index["fr"].tolist()))) is int


@pytest.mark.parametrize("text", LIKE_TEXT, ids=ids)
def test_a_single_record_accepts_str_subclasses_too(tmp_path: Path, text: str) -> None:
    record = encode_record(text, {"__key__": text, text: text})
    assert record == encode_record("fr", {"fr": "fr"})
    assert msgspec.msgpack.decode(record.body) == {"__key__": "fr", "fr": "fr"}
    with ShardWriter(tmp_path / "shard") as shard:
        shard.add(record)


def test_integers_of_int_subclasses_get_a_column(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "out") as writer:
        writer.write("a", {"size": Size.BIG})
        writer.write("b", {"size": 8})
    with DatasetReader.open(tmp_path / "out") as dataset:
        assert dataset.index["size"].tolist() == [7, 8]
        assert dataset["a"]["size"] == 7
