from __future__ import annotations

import io
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from audiomdb.audio import encode, resample
from audiomdb.converters.base import BaseConverter
from audiomdb.errors import SampleError
from audiomdb.processors.base import Processors
from audiomdb.processors.whisper import WhisperCollator, WhisperProcessor
from audiomdb.shards import DatasetReader

SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|transcribe|>"]
SPECIAL += ["<|translate|>", "<|notimestamps|>"]
VOCABULARY = {token: i for i, token in enumerate([*sorted(ByteLevel.alphabet()), *SPECIAL])}
START, END = VOCABULARY["<|startoftranscript|>"], VOCABULARY["<|endoftext|>"]


@pytest.fixture(scope="session")
def extractor() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor()


@pytest.fixture(scope="session")
def tokenizer() -> WhisperTokenizer:
    """Bytes are its only tokens, so that it needs no file from anywhere."""
    return WhisperTokenizer(vocab=VOCABULARY, merges=[], language="en", task="transcribe")


@pytest.fixture
def processor(extractor: Any, tokenizer: Any) -> WhisperProcessor:
    return WhisperProcessor(extractor, tokenizer)


def noise(seconds: float, rate: int = 16_000) -> np.ndarray:
    frames = round(seconds * rate)
    return np.random.default_rng(0).uniform(-0.3, 0.3, frames).astype(np.float32)


def test_features_are_those_of_the_extractor(processor: Any, extractor: Any) -> None:
    audio = noise(2.0)
    made = processor.process({"audio": audio, "sample_rate": 16_000})["input_features"]
    wanted = extractor(audio, sampling_rate=16_000, return_tensors="np")["input_features"][0]
    np.testing.assert_array_equal(made, wanted)
    assert (made.shape, made.dtype) == ((80, 3000), np.float32)


def test_labels_are_the_tokens_between_start_and_end(processor: Any, tokenizer: Any) -> None:
    labels = processor.process({"text": "hello"})["labels"]
    assert labels.dtype == np.int64
    assert (labels[0], labels[-1]) == (START, END)
    assert labels.tolist() == tokenizer("hello").input_ids
    assert tokenizer.decode(labels[4:-1]) == "hello"


def test_encoded_audio_is_decoded_resampled_and_mixed(processor: Any) -> None:
    stereo = np.stack([noise(1.0, 44_100), np.zeros(44_100, np.float32)], axis=1)
    encoded = encode(stereo, 44_100, "wav")
    made = processor.process({"audio": encoded, "sample_rate": 44_100})["input_features"]
    mono = resample(stereo.mean(axis=1), 44_100, 16_000)
    wanted = processor.process({"audio": mono, "sample_rate": 16_000})["input_features"]
    np.testing.assert_allclose(made, wanted, atol=1e-2)  # WAV has 16 bits


def test_an_arrays_rate_comes_from_the_call_or_from_the_sample(processor: Any) -> None:
    audio = noise(1.0, 8_000)
    by_sample = processor.process({"audio": audio, "sample_rate": 8_000})
    by_call = processor.process({"audio": audio}, sample_rate=8_000)
    np.testing.assert_array_equal(by_sample["input_features"], by_call["input_features"])
    with pytest.raises(SampleError, match="sample_rate is missing"):
        processor.process({"audio": audio})


@pytest.mark.parametrize("kind", [list, tuple, np.asarray])
def test_audio_without_a_rate_is_refused(kind: Any, processor: Any) -> None:
    audio = kind(noise(1.0, 8_000).tolist())
    with pytest.raises(SampleError, match=r"sample 'a' is of type \w+, .* sample_rate is missing"):
        processor.process({"__key__": "a", "audio": audio})
    by_rate = processor.process({"audio": audio, "sample_rate": 8_000})["input_features"]
    by_array = processor.process({"audio": noise(1.0, 8_000)}, sample_rate=8_000)["input_features"]
    np.testing.assert_array_equal(by_rate, by_array)


@pytest.mark.parametrize("rate", ["16000", True, -1, 0, float("nan"), [16_000]])
def test_a_rate_is_a_number_of_hertz(rate: Any, processor: Any) -> None:
    with pytest.raises(SampleError, match=r"sample_rate of sample 'a' is .*, expected Hz above 0"):
        processor.process({"__key__": "a", "audio": noise(1.0), "sample_rate": rate})


def test_a_rate_may_be_any_number(processor: Any) -> None:
    for rate in (16_000, 16_000.0, np.int32(16_000)):
        assert processor.process({"audio": noise(1.0), "sample_rate": rate})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", ["array", "encoded"])
def test_clips_with_non_finite_samples_are_refused_by_key(
    value: float, form: str, extractor: Any, tokenizer: Any
) -> None:
    processor = WhisperProcessor(extractor, tokenizer, long="chunk")
    audio: Any = noise(31.0)
    audio[-5] = value
    if form == "encoded":
        buffer = io.BytesIO()
        soundfile.write(buffer, audio, 16_000, format="WAV", subtype="FLOAT")
        audio = buffer.getvalue()
    with pytest.raises(SampleError, match="the audio of sample 'a' holds NaN or infinite values"):
        processor.process({"__key__": "a", "audio": audio, "sample_rate": 16_000})


def test_half_precision_is_stored_on_request(extractor: Any, tokenizer: Any) -> None:
    processor = WhisperProcessor(extractor, tokenizer, dtype="float16")
    made = processor.process({"audio": noise(1.0), "sample_rate": 16_000})["input_features"]
    assert made.dtype == np.float16


def test_a_clip_without_frames_is_a_window_of_silence(extractor: Any, tokenizer: Any) -> None:
    for long, shape in (("refuse", (80, 3000)), ("chunk", (1, 80, 3000))):
        processor = WhisperProcessor(extractor, tokenizer, long=long)  # type: ignore[arg-type]
        empty = {"audio": np.empty(0, np.float32), "sample_rate": 16_000}
        assert processor.process(empty)["input_features"].shape == shape


def test_the_name_of_a_model_is_refused_with_what_to_give(extractor: Any) -> None:
    with pytest.raises(TypeError, match=r"WhisperTokenizer\.from_pretrained\('openai/w'\)"):
        WhisperProcessor(extractor, "openai/w")  # type: ignore[arg-type]


def test_features_and_labels_are_made_only_from_existing_fields(processor: Any) -> None:
    assert processor.process({"speaker": "a", "audio": None, "text": None}) == {}


def test_the_original_stays_on_request(extractor: Any, tokenizer: Any) -> None:
    processor = WhisperProcessor(extractor, tokenizer, keep_original=True)
    sample = {"text": "hello", "speaker": "a"}
    assert processor.process(sample).keys() == {"text", "speaker", "labels"}
    assert sample.keys() == {"text", "speaker"}


def test_a_clip_of_thirty_seconds_is_taken_and_one_frame_more_refused(processor: Any) -> None:
    audio = np.zeros(480_001, np.float32)
    assert processor.process({"audio": audio[:-1], "sample_rate": 16_000})
    with pytest.raises(
        SampleError, match=r"30\.000 s \(480001 frames at 16000 Hz\), Whisper takes 30 s"
    ):
        processor.process({"audio": audio, "sample_rate": 16_000})


def test_the_length_that_counts_is_the_one_after_resampling(processor: Any) -> None:
    audio = np.zeros(8_000 * 31, np.float32)
    with pytest.raises(SampleError, match=r"31\.000 s"):
        processor.process({"audio": audio, "sample_rate": 8_000})
    assert processor.process({"audio": audio[: 8_000 * 30], "sample_rate": 8_000})


def test_long_clips_become_windows_that_lose_nothing(extractor: Any, tokenizer: Any) -> None:
    processor = WhisperProcessor(extractor, tokenizer, long="chunk")
    audio = noise(65.0)
    made = processor.process({"audio": audio, "sample_rate": 16_000, "text": "x" * 900})
    features = made["input_features"]
    assert features.shape == (3, 80, 3000)
    for number, window in enumerate(features):
        part = audio[480_000 * number : 480_000 * (number + 1)]
        wanted = extractor(part, sampling_rate=16_000, return_tensors="np")["input_features"][0]
        np.testing.assert_allclose(window, wanted, atol=1e-5)
    assert len(made["labels"]) > 900


class Counting(WhisperFeatureExtractor):
    """Notes how many windows it is given at once."""

    given: ClassVar[list[int]] = []

    def __call__(self, raw_speech: Any, *args: Any, **kwargs: Any) -> Any:
        self.given.append(len(raw_speech))
        return super().__call__(raw_speech, *args, **kwargs)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_long_clips_take_a_few_windows_at_a_time_and_come_out_the_same(
    dtype: Any, extractor: Any, tokenizer: Any
) -> None:
    Counting.given.clear()
    processor = WhisperProcessor(Counting(), tokenizer, dtype=dtype, long="chunk")
    audio = noise(30.0 * 9 + 1.5)
    made = processor.process({"audio": audio, "sample_rate": 16_000})["input_features"]
    assert sum(Counting.given) == 10
    assert max(Counting.given) <= 4
    windows = [audio[start : start + 480_000] for start in range(0, len(audio), 480_000)]
    at_once = extractor(windows, sampling_rate=16_000, return_tensors="np")["input_features"]
    assert made.dtype == dtype
    np.testing.assert_array_equal(made, at_once.astype(dtype))


def test_short_clips_have_the_axis_of_windows_too(extractor: Any, tokenizer: Any) -> None:
    processor = WhisperProcessor(extractor, tokenizer, long="chunk")
    made = processor.process({"audio": noise(1.0), "sample_rate": 16_000})
    assert made["input_features"].shape == (1, 80, 3000)


def test_a_text_longer_than_the_decoder_takes_is_refused(processor: Any) -> None:
    with pytest.raises(SampleError, match=r"'xxx.* tokens, the model takes 448"):
        processor.process({"text": "x" * 500})


def test_a_text_that_is_not_a_string_is_refused(processor: Any) -> None:
    with pytest.raises(SampleError, match="text is list"):
        processor.process({"text": ["hello"]})


@pytest.mark.parametrize("options", [{"dtype": "int8"}, {"long": "cut"}])
def test_options_out_of_range_are_refused(
    extractor: Any, tokenizer: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        WhisperProcessor(extractor, tokenizer, **options)


def test_a_copy_in_another_process_makes_the_same(processor: Any) -> None:
    copy = pickle.loads(pickle.dumps(processor))
    sample = {"audio": noise(1.0), "sample_rate": 16_000, "text": "hello"}
    mine, others = processor.process(sample), copy.process(sample)
    assert repr(copy) == repr(processor)
    np.testing.assert_array_equal(mine["input_features"], others["input_features"])
    np.testing.assert_array_equal(mine["labels"], others["labels"])


def test_threads_may_share_a_processor(processor: Any) -> None:
    texts = [f"number {number}" for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda text: processor.process({"text": text})["labels"], texts))
    assert [len(labels) for labels in made] == [len(text) + 5 for text in texts]


def test_repr_differs_for_options_that_change_features(
    processor: Any, extractor: Any, tokenizer: Any
) -> None:
    chinese = WhisperTokenizer(vocab=VOCABULARY, merges=[], language="zh", task="transcribe")
    others = [
        WhisperProcessor(extractor, tokenizer, dtype="float16"),
        WhisperProcessor(extractor, tokenizer, long="chunk"),
        WhisperProcessor(WhisperFeatureExtractor(feature_size=128), tokenizer),
        WhisperProcessor(extractor, chinese),
        WhisperProcessor(extractor, tokenizer, max_label_tokens=100),
        WhisperProcessor(extractor, tokenizer, keep_original=True),
    ]
    assert len({repr(one) for one in (processor, *others)}) == 7
    assert repr(WhisperProcessor(extractor, tokenizer)) == repr(processor)


class Noises(BaseConverter):
    def sample_iterator(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for number in range(3):
            audio = encode(noise(0.5 + number, 8_000), 8_000, "flac")
            yield f"clip-{number}", {"audio": audio, "text": f"number {number}"}


def test_conversion_and_reading_give_the_same_features(processor: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_workers": 1, "progress": False}
    Noises(output_dir=tmp_path / "plain", **options).run()
    Noises(output_dir=tmp_path / "features", processor=processor, **options).run()
    on_the_fly = Processors(processor)
    with (
        DatasetReader.open(tmp_path / "plain") as plain,
        DatasetReader.open(tmp_path / "features") as features,
    ):
        assert features.metadata.processors == (repr(processor),)
        for before, stored in zip(plain, features, strict=True):
            made = on_the_fly(before)
            assert stored.keys() == {"__key__", "input_features", "labels"}
            np.testing.assert_array_equal(stored["input_features"], made["input_features"])
            np.testing.assert_array_equal(stored["labels"], made["labels"])


def test_the_readme_is_right(
    extractor: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for part in (extractor, tokenizer):
        part.save_pretrained("openai/whisper-small")  # a folder of that name comes before the Hub
    Path("recordings").mkdir()
    for number in range(3):
        Path(f"recordings/{number}.flac").write_bytes(encode(noise(1.0), 16_000, "flac"))
    readme = (Path(__file__).parents[2] / "packages/audiomdb-whisper/README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    exec(example, {})  # noqa: S102
    with DatasetReader.open("features") as features:
        assert [s["input_features"].shape for s in features] == [(80, 3000)] * 3


def sample(labels: list[int], fill: float = 0.0) -> dict[str, Any]:
    return {
        "__key__": f"clip-{len(labels)}",
        "input_features": np.full((80, 3000), fill, np.float16),
        "labels": np.array(labels),
        "speaker": "a",
    }


def test_a_batch_pads_labels_with_what_losses_ignore() -> None:
    samples = (sample(labels, fill) for labels, fill in [([1, 2, 3], 0.0), ([4], 0.5)])
    batch = WhisperCollator(return_tensors="np")(samples)
    assert batch.keys() == {"input_features", "labels"}
    assert batch["labels"].tolist() == [[1, 2, 3], [4, -100, -100]]
    assert batch["input_features"].shape == (2, 80, 3000)
    assert batch["input_features"].dtype == np.float32
    assert batch["input_features"][1].mean() == 0.5


def test_the_start_token_is_dropped_where_the_model_adds_it() -> None:
    batch = WhisperCollator(7, return_tensors="np")([sample([7, 2, 3]), sample([7, 4])])
    assert batch["labels"].tolist() == [[2, 3], [4, -100]]


def test_batches_are_torch_tensors_unless_asked_otherwise() -> None:
    batch = WhisperCollator()([sample([1, 2])])
    assert batch["input_features"].dtype == torch.float32
    assert batch["labels"].dtype == torch.int64


def test_samples_without_labels_make_a_batch_without() -> None:
    bare = {"input_features": np.zeros((80, 3000), np.float32)}
    assert WhisperCollator(return_tensors="np")([bare, bare]).keys() == {"input_features"}
    with pytest.raises(SampleError, match="a sample has no 'labels'"):
        WhisperCollator()([sample([1]), bare])


def test_a_sample_without_features_is_named() -> None:
    with pytest.raises(SampleError, match="sample 'clip-0' has no 'input_features', only __key__"):
        WhisperCollator()([{"__key__": "clip-0", "audio": b"..."}])


def test_one_window_is_trained_on_and_several_are_refused() -> None:
    one = {**sample([1]), "input_features": np.zeros((1, 80, 3000), np.float32)}
    assert WhisperCollator(return_tensors="np")([one])["input_features"].shape == (1, 80, 3000)
    two = {**sample([1]), "input_features": np.zeros((2, 80, 3000), np.float32)}
    with pytest.raises(SampleError, match="sample 'clip-1' is made of 2 windows"):
        WhisperCollator()([two])


@pytest.mark.parametrize("dtype", ["bfloat16", "int16", 32])
def test_features_are_collated_as_floats_that_numpy_has(dtype: Any) -> None:
    with pytest.raises(ValueError, match=r"dtype is .*, expected a float type of NumPy"):
        WhisperCollator(dtype=dtype)


def test_return_tensors_takes_two_values() -> None:
    with pytest.raises(ValueError, match="return_tensors is 'tf'"):
        WhisperCollator(return_tensors="tf")  # type: ignore[arg-type]


def test_a_model_learns_from_what_processor_and_collator_make(processor: Any) -> None:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(VOCABULARY),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        decoder_start_token_id=START,
        pad_token_id=END,
        bos_token_id=END,
        eos_token_id=END,
    )
    model = WhisperForConditionalGeneration(config)
    sources = [{"audio": noise(n + 1.0), "sample_rate": 16_000, "text": "a" * n} for n in (1, 4)]
    batch = WhisperCollator(START)([processor.process(source) for source in sources])
    assert START not in batch["labels"]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(5):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_importing_the_processor_loads_neither_transformers_nor_torch() -> None:
    heavy = "{'torch', 'transformers'} & set(sys.modules)"
    code = f"import audiomdb.processors.whisper, sys; assert not {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
