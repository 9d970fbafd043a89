"""Processors: what they are given, how several work together, what they are called."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.audio import encode, resample
from audiomdb.errors import ProcessingError, SampleError, UnreadableAudioError
from audiomdb.processors.base import BaseProcessor, Processors
from audiomdb.sample import Sample
from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.shards.describe import AudioOptions
from audiomdb.stream import LoadOptions, SampleStream

TONE = np.sin(np.arange(8000) * 0.05).astype(np.float32) * 0.5
STEREO = np.stack([TONE, -0.5 * TONE], axis=1)


class Rate(BaseProcessor):
    """Says which keyword arguments it was called with."""

    def process(self, sample: Sample, **kwargs: Any) -> dict[str, Any]:  # noqa: ARG002
        return {"kwargs": kwargs}


class Length(BaseProcessor):
    def process(self, sample: Sample, **_: Any) -> dict[str, Any]:
        return {"length": len(sample["text"])}


class Write(BaseProcessor):
    def __init__(self, field: str, value: Any, keep_original: bool = False) -> None:
        super().__init__(keep_original)
        self.field = field
        self.value = value

    def process(self, sample: Sample, **_: Any) -> dict[str, Any]:
        result = sample.copy() if self.keep_original else {}
        result[self.field] = self.value
        return result


def test_encoded_audio_comes_as_writable_float32_mono_at_the_rate_asked_for() -> None:
    array = Length().load_array(encode(STEREO, 16000, "wav"), 8000)
    assert array.dtype == np.float32
    assert array.shape == (4000,)
    assert array.flags.writeable
    assert np.abs(array[100:-100] - 0.25 * TONE[200:-200:2]).max() < 0.01


def test_audio_is_taken_from_bytes_views_and_paths_alike(tmp_path: Path) -> None:
    octets = encode(TONE, 16000)
    path = tmp_path / "tone.flac"
    path.write_bytes(octets)
    sources: list[Any] = [octets, bytearray(octets), memoryview(octets), path, str(path)]
    arrays = [Length().load_array(source, 16000) for source in sources]
    assert all(np.array_equal(array, arrays[0]) for array in arrays)


def test_channels_stay_on_an_axis_of_their_own_where_asked_for() -> None:
    stereo = Length().load_array(encode(STEREO, 16000), 16000, mono=False)
    mono = Length().load_array(encode(TONE, 16000), 16000, mono=False)
    assert (stereo.shape, mono.shape) == ((8000, 2), (8000, 1))


def test_an_array_is_copied_and_resampled_from_its_own_rate() -> None:
    same = Length().load_array(TONE, 16000)
    assert np.array_equal(same, TONE)
    assert not np.shares_memory(same, TONE)
    assert Length().load_array(STEREO, 16000, from_rate=8000).shape == (16000,)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "float16", "float64"])
def test_arrays_of_every_sample_type_come_scaled_to_one(dtype: str) -> None:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        array = TONE.astype(kind)
    else:
        half = 2.0 ** (8 * kind.itemsize - 1)
        array = (TONE * half + (half if kind.kind == "u" else 0)).astype(kind)
    loaded = Length().load_array(array, 16000)
    assert loaded.dtype == np.float32
    assert np.abs(loaded - TONE).max() < 0.01


def test_an_array_that_is_not_audio_is_refused_with_advice() -> None:
    with pytest.raises(SampleError, match=r"torchaudio's \(channels, frames\) wants `\.T`"):
        Length().load_array(STEREO.T, 16000)
    with pytest.raises(SampleError, match="complex64"):
        Length().load_array(TONE.astype(np.complex64), 16000)


def test_bytes_that_are_no_audio_are_refused() -> None:
    with pytest.raises(UnreadableAudioError):
        Length().load_array(b"hello, this is text" * 10, 16000)


def test_a_processor_receives_a_rate_only_if_there_is_one() -> None:
    encoded = {"audio": encode(TONE, 16000), "sample_rate": 16000}
    array = {"audio": TONE, "sample_rate": np.int64(44100)}
    assert Processors(Rate())(encoded) == {"kwargs": {}}
    assert Processors(Rate())({"text": "no audio"}) == {"kwargs": {}}
    assert Processors(Rate())({"audio": TONE}) == {"kwargs": {}}
    assert Processors(Rate(), sample_rate=8000)(encoded) == {"kwargs": {"sample_rate": 8000}}
    assert Processors(Rate())(array) == {"kwargs": {"sample_rate": 44100}}
    assert Processors(Rate(), sample_rate=8000)(array) == {"kwargs": {"sample_rate": 44100}}


@pytest.mark.parametrize("rate", ["16000", 16000.5, True, 0, -1])
def test_an_invalid_rate_is_refused_as_at_conversion(rate: Any) -> None:
    words = re.escape(f"sample_rate must be a whole number from 1 on, not {rate!r}")
    with pytest.raises(SampleError, match=f"audio is an array, and its {words}"):
        Processors(Rate(), sample_rate=8000)({"audio": TONE, "sample_rate": rate})
    with pytest.raises(ValueError, match=words):
        Processors(Rate(), sample_rate=rate)
    with pytest.raises(ValueError, match=words):
        AudioOptions(sample_rate=rate)
    with pytest.raises(ValueError, match=words):
        LoadOptions(sample_rate=rate)


@pytest.mark.parametrize("rate", [np.int64(8000), np.uint16(8000), np.array(8000)])
def test_a_rate_may_be_of_any_integer_type(rate: Any, tmp_path: Path) -> None:
    assert Processors(Rate(), sample_rate=rate).sample_rate == 8000
    assert Processors(Rate())({"audio": TONE, "sample_rate": rate})["kwargs"]["sample_rate"] == 8000
    for folder, option, of_clip in (("a", 8000, 8000), ("b", rate, 8000), ("c", 8000, rate)):
        with DatasetWriter(tmp_path / folder, sample_rate=option) as writer:
            writer.write("clip", {"audio": TONE, "sample_rate": of_clip})
        assert [journal.contradictions for journal in writer.journals()] == [{}]
    plain, numpy = (DatasetReader.open(tmp_path / folder).metadata for folder in "ab")
    assert plain.fingerprint == numpy.fingerprint
    with SampleStream(tmp_path / "c", sample_rate=rate) as stream:
        assert next(iter(stream))["sample_rate"] == 8000


def test_the_rate_of_features_is_not_taken_for_that_of_the_clip_beside_them() -> None:
    sample = {"audio": TONE, "sample_rate": 8000, "channels": None}
    own = Write("sample_rate", 16000, keep_original=True)
    assert Processors(own)(sample)["sample_rate"] == 8000
    channels = Write("channels", 1, keep_original=True)
    assert Processors(channels)(sample)["channels"] == 1
    assert Processors(Write("sample_rate", 16000))(sample) == {"sample_rate": 16000}
    assert Processors([own, Write("audio", TONE[:9])])(sample)["sample_rate"] == 16000


def test_each_processor_sees_the_original_and_their_results_are_merged() -> None:
    both = Processors([Write("text", "changed"), Length()])
    sample = {"text": "hello"}
    assert both(sample) == {"text": "changed", "length": 5}
    assert sample == {"text": "hello"}


@pytest.mark.parametrize("order", [1, -1])
def test_one_keep_original_keeps_the_original_but_results_win(order: int) -> None:
    several = [Write("length", 7, keep_original=True), Write("text", "new")][::order]
    original = {"text": "hello", "speaker": "a"}
    assert Processors(several)(original) == {"text": "new", "speaker": "a", "length": 7}
    assert Processors(Write("text", "new"))(original) == {"text": "new"}


def test_keep_original_works_for_a_processor_that_ignores_it() -> None:
    assert Processors(Length(keep_original=True))({"text": "ab"}) == {"text": "ab", "length": 2}


def test_two_processors_that_write_different_values_are_both_named() -> None:
    both = Processors([Write("mel", 1), Write("mel", 2)])
    with pytest.raises(ProcessingError, match=r"value=1\) and Write\(.*value=2\).*'mel'"):
        both({"text": ""})


@pytest.mark.parametrize("value", [16000, "a", np.arange(3), {"a": [np.ones(2), 1]}, (1, 2)])
def test_two_processors_may_agree_on_a_value(value: Any) -> None:
    other = {"a": [np.ones(2), 1]} if isinstance(value, dict) else value
    both = Processors([Write("x", value), Write("x", other)])
    assert both({"x": None}).keys() == {"x"}


def test_a_processor_that_returns_no_dict_is_named() -> None:
    class Forgetful(BaseProcessor):
        def process(self, sample: Sample, **_: Any) -> dict[str, Any]:  # noqa: ARG002
            return None  # type: ignore[return-value]

    with pytest.raises(ProcessingError, match=r"Forgetful\(.*\) returned NoneType"):
        Processors(Forgetful())({})


@pytest.mark.parametrize("wrong", [Length, len, "whisper", [Length(), None], None])
def test_an_object_that_is_not_a_processor_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="instance of a subclass of BaseProcessor, not"):
        Processors(wrong)


def test_attributes_may_be_set_before_or_after_the_base_is_made() -> None:
    class Before(BaseProcessor):
        def __init__(self) -> None:
            self.n_mels = 80
            super().__init__(keep_original=True)

        def process(self, sample: Sample, **_: Any) -> dict[str, Any]:  # noqa: ARG002
            return {}

    class Never(Before):
        def __init__(self) -> None:
            self.n_mels = 40

    assert repr(Before()) == "Before(keep_original=True, n_mels=80)"
    assert repr(Never()) == "Never(n_mels=40)"
    assert Processors([Before(), Never()])({"text": "a"}) == {"text": "a"}


def test_repr_of_a_processor_shows_only_plain_options() -> None:
    processor = Length()
    processor.words = ["a", ("b", None)]  # type: ignore[attr-defined]
    processor.path = Path("a/b")  # type: ignore[attr-defined]
    processor.scale = np.float64(0.5)  # type: ignore[attr-defined]
    processor.transform = lambda: 1  # type: ignore[attr-defined]
    processor.filters = [object()]  # type: ignore[attr-defined]
    processor._cache = 3  # type: ignore[attr-defined]
    assert repr(processor) == (
        "Length(keep_original=False, path='a/b', scale=0.5, words=list('a', tuple('b', None)))"
    )


def test_a_long_option_is_shown_by_its_digest() -> None:
    names = {repr(Write("x", list(range(stop)))) for stop in (1000, 1001)}
    assert len(names) == 2
    assert all(len(name) < 100 for name in names)


def test_the_name_is_the_same_in_every_process() -> None:
    code = (
        "from test_processors_base import Write\n"
        "print(Write({'a', 'b', 'c', 'd'}, {'k': frozenset('xyz')}))"
    )
    names = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(names) == 1


def test_an_array_is_resampled_from_the_rate_that_it_has() -> None:
    """So that a processor with a rate of its own makes the same of a clip in any form."""

    class Loads(BaseProcessor):
        def process(self, sample: Sample, **_kwargs: Any) -> Sample:
            audio = sample["audio"]
            return {
                "loaded": self.load_array(audio, 16_000),
                "of_another": self.load_array(audio[:100], 16_000),
                "told": self.load_array(audio, 16_000, from_rate=16_000),
            }

    audio = np.sin(np.arange(800, dtype=np.float32) / 9)
    made = Processors(Loads())({"audio": audio, "sample_rate": 8000})
    np.testing.assert_array_equal(made["loaded"], resample(audio, 8000, 16_000))
    assert len(made["of_another"]) == 100
    assert len(made["told"]) == 800
    assert len(Loads().load_array(audio, 16_000)) == 800, "nobody processes it now"


def test_of_several_processors_the_one_that_failed_is_named() -> None:
    class Fails(BaseProcessor):
        def process(self, sample: Sample, **_kwargs: Any) -> Sample:  # noqa: ARG002
            raise ValueError("no")

    class Works(BaseProcessor):
        def process(self, sample: Sample, **_kwargs: Any) -> Sample:  # noqa: ARG002
            return {}

    with pytest.raises(ValueError, match="no") as caught:
        Processors([Works(), Fails()])({})
    assert caught.value.__notes__ == ["in Fails(keep_original=False)"]


def test_an_empty_list_of_processors_is_refused() -> None:
    with pytest.raises(ValueError, match="leave it out"):
        Processors([])


@pytest.mark.parametrize("audio", [TONE, encode(TONE, 8000)], ids=["array", "encoded"])
def test_a_clip_that_is_returned_as_it_came_keeps_its_facts(audio: Any) -> None:
    class Caption(BaseProcessor):
        def process(self, sample: Sample, **_: Any) -> dict[str, Any]:
            return {"audio": sample["audio"], "caption": "a tone"}

    facts = {"sample_rate": 8000, "frames": 8000, "duration": 1.0}
    made = Processors(Caption())({"audio": audio, "text": "hi", "channels": None, **facts})
    assert made.pop("audio") is audio
    assert made == {"caption": "a tone", **facts}


def test_the_order_in_which_a_set_was_filled_is_not_shown() -> None:
    class Only(BaseProcessor):
        def __init__(self, *speakers: int) -> None:
            super().__init__()
            self.speakers = set(speakers)

        def process(self, sample: Sample, **_: Any) -> dict[str, Any]:
            return sample

    assert repr(Only(0, 8)) == repr(Only(8, 0))


def test_arrays_of_the_same_bytes_and_another_shape_contradict_each_other() -> None:
    class Shaped(BaseProcessor):
        def __init__(self, rows: int) -> None:
            super().__init__()
            self.rows = rows

        def process(self, sample: Sample, **_: Any) -> dict[str, Any]:
            return {**sample, "feature": np.zeros((self.rows, 6 // self.rows), np.float32)}

    assert Processors([Shaped(2), Shaped(2)])({})["feature"].shape == (2, 3)
    with pytest.raises(ProcessingError, match="both write the field 'feature'"):
        Processors([Shaped(2), Shaped(3)])({})
