"""What `HFConverter` makes of columns: audio anywhere in them, arrays, rows that differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import Array2D, Audio, ClassLabel, Dataset, Features, IterableDataset, List, Value

from audiomdb.audio import encode
from audiomdb.converters.hf import HFConverter
from audiomdb.errors import SampleError, SourceError
from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.stream import SampleStream

CLIPS = [encode(np.full(800, level, np.float32), 16_000, "wav") for level in (0.1, 0.2, 0.3)]
RECORDINGS = [{"bytes": clip, "path": None} for clip in CLIPS]
INTEGERS = (20_000 * np.sin(np.arange(400) / 5)).astype(np.int16)


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def convert(data: Any, output: Path, **options: Any) -> list[dict[str, Any]]:
    HFConverter(data, output, **options).run()
    with DatasetReader.open(output) as reader:
        return list(reader)


def stream(*rows: dict[str, Any]) -> IterableDataset:
    """Rows of which `datasets` does not know the columns."""

    def generate() -> Iterator[dict[str, Any]]:
        yield from rows

    return IterableDataset.from_generator(generate)


def with_audio_in_it(place: Callable[[Any], Any]) -> Dataset:
    """Recordings, and beside each one the column "more" with `place` of it, typed as audio."""
    rows = Dataset.from_dict({"audio": RECORDINGS, "more": [place(r) for r in RECORDINGS]})
    return rows.cast(Features({"audio": Audio(), "more": place(Audio())}))


def audio_in_lists(audio: Any) -> Any:
    return List(audio) if isinstance(audio, Audio) else [audio]


PLACES = pytest.mark.parametrize(
    "place",
    [
        lambda audio: audio,
        audio_in_lists,
        lambda audio: {"other": audio},
        lambda audio: {"takes": audio_in_lists(audio)},
    ],
    ids=["column", "list", "dict", "list-in-dict"],
)
KINDS = pytest.mark.parametrize("kind", [lambda rows: rows, Dataset.to_iterable_dataset])


@KINDS
@PLACES
def test_audio_that_is_not_stored_is_not_decoded(
    tmp_path: Path, place: Callable[[Any], Any], kind: Callable[[Dataset], Any]
) -> None:
    samples = convert(kind(with_audio_in_it(place)), tmp_path / "out", store_columns=[])
    assert [sample["audio"] for sample in samples] == CLIPS
    assert all("more" not in sample for sample in samples)


@KINDS
@PLACES
def test_audio_in_another_column_is_stored_as_its_bytes_and_path(
    tmp_path: Path, place: Callable[[Any], Any], kind: Callable[[Dataset], Any]
) -> None:
    samples = convert(kind(with_audio_in_it(place)), tmp_path / "out")
    assert [sample["audio"] for sample in samples] == CLIPS
    assert [sample["more"] for sample in samples] == [place(r) for r in RECORDINGS]


def test_the_row_count_of_a_dataset_with_nested_audio_is_known(tmp_path: Path) -> None:
    assert HFConverter(with_audio_in_it(audio_in_lists), tmp_path / "out").sample_count() == 3


def test_an_empty_dataset_with_nested_audio_gives_an_empty_dataset(tmp_path: Path) -> None:
    assert convert(with_audio_in_it(audio_in_lists).select([]), tmp_path / "out") == []


def test_a_key_may_come_from_a_column_that_is_not_stored(tmp_path: Path) -> None:
    rows = with_audio_in_it(audio_in_lists).add_column("id", ["a", "b", "c"])
    samples = convert(rows, tmp_path / "out", store_columns=[], key_column="id")
    assert [sample["__key__"] for sample in samples] == ["a", "b", "c"]
    assert "id" not in samples[0]


def test_a_transform_is_given_the_columns_that_are_not_stored(tmp_path: Path) -> None:
    def quieter(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        pairs = zip(rows["audio"], rows["gain"], strict=True)
        return {"audio": [np.array(clip, np.float32) * gain for clip, gain in pairs]}

    rows = Dataset.from_dict({"audio": [[1.0] * 8], "gain": [0.5], "sample_rate": [8_000]})
    rows.set_transform(lambda batch: {**quieter(batch), "sample_rate": batch["sample_rate"]})
    (sample,) = convert(rows, tmp_path / "out", store_columns=["sample_rate"])
    assert sample["audio"].tolist() == [0.5] * 8


def test_audio_that_is_decoded_too_early_is_an_error_that_says_where(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"audio": RECORDINGS}).cast_column("audio", Audio())
    mapped = rows.to_iterable_dataset().map(lambda row: row)
    with pytest.raises(SourceError, match=r"Audio\(decode=False\) before any map"):
        convert(mapped, tmp_path / "out")


ONE = {"array": INTEGERS, "sampling_rate": 8_000}
RATE = {"sample_rate": [8_000]}
SQUARE = Features({"audio": Array2D((400, 1), "int16"), "sample_rate": Value("int32")})


@pytest.mark.parametrize("audio_format", [None, "flac"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: stream({"audio": ONE}),
        lambda: Dataset.from_dict({"audio": [ONE]}),
        lambda: Dataset.from_dict({"audio": [INTEGERS], **RATE}),
        lambda: Dataset.from_dict({"audio": [INTEGERS], **RATE}).with_format(
            "numpy", columns=["audio"], output_all_columns=True
        ),
        lambda: Dataset.from_dict({"audio": [INTEGERS[:, None]], **RATE}, features=SQUARE),
        lambda: Dataset.from_dict({"audio": [ONE]}).to_iterable_dataset(),
    ],
    ids=["rows", "dicts", "lists", "numpy", "squares", "iterable"],
)
def test_integers_are_scaled_as_by_the_writer(
    tmp_path: Path, make: Callable[[], Any], audio_format: str | None
) -> None:
    HFConverter(make(), tmp_path / "out", audio_format=audio_format).run()
    with DatasetWriter(tmp_path / "written", audio_format=audio_format) as writer:
        writer.write("0", {"audio": INTEGERS, "sample_rate": 8_000})
    (converted,), (written,) = SampleStream(tmp_path / "out"), SampleStream(tmp_path / "written")
    np.testing.assert_array_equal(converted["audio"].ravel(), written["audio"])
    assert 0.6 < converted["audio"].max() < 0.62


@pytest.mark.parametrize(
    "make",
    [
        lambda: Dataset.from_dict({"audio": [INTEGERS.tolist()], **RATE}),
        lambda: stream({"audio": {**ONE, "array": INTEGERS.tolist()}}),
        lambda: stream({"audio": {**ONE, "array": INTEGERS.astype(np.int64)}}),
    ],
    ids=["lists", "rows", "arrays"],
)
def test_integers_of_unknown_range_are_refused(tmp_path: Path, make: Callable[[], Any]) -> None:
    with pytest.raises(SourceError, match=r"audio as int64 in its column 'audio'.*\"int16\""):
        convert(make(), tmp_path / "out")


def test_an_array_with_a_hole_is_rejected_by_key(tmp_path: Path) -> None:
    rows = stream({"audio": [0.5, None], "sample_rate": 8_000})
    with pytest.raises(SampleError, match="000000000"):
        convert(rows, tmp_path / "out")


def test_a_column_that_only_a_later_row_has_is_stored(tmp_path: Path) -> None:
    rows = stream(
        {"audio": RECORDINGS[0]},
        {"audio": RECORDINGS[1], "speaker": "s1", "sentence": "two", "__key__": "b"},
        {"audio": RECORDINGS[2], "sentence": "three"},
    )
    first, second, third = convert(rows, tmp_path / "out")
    assert (second["speaker"], second["text"], third["text"]) == ("s1", "two", "three")
    assert not {"speaker", "text"} & first.keys()
    assert "speaker" not in third


def test_a_later_column_that_was_not_asked_for_is_not_stored(tmp_path: Path) -> None:
    rows = stream({"audio": RECORDINGS[0]}, {"audio": RECORDINGS[1], "speaker": "s1"})
    samples = convert(rows, tmp_path / "out", store_columns=[])
    assert [sample.get("speaker") for sample in samples] == [None, None]


def test_a_later_column_whose_name_is_taken_is_an_error_with_its_row(tmp_path: Path) -> None:
    rows = stream(
        {"audio": RECORDINGS[0], "sentence": "one"}, {"audio": RECORDINGS[1], "text": "two"}
    )
    with pytest.raises(SourceError, match=r"'text' in row 1, .* 'sentence' is .* store_columns="):
        convert(rows, tmp_path / "out")


def test_a_sample_lacks_the_columns_that_its_row_lacks(tmp_path: Path) -> None:
    rows = stream(
        {"audio": RECORDINGS[0], "text": "one"}, {"text": "two"}, {"audio": RECORDINGS[2]}
    )
    first, last = convert(rows, tmp_path / "out", on_error="skip")
    assert (first["text"], "text" in last) == ("one", False)
    assert [first["audio"], last["audio"]] == [CLIPS[0], CLIPS[2]]


def test_a_later_row_without_the_column_of_the_keys_is_named(tmp_path: Path) -> None:
    rows = stream({"audio": RECORDINGS[0], "id": "a"}, {"audio": RECORDINGS[1]})
    with pytest.raises(SourceError, match="row 1 of its column 'id'"):
        convert(rows, tmp_path / "out", key_column="id")


@pytest.mark.parametrize("form", ["arrow", "pandas"])
@pytest.mark.parametrize("iterable", [False, True])
def test_rows_that_are_tables_are_refused_with_what_to_do(
    form: str, iterable: bool, tmp_path: Path
) -> None:
    data = Dataset.from_dict({"audio": RECORDINGS}).cast_column("audio", Audio())
    if iterable:
        data = data.to_iterable_dataset()
    text = r"rows of the \w*Dataset are of type \w*, expected dicts: .*with_format\(None\)"
    with pytest.raises(SourceError, match=text):
        convert(data.with_format(form), tmp_path / "out")


def test_columns_hidden_by_a_format_are_left_out(tmp_path: Path) -> None:
    data = Dataset.from_dict({"audio": RECORDINGS, "text": ["a"] * 3, "n": [1, 2, 3]})
    data = data.cast_column("audio", Audio())
    with pytest.raises(SourceError, match="no column 'audio'; audio_column= may be 'text'"):
        convert(data.with_format("numpy", columns=["text"]), tmp_path / "none")
    shown = convert(data.with_format("numpy", columns=["audio", "n"]), tmp_path / "some")
    assert [(sample["n"], "text" in sample) for sample in shown] == [(n, False) for n in (1, 2, 3)]
    some = data.with_format("numpy", columns=["text"], output_all_columns=True)
    assert [sample["text"] for sample in convert(some, tmp_path / "all")] == ["a"] * 3


def labelled(**columns: list[Any]) -> Dataset:
    """Three clips in English, in Swahili, and in a language that is not given."""
    rows = Dataset.from_dict({"audio": RECORDINGS, "lang": [0, 1, -1], **columns})
    return rows.cast_column("lang", ClassLabel(names=["en", "sw"]))


@KINDS
def test_the_name_of_a_label_is_stored_beside_its_number(
    tmp_path: Path, kind: Callable[[Dataset], Any]
) -> None:
    samples = convert(kind(labelled()), tmp_path / "out")
    assert [sample["lang"] for sample in samples] == [0, 1, -1]
    assert [sample["lang_name"] for sample in samples] == ["en", "sw", None]
    with DatasetReader.open(tmp_path / "out") as reader:
        assert reader.index["lang_name"].tolist() == ["en", "sw", None]


def test_a_column_is_kept_where_the_name_of_a_label_would_be(tmp_path: Path) -> None:
    rows = labelled(lang_name=["English", "Swahili", "?"])
    samples = convert(rows, tmp_path / "out")
    assert [sample["lang_name"] for sample in samples] == ["English", "Swahili", "?"]
    (sample, *_) = convert(rows, tmp_path / "fewer", store_columns=["lang"])
    assert "lang_name" not in sample


def test_a_label_that_is_not_stored_has_no_name(tmp_path: Path) -> None:
    (sample, *_) = convert(labelled(), tmp_path / "out", store_columns=[])
    assert not {"lang", "lang_name"} & sample.keys()
