"""From a place in a dataset to the sample that training sees: read, decode, process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeAlias

import msgspec
import numpy as np

from audiomdb.audio import decode, resample
from audiomdb.audio.arrays import as_float, check_shape
from audiomdb.errors import ProcessingError
from audiomdb.processors.base import BaseProcessor, Processors
from audiomdb.sample import AUDIO, CHANNELS, FRAMES, KEY, SAMPLE_RATE, Sample
from audiomdb.shards import DatasetReader, ShardReader

__all__ = ["LoadOptions", "Processing", "SampleLoader", "held_bytes"]

Processing: TypeAlias = (
    BaseProcessor | Iterable[BaseProcessor] | Callable[[Sample], Mapping[str, Any]]
)
"""One or several processors, or any function from sample to sample."""

_FACTS = frozenset({SAMPLE_RATE, CHANNELS, FRAMES})


class LoadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a stored sample on its way out.

    Attributes:
        fields: Only these, and the key. None: all. Audio that is not among them is not touched.
        decode: Turn audio into a float32 array; False gives it as it is stored.
        sample_rate: Decoded audio is resampled to this rate in Hz. None keeps each clip's own.
        mono: Average the channels of decoded audio.
        processor: Applied to what comes out of that; its result takes the sample's place.
    """

    fields: Collection[str] | None = None
    decode: bool = True
    sample_rate: int | None = None
    mono: bool = False
    processor: Processing | None = None

    def __post_init__(self) -> None:
        if isinstance(self.fields, str):
            raise TypeError(f"fields is the text {self.fields!r}, expected a list of names")
        if self.sample_rate is not None and self.sample_rate <= 0:
            raise ValueError(f"sample_rate is {self.sample_rate}, expected Hz above 0")
        if not self.decode and (self.sample_rate is not None or self.mono):
            raise ValueError("sample_rate and mono change decoded audio; leave decode=True")


class SampleLoader:
    """Loads samples of one dataset. Threads share one.

    Samples own their memory: nothing in them is a view into a shard, all arrays are writable.
    Encoded audio goes from the shard's mapping into the decoder without being copied.
    """

    def __init__(self, reader: DatasetReader, options: LoadOptions) -> None:
        self._reader = reader
        self._options = options
        self._process = _function(options.processor, options.sample_rate)
        self._kept = None if options.fields is None else frozenset(options.fields)
        self._audio = self._kept is None or AUDIO in self._kept
        self._read = self._kept
        if self._kept is not None and options.decode and self._audio:
            self._read = self._kept | {SAMPLE_RATE, FRAMES}  # decoding needs them

    @property
    def only_copies(self) -> bool:
        """Whether nothing is decoded or processed: threads would wait for each other, mostly."""
        return self._process is None and not (self._options.decode and self._audio)

    def load(self, position: int) -> Sample:
        """Load the sample at a position.

        Raises:
            CorruptShardError: the shard is missing or damaged.
            CorruptRecordError: the record is damaged.
            AudioError: its audio cannot be decoded.
            Exception: whatever the processor raises, with a note that names shard and key.
        """
        shard, place = self._place(position)
        options = self._options
        if not options.decode:
            sample = shard.read(place, fields=self._read)
        else:
            sample = shard.read(place, fields=self._read, copy=False)
            self._decode(sample, shard)
            for name, value in sample.items():
                if type(value) in _VIEWING:
                    sample[name] = _owned(value)
        if self._process is None:
            return sample
        return self._processed(self._process, sample, shard)

    def weigh(self, position: int) -> int:
        """Bytes of stored payload that `load` will go through."""
        number, place = self._reader.locate(position)
        shard = self._reader.opened(number)
        if shard is None:  # opening it may take a download, and this is a guess anyway
            entry = self._reader.metadata.shards[number]
            return entry.bytes // entry.samples
        return int(shard.index.payload_bytes[place])

    def _place(self, position: int) -> tuple[ShardReader, int]:
        number, place = self._reader.locate(position)
        return self._reader.shard(number), place

    def _decode(self, sample: Sample, shard: ShardReader) -> None:
        audio = sample.get(AUDIO)
        rate: int | None
        if isinstance(audio, bytes | memoryview):
            audio, rate = decode(
                audio,
                sample_rate=self._options.sample_rate,
                mono=self._options.mono,
                frames=sample.get(FRAMES),
                name=f"{shard.directory}: sample {sample[KEY]!r}",
            )
        elif isinstance(audio, np.ndarray):
            audio, rate = self._from_array(audio, sample.get(SAMPLE_RATE))
        else:
            return
        sample[AUDIO] = audio
        sample[SAMPLE_RATE], sample[FRAMES] = rate, len(audio)
        sample[CHANNELS] = 1 if audio.ndim == 1 else audio.shape[1]
        if self._kept is not None:
            for name in _FACTS - self._kept:
                del sample[name]

    def _from_array(self, array: np.ndarray, rate: int | None) -> tuple[np.ndarray, int | None]:
        """An array that was stored as one, in the form that decoding gives."""
        wanted = self._options.sample_rate
        check_shape(array)
        audio = as_float(array)
        if audio.ndim == 2 and (self._options.mono or audio.shape[1] == 1):
            audio = audio.mean(axis=1, dtype=np.float32)
        if wanted is None or rate is None or wanted == rate:
            return audio, rate
        return resample(audio, rate, wanted), wanted

    def _processed(
        self, process: Callable[[Sample], Mapping[str, Any]], sample: Sample, shard: ShardReader
    ) -> Sample:
        key = sample[KEY]
        place = f"{shard.directory}: sample {key!r}"
        try:
            result = process(sample)
        except Exception as error:
            _note(error, f"while processing {place}")
            raise
        if not isinstance(result, Mapping):
            raise ProcessingError(
                f"{place}: the processor returned {type(result).__name__}, expected a dict"
            )
        return {KEY: key, **result}


def held_bytes(sample: Sample) -> int:
    """Bytes that a sample's large values hold."""
    total = 0
    for value in sample.values():
        if isinstance(value, bytes):
            total += len(value)
        else:
            # Arrays, and tensors of whatever library a processor uses.
            total += getattr(value, "nbytes", 0)
    return total


def _function(
    processor: Processing | None, sample_rate: int | None
) -> Callable[[Sample], Mapping[str, Any]] | None:
    if processor is None:
        return None
    if isinstance(processor, BaseProcessor | Iterable):
        return Processors(processor, sample_rate=sample_rate)
    if isinstance(processor, type) or not callable(processor):
        raise TypeError(
            f"processor is {processor!r}, expected an object of a subclass of BaseProcessor, "
            "several of them, or a function from sample to sample"
        )
    return processor


def _owned(value: Any) -> Any:  # noqa: ANN401
    """The same value without a view into a mapping."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, np.ndarray):
        return value if value.flags.writeable else value.copy()
    if isinstance(value, list):
        return [_owned(item) for item in value]
    if isinstance(value, dict):
        return {name: _owned(item) for name, item in value.items()}
    return value


_VIEWING = frozenset({memoryview, np.ndarray, list, dict})


def _note(error: BaseException, text: str) -> None:
    # Python 3.10 does not show notes, but keeping them there does no harm.
    if sys.version_info >= (3, 11):
        error.add_note(text)
    else:
        error.__notes__ = [*getattr(error, "__notes__", ()), text]
