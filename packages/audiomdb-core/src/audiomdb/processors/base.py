"""Processors, which turn a sample into the fields for training, at conversion or when reading."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from audiomdb.audio import AudioSource, decode, resample
from audiomdb.audio.arrays import array_rate, as_float, averaged, check_array
from audiomdb.checks import at_least_one, true_or_false
from audiomdb.errors import ProcessingError
from audiomdb.notes import add_note
from audiomdb.sample import AUDIO, SAMPLE_RATE, Sample, facts_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BaseProcessor", "Processors"]

_LONGEST_TEXT = 80
"""Characters of an attribute in `repr`; a longer one is shown as its digest."""

_at_hand: ContextVar[tuple[object, int | None]] = ContextVar("_at_hand", default=(None, None))
"""Audio of the sample being processed, and the `sample_rate` in Hz that `process` gets with it."""


class BaseProcessor(ABC):
    """Base class of processors, which are applied to every sample.

        class Loudness(BaseProcessor):
            def process(self, sample, **kwargs):
                audio = self.load_array(sample["audio"], 16000)
                return {"loudness": float((audio**2).mean())}

    One object serves conversion (`processor=` of a converter) and reading. Conversion with several
    workers sends a copy to each of them: attributes must be picklable, and changes that `process`
    makes to `self` stay in the worker.

    Args:
        keep_original: Store the sample's own fields with those that `process` returns.
    """

    keep_original: bool = False

    def __init__(self, keep_original: bool = False) -> None:
        self.keep_original = true_or_false("keep_original", keep_original)

    @abstractmethod
    def process(self, sample: Sample, **kwargs: Any) -> Mapping[str, Any]:  # noqa: ANN401
        """Make fields from one sample.

        The result must depend on sample and options alone, so that a resumed conversion gives the
        same dataset. May be called from several threads.

        Args:
            sample: A copy of the sample's dict; its values are shared, so do not change them in
                place. `audio` is encoded bytes or an array. While reading, `__seed__` is a whole
                number of 64 bits for whatever is random: it depends only on the stream's seed, the
                epoch, the sample, and how often it came before; each of a `Chain` has its own. At
                conversion there is none.
            kwargs: `sample_rate` in Hz: the array's rate if `audio` is an array, else the rate that
                the caller set, if any. Never None.

        Returns:
            The fields to store. They need not include those of `sample`: `keep_original` adds them.
            If the sample's audio is kept, so are its `sample_rate`, `channels`, `frames` and
            `duration`, whatever is returned beside it.
        """

    def load_array(
        self,
        audio: AudioSource | np.ndarray,
        sample_rate: int,
        *,
        mono: bool = True,
        from_rate: int | None = None,
    ) -> NDArray[np.float32]:
        """Convert audio of any form to a new array.

        Args:
            audio: Encoded bytes, the path of a file, or an array `(frames,)` or
                `(frames, channels)`. Integers of up to 32 bits are scaled to [-1, 1).
            sample_rate: Rate of the result in Hz.
            mono: Average the channels.
            from_rate: Rate of `audio` in Hz if it is an array. By default, the rate is known for
                the array that `process` got as the sample's `audio`, and assumed to be
                `sample_rate` for any other. Encoded audio has its own rate.

        Returns:
            Writable float32 `(frames,)`; with `mono=False`, `(frames, channels)`.

        Raises:
            AudioError: when the audio cannot be decoded.
            SampleError: when an array has another shape or type.
        """
        if isinstance(audio, bytes | bytearray | memoryview | str | os.PathLike):
            array, from_rate = decode(audio, mono=mono)
        else:
            if from_rate is None:
                from_rate = _rate_of(audio)
            array = np.asarray(audio)
            check_array(array)
            array = as_float(array)
            if mono:
                array = averaged(array)
        if from_rate is not None and from_rate != sample_rate:
            array = resample(array, from_rate, sample_rate)
        return array if mono or array.ndim == 2 else array[:, np.newaxis]

    def __repr__(self) -> str:
        """Show the class and its plain public attributes, in the same way in every process.

        Metadata names the processor by this text, and a resumed conversion compares it: an option
        that is private, or not a plain value, is not compared unless this is overridden.
        """
        shown = (
            f"{name}={text}"
            for name, value in sorted(vars(self).items())
            if not name.startswith("_") and (text := _plain(value)) is not None
        )
        return f"{type(self).__name__}({', '.join(shown)})"


class Processors:
    """One or several processors as one function from sample to sample; picklable.

    Each processor sees the original sample, and their results are merged. The original's fields
    stay if any of them has `keep_original`. Two may write the same field only if their values
    agree.

        prepare = Processors([Loudness(), Tokens()])
        fields = prepare(dataset["clip-0"])

    Args:
        processors: One processor, or several.
        sample_rate: Passed on to `process`, in Hz; if audio is an array, its own rate takes
            precedence.

    Raises:
        TypeError: for anything that is not a `BaseProcessor`.
        ValueError: for no processors, or when `sample_rate` is not a whole number above 0.
    """

    def __init__(
        self,
        processors: BaseProcessor | Iterable[BaseProcessor],
        *,
        sample_rate: int | None = None,
    ) -> None:
        given: tuple[Any, ...]
        if isinstance(processors, BaseProcessor) or not isinstance(processors, Iterable):
            given = (processors,)
        else:
            given = tuple(processors)
        for processor in given:
            if not isinstance(processor, BaseProcessor):
                found = f"the class {processor.__name__}" if isinstance(processor, type) else None
                raise TypeError(
                    "a processor has to be an instance of a subclass of BaseProcessor, not "
                    f"{found or type(processor).__name__}"
                )
        if not given:
            raise ValueError("processor is empty: nothing of a sample would be left; leave it out")
        self.processors: tuple[BaseProcessor, ...] = given
        self.sample_rate = at_least_one("sample_rate", sample_rate)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the processors in metadata."""
        return tuple(map(repr, self.processors))

    def __call__(self, sample: Mapping[str, Any]) -> Sample:
        """Process one sample without changing it.

        Raises:
            ProcessingError: when a processor returns no dict, or two contradict each other.
            SampleError: when audio is an array and its rate is not a whole number above 0.
        """
        rate = self._rate(sample)
        merged: Sample = {}
        writers: dict[str, BaseProcessor] = {}
        for processor in self.processors:
            for field, value in self._results(processor, sample, rate).items():
                if field in sample and value is sample[field]:
                    merged.setdefault(field, value)  # passed through, not written
                elif field not in writers or _same(merged[field], value):
                    merged[field] = value
                    writers.setdefault(field, processor)
                else:
                    raise ProcessingError(
                        f"{writers[field]!r} and {processor!r} both write the field {field!r}, "
                        "with different values"
                    )
        if any(processor.keep_original for processor in self.processors):
            merged = {**sample, **merged}
        if merged.get(AUDIO) is sample.get(AUDIO) is not None:
            # A rate that a processor returns is that of its features, not of the clip beside them.
            merged |= facts_of(sample)
        return merged

    def __repr__(self) -> str:
        rate = "" if self.sample_rate is None else f", sample_rate={self.sample_rate}"
        return f"Processors([{', '.join(self.names)}]{rate})"

    def _rate(self, sample: Mapping[str, Any]) -> dict[str, int]:
        rate = self.sample_rate
        own = sample.get(SAMPLE_RATE)
        if own is not None and hasattr(sample.get(AUDIO), "__array__"):
            rate = array_rate(own)
        return {} if rate is None else {SAMPLE_RATE: rate}

    def _results(
        self, processor: BaseProcessor, sample: Mapping[str, Any], rate: Mapping[str, int]
    ) -> Mapping[str, Any]:
        at_hand = _at_hand.set((sample.get(AUDIO), rate.get(SAMPLE_RATE)))
        try:
            result = processor.process(dict(sample), **rate)
        except Exception as error:
            if len(self.processors) > 1:
                add_note(error, f"in {processor!r}")
            raise
        finally:
            _at_hand.reset(at_hand)
        if not isinstance(result, Mapping):
            raise ProcessingError(
                f"{processor!r} returned {type(result).__name__}, expected a dict of fields"
            )
        return result


def _rate_of(audio: object) -> int | None:
    """Return the rate in Hz of the array being processed, or None for any other array."""
    array, rate = _at_hand.get()
    return rate if audio is array else None


def _plain(value: Any) -> str | None:  # noqa: ANN401
    """Return a text for a value, the same in every process, or None if there is none."""
    text = _text(value)
    if text is None or len(text) <= _LONGEST_TEXT:
        return text
    import hashlib

    return f"<{type(value).__name__} {hashlib.sha256(text.encode()).hexdigest()[:12]}>"


def _text(value: Any) -> str | None:  # noqa: ANN401
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str | bytes | BaseProcessor):
        return repr(value)
    if isinstance(value, PurePath):
        return repr(str(value))
    parts: Sequence[str | None]
    if isinstance(value, Mapping):
        parts = [part for pair in value.items() for part in map(_text, pair)]
    elif isinstance(value, list | tuple):
        parts = [_text(item) for item in value]
    elif isinstance(value, set | frozenset):
        parts = sorted(_text(item) or "" for item in value)
    else:
        return None
    if not all(parts):
        return None
    return f"{type(value).__name__}({', '.join(part or '' for part in parts)})"


def _same(a: Any, b: Any) -> bool:  # noqa: ANN401
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if hasattr(a, "__array__"):
        a, b = np.asarray(a), np.asarray(b)
        return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())
    return bool(a == b)
