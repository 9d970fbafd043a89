"""What a conversion makes of what processors raise and return."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.errors import DamagedAudioError, ProcessingError
from audiomdb.processors.base import BaseProcessor
from audiomdb.sample import Sample
from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.stream import SampleStream
from tests.core.conversions import Listed, clip, frames, rejections, samples


class Raises(BaseProcessor):
    """Raises what `make` makes, for one sample."""

    def __init__(self, make: Callable[[], BaseException]) -> None:
        super().__init__(keep_original=True)
        self._make = make

    def process(self, sample: Sample, **_: Any) -> dict[str, Any]:
        if sample["text"] == "number 1":
            raise self._make()
        return {}


def from_cause(error: BaseException, cause: BaseException) -> Callable[[], BaseException]:
    def make() -> BaseException:
        error.__cause__ = cause
        return error

    return make


PASSING: dict[str, Callable[[], BaseException]] = {
    "connection": lambda: ConnectionError("the server is away"),
    "file": lambda: FileNotFoundError(2, "No such file or directory", "model.bin"),
    "timeout": lambda: TimeoutError("timed out"),
    "memory": MemoryError,
    "import": lambda: ImportError("no module named torch"),
    "exit": lambda: SystemExit(0),
    "wrapped": from_cause(ProcessingError("no answer"), ConnectionRefusedError("refused")),
    "twice": from_cause(RuntimeError("a"), from_cause(KeyError("b"), OSError("c"))()),
}
MEANT: dict[str, Callable[[], BaseException]] = {
    "value": lambda: ValueError("no speech"),
    "key": lambda: KeyError("speaker"),
    "runtime": lambda: RuntimeError("boom"),
    "audio": from_cause(DamagedAudioError("cut off"), OSError("gone")),
    "value of a cause": from_cause(ValueError("no alignment"), FileNotFoundError("a.txt")),
    "wrapped": from_cause(ProcessingError("no"), ValueError("no")),
}


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("make", PASSING.values(), ids=PASSING)
def test_environment_errors_of_a_processor_never_reject_a_sample(
    tmp_path: Path, make: Callable[[], BaseException], on_error: Any
) -> None:
    options: dict[str, Any] = {"on_error": on_error, "num_workers": 1, "samples_per_shard": 1}
    out = tmp_path / "out"
    with pytest.raises(ProcessingError, match=r"sample 'clip-0001'.*nothing about the") as caught:
        Listed(samples(3), out, processor=Raises(make), **options).run()
    if sys.version_info >= (3, 11):
        assert not any("leaves out" in note for note in getattr(caught.value, "__notes__", ()))
    assert not (out / "metadata.json").exists()


def test_a_run_resumes_once_the_environment_error_is_fixed(tmp_path: Path) -> None:
    class Asks(BaseProcessor):
        def process(self, sample: Sample, **_: Any) -> dict[str, Any]:
            if sample["text"] == "number 1" and not (tmp_path / "server").exists():
                raise ConnectionError("the server is away")
            return {"answer": sample["text"]}

    options: dict[str, Any] = {"processor": Asks(), "on_error": "skip", "samples_per_shard": 1}
    with pytest.raises(ProcessingError, match="ConnectionError: the server is away"):
        Listed(samples(3), tmp_path / "out", num_workers=1, **options).run()
    (tmp_path / "server").touch()
    report = Listed(samples(3), tmp_path / "out", num_workers=1, **options).run()
    assert (report.samples, report.rejected) == (3, 0)
    assert report.reused_shards >= 1


def test_environment_errors_in_a_worker_process_end_the_run_too(tmp_path: Path) -> None:
    class Away(BaseProcessor):
        def process(self, sample: Sample, **_: Any) -> dict[str, Any]:  # noqa: ARG002
            raise RuntimeError("no answer") from ConnectionError("the server is away")

    for on_error in ("raise", "skip"):
        out = tmp_path / on_error
        with pytest.raises(ProcessingError, match=r"RuntimeError: no answer.*nothing") as caught:
            Listed(samples(3), out, processor=Away(), num_workers=2, on_error=on_error).run()
        if sys.version_info >= (3, 11):
            assert not any("leaves out" in note for note in getattr(caught.value, "__notes__", ()))


@pytest.mark.parametrize("make", MEANT.values(), ids=MEANT)
def test_a_value_error_of_a_processor_rejects_its_sample(
    tmp_path: Path, make: Callable[[], BaseException]
) -> None:
    options: dict[str, Any] = {"processor": Raises(make), "num_workers": 1}
    report = Listed(samples(3), tmp_path / "out", on_error="skip", **options).run()
    assert (report.samples, report.rejected) == (2, 1)
    assert rejections(tmp_path / "out")[0]["key"] == "clip-0001"


class Resampled(BaseProcessor):
    """Makes an array of 16 kHz of the audio, and says so where it is asked to."""

    def __init__(self, says: int | None = None, keep_original: bool = True) -> None:
        super().__init__(keep_original)
        self.says = says

    def process(self, sample: Sample, **kwargs: Any) -> dict[str, Any]:
        rate = kwargs.get("sample_rate", 16000)
        array = self.load_array(sample["audio"], rate, from_rate=rate)
        return {"audio": array} if self.says is None else {"audio": array, "sample_rate": self.says}


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_array_without_a_rate_from_a_processor_is_refused(
    tmp_path: Path, keep: bool, workers: int
) -> None:
    processor = Resampled(keep_original=keep)
    options: dict[str, Any] = {"processor": processor, "num_workers": workers}
    said = (
        r"'clip-0000': .*Resampled\(.* returned audio as an array and not its rate.*'sample_rate'"
    )
    with pytest.raises(ProcessingError, match=said):
        Listed(samples(2), tmp_path / "out", **options).run()


@pytest.mark.parametrize("keep", [True, False])
def test_the_rate_returned_by_a_processor_is_stored(tmp_path: Path, keep: bool) -> None:
    processor = Resampled(16000, keep)
    Listed(samples(2), tmp_path / "out", processor=processor, num_workers=1).run()
    with DatasetReader.open(tmp_path / "out") as dataset:
        sample = dataset[0]
    assert (sample["sample_rate"], sample["frames"], len(sample["audio"])) == (16000, 1600, 1600)


@pytest.mark.parametrize("keep", [True, False])
def test_a_processor_given_a_rate_need_not_return_it(tmp_path: Path, keep: bool) -> None:
    array = {"audio": np.zeros(800, np.float32), "sample_rate": 8000}
    sources: list[tuple[str, dict[str, Any], dict[str, Any], int]] = [
        ("conversion", {"audio": clip(1)}, {"sample_rate": 16000}, 16000),
        ("array", array, {}, 8000),
        ("both", array, {"sample_rate": 16000}, 16000),
    ]
    for name, sample, options, rate in sources:
        processor = Resampled(keep_original=keep)
        items = [("k", sample)]
        Listed(items, tmp_path / name, processor=processor, num_workers=1, **options).run()
        with DatasetReader.open(tmp_path / name) as dataset:
            stored = dataset["k"]
        assert (stored["sample_rate"], stored["frames"]) == (rate, rate // 10), name


def test_a_function_as_processor_must_return_the_rate_too(tmp_path: Path) -> None:
    def process(sample: Sample) -> dict[str, Any]:
        return {"audio": np.zeros(3), "text": sample["text"]}

    with (
        pytest.raises(ProcessingError, match="'k': the processor returned audio as an array"),
        DatasetWriter(tmp_path / "out", process=process) as writer,
    ):
        writer.write("k", {"audio": clip(1), "text": "a"})


def test_an_array_made_by_a_function_has_the_rate_it_was_given(tmp_path: Path) -> None:
    def process(sample: Sample) -> dict[str, Any]:
        return {"audio": np.zeros(400, np.float32), "text": sample["text"]}

    array = {"audio": np.zeros(800, np.float32), "sample_rate": 8000}
    sources: list[tuple[str, dict[str, Any], dict[str, Any], int]] = [
        ("conversion", {"audio": clip(1)}, {"sample_rate": 16000}, 16000),
        ("array", array, {}, 8000),
    ]
    for name, sample, options, rate in sources:
        with DatasetWriter(tmp_path / name, process=process, **options) as writer:
            writer.write("k", {**sample, "text": "a"})
        with DatasetReader.open(tmp_path / name) as dataset:
            stored = dataset["k"]
        assert (stored["sample_rate"], stored["frames"]) == (rate, 400), name


@pytest.mark.parametrize("own", [clip(1), np.zeros(800, np.float32)], ids=["encoded", "array"])
def test_the_rate_of_features_is_not_taken_for_that_of_the_clip_beside_them(
    tmp_path: Path, own: Any
) -> None:
    class Features(BaseProcessor):
        def process(self, sample: Sample, **_: Any) -> dict[str, Any]:
            array = self.load_array(sample["audio"], 16000)
            return {"feature": array[::160], "sample_rate": 16000, "duration": 5.0}

    features = Features(keep_original=True)
    items = [("k", {"audio": own, "sample_rate": 8000})]
    Listed(items, tmp_path / "out", processor=features, num_workers=1).run()
    with DatasetReader.open(tmp_path / "out") as dataset:
        sample = dataset["k"]
        audio, rate = features.load_array(sample["audio"], 8000), sample["sample_rate"]
    assert (rate, len(audio), sample["frames"], sample["duration"]) == (8000, 800, 800, 0.1)
    Listed(items, tmp_path / "features", processor=Features(), num_workers=1).run()
    with DatasetReader.open(tmp_path / "features") as dataset:
        assert dataset["k"]["sample_rate"] == 16000


@pytest.mark.parametrize("value", [np.zeros((2, 3, 4)), np.zeros(9, bool), "words"])
def test_a_value_that_is_not_audio_needs_no_rate(tmp_path: Path, value: Any) -> None:
    class Stores(BaseProcessor):
        def process(self, sample: Sample, **_: Any) -> dict[str, Any]:  # noqa: ARG002
            return {"audio": value}

    Listed(samples(1), tmp_path / "out", processor=Stores(), num_workers=1).run()
    with DatasetReader.open(tmp_path / "out") as dataset:
        assert np.array_equal(dataset[0]["audio"], value)


@pytest.mark.parametrize("own", [clip(1), np.zeros(800, np.float32)], ids=["encoded", "array"])
def test_a_clip_that_is_returned_as_it_came_keeps_its_facts(tmp_path: Path, own: Any) -> None:
    class Caption(BaseProcessor):
        def process(self, sample: Sample, **_: Any) -> dict[str, Any]:
            return {"audio": sample["audio"], "caption": "noise"}

    item = {"audio": own, "sample_rate": 8000, "text": "hi"}
    Listed([("k", item)], tmp_path / "processor", processor=Caption(), num_workers=1).run()
    with DatasetWriter(tmp_path / "function", process=Caption().process) as writer:
        writer.write("k", item)
    for name in ("processor", "function"):
        with DatasetReader.open(tmp_path / name) as dataset:
            stored = dataset["k"]
        del stored["audio"]
        facts = {"sample_rate": 8000, "channels": 1, "frames": 800, "duration": 0.1}
        assert stored == {"__key__": "k", "caption": "noise", **facts}, name
        with SampleStream(tmp_path / name, sample_rate=16000) as stream:
            (sample,) = stream
        assert (len(sample["audio"]), sample["sample_rate"]) == (1600, 16000), name


class Opened(BaseProcessor):
    """Makes the audio of a field, as a pipe of Kaldi does, twice as long."""

    def process(self, sample: Sample, **_: Any) -> dict[str, Any]:
        audio = np.tile(self.load_array(sample["encoded"], 8000), 2)
        return {"audio": audio, "sample_rate": 8000, "loudness": float((audio**2).mean())}


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("workers", [1, 2])
def test_the_index_is_about_audio_that_a_processor_stores(
    tmp_path: Path, keep: bool, workers: int
) -> None:
    items = [(f"{n}", {"encoded": clip(n, 0.1 * n), "speaker": "ann"}) for n in (1, 2, 3)]
    options: dict[str, Any] = {"processor": Opened(keep), "num_workers": workers}
    report = Listed(items, tmp_path / "out", **options).run()
    assert report.hours == pytest.approx(1.2 / 3600)
    with DatasetReader.open(tmp_path / "out") as dataset:
        stored, index = list(dataset), dataset.index
    assert index["duration"].tolist() == pytest.approx([0.2, 0.4, 0.6])
    for name in ("duration", "frames", "sample_rate", "loudness"):
        assert index[name].tolist() == [sample[name] for sample in stored], name
    assert index["audio_bytes"].tolist() == [sample["audio"].nbytes for sample in stored]
    assert index["speaker"].tolist() == ["ann"] * 3  # even if it is not stored
    with SampleStream(tmp_path / "out", min_duration=0.3) as stream:
        assert len(stream) == 2


def test_the_index_is_about_the_source_if_only_features_are_stored(tmp_path: Path) -> None:
    Listed(samples(2), tmp_path / "out", processor=frames(), num_workers=1).run()
    with DatasetReader.open(tmp_path / "out") as dataset:
        assert list(dataset[0]) == ["__key__", "feature"]
        assert dataset.index["duration"].tolist() == [0.1, 0.1]
        assert dataset.index["text_length"].tolist() == [8, 8]


class Listing(BaseProcessor):
    """Stores lists and None in place of the sample's own numbers and text."""

    def process(self, sample: Sample, **_: Any) -> dict[str, Any]:
        return {"audio": None, "label": [sample["label"]], "text": None, "speaker": None}


def test_the_index_has_no_value_that_a_processor_has_replaced(tmp_path: Path) -> None:
    item = {"audio": clip(1), "label": 3, "text": "hi", "speaker": "ann", "snr": 1.5}
    Listed([("k", item)], tmp_path / "out", processor=Listing(), num_workers=1).run()
    with DatasetReader.open(tmp_path / "out") as dataset:
        assert dataset["k"]["label"] == [3]
        index = dataset.index
    assert not {"label", "text_length", "speaker", "audio_bytes"} & {*index}
    assert (index["snr"].tolist(), index["duration"].tolist()) == ([1.5], [0.1])


class Divided(BaseProcessor):
    """Divides a clip by its peak, and mends one that has NaN."""

    def process(self, sample: Sample, **_: Any) -> dict[str, Any]:
        audio = np.nan_to_num(self.load_array(sample["audio"], 8000))
        with np.errstate(invalid="ignore"):
            return {"audio": audio / np.abs(audio).max(), "sample_rate": 8000}


def test_nan_that_a_processor_makes_is_reported_and_what_it_mends_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 800).astype(np.float32)
    broken = np.where(np.arange(800) < 9, np.float32("nan"), noise)
    items = [
        (key, {"audio": audio, "sample_rate": 8000})
        for key, audio in (("silent", np.zeros(800, np.float32)), ("broken", broken))
    ]
    Listed(items, tmp_path / "out", processor=Divided(), num_workers=1).run()
    assert "'silent' holds NaN" in caplog.text
    assert "'broken'" not in caplog.text


def test_audio_that_a_processor_makes_is_stored_as_the_conversion_says(tmp_path: Path) -> None:
    items = [("k", {"encoded": clip(1)})]
    options: dict[str, Any] = {"audio_format": "flac", "sample_rate": 16000}
    Listed(items, tmp_path / "out", processor=Opened(), num_workers=1, **options).run()
    with DatasetReader.open(tmp_path / "out") as dataset:
        sample = dataset["k"]
        assert dataset.index["frames"].tolist() == [3200]
    assert (bytes(sample["audio"][:4]), sample["sample_rate"]) == (b"fLaC", 16000)
    assert sample["frames"] == 3200
