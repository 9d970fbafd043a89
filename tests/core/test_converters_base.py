"""What every converter does: options, keys, limits, errors, the report."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from audiomdb.audio import AudioWindow, decode, encode, probe, resample
from audiomdb.converters.base import BaseConverter
from audiomdb.errors import (
    AudioError,
    ConversionError,
    DuplicateKeyError,
    InvalidKeyError,
    OutputExistsError,
    OutputWriteError,
    SampleError,
    SourceError,
    UnreadableAudioError,
    UnsupportedValueError,
)
from audiomdb.sample import Sample
from audiomdb.shards import DatasetReader, DatasetWriter, verify_dataset
from tests.core.conversions import Listed, clip, rejections, samples


def test_a_run_writes_a_dataset_and_accounts_for_it(tmp_path: Path) -> None:
    out = tmp_path / "speech"
    report = Listed(samples(25), out, samples_per_shard=10).run()
    assert (report.samples, report.rejected, report.shards, report.reused_shards) == (25, 0, 3, 0)
    assert report.output_dir == out
    assert report.duration_s == pytest.approx(2.5)
    assert report.hours == report.duration_s / 3600
    assert report.source_bytes == sum(len(s["audio"]) + len(s["text"]) for _, s in samples(25))
    assert report.contradictions == {}
    assert verify_dataset(out) == []
    with DatasetReader.open(out) as dataset:
        metadata = dataset.metadata
        found = [(sample["__key__"], sample["text"]) for sample in dataset]
        assert dataset["clip-0007"]["audio"] == clip(7)
    assert found == [(key, sample["text"]) for key, sample in samples(25)]
    assert report.stored_bytes == metadata.bytes + metadata.index.bytes


def test_the_report_reads_as_text(tmp_path: Path) -> None:
    items = [*samples(2), ("bad", {"audio": b"no audio at all"})]
    items[0][1]["sample_rate"] = 16000
    for _ in range(2):
        report = Listed(items, tmp_path / "out", on_error="skip", samples_per_shard=2).run()
    lines = str(report).splitlines()
    assert lines[0].startswith(f"{tmp_path / 'out'}: 2 samples, 0.200 s of audio, ")
    assert lines[0].endswith("in 2 shards")
    assert lines[1].endswith("; 2 shards of an earlier run kept")
    assert lines[2] == f"1 sample rejected: see {tmp_path / 'out' / 'rejected.jsonl'}"
    assert lines[3].startswith("the source was wrong about sample_rate in 1 sample;")


def test_the_dataset_may_be_named_before_or_after_the_base_is_made(tmp_path: Path) -> None:
    class Before(Listed):
        def __init__(self, **kwargs: Any) -> None:
            self.dataset_name = "before"
            super().__init__(samples(1), **kwargs)

    class After(Listed):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(samples(1), **kwargs)
            self.dataset_name = "after"

    class Fixed(Listed):
        dataset_name = "fixed"

    converters = [
        Before(output_dir=tmp_path / "1"),
        After(output_dir=tmp_path / "2"),
        Fixed(samples(1), output_dir=tmp_path / "3"),
        Listed(samples(1), tmp_path / "speech"),
    ]
    names = []
    for converter in converters:
        converter.run()
        with DatasetReader.open(converter.output_dir) as dataset:
            names.append(dataset.metadata.name)
    assert names == ["before", "after", "fixed", "speech"]


def test_a_converter_without_super_init_is_told_to_call_it(tmp_path: Path) -> None:
    class Careless(BaseConverter):
        def __init__(self) -> None:
            self.output_dir = tmp_path

        def sample_iterator(self) -> Iterator[tuple[str, Sample]]:
            yield from samples(1)

    with pytest.raises(ConversionError, match=r"Careless.__init__ has to call super\(\)"):
        Careless().run()


def test_an_uploader_is_given_the_finished_folder(tmp_path: Path) -> None:
    class Uploader:
        def upload_dir(self, local_dir: str) -> None:
            assert (Path(local_dir) / "metadata.json").exists()
            self.given = local_dir

    uploader = Uploader()
    Listed(samples(1), tmp_path / "out").run(uploader)
    assert uploader.given == str(tmp_path / "out")


def test_an_object_without_upload_dir_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="expected an uploader with upload_dir"):
        Listed(samples(1), tmp_path / "out").run(upload="s3://bucket")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit": 0},
        {"num_workers": 0},
        {"samples_per_shard": "10"},
        {"max_shard_bytes": -1},
        {"map_size": 0},
        {"check_audio": "no"},
        {"audio_format": "FLAC"},
        {"on_error": "ignore"},
        {"sample_rate": -1},
        {"executor": 4},
        {"executor": ThreadPoolExecutor},
        {"mono": "no"},
        {"progress": "off"},
    ],
    ids=str,
)
def test_impossible_options_are_refused_where_they_are_given(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    (name,) = wrong
    with pytest.raises((ValueError, TypeError), match=name):
        Listed(samples(1), tmp_path / "out", **wrong)
    if name != "limit":
        with pytest.raises((ValueError, TypeError), match=name):
            DatasetWriter(tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_a_converter_shows_the_options_that_reached_its_base(tmp_path: Path) -> None:
    options: dict[str, Any] = {"limit": 2, "num_workers": 3, "on_error": "skip", "progress": False}
    converter = Listed(samples(1), tmp_path / "out", **options)
    assert {name: converter.base_options[name] for name in options} == options
    assert converter.base_options["samples_per_shard"] is None


def test_limit_counts_source_samples_and_requests_no_more(tmp_path: Path) -> None:
    asked = []

    def endless() -> Iterator[tuple[str, Sample]]:
        for number in range(10**9):
            asked.append(number)
            audio = b"broken" if number == 1 else clip(number)
            yield f"{number}", {"audio": audio}

    report = Listed(endless(), tmp_path / "out", limit=5, on_error="skip").run()
    assert (report.samples, report.rejected) == (4, 1)
    assert asked == [0, 1, 2, 3, 4]


def test_a_generator_is_closed_when_the_run_ends_early(tmp_path: Path) -> None:
    closed = threading.Event()

    def connected() -> Iterator[tuple[str, Sample]]:
        try:
            yield from samples(10)
        finally:
            closed.set()

    Listed(connected(), tmp_path / "out", limit=2).run()
    assert closed.is_set()


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (None, r"returned NoneType; it has to yield \(key, sample\) pairs"),
        ([{"audio": b""}], r"yielded dict as item 0, expected a pair"),
        (["ab"], r"yielded str as item 0"),
        ([*samples(1), ("a", {}, 1)], r"yielded a tuple of 3 as item 1"),
    ],
)
def test_a_source_that_does_not_yield_pairs_is_refused(
    tmp_path: Path, items: Any, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        Listed(items, tmp_path / "out").run()


@pytest.mark.parametrize(
    ("bad", "kind", "message"),
    [
        (("bad", {"audio": b"text, not audio"}), UnreadableAudioError, "'bad'"),
        (("bad", {"audio": Path("no/such.wav")}), UnreadableAudioError, "no/such.wav.*'bad'"),
        (("bad", {"audio": clip(1)[:-100]}), ValueError, "'bad'"),
        (("bad", {"field": object()}), UnsupportedValueError, "'bad'.*'field'"),
        (("bad", "text"), ValueError, "'bad' is str, expected a dict"),
        (("bad", SampleError("it was withdrawn")), SampleError, "'bad': it was withdrawn"),
        (("bad", UnreadableAudioError("answer 410")), AudioError, "'bad': answer 410"),
        (("bad", OSError("no answer")), ValueError, "'bad' is OSError, expected a dict"),
        ((7, {"text": "a"}), InvalidKeyError, "key 7 is int"),
        (("", {"text": "a"}), InvalidKeyError, "takes 0 bytes"),
        (("ä" * 256, {"text": "a"}), InvalidKeyError, "takes 512 bytes, expected 1 to 511"),
        (("clip-0001", {"text": "a"}), DuplicateKeyError, "'clip-0001' occurs twice"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_bad_sample_is_raised_by_name_or_skipped_and_listed(
    tmp_path: Path, bad: Any, kind: type[Exception], message: str
) -> None:
    items = [*samples(2), bad, ("last", {"text": "z"})]
    with pytest.raises(kind, match=message):
        Listed(items, tmp_path / "raise").run()
    assert not (tmp_path / "raise" / "metadata.json").exists()

    report = Listed(items, tmp_path / "skip", on_error="skip").run()
    assert (report.samples, report.rejected) == (3, 1)
    (rejection,) = rejections(tmp_path / "skip")
    assert rejection["key"] == str(bad[0])
    assert verify_dataset(tmp_path / "skip") == []


def test_a_key_of_an_earlier_shard_is_a_duplicate_too(tmp_path: Path) -> None:
    items = [*samples(5), ("clip-0001", {"text": "again"})]
    with pytest.raises(DuplicateKeyError, match="shard_00000 holds it already"):
        Listed(items, tmp_path / "raise", samples_per_shard=2).run()
    report = Listed(items, tmp_path / "skip", samples_per_shard=2, on_error="skip").run()
    assert (report.samples, report.rejected, report.shards) == (5, 1, 3)


def test_false_claims_of_the_source_are_counted_and_corrected(tmp_path: Path) -> None:
    items: list[tuple[str, Sample]] = [
        ("right", {"audio": clip(1), "sample_rate": 8000, "channels": 1, "duration": 0.11}),
        ("wrong", {"audio": clip(2), "sample_rate": 16000, "channels": 2, "duration": 3}),
        ("rate", {"audio": clip(3), "sample_rate": 16000, "duration": None}),
    ]
    report = Listed(items, tmp_path / "out").run()
    assert report.contradictions == {"channels": 1, "duration": 1, "sample_rate": 2}
    with DatasetReader.open(tmp_path / "out") as dataset:
        wrong = dataset["wrong"]
    assert (wrong["sample_rate"], wrong["channels"]) == (8000, 1)
    assert (wrong["duration"], wrong["frames"]) == (0.1, 800)


def test_the_log_names_the_first_samples_that_the_source_was_wrong_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    claims = {"sample_rate": 16000, "channels": np.array([1, 2]), "duration": "long"}
    items = [(f"{i:02d}", {"audio": clip(i), **claims}) for i in range(7)]
    report = Listed(items, tmp_path / "out", num_workers=2).run()
    assert report.contradictions == {"channels": 7, "sample_rate": 7}
    messages = [record.message for record in caplog.records]
    assert messages[:2] == [
        "sample '00' has sample_rate 8000, while the source says 16000",
        "sample '00' has channels 1, while the source says 'ndarray'",
    ]
    assert len(messages) == 10
    assert messages[-1].endswith("; further ones are counted only")


def test_claims_about_a_skipped_clip_are_not_counted(tmp_path: Path) -> None:
    wrong: Sample = {"audio": clip(1), "sample_rate": 16000}
    items: list[tuple[str, Sample]] = [("a", {"audio": clip(1)}), ("b", wrong), ("a", wrong)]
    report = Listed(items, tmp_path / "out", samples_per_shard=2, on_error="skip").run()
    assert (report.rejected, report.contradictions) == (1, {"sample_rate": 1})


def test_claims_are_compared_with_the_source_audio_not_the_stored_audio(
    tmp_path: Path,
) -> None:
    path = tmp_path / "clip.wav"
    path.write_bytes(clip(1))
    items: list[tuple[str, Sample]] = [
        ("path", {"audio": path, "sample_rate": 8000}),
        ("bytes", {"audio": clip(1), "sample_rate": 16000}),
        ("array", {"audio": np.zeros(800, np.int16), "sample_rate": 8000, "duration": 0.1}),
    ]
    report = Listed(items, tmp_path / "out", sample_rate=16000).run()
    assert report.contradictions == {"sample_rate": 1}


@pytest.mark.parametrize("audio_format", ["flac", "wav", "opus", "vorbis", "mp3"])
def test_audio_is_stored_in_the_format_asked_for(tmp_path: Path, audio_format: str) -> None:
    items: list[tuple[str, Sample]] = [
        ("array", {"audio": np.zeros((4000, 2), np.float32), "sample_rate": 8000}),
        ("bytes", {"audio": clip(1, 0.5)}),
    ]
    Listed(items, tmp_path / "out", audio_format=audio_format).run()
    with DatasetReader.open(tmp_path / "out") as dataset:
        found = [probe(sample["audio"]) for sample in dataset]
    assert [info.sample_rate for info in found] == [8000, 8000]
    assert [info.channels for info in found] == [2, 1]
    assert audio_format.upper() in (found[0].container, found[0].subtype)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_an_unknown_format_is_refused_before_any_clip(
    tmp_path: Path, on_error: Literal["raise", "skip"]
) -> None:
    with pytest.raises(AudioError, match=r"^audio_format 'aac' is not one of flac, "):
        Listed(samples(1), tmp_path / "out", audio_format="aac", on_error=on_error)
    assert not (tmp_path / "out").exists()


def test_audio_is_stored_at_the_rate_asked_for(tmp_path: Path) -> None:
    items: list[tuple[str, Sample]] = [
        ("array", {"audio": (np.sin(np.arange(800)) * 9000).astype("i2"), "sample_rate": 8000}),
        ("other", {"audio": clip(1)}),
        ("same", {"audio": clip(1, rate=16000)}),
    ]
    Listed(items, tmp_path / "out", sample_rate=16000).run()
    with DatasetReader.open(tmp_path / "out") as dataset:
        array, other, same = dataset["array"], dataset["other"], dataset["same"]
    assert {array["sample_rate"], other["sample_rate"], same["sample_rate"]} == {16000}
    assert array["audio"].dtype == np.float32
    assert np.abs(array["audio"]).max() < 0.5  # integers were scaled on the way
    assert probe(other["audio"]).container == "FLAC"
    assert same["audio"] == clip(1, rate=16000)  # nothing to do, so untouched


@pytest.mark.parametrize("audio_format", [None, "wav"])
def test_all_audio_is_stored_with_one_channel_where_that_is_asked_for(
    tmp_path: Path, audio_format: str | None
) -> None:
    two = np.random.default_rng(0).integers(-9000, 9000, (800, 2), np.int16)
    path = tmp_path / "two.wav"
    path.write_bytes(encode(two, 8000, "wav"))
    items: list[tuple[str, Sample]] = [
        ("bytes", {"audio": encode(two, 8000, "flac"), "channels": 2}),
        ("part", {"audio": AudioWindow(path, 0.05, 0.025)}),
        ("whole", {"audio": AudioWindow(path, 0.0)}),
        ("array", {"audio": two, "sample_rate": 8000}),
        ("one", {"audio": clip(1)}),
        ("one array", {"audio": two[:, :1], "sample_rate": 8000}),
    ]
    report = Listed(items, tmp_path / "out", mono=True, audio_format=audio_format).run()
    assert report.contradictions == {}
    mean, _ = decode(path, mono=True)
    with DatasetReader.open(tmp_path / "out") as dataset:
        assert {sample["channels"] for sample in dataset} == {1}
        assert dataset.index["channels"].tolist() == [1] * 6
        for key in ("bytes", "whole", "part"):
            expected = mean[400:600] if key == "part" else mean
            assert probe(dataset[key]["audio"]).container == (audio_format or "flac").upper()
            assert np.abs(decode(dataset[key]["audio"])[0] - expected).max() <= 0.5 / 32768
        assert dataset["one"]["audio"] == clip(1)  # nothing to do, so untouched
        if audio_format is None:
            assert np.array_equal(dataset["array"]["audio"], mean)
            assert np.array_equal(dataset["one array"]["audio"], two[:, :1])


def test_one_channel_and_another_rate_go_together(tmp_path: Path) -> None:
    two = np.random.default_rng(0).uniform(-0.5, 0.5, (800, 2)).astype(np.float32)
    items: list[tuple[str, Sample]] = [("a", {"audio": two, "sample_rate": 8000})]
    Listed(items, tmp_path / "out", mono=True, sample_rate=16000).run()
    with DatasetReader.open(tmp_path / "out") as dataset:
        stored = dataset["a"]
    assert (stored["sample_rate"], stored["channels"], stored["duration"]) == (16000, 1, 0.1)
    assert np.array_equal(stored["audio"], resample(two.mean(axis=1), 8000, 16000))


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(OutputExistsError, match=r"thesis\.tex"):
        Listed(samples(1), tmp_path).run()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((OutputWriteError, OutputExistsError), match="file"):
        Listed(samples(1), tmp_path / "file" / "out").run()


def test_a_folder_that_may_not_be_written_is_named(
    tmp_path: Path, read_only: Callable[[Path], Path]
) -> None:
    folder = read_only(tmp_path)
    with pytest.raises(OutputWriteError, match="cannot make the folder"):
        Listed(samples(1), folder / "out").run()
    with pytest.raises(OutputWriteError, match="cannot write to"):
        Listed(samples(1), folder).run()


def test_progress_is_shown_only_on_request_or_in_a_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Listed(samples(3), tmp_path / "quiet").run()
    assert capfd.readouterr().err == ""
    Listed(samples(3), tmp_path / "shown", limit=2, progress=True).run()
    shown = capfd.readouterr().err
    assert "shown" in shown
    assert "2/2" in shown


@pytest.mark.parametrize("progress", [True, False, None])
def test_a_source_is_counted_only_if_a_bar_is_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], progress: bool | None
) -> None:
    class Counted(Listed):
        counted = 0

        def sample_count(self) -> int:
            self.counted += 1
            return len(self.items)

    converter = Counted(samples(3), tmp_path / "out", progress=progress)
    assert converter.run().samples == 3
    assert converter.counted == (1 if progress else 0)
    assert ("3/3" in capfd.readouterr().err) is bool(progress)
