"""Sources with things in them that cannot be a clip, or that are called otherwise than usual."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiomdb.audio import AudioWindow, decode
from audiomdb.converters.files import FolderConverter, ManifestConverter
from audiomdb.errors import (
    AudioError,
    DuplicateKeyError,
    SampleError,
    SourceError,
    UnreadableAudioError,
)
from audiomdb.processors.base import BaseProcessor
from audiomdb.sample import Sample
from audiomdb.shards import DatasetReader, DatasetWriter, verify_dataset
from tests.core.conversions import Listed, clip, digests, rejections
from tests.core.disks import refuse_stat


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a.wav."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.wav").write_bytes(clip(1))
    return folder


def convert(folder: Path, **options: Any) -> dict[str, Sample]:
    out = folder.parent / "out"
    FolderConverter(folder, out, **options).run()
    return {sample["__key__"]: sample for sample in DatasetReader.open(out)}


def convert_rows(folder: Path, rows: str, name: str = "m.jsonl", **options: Any) -> list[Sample]:
    (folder / name).write_text(rows, encoding="utf-8")
    out = folder.parent / "out"
    ManifestConverter(folder / name, out, **options).run()
    return list(DatasetReader.open(out))


def test_a_named_pipe_is_no_clip_and_nobody_waits_for_its_writer(folder: Path) -> None:
    os.mkfifo(folder.parent / "pipe")
    (folder / "b.wav").symlink_to(folder.parent / "pipe")
    assert list(convert(folder, on_error="skip", num_workers=1)) == ["a.wav"]
    (rejected,) = rejections(folder.parent / "out")
    assert "not a regular file" in rejected["reason"]


@pytest.mark.parametrize(
    "path", ["/dev/zero", "a\\u0000.wav", "\\ud800.wav", "loop.wav", "x" * 300, "no/such.wav"]
)
@pytest.mark.parametrize("window", ["", ', "offset": 0, "duration": 0.05'])
def test_a_path_that_leads_to_no_clip_is_rejected_alone(
    folder: Path, path: str, window: str
) -> None:
    (folder / "loop.wav").symlink_to("loop.wav")
    rows = f'{{"audio_filepath": "{path}"{window}}}\n{{"audio_filepath": "a.wav"}}\n'
    assert len(convert_rows(folder, rows, on_error="skip")) == 1
    assert len(rejections(folder.parent / "out")) == 1


def test_a_part_may_ask_for_more_seconds_than_there_are_integers(folder: Path) -> None:
    rows = '{"audio_filepath": "a.wav", "offset": 0, "duration": 1e308}'
    with pytest.raises(AudioError, match=r"the audio ends at 0\.100 s"):
        convert_rows(folder, rows)


def test_a_link_that_leads_to_itself_is_a_clip_that_cannot_be_read(folder: Path) -> None:
    (folder / "loop.wav").symlink_to("loop.wav")
    assert list(convert(folder, on_error="skip")) == ["a.wav"]
    with pytest.raises(UnreadableAudioError, match=r"loop\.wav"):
        FolderConverter(folder, folder.parent / "other").run()


def test_claims_of_an_odd_type_count_as_wrong(tmp_path: Path) -> None:
    claims = {"channels": np.array([1, 2]), "sample_rate": "8000", "duration": "long"}
    report = Listed([("k", {"audio": clip(1), **claims})], tmp_path / "out").run()
    assert report.contradictions == {"channels": 1, "sample_rate": 1}
    assert DatasetReader.open(tmp_path / "out")["k"]["channels"] == 1


@pytest.mark.parametrize("kind", [np.float32, np.int64, np.asarray])
def test_a_claim_may_be_a_number_of_numpy(tmp_path: Path, kind: Any) -> None:
    wrong = {name: kind(3) for name in ("channels", "sample_rate", "duration")}
    right = {"channels": kind(1), "sample_rate": kind(8000)}
    items = [("wrong", {"audio": clip(1), **wrong}), ("right", {"audio": clip(1), **right})]
    report = Listed(items, tmp_path / "out").run()
    assert report.contradictions == {"channels": 1, "sample_rate": 1, "duration": 1}


class Gradients:
    """Stands for a sparse tensor with gradients: it has no size in bytes, and is no array."""

    @property
    def nbytes(self) -> int:
        raise RuntimeError("nbytes is not defined for sparse tensors")

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad")


@pytest.mark.parametrize(
    ("audio", "reason"),
    [
        (np.zeros(9, bool), "dtype bool, expected floats or integers"),
        (np.zeros(9, np.complex64), "dtype complex64, expected floats or integers"),
        (np.array([100, -3, 7], np.int64), "dtype int64, .* how to scale them is not known"),
        (np.array(["a", "b"]), "dtype <U1, expected floats or integers"),
        (np.zeros((9, 0)), r"shape \(9, 0\), expected \(frames,\)"),
        (np.ma.masked_less(np.zeros(9), 1), "is a masked array"),
        (Gradients(), "NumPy cannot take: Can't call numpy"),
    ],
)
def test_an_array_that_could_not_be_decoded_is_refused_at_conversion(
    tmp_path: Path, audio: Any, reason: str
) -> None:
    items = [("bad", {"audio": audio, "sample_rate": 8000}), ("good", {"audio": clip(1)})]
    with pytest.raises(SampleError, match=f"sample 'bad'.*{reason}"):
        Listed(items, tmp_path / "raised").run()
    report = Listed(items, tmp_path / "skipped", on_error="skip").run()
    assert (report.samples, report.rejected) == (1, 1)


def test_a_non_audio_result_of_a_function_rejects_only_its_sample(tmp_path: Path) -> None:
    with DatasetWriter(
        tmp_path / "d", process=lambda _: {"audio": Gradients()}, on_error="skip"
    ) as writer:
        writer.write("a", {"audio": clip(1)})
    assert writer.finish().rejected == 1


@pytest.mark.parametrize("field", [{"name": "\ud800"}, {"\ud800": 1}, {7: "a"}, {None: 1.5}])
def test_unstorable_fields_are_fine_if_a_processor_drops_them(
    tmp_path: Path, field: dict[Any, Any]
) -> None:
    class Drop(BaseProcessor):
        def process(self, sample: Sample, **kwargs: Any) -> dict[str, Any]:  # noqa: ARG002
            return {"fields": len(sample)}

    items: list[tuple[str, Sample]] = [("k", {"audio": clip(1), "speaker": "ann", **field})]
    Listed(items, tmp_path / "out", processor=Drop(), num_workers=1).run()
    with DatasetReader.open(tmp_path / "out") as dataset:
        assert dataset["k"]["fields"] == 2 + 1 + 4  # and the facts of the audio
        assert dataset.index["speaker"].tolist() == ["ann"]
    assert verify_dataset(tmp_path / "out") == []


@pytest.mark.parametrize("container", ["WAVEX", "RF64"])
def test_every_kind_of_wav_is_kept_if_wav_is_requested(tmp_path: Path, container: str) -> None:
    out = io.BytesIO()
    soundfile.write(out, np.sin(np.arange(800) / 9), 8000, "PCM_24", format=container)
    with DatasetWriter(tmp_path, audio_format="wav") as writer:
        writer.write("k", {"audio": out.getvalue()})
    assert DatasetReader.open(tmp_path)["k"]["audio"] == out.getvalue()


def test_audio_made_by_a_processor_gets_its_own_facts(tmp_path: Path) -> None:
    class Crop(BaseProcessor):
        def process(self, sample: Sample, **kwargs: Any) -> dict[str, Any]:  # noqa: ARG002
            return {"audio": self.load_array(sample["audio"], 8000)[:200], "sample_rate": 8000}

    for keep in (True, False):
        out = tmp_path / str(keep)
        items = [("k", {"audio": clip(1), "text": "hi"})]
        Listed(items, out, processor=Crop(keep_original=keep), num_workers=1).run()
        sample = DatasetReader.open(out)["k"]
        assert len(sample["audio"]) == 200
        assert (sample["frames"], sample["duration"]) == (200, 0.025)
    assert sample["audio"].tolist() == decode(clip(1))[0][:200].tolist()


def test_two_columns_that_both_become_text_are_refused(folder: Path) -> None:
    rows = "audio_filepath,sentence,text\na.wav,Hello,raw\n"
    with pytest.raises(SourceError, match="'text' beside 'sentence'"):
        convert_rows(folder, rows, "m.csv", text_column="sentence")
    (folder / "metadata.csv").write_text("file_name,sentence,text\na.wav,Hello,raw\n")
    with pytest.raises(SourceError, match="'text' beside 'sentence'"):
        convert(folder, text_column="sentence")


@pytest.mark.parametrize("name", ["text", "sentence", "transcription", "transcript"])
def test_a_table_may_call_the_text_as_datasets_of_the_hub_do(folder: Path, name: str) -> None:
    (folder / "metadata.csv").write_text(f"file_name,{name},label\na.wav,Hello,x\n")
    sample = convert(folder)["a.wav"]
    assert (sample["text"], sample["label"]) == ("Hello", "x")
    assert name == "text" or name not in sample


def test_a_text_file_in_capital_letters_is_the_text_too(folder: Path) -> None:
    (folder / "B.WAV").write_bytes(clip(2))
    (folder / "B.TXT").write_text("Hello")
    assert convert(folder)["B.WAV"]["text"] == "Hello"


def test_clips_missing_from_a_table_are_reported_whatever_else_it_names(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("b.dat", "c.wav"):
        (folder / name).write_bytes(clip(2))
    (folder / "metadata.csv").write_text("file_name\na.wav\nb.dat\n")
    assert list(convert(folder)) == ["a.wav", "b.dat"]
    assert any("left out: not in the table" in record.message for record in caplog.records)


def test_keys_that_cannot_be_used_are_named_with_their_place(folder: Path) -> None:
    with pytest.raises(SourceError, match=r"m\.jsonl:1: id is ''"):
        convert_rows(folder, '{"audio_filepath": "a.wav", "id": ""}')
    row = '{"audio_filepath": "a.wav", "id": "a"}\n'
    with pytest.raises(DuplicateKeyError, match=r"corpus/a\.wav: key 'a' occurs twice"):
        convert_rows(folder, row + row)


def test_rows_that_share_a_path_are_counted_in_the_log(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "audiomdb")
    row = '{"audio_filepath": "a.wav"}\n'
    samples = convert_rows(folder, 3 * row)
    assert [sample["__key__"] for sample in samples] == ["a.wav#1", "a.wav#2", "a.wav#3"]
    assert "1 path occurs in several rows: #line is added to their keys" in caplog.text


@pytest.mark.parametrize("blank", ["", " ", "\t"])
def test_a_blank_line_in_a_table_is_skipped(folder: Path, blank: str) -> None:
    rows = f"{blank}\naudio_filepath,text\n{blank}\na.wav,Hello\n{blank}\n"
    assert [sample["text"] for sample in convert_rows(folder, rows, "m.csv")] == ["Hello"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the log has it: notes came with 3.11")
def test_advice_in_conversion_errors_fits_their_cause(folder: Path) -> None:
    (folder / "b.wav").write_bytes(b"RIFF")
    with pytest.raises(UnreadableAudioError) as caught:
        convert(folder)
    (note,) = caught.value.__notes__
    assert note.startswith('on_error="skip" (--on-error skip)')
    (folder / "metadata.csv").write_text("file_name\na.wav\n")
    with pytest.raises(SourceError, match="no column 'nope'") as nothing:
        convert(folder, text_column="nope")
    assert not hasattr(nothing.value, "__notes__")


def test_a_failing_disk_never_rejects_a_clip(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr("audiomdb.audio.source.os.read", failing)
        with pytest.raises(SourceError, match=r"a\.wav.*Input/output error.*nothing about"):
            convert(folder, on_error="skip")
        patched.setattr("audiomdb.audio.source.os.set_blocking", failing)
        with pytest.raises(SourceError, match=r"a\.wav.*Input/output error.*nothing about"):
            convert_rows(folder, '{"audio_filepath": "a.wav", "offset": 0}', on_error="skip")
    (folder / "m.jsonl").unlink()
    assert list(convert(folder, on_error="skip")) == ["a.wav"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
@pytest.mark.parametrize(
    "audio",
    [Path, partial(AudioWindow, offset=0.0), partial(AudioWindow, offset=0.0, duration=0.05)],
    ids=["file", "window to the end", "window"],
)
def test_an_unreadable_file_size_moves_no_shard_border(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, audio: Any
) -> None:
    paths = [folder / f"{name}.wav" for name in "abcdef"]
    for path in paths:
        path.write_bytes(clip(1))
    items = [(path.name, {"audio": audio(path)}) for path in paths]
    options: dict[str, Any] = {"max_shard_bytes": 3300, "on_error": "skip"}
    out, undisturbed = folder.parent / "out", folder.parent / "undisturbed"
    with monkeypatch.context() as patched:
        refuse_stat(patched, paths[2], number)
        with pytest.raises(SourceError, match=rf"c\.wav: {os.strerror(number)}.*nothing about"):
            Listed(items, out, **options).run()
    shards = [Listed(items, folder, **options).run().shards for folder in (out, undisturbed)]
    assert shards == [3, 3]
    assert digests(out / "shard_00001") == digests(undisturbed / "shard_00001")


def test_clips_with_non_finite_samples_are_stored_counted_and_named(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, (value, subtype) in enumerate(
        [(np.nan, "FLOAT"), (-np.inf, "DOUBLE"), (0, "FLOAT")]
    ):
        samples = np.zeros(400)
        samples[200] = value
        soundfile.write(folder / f"{number}.wav", samples, 8000, subtype)
    out = folder.parent / "out"
    report = FolderConverter(folder, out).run()
    assert (report.samples, report.not_finite) == (4, 2)
    assert "with NaN or infinite values: 2 samples" in str(report)
    assert [record.message.split("/")[-1] for record in caplog.records] == [
        "0.wav (sample '0.wav') holds NaN or infinite samples",
        "1.wav (sample '1.wav') holds NaN or infinite samples",
    ]
    assert FolderConverter(folder, out).run().not_finite == 2  # of shards that are kept, too
    headers = FolderConverter(folder, folder.parent / "headers", check_audio="header").run()
    assert headers.not_finite == 0
    with DatasetWriter(folder.parent / "arrays") as writer:
        for key in range(12):
            writer.write(f"{key:02d}", {"audio": np.full(9, np.nan), "sample_rate": 8000})
    assert len(caplog.records) == 2 + 10
    assert "counted only" in caplog.text
    assert verify_dataset(folder.parent / "arrays") == []


@pytest.mark.parametrize("audio_format", ["opus", None])
def test_a_rate_that_the_format_cannot_have_is_refused_before_any_work(
    folder: Path, audio_format: str | None
) -> None:
    rate = 44100 if audio_format else 700_000
    with pytest.raises(AudioError, match=f"cannot be written at {rate} Hz.*the closest"):
        convert(folder, audio_format=audio_format, sample_rate=rate)
    assert not (folder.parent / "out").exists()
