"""Conversions that are run again after something changed: what is noticed, and how it is said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from audiomdb.converters.files import FolderConverter, ManifestConverter
from audiomdb.errors import ConversionError, OptionsChangedError
from audiomdb.shards import DatasetReader
from tests.core.conversions import Listed, clip, samples

ROWS = """id,audio_filepath,other,sentence,translation
1,a.wav,b.wav,bonjour,hello
2,b.wav,a.wav,merci,thanks
"""


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with two clips, and a table and a manifest of them."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, name in enumerate(("a.wav", "b.wav")):
        (folder / name).write_bytes(clip(number))
    (folder / "m.csv").write_text(ROWS)
    (folder / "metadata.csv").write_text(ROWS.replace("audio_filepath", "file_name"))
    return folder


def texts(out: Path) -> list[str]:
    with DatasetReader.open(out) as dataset:
        return [sample["text"] for sample in dataset]


class Optional(Listed):
    """A converter with an option of its own, as a contributor writes it."""

    option: Any = None

    def source_options(self) -> Mapping[str, Any]:
        return {"option": self.option, "sample_rate": 7}


@pytest.mark.parametrize(
    ("changed", "was", "now"),
    [
        ({"text_column": "translation"}, "'sentence'", "'translation'"),
        ({"audio_column": "other"}, "'audio_filepath'", "'other'"),
        ({"key_column": "other"}, "None", "'other'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_column_of_a_manifest_is_refused_by_name(
    corpus: Path, tmp_path: Path, changed: dict[str, str], was: str, now: str
) -> None:
    options: dict[str, Any] = {"text_column": "sentence"}
    ManifestConverter(corpus / "m.csv", tmp_path / "out", **options).run()
    (name,) = changed
    with pytest.raises(OptionsChangedError, match=f"with {name}={was}; this run has {name}={now}"):
        ManifestConverter(corpus / "m.csv", tmp_path / "out", **{**options, **changed}).run()
    assert ManifestConverter(corpus / "m.csv", tmp_path / "out", **options).run().reused_shards == 1
    assert texts(tmp_path / "out") == ["bonjour", "merci"]


def test_another_text_column_of_a_folders_table_is_refused_by_name(
    corpus: Path, tmp_path: Path
) -> None:
    FolderConverter(corpus, tmp_path / "out", text_column="sentence").run()
    with pytest.raises(OptionsChangedError, match=r"text_column='sentence'.*'translation'"):
        FolderConverter(corpus, tmp_path / "out", text_column="translation").run()
    assert texts(tmp_path / "out") == ["bonjour", "merci"]


def test_the_same_clips_at_another_place_are_the_same(corpus: Path, tmp_path: Path) -> None:
    ManifestConverter(corpus / "m.csv", tmp_path / "out", text_column="sentence").run()
    (tmp_path / "moved").mkdir()
    (corpus / "m.csv").rename(tmp_path / "moved" / "m.csv")
    moved = ManifestConverter(
        tmp_path / "moved" / "m.csv", tmp_path / "out", text_column="sentence", audio_dir=corpus
    )
    assert moved.run().reused_shards == 1


def test_options_of_anybodys_converter_are_compared(tmp_path: Path) -> None:
    converter = Optional(samples(3), tmp_path / "out")
    converter.option = ["a", {"b": 1.5}]
    converter.run()
    assert converter.run().reused_shards == 1
    converter.option = ["a", {"b": 2.5}]
    with pytest.raises(OptionsChangedError, match=r"with option=\['a', {'b': 1\.5}\]; this run"):
        converter.run()


def test_an_option_called_as_one_of_the_base_is_another(tmp_path: Path) -> None:
    converter = Optional(samples(3), tmp_path / "out")
    converter.run()
    with pytest.raises(OptionsChangedError, match=r"with sample_rate=None; this run has sample_"):
        Optional(samples(3), tmp_path / "out", sample_rate=16000).run()


def test_options_that_no_shard_can_keep_are_refused_before_any_work(tmp_path: Path) -> None:
    converter = Optional(samples(3), tmp_path / "out")
    converter.option = tmp_path
    with pytest.raises(ConversionError, match=r"Optional\.source_options returned .*plain values"):
        converter.run()
    assert not (tmp_path / "out").exists()
