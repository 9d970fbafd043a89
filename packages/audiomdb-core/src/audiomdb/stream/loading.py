"""Load a sample of a dataset for training: read, crop, decode and process it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from threading import get_ident
from time import perf_counter
from typing import Any

import numpy as np

from audiomdb.audio import decode, probe, resample
from audiomdb.audio.arrays import as_float, believed_bytes, check_array, placed, recorded
from audiomdb.causes import is_of_the_environment
from audiomdb.errors import (
    AudioError,
    CorruptRecordError,
    ProcessingError,
    SampleError,
)
from audiomdb.notes import add_note
from audiomdb.plan.bits import Purpose
from audiomdb.sample import AUDIO, CHANNELS, FRAMES, KEY, SAMPLE_RATE, SEED, Sample
from audiomdb.shards import DatasetReader, ShardReader
from audiomdb.shards.columns import Column
from audiomdb.shards.packing import MAX_DEPTH
from audiomdb.stream.crops import CROP_OFFSET, CROP_SECONDS, Crop
from audiomdb.stream.draws import Draw, word_of
from audiomdb.stream.load_options import LoadOptions
from audiomdb.stream.memory import ReusedMemory
from audiomdb.stream.skipping import LeftOut, Skipping
from audiomdb.stream.watch import Watch

__all__ = ["SampleLoader", "held_bytes"]

_APART_BYTES = range(16 << 10, 16 << 20)
"""Encoded audio of a size in this range is read into memory; otherwise it is mapped.

Memory that was read into is freed after decoding, and reading takes less time than mapping and
unmapping as much. The pages of smaller payloads are mapped together with those of their neighbours;
larger payloads would take too much memory."""

_MAPPED_BYTES = 16 << 20
"""Bytes of encoded audio that may stay mapped after decoding.

Without this limit, the whole dataset would eventually count as memory of the process, both in its
own statistics and against any limit set on it. To map 16 MB from the page cache again takes 1.5 ms;
to decode them takes 150 ms."""

_REUSED_FRAMES = range(16 << 10, 16 << 20)
"""Clips with a number of frames in this range are decoded into memory that is reused.

The C library itself reuses the memory of smaller arrays. For larger ones, decoding takes long
anyway, and keeping them would take too much memory."""

_PIECES = 128
"""Number of such pieces of memory. Threads look ahead by fewer clips of such a size."""

_FLOAT_BYTES = 4

_FACTS = frozenset({SAMPLE_RATE, CHANNELS, FRAMES})

_ADDED = _FACTS | {KEY, CROP_OFFSET, CROP_SECONDS}
"""Fields that a loaded sample may have, whatever is stored."""


class SampleLoader:
    """Loads samples of one dataset. Thread-safe.

    Samples own their memory: nothing in them is a view into a shard, and all arrays are writable.
    Encoded audio is passed directly from the shard's file to the decoder.

    Args:
        reader: Reader of the dataset.
        options: How samples are loaded.
        watch: Records what each thread does.
        seed: Seed of the stream, from which those of the samples are drawn.
        first: Position of the dataset's first sample among all datasets of the stream.
    """

    def __init__(
        self,
        reader: DatasetReader,
        options: LoadOptions,
        watch: Watch | None = None,
        *,
        seed: int = 0,
        first: int = 0,
    ) -> None:
        self._seed = seed
        self._first = first
        self._reader = reader
        self._options = options
        self._watch = Watch() if watch is None else watch
        self._process = options.function()
        self._skipping = Skipping() if options.on_error == "skip" else None
        self._kept = None if options.fields is None else frozenset(options.fields)
        if self._kept is not None:
            joined = () if options.join is None else options.join.columns
            reader.metadata.check_fields(self._kept.difference(joined), _ADDED)
        self._audio = self._kept is None or AUDIO in self._kept
        self._read = self._kept
        self._unwanted = frozenset[str]()
        if self._kept is not None and options.decode and self._audio:
            self._read = self._kept | {SAMPLE_RATE, FRAMES}  # decoding needs them
            self._unwanted = _FACTS - self._kept
        self._decodes, self._crop, self._join = options.decode, options.crop, options.join
        self._length_is_known = (
            options.decode and self._audio and self._crop is None and self._process is None
        )
        self._memory = ReusedMemory(pieces=_PIECES)
        # Threads update both without a lock: missing one clip does not matter.
        self._mapped_of = set[int]()
        self._mapped_bytes = 0
        # Recording what a thread does would take longer than copying a sample.
        self._marks = None if self.only_copies else self._watch.activities

    @property
    def skips(self) -> bool:
        """Whether samples that fail are left out."""
        return self._skipping is not None

    @property
    def only_copies(self) -> bool:
        """Whether nothing is decoded or processed, in which case threads would mostly wait."""
        return self._process is None and not (self._options.decode and self._audio)

    def load(
        self, position: int, epoch: int = 0, repeat: int = 0, out: np.ndarray | None = None
    ) -> Sample:
        """Load the sample at a position.

        Args:
            position: Position in stored order.
            epoch: Epoch, which determines the random window of a cropped clip, and the seed that a
                processor gets.
            repeat: How often the epoch read the sample before, which determines both, too.
            out: Array to decode into. Used only if its shape is that of the audio, and not for
                windows.

        Raises:
            CorruptShardError: the shard is missing or damaged.
            CorruptRecordError: the record is damaged.
            AudioError: the audio cannot be decoded.
            UnknownKeyError: the joined columns have no row for the sample.
            Exception: any exception of the processor, with a note that names shard and key.
        """
        draw = Draw(epoch, self._first + position, repeat)
        sample, shard = self._stored(position, out, draw)
        if self._process is None:
            return sample
        return self._processed(self._process, sample, shard, draw)

    def load_or_skip(
        self, position: int, epoch: int = 0, repeat: int = 0, out: np.ndarray | None = None
    ) -> Sample | LeftOut:
        """Load the sample at a position as `load` does; with `on_error="skip"`, leave it out.

        Raises:
            Exception: as `load`; with `on_error="skip"`, only if it is not about this sample.
        """
        skipping = self._skipping
        if skipping is None:
            return self.load(position, epoch, repeat, out)
        draw = Draw(epoch, self._first + position, repeat)
        try:
            sample, shard = self._stored(position, out, draw)
        except (AudioError, SampleError, CorruptRecordError) as error:
            return skipping.failed(error)
        if self._process is not None:
            try:
                sample = self._processed(self._process, sample, shard, draw)
            except Exception as error:
                if is_of_the_environment(error):
                    raise
                return skipping.failed(error)
        skipping.loaded()
        return sample

    def _stored(
        self, position: int, out: np.ndarray | None, draw: Draw
    ) -> tuple[Sample, ShardReader]:
        """Return a sample before it is processed, and its shard."""
        if self._marks is not None:
            activity = self._marks.get(get_ident()) or self._watch.activity()
            activity.at = self._reader, position
        number, place = self._reader.locate(position)
        shard = self._reader.opened(number)
        if shard is None:
            shard = self._open(number)
        if not self._decodes:
            sample = shard.read(place, fields=self._read)
        else:
            size = shard.index.payload_bytes[place]
            apart = self._crop is None and self._audio and size in _APART_BYTES
            # A clip that is taken whole is verified later. For a window, the codec checks the part
            # that it decodes; the payload's checksum would require reading all of it.
            verify = self._crop is None
            sample = shard.read(place, fields=self._read, copy=False, verify=verify, apart=apart)
            try:
                if self._crop is None:
                    if out is None and apart:
                        out = self._room(sample, shard, place)
                    self._decode(sample, shard, out)
                else:
                    self._decode_window(self._crop, sample, shard, place, draw)
                _own(sample)
            except (AudioError, SampleError, RecursionError) as error:
                _add_place(error, _name(sample, shard))
                raise
            for name in self._unwanted:
                sample.pop(name, None)
            if not apart:
                self._mapped_of.add(number)
                self._mapped_bytes += size
                if self._mapped_bytes >= _MAPPED_BYTES:
                    self._release_pages()
        if self._join is not None:
            self._join.add_to(sample, str(shard.directory), among=len(self._reader))
        return sample, shard

    def length(self, position: int) -> int | None:
        """Return the frames that a clip of one channel will have; None if unknown before decoding.

        Does not wait for a shard to be downloaded: the result is then None.
        """
        if not self._length_is_known:
            return None
        number, place = self._reader.locate(position)
        shard = self._reader.opened(number)
        if shard is None:
            if self._reader.follows:
                return None
            shard = self._reader.shard(number)
        return self._frames(shard, place)

    def _frames(self, shard: ShardReader, place: int) -> int | None:
        columns, options = shard.index.columns, self._options
        frames = _whole(columns.get(FRAMES), place)
        believed = believed_bytes(shard.index.payload_bytes[place])
        if frames is None or not 0 <= frames * _FLOAT_BYTES <= believed:
            return None
        if not options.mono and _whole(columns.get(CHANNELS), place) != 1:
            return None
        rate = options.sample_rate
        return frames if rate is None or rate == _whole(columns.get(SAMPLE_RATE), place) else None

    def weigh(self, position: int) -> int:
        """Return the size in bytes of the stored payload that `load` will process."""
        number, place = self._reader.locate(position)
        shard = self._reader.opened(number)
        if shard is None:  # opening it may require a download, and an estimate suffices
            entry = self._reader.metadata.shards[number]
            return entry.bytes // entry.samples
        return int(shard.index.payload_bytes[place])

    def _room(self, sample: Sample, shard: ShardReader, place: int) -> np.ndarray | None:
        """Return memory for decoding a clip, or None if its length is unknown or out of range."""
        if type(sample.get(AUDIO)) is not memoryview:
            return None
        frames = self._frames(shard, place)
        if frames is None or frames not in _REUSED_FRAMES:
            return None
        return self._memory((frames,))

    def _release_pages(self) -> None:
        self._mapped_bytes = 0
        numbers, self._mapped_of = self._mapped_of, set()
        # A copy, made atomically: another thread may still be adding.
        for number in tuple(numbers):
            if (shard := self._reader.opened(number)) is not None:
                shard.release_pages()

    def _open(self, number: int) -> ShardReader:
        return self._watch.fetch(self._reader, number, partial(self._reader.shard, number))

    def _decode(self, sample: Sample, shard: ShardReader, out: np.ndarray | None = None) -> None:
        audio = sample.get(AUDIO)
        rate: int | None
        if isinstance(audio, bytes | memoryview):
            audio, rate = decode(
                audio,
                sample_rate=self._options.sample_rate,
                mono=self._options.mono,
                frames=recorded(sample, FRAMES, low=0),
                out=out,
                name=_name(sample, shard),
            )
        elif isinstance(audio, np.ndarray):
            audio, rate = self._from_array(audio, recorded(sample, SAMPLE_RATE, low=1))
            audio = placed(audio, out)
        else:
            return
        self._put(sample, audio, rate)

    def _decode_window(
        self,
        crop: Crop,
        sample: Sample,
        shard: ShardReader,
        place: int,
        draw: Draw,
    ) -> None:
        audio: Any = sample.get(AUDIO)
        encoded = isinstance(audio, bytes | memoryview)
        if not encoded and not isinstance(audio, np.ndarray):
            return
        name = _name(sample, shard)
        frames, rate = _length(sample, encoded, name)
        span = crop.span(draw, frames, rate)
        if span.whole:
            sample[AUDIO] = shard.read(place, fields={AUDIO}, copy=False)[AUDIO]  # verifies it
            self._decode(sample, shard)
        elif encoded:
            window, to_rate = decode(
                audio,
                sample_rate=self._options.sample_rate,
                mono=self._options.mono,
                offset=span.start / rate,
                duration=span.frames / rate,
                name=name,
            )
            self._put(sample, window, to_rate)
        else:
            window = audio[span.start : span.start + span.frames]
            self._put(sample, *self._from_array(window, rate))
        to_rate = self._options.sample_rate or rate
        sample[AUDIO] = crop.fitted(sample[AUDIO], to_rate, short=span.whole)
        sample[FRAMES] = len(sample[AUDIO])
        sample[CROP_OFFSET] = span.start / rate
        sample[CROP_SECONDS] = span.frames / rate

    def _put(self, sample: Sample, audio: np.ndarray, rate: int | None) -> None:
        sample[AUDIO] = audio
        sample[SAMPLE_RATE], sample[FRAMES] = rate, len(audio)
        sample[CHANNELS] = 1 if audio.ndim == 1 else audio.shape[1]

    def _from_array(self, array: np.ndarray, rate: int | None) -> tuple[np.ndarray, int | None]:
        """Convert audio stored as an array to the form that decoding gives."""
        wanted = self._options.sample_rate
        check_array(array)
        audio = as_float(array)
        if audio.ndim == 2 and (self._options.mono or audio.shape[1] == 1):
            audio = audio.mean(axis=1, dtype=np.float32)
        if wanted is None or rate is None or wanted == rate:
            return audio, rate
        return resample(audio, rate, wanted), wanted

    def _processed(
        self,
        process: Callable[[Sample], Mapping[str, Any]],
        sample: Sample,
        shard: ShardReader,
        draw: Draw,
    ) -> Sample:
        sample[SEED] = word_of(self._seed, Purpose.SAMPLE_SEED, draw)
        key = sample[KEY]
        place = _name(sample, shard)
        activity = self._watch.activity()
        activity.processing, began = True, perf_counter()
        try:
            result = process(sample)
        except Exception as error:
            add_note(error, f"while processing {place}")
            raise
        finally:
            activity.processing = False
            activity.process_s += perf_counter() - began
        if not isinstance(result, Mapping):
            raise ProcessingError(
                f"{place}: the processor returned {type(result).__name__}, expected a dict"
            )
        if result.get(KEY, key) != key:
            raise ProcessingError(
                f"{place}: the processor calls the sample {result[KEY]!r} in its field {KEY!r}, "
                "which is its key for good"
            )
        processed = {KEY: key, **result}
        processed.pop(SEED, None)  # of no use any more
        return processed


def _length(sample: Sample, encoded: bool, name: str) -> tuple[int, int]:
    """Return the frames of a stored clip, as counted at conversion, and its rate in Hz."""
    audio, rate = sample[AUDIO], recorded(sample, SAMPLE_RATE, low=1)
    frames = recorded(sample, FRAMES, low=0)
    if not encoded:
        frames = len(audio)
    elif rate is None or frames is None:
        info = probe(audio, name=name)
        rate, frames = info.sample_rate, info.frames
    if rate is None or frames is None:
        unknown = FRAMES if frames is None else SAMPLE_RATE
        raise AudioError(f"{name}: no window can be cut, because its {unknown} is not recorded")
    return frames, rate


def _whole(column: Column | None, place: int) -> int | None:
    """Return a value of an integer column; None without such a column, or if values are missing."""
    if not isinstance(column, np.ndarray) or column.dtype.kind not in "iu":
        return None
    return int(column[place])


def _name(sample: Sample, shard: ShardReader) -> str:
    return f"{shard.directory}: sample {sample[KEY]!r}"


def held_bytes(sample: Sample | LeftOut) -> int:
    """Return the size in bytes of a sample's large values."""
    total = 0
    if isinstance(sample, LeftOut):
        return total
    for value in sample.values():
        if isinstance(value, bytes):
            total += len(value)
        else:
            # Arrays, and tensors of any library that a processor uses.
            total += getattr(value, "nbytes", 0)
    return total


def _own(sample: Sample) -> None:
    """Replace the views in a sample by copies."""
    for name, value in sample.items():
        if type(value) in _VIEWING:
            sample[name] = _owned(value)


def _add_place(error: Exception, name: str) -> None:
    """Add a note with the name of a sample to an error that does not say it.

    Raises:
        CorruptRecordError: instead, when the sample is nested too deeply to be walked through.
    """
    if isinstance(error, RecursionError):
        raise CorruptRecordError(f"{name} nests too many containers") from error
    if name not in str(error):
        add_note(error, f"while decoding {name}")


def _owned(value: Any, depth: int = 1) -> Any:  # noqa: ANN401
    """Return a value without views into a mapping.

    Raises:
        RecursionError: it nests more containers than any writer stores; the code that batches and
            sends it to other processes would fail.
    """
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, np.ndarray):
        return value if value.flags.writeable else value.copy()
    if isinstance(value, list | dict) and depth > MAX_DEPTH:
        raise RecursionError
    if isinstance(value, list):
        return [_owned(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {name: _owned(item, depth + 1) for name, item in value.items()}
    return value


_VIEWING = frozenset({memoryview, np.ndarray, list, dict})
