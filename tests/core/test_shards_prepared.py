"""What a writer makes of the samples that a source gives and a processor returns."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiomdb.audio import encode
from audiomdb.errors import (
    AudioError,
    CorruptShardError,
    SourceChangedError,
    UnknownKeyError,
    UnsupportedValueError,
)
from audiomdb.shards import DatasetReader, DatasetWriter, ShardReader
from audiomdb.shards.shard_writer import ShardWriter
from tests.core.conversions import clip, rejections

NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 16000).astype(np.float32)


def stored(folder: Path, sample: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """Write one sample, and read it back."""
    with DatasetWriter(folder, **options) as writer:
        writer.write("a", sample)
    return DatasetReader.open(folder)["a"]


class Items(list[Any]):
    """A list of a source's own."""


@pytest.mark.parametrize(
    ("value", "change"),
    [
        (([1],), lambda value: value[0].append(2)),
        (Items([[1]]), lambda value: value[0].append(2)),
        (OrderedDict(words=["one"]), lambda value: value["words"].append("two")),
        ({"words": Items(["one"])}, lambda value: value["words"].append("two")),
    ],
    ids=["tuple", "list", "dict", "nested"],
)
def test_what_a_source_fills_anew_was_copied_before(
    tmp_path: Path, value: Any, change: Callable[[Any], object]
) -> None:
    before = stored(tmp_path / "kept", {"value": value})["value"]
    with DatasetWriter(tmp_path / "changed") as writer:
        writer.write("a", {"value": value})
        change(value)
    assert DatasetReader.open(tmp_path / "changed")["a"]["value"] == before


def test_a_file_that_is_deleted_once_it_is_stored_is_no_source_that_went_away(
    tmp_path: Path,
) -> None:
    files = [tmp_path / f"{number}.wav" for number in range(70)]
    with DatasetWriter(tmp_path / "d", on_error="skip") as writer:
        for file in files:
            file.write_bytes(clip(0))
            writer.write(file.name, {"audio": file})
        writer.flush()
        files[0].unlink()
        writer.write("none.wav", {"audio": tmp_path / "none.wav"})
    assert [rejection["key"] for rejection in rejections(tmp_path / "d")] == ["none.wav"]


def test_a_writer_that_is_closed_takes_its_work_back_from_the_executor(tmp_path: Path) -> None:
    begun: list[str] = []
    started, ended = threading.Event(), threading.Event()

    def process(sample: dict[str, Any]) -> dict[str, Any]:
        started.set()
        begun.append(sample["text"])
        assert ended.wait(60)
        return sample

    with ThreadPoolExecutor(1) as executor:
        writer = DatasetWriter(tmp_path, executor=executor, process=process, num_workers=4)
        for number in range(192):  # three batches
            writer.write(f"{number}", {"text": f"{number}"})
        assert started.wait(60)
        writer.close()
        ended.set()
    assert "63" in begun
    assert "64" not in begun


def test_a_writer_may_be_closed_before_its_block_ends(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "d") as writer:
        writer.write("a", {"n": 1})
        writer.close()
    assert not (tmp_path / "d").exists()


def test_no_thread_of_a_closed_writer_goes_on(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    for _ in range(2):  # the second one checks the shard of the first
        with DatasetWriter(tmp_path, num_workers=3) as writer:
            writer.write("a", {"n": 1})
        assert set(threading.enumerate()) <= before
        assert writer.finished_shards == 1


def test_a_value_that_cannot_be_stored_is_named_with_the_file_of_its_sample(
    tmp_path: Path,
) -> None:
    file = tmp_path / "clip.wav"
    file.write_bytes(clip(0))
    with pytest.raises(UnsupportedValueError, match=r"clip\.wav: sample 'a' holds .*'odd'"):
        stored(tmp_path / "d", {"audio": file, "odd": object()})


def test_audio_that_its_format_cannot_hold_is_named_by_its_sample(tmp_path: Path) -> None:
    loud = {"audio": np.full(800, np.nan, np.float32), "sample_rate": 8000}
    with pytest.raises(AudioError, match=r"^sample 'a': audio holds 800 NaN"):
        stored(tmp_path / "d", loud, audio_format="flac")


def test_audio_made_from_none_has_the_rate_of_the_conversion(tmp_path: Path) -> None:
    made = {"audio": NOISE[:800]}
    sample = stored(tmp_path / "d", {"text": "hello"}, process=lambda _: made, sample_rate=8000)
    assert (sample["sample_rate"], sample["duration"]) == (8000, 0.1)


def test_a_processor_that_changes_its_sample_in_place_makes_new_audio(tmp_path: Path) -> None:
    def halve(sample: dict[str, Any]) -> dict[str, Any]:
        sample["audio"] = encode(NOISE[:400], 8000, "wav")
        return sample

    sample = stored(tmp_path / "d", {"audio": encode(NOISE[:800], 8000, "wav")}, process=halve)
    assert (sample["frames"], sample["duration"]) == (400, 0.05)


def test_a_flac_of_unknown_length_is_counted_even_where_headers_are_trusted(
    tmp_path: Path,
) -> None:
    flac = bytearray(encode(NOISE, 16000, "flac"))
    flac[21] &= 0xF0
    flac[22:26] = bytes(4)
    sample = stored(tmp_path / "d", {"audio": bytes(flac)}, check_audio="header")
    assert (sample["frames"], sample["duration"]) == (16000, 1.0)


@pytest.mark.parametrize("audio_format", ["flac", "wav", "opus", "vorbis", "mp3"])
def test_a_clip_in_the_requested_format_is_stored_as_it_is(
    tmp_path: Path, audio_format: str
) -> None:
    came = encode(NOISE, 16000, audio_format) + (b"" if audio_format != "mp3" else bytes(128))
    assert stored(tmp_path / "d", {"audio": came}, audio_format=audio_format)["audio"] == came


@pytest.mark.parametrize(("dtype", "scale"), [("u1", 128), ("i4", 2**31), ("u2", 2**15)])
def test_integers_of_other_widths_are_scaled_for_a_format_of_16_bits(
    tmp_path: Path, dtype: str, scale: int
) -> None:
    centre = scale if dtype[0] == "u" else 0
    audio = (NOISE[:800] * scale + centre).astype(dtype)
    sample = {"audio": audio, "sample_rate": 8000}
    flac = stored(tmp_path / "d", sample, audio_format="flac")["audio"]
    decoded, rate = soundfile.read(io.BytesIO(flac), dtype="float32")
    assert rate == 8000
    np.testing.assert_allclose(decoded, NOISE[:800], atol=1.01 / min(scale, 32768))


@pytest.mark.parametrize(("claimed", "wrong"), [(10.09, 0), (9.91, 0), (10.11, 1), (9.89, 1)])
def test_the_duration_of_a_long_clip_may_be_wrong_by_a_hundredth(
    tmp_path: Path, claimed: float, wrong: int
) -> None:
    audio = {"audio": np.zeros(10_000, np.int16), "sample_rate": 1000, "duration": claimed}
    with DatasetWriter(tmp_path) as writer:
        writer.write("a", audio)
    assert sum(journal.contradictions.get("duration", 0) for journal in writer.journals()) == wrong


def test_the_length_of_a_text_counts_letters_not_bytes(tmp_path: Path) -> None:
    stored(tmp_path, {"text": "żółw"})
    assert DatasetReader.open(tmp_path).index["text_length"].tolist() == [4]


@pytest.mark.parametrize(("letters", "kept"), [(512, True), (513, False)])
def test_a_column_of_texts_is_left_out_by_their_size_in_bytes(
    tmp_path: Path, letters: int, kept: bool
) -> None:
    stored(tmp_path, {"title": "é" * letters})
    assert ("title" in DatasetReader.open(tmp_path).index) == kept


def test_a_number_of_a_class_of_its_own_gets_a_column(tmp_path: Path) -> None:
    class Decibel(float):
        pass

    stored(tmp_path, {"level": Decibel(-3.5)})
    assert DatasetReader.open(tmp_path).index["level"].tolist() == [-3.5]


@pytest.mark.parametrize("first", [True, False])
def test_a_field_that_some_samples_lack_keeps_the_dtype_of_its_arrays(
    tmp_path: Path, first: bool
) -> None:
    values = (np.zeros(3, np.float32), None)
    with DatasetWriter(tmp_path) as writer:
        for number, value in enumerate(values if first else reversed(values)):
            writer.write(f"{number}", {"value": value})
    feature = writer.finish().features["value"]
    assert (feature.types, feature.dtype, feature.shape) == (("array", "null"), "float32", (3,))


@pytest.mark.parametrize("changed", [0, 500, 999])
def test_one_changed_sample_among_many_is_noticed(tmp_path: Path, changed: int) -> None:
    texts = ["a" * 500] * 1000

    def write() -> None:
        with DatasetWriter(tmp_path) as writer:
            for number, text in enumerate(texts):
                writer.write(f"{number}", {"text": text})

    write()
    texts[changed] = "b" * 500
    with pytest.raises(SourceChangedError, match="shard_00000"):
        write()


def test_a_number_beyond_64_bits_is_rejected_and_compared_when_a_run_is_resumed(
    tmp_path: Path,
) -> None:
    for _ in range(2):
        with DatasetWriter(tmp_path, on_error="skip") as writer:
            writer.write("large", {"n": 2**70})
            writer.write("small", {"n": 1})
        assert [rejection["key"] for rejection in rejections(tmp_path)] == ["large"]


def test_a_key_without_a_utf8_form_is_one_that_no_shard_holds(tmp_path: Path) -> None:
    stored(tmp_path, {"n": 1})
    with pytest.raises(UnknownKeyError, match="shard_00000 has no sample"):
        ShardReader(tmp_path / "shard_00000").find("\udc80")


def test_a_shard_whose_journal_is_none_is_called_damaged(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "shard_00000") as writer:
        writer.finish(columns={}, left_out={}, features={}, journal={"samples": "many"})
    with pytest.raises(CorruptShardError, match=r"shard_00000 is damaged: .*Delete that folder"):
        DatasetWriter(tmp_path)
