"""Determine the facts of a sample's audio from the audio itself, before the sample is stored.

Sources often give a wrong sample rate or duration. The audio itself takes precedence: the fields
`sample_rate`, `channels`, `frames` and `duration` of a stored sample are facts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np

from audiomdb.audio import AudioInfo, check, decode, probe, resample
from audiomdb.audio.arrays import array_rate, as_array, as_float, averaged, check_array
from audiomdb.audio.cutting import Cutters
from audiomdb.audio.encoding import check_rate, encode
from audiomdb.audio.source import read_file
from audiomdb.audio.window import AudioWindow
from audiomdb.checks import at_least_one, true_or_false
from audiomdb.errors import AudioError, SampleError, SourceError
from audiomdb.quantities import counted
from audiomdb.sample import AUDIO, CHANNELS, DURATION, FRAMES, KEY, SAMPLE_RATE, TEXT, Sample

__all__ = [
    "AudioOptions",
    "Contradiction",
    "Description",
    "describe",
    "disk_error",
    "row_of",
    "source_file",
    "source_name",
]

_DURATION_TOLERANCE_S = 0.05
"""Manifests round durations; a difference over this and over 1 % contradicts the audio."""

_MOST_MISSING_S = 0.25
"""By how much a window may reach past the end of its audio, and is stored shorter.

Ends are rounded, and that of an MP3 often counts what its encoder put around the audio: up to 2257
frames, 0.14 s at 16 kHz. A window that reaches further belongs to another recording."""

_DEFAULT_FORMAT = "flac"

_COMMON_RATE = 16_000
"""Hz. All formats support this rate: a refusal at it concerns the format itself."""

_FLOATS = frozenset(("FLOAT", "DOUBLE"))
"""Subtypes whose samples may be NaN."""

_SAME_CONTAINER = {"RF64": "WAV", "WAVEX": "WAV"}
"""WAV variants that libsndfile distinguishes: many recorders write 24 bits as WAVEX."""


class AudioOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a sample's audio is checked and stored.

    Attributes:
        check_audio: "decode": every clip is decoded once, so that damage is found now and `frames`
            is exact. "header": the header is trusted, unless it gives no number of frames.
        audio_format: Store all audio in this format ("flac", "wav", "opus", "vorbis", "mp3").
            None keeps bytes and arrays unchanged.
        sample_rate: Store all audio at this rate in Hz.
        mono: Store all audio with one channel, the mean of its channels.

    A clip that has another rate, or more channels, is stored as `audio_format` once it is changed;
    if that is None, as FLAC, or as a float32 array if it came as an array.
    """

    check_audio: Literal["decode", "header"] = "decode"
    audio_format: str | None = None
    sample_rate: int | None = None
    mono: bool = False

    def __post_init__(self) -> None:
        if self.check_audio not in ("decode", "header"):
            raise ValueError(f"check_audio is {self.check_audio!r}, expected 'decode' or 'header'")
        rate = at_least_one("sample_rate", self.sample_rate)
        msgspec.structs.force_setattr(self, "sample_rate", rate)
        msgspec.structs.force_setattr(self, "mono", true_or_false("mono", self.mono))
        if rate is not None:
            check_rate(self.audio_format or _DEFAULT_FORMAT, rate)
        elif self.audio_format is not None:
            check_rate(self.audio_format, _COMMON_RATE)


_AS_IT_IS = AudioOptions()

_PLAIN = frozenset((bool, int, float, str))

_PATHS = (str, os.PathLike)

_NO_COLUMN = frozenset((KEY, TEXT))
"""Fields without an index column: the index holds all keys anyway, and only the length of text."""


class Contradiction(msgspec.Struct, frozen=True):
    """A field whose value in the source is not what the audio says.

    Attributes:
        field: Name of the field.
        claimed: What the source says, as a Python scalar; the name of its type if it is none.
        found: What the audio says.
    """

    field: str
    claimed: bool | int | float | str
    found: int | float

    def __str__(self) -> str:
        return f"has {self.field} {self.found:.6g}, while the source says {self.claimed!r:.40}"


class Description(msgspec.Struct, frozen=True):
    """A sample whose audio was read and described.

    Attributes:
        sample: The sample to store.
        row: Values of its index columns: audio facts, sizes, and the user's scalars.
        contradictions: What the source was wrong about.
        finite: False if NaN or infinite audio samples were found; "header" checks do not look.
    """

    sample: Sample
    row: Mapping[str, Any]
    contradictions: tuple[Contradiction, ...]
    finite: bool


def source_name(sample: Mapping[str, Any]) -> str | None:
    """Return the file that a sample's audio comes from, if the audio is a path or a window."""
    audio = sample.get(AUDIO)
    if type(audio) is bytes:  # asking for the other types costs a small clip several per cent
        return None
    if isinstance(audio, AudioWindow):
        return str(audio)
    return os.fspath(audio) if isinstance(audio, _PATHS) else None


def source_file(sample: Mapping[str, Any]) -> str | None:
    """Return the path of that file."""
    audio = sample.get(AUDIO)
    return os.fspath(audio.path) if isinstance(audio, AudioWindow) else source_name(sample)


def disk_error(name: str, error: OSError) -> SourceError:
    """Return the error for a clip that cannot be read for a reason unrelated to it."""
    return SourceError(
        f"{name}: {error.strerror}. This says nothing about the clip; run the same conversion "
        "again once the disk is well"
    )


def describe(
    key: str, sample: Mapping[str, Any], options: AudioOptions, cutters: Cutters
) -> Description:
    """Read, check and, if requested, convert a sample's audio, and add the facts as fields.

    Thread-safe.

    Args:
        key: Key of the sample, for error messages.
        sample: The sample as the source gave it.
        options: How its audio is checked and stored.
        cutters: Keeps the files of windows open between samples.

    Raises:
        AudioError: when the audio cannot be used; names its file, or the key.
        SampleError: when the audio has the wrong type or shape.
        SourceError: when reading a file fails for a reason unrelated to the file.
    """
    out = dict(sample)
    wrong: tuple[Contradiction, ...] = ()
    finite = True
    if out.get(AUDIO) is not None:
        source = source_name(sample)
        name = f"{source} (sample {key!r})" if source else f"sample {key!r}"
        try:
            out[AUDIO], info, came = _audio(name, out, options, cutters)
        except OSError as exc:
            # Not an error of the clip: rejected because of it, the clip would be missing for ever.
            raise disk_error(name, exc) from exc
        finite = options.check_audio != "decode" or _is_finite(out[AUDIO], info)
        wrong = _contradictions(sample, came, info.duration)
        out[SAMPLE_RATE], out[CHANNELS] = info.sample_rate, info.channels
        out[FRAMES], out[DURATION] = info.frames, info.duration
    return Description(out, row_of(out), wrong, finite)


def _audio(
    name: str, sample: Sample, options: AudioOptions, cutters: Cutters
) -> tuple[Any, AudioInfo, AudioInfo]:
    """Return the audio to store, its facts, and the facts of the audio as it came."""
    audio = sample[AUDIO]
    if hasattr(audio, "__array__"):
        array, rate = _array(name, sample)
        return _stored(name, array, rate, options, options.audio_format)
    audio_format = options.audio_format or _DEFAULT_FORMAT
    if isinstance(audio, AudioWindow):
        if not _is_whole(audio, cutters, name):
            array, rate = _cut(audio, cutters, name)
            return _stored(name, array, rate, options, audio_format)
        audio = audio.path
    data = _read(audio, name)
    if options == _AS_IT_IS:  # `probe` below would read the header a second time
        info = check(data, name=name)
        return data, info, info
    info = probe(data, name=name)
    if _must_convert(info, options):
        array, rate = decode(data, name=name)
        return _stored(name, array, rate, options, audio_format)
    if options.check_audio == "decode" or info.frames is None:
        info = check(data, name=name)
    return data, info, info


def _is_whole(window: AudioWindow, cutters: Cutters, name: str) -> bool:
    """Whether a window is all of its file, whose bytes can then be stored as they are.

    It is cut out nevertheless if the file has to be decoded to find that out.
    """
    if window.offset > 0 or not _has_all_channels(window, cutters, name):
        return False
    if window.duration is None:
        return True
    seconds = cutters.seconds(window.path, name=name)
    if seconds is None:
        return False
    left_out = seconds - window.duration
    # Little of a short clip may be much of its speech.
    return -_MOST_MISSING_S <= left_out <= min(_DURATION_TOLERANCE_S, 0.01 * seconds)


def _has_all_channels(window: AudioWindow, cutters: Cutters, name: str) -> bool:
    if window.channel is None:
        return True
    return window.channel == 0 and cutters.channels(window.path, name=name) == 1


def _cut(window: AudioWindow, cutters: Cutters, name: str) -> tuple[np.ndarray, int]:
    """Decode a window; return its audio and the rate in Hz.

    Raises:
        AudioError: when the audio ends well before the window does, or has no such channel.
    """
    array, rate = cutters.cut(window.path, window.offset, window.duration, name=name)
    if window.channel is not None:
        array = _one_channel(array, window.channel, name)
    seconds = len(array) / rate
    if window.duration is not None and window.duration - seconds > _MOST_MISSING_S:
        raise AudioError(
            f"{name}: the audio ends at {window.offset + seconds:.3f} s; a window may reach past "
            f"that by {_MOST_MISSING_S} s, because ends are rounded"
        )
    return array, rate


def _one_channel(array: np.ndarray, channel: int, name: str) -> np.ndarray:
    columns = array[:, None] if array.ndim == 1 else array
    if channel >= columns.shape[1]:
        there = counted(columns.shape[1], "channel")
        raise AudioError(f"{name}: the file has {there}, counted from 0")
    return np.ascontiguousarray(columns[:, channel])


def _read(audio: Any, name: str) -> bytes | bytearray | memoryview:  # noqa: ANN401
    if isinstance(audio, bytes | bytearray | memoryview):
        return audio
    if not isinstance(audio, str | os.PathLike):
        raise SampleError(
            f"{name}: audio of type {type(audio).__name__}; give encoded bytes, a path, or an "
            "array (frames,) or (frames, channels)"
        )
    return read_file(audio, name=name)


def _array(name: str, sample: Sample) -> tuple[np.ndarray, int]:
    """Return a sample's audio as an array, and its rate in Hz."""
    audio = sample[AUDIO]
    if isinstance(audio, np.ma.MaskedArray):
        raise SampleError(f"{name}: audio is a masked array; fill what is masked, or cut it out")
    try:
        array = as_array(audio)
        check_array(array)
        return array, array_rate(sample.get(SAMPLE_RATE))
    except (AudioError, SampleError) as exc:
        raise SampleError(f"{name}: {exc}") from exc.__cause__


def _stored(
    name: str, array: np.ndarray, rate: int, options: AudioOptions, audio_format: str | None
) -> tuple[Any, AudioInfo, AudioInfo]:
    """Convert and encode an array as requested; return the audio, its new and its old facts."""
    came = _array_info(array, rate)
    wanted_rate = options.sample_rate
    try:
        if options.mono and came.channels > 1:
            array = averaged(as_float(array))
        if wanted_rate is not None and wanted_rate != rate:
            array, rate = resample(as_float(array), rate, wanted_rate), wanted_rate
        if audio_format is None:
            return array, _array_info(array, rate), came
        if array.dtype != np.int16 and array.dtype.kind != "f":
            array = as_float(array)
        data = encode(array, rate, audio_format)
    except (AudioError, SampleError) as exc:
        raise type(exc)(f"{name}: {exc}") from exc
    return data, check(data, name=name), came


def _array_info(array: np.ndarray, rate: int) -> AudioInfo:
    channels = 1 if array.ndim == 1 else array.shape[1]
    return AudioInfo("ARRAY", str(array.dtype), rate, channels, len(array))


def _is_finite(audio: Any, info: AudioInfo) -> bool:  # noqa: ANN401
    """Whether no audio sample is NaN or infinite, which only floats can be."""
    if info.container != "ARRAY":
        if info.subtype not in _FLOATS:
            return True
        audio, _ = decode(audio)
    return audio.dtype.kind != "f" or bool(np.isfinite(audio).all())


def _must_convert(info: AudioInfo, options: AudioOptions) -> bool:
    if options.sample_rate is not None and info.sample_rate != options.sample_rate:
        return True
    if options.mono and info.channels > 1:
        return True
    wanted = options.audio_format
    container = _SAME_CONTAINER.get(info.container, info.container)
    return wanted is not None and wanted.upper() not in (container, info.subtype)


def _contradictions(
    sample: Mapping[str, Any], came: AudioInfo, duration: float | None
) -> tuple[Contradiction, ...]:
    found = []
    for field, truth in ((SAMPLE_RATE, came.sample_rate), (CHANNELS, came.channels)):
        if sample.get(field) is not None and (claimed := _claim(sample, field)) != truth:
            found.append(Contradiction(field, claimed, truth))
    claimed = _claim(sample, DURATION)
    if duration is not None and isinstance(claimed, int | float):
        tolerance = max(_DURATION_TOLERANCE_S, 0.01 * duration)
        # Compared, not subtracted: an integer may be larger than any float.
        if not duration - tolerance <= claimed <= duration + tolerance:
            found.append(Contradiction(DURATION, claimed, duration))
    return tuple(found)


def _claim(sample: Mapping[str, Any], field: str) -> bool | int | float | str:
    """Return what the source says, as a Python scalar, also of an array or tensor without axes."""
    value: Any = sample.get(field)
    scalar = _scalar(value.item() if getattr(value, "ndim", None) == 0 else value)
    return type(value).__name__ if scalar is None else scalar


def row_of(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a sample's index columns: its scalars, and sizes of audio and text."""
    row = {}
    for name, value in sample.items():
        if name not in _NO_COLUMN:
            plain = value if type(value) in _PLAIN else _scalar(value)
            if plain is not None and _fits(name) and (type(plain) is not str or _fits(plain)):
                row[name] = plain
    audio = sample.get(AUDIO)
    if audio is not None:
        row["audio_bytes"] = audio.nbytes if hasattr(audio, "nbytes") else len(audio)
    text = sample.get(TEXT)
    if isinstance(text, str):
        row["text_length"] = len(text)
    return row


def _scalar(value: Any) -> bool | int | float | str | None:  # noqa: ANN401
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    return float(value) if isinstance(value, float) else None


def _fits(text: object) -> bool:
    """Whether it is text with a UTF-8 form. A processor may leave out what cannot be stored."""
    if not isinstance(text, str):
        return False
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False
