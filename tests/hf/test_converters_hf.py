from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import Audio, Dataset, DatasetDict, IterableDataset

from audiomdb.audio import encode
from audiomdb.converters.hf import HFConverter
from audiomdb.errors import OptionsChangedError, SourceError, UnreadableAudioError
from audiomdb.shards import DatasetReader

CLIPS = [
    encode(np.random.default_rng(seed).uniform(-0.1, 0.1, 800).astype(np.float32), 16_000, form)
    for seed, form in enumerate(["flac", "wav", "flac", "wav", "flac"])
]
TEXTS = ["one", "two", "three", "four", "five"]


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def table(**columns: list[Any]) -> Dataset:
    """Rows as a dataset of the Hub has them: encoded audio, of which `datasets` knows."""
    rows = {"audio": [{"bytes": clip, "path": None} for clip in CLIPS], **columns}
    return Dataset.from_dict(rows).cast_column("audio", Audio(sampling_rate=16_000))


def convert(data: Any, output: Path, **options: Any) -> list[dict[str, Any]]:
    HFConverter(data, output, **options).run()
    with DatasetReader.open(output) as reader:
        return list(reader)


def parquet_folder(path: Path, split: str = "train", **columns: list[Any]) -> Path:
    path.mkdir(exist_ok=True)
    half = len(CLIPS) // 2
    rows = table(**columns).cast_column("audio", Audio(decode=False))
    rows.select(range(half)).to_parquet(path / f"{split}-00000-of-00002.parquet")
    rows.select(range(half, len(CLIPS))).to_parquet(path / f"{split}-00001-of-00002.parquet")
    return path


@pytest.mark.parametrize("streaming", [True, False])
def test_a_folder_of_parquet_files_is_converted_byte_for_byte(
    tmp_path: Path, streaming: bool
) -> None:
    folder = parquet_folder(tmp_path / "digits", text=TEXTS)
    samples = convert(str(folder), tmp_path / "out", streaming=streaming)
    assert [sample["audio"] for sample in samples] == CLIPS
    assert [sample["text"] for sample in samples] == TEXTS
    assert [sample["__key__"] for sample in samples] == [f"{n:09d}" for n in range(5)]
    assert {(s["sample_rate"], s["frames"]) for s in samples} == {(16_000, 800)}


def test_a_path_object_is_a_folder_too_and_names_the_dataset(tmp_path: Path) -> None:
    folder = parquet_folder(tmp_path / "digits", text=TEXTS)
    HFConverter(folder, tmp_path / "out").run()
    with DatasetReader.open(tmp_path / "out") as reader:
        assert reader.metadata.name == "digits"


def test_a_dataset_object_is_converted_undecoded(tmp_path: Path) -> None:
    samples = convert(table(text=TEXTS), tmp_path / "out")
    assert [sample["audio"] for sample in samples] == CLIPS


def test_an_iterable_dataset_is_converted(tmp_path: Path) -> None:
    stream = table(text=TEXTS).to_iterable_dataset(num_shards=2)
    samples = convert(stream, tmp_path / "out")
    assert [sample["audio"] for sample in samples] == CLIPS


def test_a_stream_without_known_columns_may_hold_arrays(tmp_path: Path) -> None:
    array = np.linspace(-0.5, 0.5, 400, dtype=np.float32)

    def rows() -> Iterator[dict[str, Any]]:
        yield {"audio": {"array": array, "sampling_rate": 8_000}, "transcript": "rising"}

    stream = IterableDataset.from_generator(rows)
    (sample,) = convert(stream, tmp_path / "out")
    np.testing.assert_array_equal(sample["audio"], array)
    assert (sample["sample_rate"], sample["text"]) == (8_000, "rising")


def test_audio_may_be_a_path(tmp_path: Path) -> None:
    (tmp_path / "clip.flac").write_bytes(CLIPS[0])
    rows = Dataset.from_dict({"audio": [str(tmp_path / "clip.flac")]})
    by_name = convert(rows, tmp_path / "by-name")
    by_type = convert(rows.cast_column("audio", Audio()), tmp_path / "by-type")
    assert by_name[0]["audio"] == by_type[0]["audio"] == CLIPS[0]


def test_a_split_of_a_dictionary_is_taken(tmp_path: Path) -> None:
    splits = DatasetDict({"train": table(), "test": table(text=TEXTS)})
    samples = convert(splits, tmp_path / "out", data_split="test")
    assert samples[0]["text"] == "one"
    with pytest.raises(SourceError, match="no split 'dev'; data_split= may be 'train', 'test'"):
        convert(splits, tmp_path / "other", data_split="dev")


@pytest.mark.parametrize("streaming", [True, False])
def test_a_split_that_a_folder_lacks_is_an_error_with_those_it_has(
    tmp_path: Path, streaming: bool
) -> None:
    folder = parquet_folder(tmp_path / "digits")
    with pytest.raises(SourceError, match=r"digits: .*\['train'\]; give another data_split="):
        convert(str(folder), tmp_path / "out", data_split="test", streaming=streaming)


@pytest.mark.parametrize("column", ["text", "sentence", "transcription", "transcript"])
def test_the_transcript_column_is_stored_as_text(tmp_path: Path, column: str) -> None:
    (first, *_) = convert(table(**{column: TEXTS}), tmp_path / "out")
    assert first["text"] == "one"
    assert column == "text" or column not in first


def test_audio_without_text_is_fine(tmp_path: Path) -> None:
    (first, *_) = convert(table(speaker=TEXTS), tmp_path / "out")
    assert "text" not in first
    assert first["speaker"] == "one"


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    rows = table(words=TEXTS, speaker=TEXTS).rename_column("audio", "recording")
    options = {"audio_column": "recording", "text_column": "words"}
    (first, *_) = convert(rows, tmp_path / "out", **options)
    assert first["audio"] == CLIPS[0]
    assert first["text"] == first["speaker"] == "one"
    assert not {"recording", "words"} & first.keys()


def test_only_the_columns_asked_for_are_stored(tmp_path: Path) -> None:
    rows = table(text=TEXTS, speaker=TEXTS, accent=TEXTS)
    (first, *_) = convert(rows, tmp_path / "out", store_columns=["accent"])
    assert first.keys() >= {"audio", "text", "accent"}
    assert "speaker" not in first


def test_a_second_recording_is_stored_undecoded_too(tmp_path: Path) -> None:
    second = [{"bytes": clip, "path": None} for clip in reversed(CLIPS)]
    rows = table(noise=second).cast_column("noise", Audio())
    (first, *_) = convert(rows, tmp_path / "out")
    assert first["noise"]["bytes"] == CLIPS[-1]


def test_keys_may_come_from_a_column(tmp_path: Path) -> None:
    samples = convert(table(id=[11, 12, 13, 14, 15]), tmp_path / "out", key_column="id")
    assert [sample["__key__"] for sample in samples] == ["11", "12", "13", "14", "15"]
    assert samples[0]["id"] == 11


def test_a_web_dataset_lends_its_keys(tmp_path: Path) -> None:
    rows = table(__key__=["a", "b", "c", "d", "e"])
    samples = convert(rows, tmp_path / "lent", key_column="__key__")
    assert [sample["__key__"] for sample in samples] == ["a", "b", "c", "d", "e"]
    assert convert(rows, tmp_path / "out")[0]["__key__"] == "000000000"


def test_a_row_without_a_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="row 1 of its column 'id'"):
        convert(table(id=["a", None, "c", "d", "e"]), tmp_path / "out", key_column="id")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audio_column": "sound"}, "no column 'sound'; audio_column= may be 'audio', 'speaker'"),
        ({"text_column": "words"}, "no column 'words'; text_column="),
        ({"key_column": "id"}, "no column 'id'; key_column="),
        ({"store_columns": ["speaker", "age"]}, "no column 'age'; store_columns="),
    ],
)
def test_a_missing_column_is_an_error_that_lists_the_columns(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        convert(table(speaker=TEXTS), tmp_path / "out", **options)


def test_two_columns_for_one_field_are_refused(tmp_path: Path) -> None:
    rows = table(text=TEXTS, sentence=TEXTS)
    with pytest.raises(SourceError, match=r"column 'text' besides .* store_columns="):
        convert(rows, tmp_path / "out", text_column="sentence")
    options: dict[str, Any] = {"text_column": "sentence", "store_columns": []}
    assert convert(rows, tmp_path / "out", **options)[0]["text"] == "one"


def test_store_columns_is_a_list(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="store_columns is 'speaker', expected a list"):
        HFConverter("user/speech", tmp_path, store_columns="speaker")


def test_a_row_without_audio_is_rejected_by_key(tmp_path: Path) -> None:
    clips = [{"bytes": CLIPS[0], "path": None}, None]
    rows = Dataset.from_dict({"audio": clips}).cast_column("audio", Audio())
    with pytest.raises(UnreadableAudioError, match="000000001"):
        convert(rows, tmp_path / "strict")
    assert len(convert(rows, tmp_path / "out", on_error="skip")) == 1
    rejected = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in rejected] == ["000000001"]


def test_a_limit_counts_rows(tmp_path: Path) -> None:
    assert len(convert(table(text=TEXTS), tmp_path / "out", limit=2)) == 2


def test_an_empty_dataset_gives_an_empty_dataset(tmp_path: Path) -> None:
    assert convert(table(text=TEXTS).select([]), tmp_path / "out") == []


def test_the_progress_bar_knows_the_number_of_rows(tmp_path: Path) -> None:
    assert HFConverter(table(), tmp_path / "out").sample_count() == 5
    assert HFConverter(table().to_iterable_dataset(), tmp_path / "out").sample_count() is None


def test_a_folder_of_loose_audio_files_is_referred_to_the_other_converter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)  # as if it were not installed
    folder = tmp_path / "loose"
    folder.mkdir()
    (folder / "clip.flac").write_bytes(CLIPS[0])
    with pytest.raises(SourceError, match=r"loose.*use FolderConverter"):
        convert(str(folder), tmp_path / "out")


def test_a_folder_of_tar_archives_is_referred_to_what_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    (tmp_path / "clip.flac").write_bytes(CLIPS[0])
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "000.tar", "w") as archive:
        archive.add(tmp_path / "clip.flac", "clip.flac")
    with pytest.raises(SourceError, match=r"tar archives.*unpack archives first, or read them as"):
        convert(str(tmp_path / "tars"), tmp_path / "out", audio_column="flac")


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"cannot open .*nowhere"):
        convert(str(tmp_path / "nowhere"), tmp_path / "out")


def test_anything_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="an object of type list"):
        convert([1, 2, 3], tmp_path / "out")


def test_importing_the_converter_loads_no_datasets() -> None:
    code = "import audiomdb.converters.hf, sys; assert 'datasets' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


@pytest.mark.parametrize("streaming", [True, False])
def test_a_dataset_of_the_hub_is_converted(hub: Any, tmp_path: Path, streaming: bool) -> None:
    folder = parquet_folder(tmp_path / "speech", text=TEXTS)
    hub.add("user/speech", {f"data/{path.name}": path.read_bytes() for path in folder.iterdir()})
    code = """
        import sys
        from audiomdb.converters.hf import HFConverter

        streaming = sys.argv[2] == "True"
        converter = HFConverter("user/speech", sys.argv[1], streaming=streaming, progress=False)
        converter.run()
    """
    hub.run(code, tmp_path / "out", streaming)
    with DatasetReader.open(tmp_path / "out") as reader:
        assert [sample["audio"] for sample in reader] == CLIPS
        assert reader.metadata.name == "speech"


def test_only_the_files_asked_for_are_read(tmp_path: Path) -> None:
    folder = parquet_folder(tmp_path / "digits", text=TEXTS)
    samples = convert(str(folder), tmp_path / "out", data_files="*-00000-of-*.parquet")
    assert [sample["text"] for sample in samples] == TEXTS[:2]
    first = next(folder.glob("*-00000-of-*.parquet"))
    for number, files in enumerate((first, [first], {"train": [first]})):
        samples = convert("parquet", tmp_path / f"out-{number}", data_files=files)
        assert [sample["text"] for sample in samples] == TEXTS[:2]


@pytest.mark.parametrize("streaming", [True, False])
def test_a_revision_of_the_hub_is_converted_and_uploaded(
    hub: Any, tmp_path: Path, streaming: bool
) -> None:
    old, new = (
        (parquet_folder(tmp_path / name, text=texts) / "train-00000-of-00002.parquet").read_bytes()
        for name, texts in (("old", TEXTS), ("new", TEXTS[::-1]))
    )
    commit = hub.add("user/speech", {"train.parquet": old}).sha("main")
    hub.add("user/speech", {"train.parquet": new})
    code = """
        import sys
        from audiomdb.converters.hf import HFConverter
        from audiomdb.uploaders.hf import HFUploader

        out, revision, streaming = sys.argv[1:]
        options = {"revision": revision, "streaming": streaming == "True", "limit": 1}
        converter = HFConverter("user/speech", out, progress=False, **options)
        converter.run(upload=HFUploader("user/shards"))
    """
    hub.run(code, tmp_path / "out", commit, streaming)
    with DatasetReader.open(tmp_path / "out") as reader:
        assert [sample["text"] for sample in reader] == TEXTS[:1]
    assert "shard_00000/data.mdb" in hub.repositories["user/shards"].contents()


def test_a_hub_dataset_with_several_configurations_asks_for_one(hub: Any, tmp_path: Path) -> None:
    parquet = (parquet_folder(tmp_path / "speech") / "train-00000-of-00002.parquet").read_bytes()
    card = """---
configs:
- {config_name: en, data_files: en/*.parquet}
- {config_name: fr, data_files: fr/*.parquet}
---
"""
    files = {"README.md": card.encode(), "en/train.parquet": parquet, "fr/train.parquet": parquet}
    hub.add("user/speech", files)
    code = """
        import sys
        from audiomdb.converters.hf import HFConverter

        HFConverter("user/speech", sys.argv[1], progress=False, data_name=sys.argv[2] or None).run()
    """
    error = hub.failure(code, tmp_path / "out", "")
    assert "SourceError: cannot open user/speech: Config name is missing" in error
    assert "['en', 'fr']; give data_name=" in error
    error = hub.failure(code, tmp_path / "out", "de")
    assert "cannot open user/speech (de): BuilderConfig 'de' not found" in error
    hub.run(code, tmp_path / "out", "fr")
    with DatasetReader.open(tmp_path / "out") as reader:
        assert len(reader) == 2


def test_a_hub_dataset_that_does_not_exist_is_named(hub: Any, tmp_path: Path) -> None:
    code = """
        import sys
        from audiomdb.converters.hf import HFConverter

        HFConverter("user/nothing", sys.argv[1], progress=False).run()
    """
    error = hub.failure(code, tmp_path / "out")
    assert "SourceError: cannot open user/nothing: Dataset 'user/nothing' doesn't exist" in error


def test_a_dataset_made_by_a_script_is_referred_to_its_parquet_branch(
    hub: Any, tmp_path: Path
) -> None:
    hub.add("user/old", {"old.py": b"# a loading script"})
    code = """
        import sys
        from audiomdb.converters.hf import HFConverter

        HFConverter("user/old", sys.argv[1], progress=False).run()
    """
    error = hub.failure(code, tmp_path / "out")
    assert 'revision="refs/convert/parquet"' in error


@pytest.mark.parametrize(
    ("changed", "value"),
    [
        ("text_column", "label"),
        ("store_columns", ["label"]),
        ("key_column", "label"),
        ("data_split", "test"),
    ],
)
def test_other_columns_or_another_split_are_refused_by_name(
    tmp_path: Path, changed: str, value: Any
) -> None:
    splits = DatasetDict({name: table(text=TEXTS, label=TEXTS[::-1]) for name in ("train", "test")})
    convert(splits, tmp_path / "out")
    with pytest.raises(OptionsChangedError, match=f"with {changed}=.*; this run has {changed}="):
        convert(splits, tmp_path / "out", **{changed: value})
    assert [sample["text"] for sample in convert(splits, tmp_path / "out")] == TEXTS
