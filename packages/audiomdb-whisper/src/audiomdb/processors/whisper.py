"""Compute features and labels for Whisper models, at conversion or while reading."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from audiomdb.errors import SampleError
from audiomdb.lazy import cached_property
from audiomdb.processors.base import BaseProcessor
from audiomdb.sample import AUDIO, KEY, SAMPLE_RATE, TEXT, Sample

if TYPE_CHECKING:
    from transformers import WhisperFeatureExtractor, WhisperTokenizer

__all__ = ["WhisperCollator", "WhisperProcessor"]

FEATURES = "input_features"
LABELS = "labels"

_IGNORED_LABEL = -100
"""Label that PyTorch's cross entropy ignores, and so do the losses of transformers."""

_ENCODED = (bytes, bytearray, memoryview, str, os.PathLike)
"""Types of encoded audio, or of paths to it, which carries its own sample rate."""

_MAX_LABEL_TOKENS = 448
"""`max_target_positions` of all published Whisper models."""

_WINDOWS_AT_ONCE = 4
"""Windows per call of the extractor, which uses 26 MB for each and is no faster with more."""


class WhisperProcessor(BaseProcessor):
    """Compute `input_features` from a sample's audio and `labels` from its text.

        processor = WhisperProcessor(feature_extractor, tokenizer)
        FolderConverter("recordings", output_dir="features", processor=processor).run()

    `input_features` is a log-mel spectrogram, `(80, 3000)` with the usual extractor: mel bands by
    frames of 10 ms. It always covers 30 s, with shorter clips padded with silence at the end.
    `labels` are the int64 token ids of the text, `(tokens,)`, with the start and end tokens that
    the tokenizer adds. A sample without audio gets no features, one without text no labels.

    No clip is truncated. A clip longer than 30 s is refused or, with `long="chunk"`, split into
    windows without overlap: `input_features` is then `(windows, 80, 3000)` for every clip,
    including short ones. `labels` are still those of the whole clip, because its text does not
    say which words are in which window, so windows are suitable for transcription or embeddings,
    but not for training on long clips. A clip with NaN or infinite samples is refused.

    If torch is installed, the extractor computes with it, which is several times as fast and gives
    results that differ from NumPy's in the sixth digit. Picklable and thread-safe.

    Args:
        feature_extractor: The model's `WhisperFeatureExtractor`. Clips are resampled to its sample
            rate and mixed to mono.
        tokenizer: The model's `WhisperTokenizer`, set to language and task.
        dtype: Dtype of the features: "float32", or "float16" in half the space (480 kB a window).
        long: How to treat clips longer than a window: "refuse" or "chunk".
        max_label_tokens: Maximum length of `labels` for the model's decoder. Longer ones are
            refused, unless `long` is "chunk".
        keep_original: Keep the sample's own fields too.
    """

    def __init__(
        self,
        feature_extractor: WhisperFeatureExtractor,
        tokenizer: WhisperTokenizer,
        *,
        dtype: Literal["float32", "float16"] = "float32",
        long: Literal["refuse", "chunk"] = "refuse",
        max_label_tokens: int = _MAX_LABEL_TOKENS,
        keep_original: bool = False,
    ) -> None:
        super().__init__(keep_original)
        for kind, given in (
            ("WhisperFeatureExtractor", feature_extractor),
            ("WhisperTokenizer", tokenizer),
        ):
            if isinstance(given, str):
                raise TypeError(f"{given!r} is a name; give {kind}.from_pretrained({given!r})")
        if dtype not in ("float32", "float16"):
            raise ValueError(f"dtype is {dtype!r}, expected 'float32' or 'float16'")
        if long not in ("refuse", "chunk"):
            raise ValueError(f"long is {long!r}, expected 'refuse' or 'chunk'")
        self.feature_extractor = feature_extractor
        self.tokenizer = tokenizer
        self.dtype = dtype
        self.long = long
        self.max_label_tokens = max_label_tokens

    def process(self, sample: Sample, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401
        """Compute the features and labels of one sample.

        Raises:
            AudioError: when the audio cannot be decoded.
            SampleError: when the clip or its text is too long, or is not audio or text at all; when
                samples are NaN or infinite; when the sample rate of an array is missing or invalid.
        """
        result = dict(sample) if self.keep_original else {}
        if sample.get(AUDIO) is not None:
            result[FEATURES] = self._features(sample, kwargs.get(SAMPLE_RATE))
        if sample.get(TEXT) is not None:
            result[LABELS] = self._labels(sample[TEXT])
        return result

    def __repr__(self) -> str:
        """Return the options, with digests of the settings of extractor and tokenizer."""
        return (
            f"WhisperProcessor(dtype={self.dtype!r}, extractor={self._extractor_digest}, "
            f"keep_original={self.keep_original}, long={self.long!r}, "
            f"max_label_tokens={self.max_label_tokens}, tokenizer={self._tokenizer_digest})"
        )

    def _features(self, sample: Sample, rate: int | None) -> np.ndarray:
        audio, extractor = sample[AUDIO], self.feature_extractor
        from_rate = None if isinstance(audio, _ENCODED) else _rate(sample, rate)
        array = self.load_array(audio, extractor.sampling_rate, from_rate=from_rate)
        size = extractor.n_samples
        if len(array) > size and self.long == "refuse":
            raise SampleError(
                f"the clip has {len(array) / extractor.sampling_rate:.3f} s ({len(array)} frames "
                f"at {extractor.sampling_rate} Hz), Whisper takes {extractor.chunk_length} s "
                f"({size} frames) at once; cut it, or make windows of it with long='chunk'"
            )
        windows = [array[start : start + size] for start in range(0, max(1, len(array)), size)]
        features: np.ndarray | None = None
        for first in range(0, len(windows), _WINDOWS_AT_ONCE):
            some = windows[first : first + _WINDOWS_AT_ONCE]
            if not all(np.isfinite(window).all() for window in some):
                # One such sample would silently make all features of its window NaN.
                raise SampleError(
                    f"the audio of {_name(sample)} holds NaN or infinite values; repair the clip, "
                    "or leave it out"
                )
            made = extractor(some, sampling_rate=extractor.sampling_rate, return_tensors="np")
            part = np.asarray(made[FEATURES])
            if features is None:
                features = np.empty((len(windows), *part.shape[1:]), self.dtype)
            features[first : first + len(some)] = part
        assert features is not None, "there is always a window"
        return features if self.long == "chunk" else features[0]

    def _labels(self, text: object) -> np.ndarray:
        if not isinstance(text, str):
            raise SampleError(f"{TEXT} is {type(text).__name__}, expected str")
        labels = np.asarray(self.tokenizer(text).input_ids, np.int64)
        if len(labels) > self.max_label_tokens and self.long == "refuse":
            raise SampleError(
                f"the text {text[:40]!r}... gives {len(labels)} tokens, the model takes "
                f"{self.max_label_tokens} (max_label_tokens)"
            )
        return labels

    @cached_property
    def _extractor_digest(self) -> str:
        return _digest(self.feature_extractor.to_dict())

    @cached_property
    def _tokenizer_digest(self) -> str:
        tokenizer = self.tokenizer
        ends = [tokenizer.prefix_tokens, tokenizer.eos_token_id]
        return _digest([sorted(tokenizer.get_vocab().items()), ends])


class WhisperCollator:
    """Collate samples with features and labels into a batch for the trainers of transformers.

        Seq2SeqTrainer(
            model,
            train_dataset=dataset,
            data_collator=WhisperCollator(model.config.decoder_start_token_id),
            args=Seq2SeqTrainingArguments(remove_unused_columns=False, ...),
        )

    A batch has `input_features`, `(batch, 80, 3000)`, and, if the samples have them, `labels`,
    int64 `(batch, longest)`, padded with -100, which losses ignore. All other fields are dropped,
    because models do not accept them. Picklable.

    Args:
        decoder_start_token_id: Token to drop from the front of `labels`, because the model adds it
            when it shifts labels to make the decoder's input. None drops nothing.
        dtype: Dtype of the features in the batch, regardless of the stored dtype: a float type of
            NumPy.
        return_tensors: "pt" for torch tensors, "np" for NumPy arrays.
    """

    def __init__(
        self,
        decoder_start_token_id: int | None = None,
        *,
        dtype: str = "float32",
        return_tensors: Literal["pt", "np"] = "pt",
    ) -> None:
        if return_tensors not in ("pt", "np"):
            raise ValueError(f"return_tensors is {return_tensors!r}, expected 'pt' or 'np'")
        if not _is_float(dtype):
            raise ValueError(
                f"dtype is {dtype!r}, expected a float type of NumPy, such as 'float32'; a batch "
                "for a model in bfloat16 is converted later, by autocast or the training loop"
            )
        self.decoder_start_token_id = decoder_start_token_id
        self.dtype = dtype
        self.return_tensors = return_tensors

    def __call__(self, samples: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate samples into a batch.

        Raises:
            SampleError: when a sample lacks features, when only some samples have labels, or when
                a clip has several windows.
        """
        samples = list(samples)
        batch = {FEATURES: np.stack([self._features(sample) for sample in samples])}
        labelled = [sample for sample in samples if sample.get(LABELS) is not None]
        if labelled:
            if len(labelled) < len(samples):
                bare = next(sample for sample in samples if sample.get(LABELS) is None)
                raise SampleError(f"{_name(bare)} has no {LABELS!r}, others of its batch have")
            batch[LABELS] = _pad([self._labels(sample[LABELS]) for sample in samples])
        if self.return_tensors == "np":
            return batch
        from transformers import BatchFeature

        return dict(BatchFeature(batch, tensor_type="pt"))

    def _features(self, sample: Mapping[str, Any]) -> np.ndarray:
        if sample.get(FEATURES) is None:
            raise SampleError(
                f"{_name(sample)} has no {FEATURES!r}, only {', '.join(sample) or 'nothing'}; "
                "convert or read it with WhisperProcessor"
            )
        features = np.asarray(sample[FEATURES], self.dtype)
        if features.ndim == 3:
            if len(features) != 1:
                raise SampleError(
                    f"{_name(sample)} is made of {len(features)} windows, whose words nobody "
                    "knows apart; train on clips that fit one"
                )
            features = features[0]
        return features

    def _labels(self, labels: Any) -> np.ndarray:  # noqa: ANN401
        array = np.asarray(labels, np.int64)
        if len(array) and array[0] == self.decoder_start_token_id:
            array = array[1:]
        return array


def _rate(sample: Mapping[str, Any], given: Any) -> Any:  # noqa: ANN401
    """Return the sample rate in Hz of audio that is not encoded.

    Raises:
        SampleError: the rate is missing, or is not a number above 0.
    """
    rate = given or sample.get(SAMPLE_RATE)
    if rate is None:
        what = type(sample[AUDIO]).__name__
        raise SampleError(
            f"the audio of {_name(sample)} is of type {what}, which does not say its rate, and "
            f"{SAMPLE_RATE} is missing; give its rate in Hz, or read that field too (fields=)"
        )
    number = isinstance(rate, int | float | np.number) and not isinstance(rate, bool)
    if not number or not 0 < rate < np.inf:
        raise SampleError(f"{SAMPLE_RATE} of {_name(sample)} is {rate!r}, expected Hz above 0")
    return rate


def _is_float(dtype: str) -> bool:
    try:
        return np.dtype(dtype).kind == "f"
    except TypeError:
        return False


def _pad(rows: Sequence[np.ndarray]) -> np.ndarray:
    padded = np.full((len(rows), max(map(len, rows))), _IGNORED_LABEL, np.int64)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return padded


def _name(sample: Mapping[str, Any]) -> str:
    return f"sample {sample[KEY]!r}" if KEY in sample else "a sample"


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
