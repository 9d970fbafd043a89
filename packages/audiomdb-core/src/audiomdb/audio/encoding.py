"""Encode an array to an audio file in memory, reproducibly byte for byte."""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import soundfile

from audiomdb.audio.arrays import as_array
from audiomdb.audio.handle import empty_handle
from audiomdb.audio.ogg import set_serial
from audiomdb.audio.sound_file import SoundFile
from audiomdb.errors import AudioError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["check_rate", "encode"]


class _Format(msgspec.Struct, frozen=True):
    container: str
    subtype: str
    integers: bool
    """Whether samples are stored as 16-bit integers; lossy encoders take float."""
    max_channels: int
    subwoofer: tuple[int, ...] = ()
    """Numbers of channels of which the encoder takes the last for a subwoofer's.

    Speech in it comes back at 2 dB above the error, in the other channels at 9 dB (Opus) or 14 dB
    (Vorbis)."""
    rates: tuple[int, ...] = ()
    """The only supported rates in Hz; empty if all rates up to `max_rate` are supported."""
    max_rate: int = 2**31 - 1
    """Highest supported rate in Hz; the default is libsndfile's limit."""
    max_odd_rate: int = 2**31 - 1
    """Rate in Hz above which only multiples of 10 Hz can be stored."""
    empty: bool = False
    """Whether a file without frames can be decoded again."""


_FORMATS = {
    "flac": _Format(
        "FLAC",
        "PCM_16",
        integers=True,
        max_channels=8,
        max_rate=655_350,
        max_odd_rate=65_535,
    ),
    "wav": _Format("WAV", "PCM_16", integers=True, max_channels=1024, empty=True),
    "opus": _Format(
        "OGG",
        "OPUS",
        integers=False,
        max_channels=8,
        subwoofer=(6, 7, 8),
        rates=(8000, 12000, 16000, 24000, 48000),
    ),
    # libvorbis refuses higher rates, and libsndfile 1.2.2 ignores that failure.
    "vorbis": _Format(
        "OGG",
        "VORBIS",
        integers=False,
        max_channels=8,
        subwoofer=(6,),
        max_rate=200_000,
        empty=True,
    ),
    "mp3": _Format(
        "MP3",
        "MPEG_LAYER_III",
        integers=False,
        max_channels=2,
        rates=(8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
    ),
}

_SERIAL = 0x42444D41
"""Serial number of every Ogg stream written; its bytes are `AMDB`."""

_USUAL_CHANNELS = 8
"""Most channels for which an array with more channels than frames is not taken as transposed."""

_LOUDEST = 1000.0
"""Largest float sample for lossy encoders, where full scale is 1.

At 30 times that, Opus and Vorbis store silence, and LAME may end the process (measured)."""

_BLOCK_FRAMES = 1 << 16
"""Frames passed to the encoder at a time; libvorbis overflows the stack on very long blocks."""


def encode(audio: ArrayLike, sample_rate: int, audio_format: str = "flac") -> bytes:
    """Encode an array as the bytes of an audio file.

    The same input gives the same bytes, as long as the library versions stay the same.

    `"flac"` and `"wav"` store 16-bit integers: float samples are multiplied by 32768, rounded to
    the nearest integer (ties to even) and clipped to [-1, 1), so that the decoded audio of a 16-bit
    file is stored unchanged. int16 arrays are stored as they are. `"opus"`, `"vorbis"` and `"mp3"`
    are lossy and use libsndfile's default quality. Opus with 6 to 8 channels and Vorbis with 6 are
    refused, because their encoders treat the last channel as a subwoofer's.

    Thread-safe; releases the GIL while encoding.

    Args:
        audio: `(frames,)` or `(frames, channels)`; float (full scale is 1) or int16. An array, or
            a tensor or list, from which NumPy makes one.
        sample_rate: rate in Hz; see `check_rate`.
        audio_format: `"flac"`, `"wav"`, `"opus"`, `"vorbis"` or `"mp3"`.

    Returns:
        The bytes of the file.

    Raises:
        AudioError: the format, dtype, shape or rate is not supported; samples are NaN or infinite,
            or beyond 1000 for a lossy format; there are no frames and the format cannot express
            that (FLAC, Opus, MP3); or the encoder fails.
    """
    target = _target(audio_format)
    check_rate(audio_format, sample_rate)
    array = as_array(audio)
    _check(array, audio_format, target)
    samples = _prepare(array, target)
    channels = 1 if array.ndim == 1 else array.shape[1]
    handle = empty_handle()
    try:
        with SoundFile(
            handle.target,
            "w",
            samplerate=sample_rate,
            channels=channels,
            format=target.container,
            subtype=target.subtype,
            closefd=False,
        ) as file:
            for start in range(0, len(samples), _BLOCK_FRAMES):
                file.write(samples[start : start + _BLOCK_FRAMES])
        stream = handle.contents()
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"libsndfile cannot write {channels} channels at {sample_rate} Hz as {audio_format}: "
            f"{error.error_string}"
        ) from error
    finally:
        handle.close()
    return set_serial(stream, _SERIAL) if target.container == "OGG" else stream


def check_rate(audio_format: str, sample_rate: int) -> None:
    """Require a sample rate that a format supports; needs no audio.

    Opus supports 8, 12, 16, 24 and 48 kHz, and MP3 nine rates up to 48 kHz. FLAC supports all rates
    up to 65535 Hz and multiples of 10 Hz up to 655350 Hz, Vorbis all rates up to 200 kHz, and WAV
    all rates that fit in 31 bits.

    Args:
        audio_format: a format, as for `encode`.
        sample_rate: rate in Hz.

    Raises:
        AudioError: the format does not support the rate, or is unknown, or the rate is no whole
            number; the message lists the legal rates and the closest ones.
    """
    target = _target(audio_format)
    try:
        closest = _closest(target, index(sample_rate))
    except TypeError:
        raise AudioError(f"sample_rate is {sample_rate!r}, expected a whole number of Hz") from None
    if sample_rate in closest:
        return
    if target.rates:
        legal = f"only at {', '.join(map(str, target.rates))} Hz"
    elif target.max_odd_rate < target.max_rate:
        legal = f"only at 1 to {target.max_odd_rate} Hz and multiples of 10 to {target.max_rate}"
    else:
        legal = f"only at 1 to {target.max_rate} Hz"
    verb = "is" if len(closest) == 1 else "are"
    raise AudioError(
        f"{audio_format} cannot be written at {sample_rate} Hz, {legal}; the closest {verb} "
        f"{' and '.join(map(str, closest))}"
    )


def _target(audio_format: str) -> _Format:
    target = _FORMATS.get(audio_format)
    if target is None:
        raise AudioError(f"audio_format {audio_format!r} is not one of {', '.join(_FORMATS)}")
    return target


def _closest(target: _Format, rate: int) -> tuple[int, ...]:
    """Return the nearest legal rates below and above a rate, or the rate alone if it is legal."""
    if target.rates:
        below = [legal for legal in target.rates if legal <= rate][-1:]
        above = [legal for legal in target.rates if legal >= rate][:1]
        return tuple(sorted({*below, *above}))
    rate = min(max(rate, 1), target.max_rate)
    if rate <= target.max_odd_rate or rate % 10 == 0:
        return (rate,)
    return max(target.max_odd_rate, rate // 10 * 10), rate // 10 * 10 + 10


def _check(audio: np.ndarray, audio_format: str, target: _Format) -> None:
    if audio.ndim not in (1, 2):
        raise AudioError(f"audio must be (frames,) or (frames, channels), not {audio.shape}")
    if audio.dtype != np.int16 and audio.dtype.kind != "f":
        raise AudioError(f"audio must be float or int16, not {audio.dtype}")
    if audio.ndim == 2:
        _check_channels(audio, audio_format, target)
    if len(audio) == 0 and not target.empty:
        raise AudioError(f"a clip of 0 frames cannot be written as {audio_format}")
    if audio.dtype.kind == "f" and not np.isfinite(audio).all():
        bad = int(np.count_nonzero(~np.isfinite(audio)))
        raise AudioError(f"audio holds {bad} NaN or infinite samples, which no encoder can store")
    if audio.dtype.kind == "f" and not target.integers and len(audio):
        peak = max(audio.max(), -audio.min())
        if peak > _LOUDEST:
            raise AudioError(
                f"audio reaches {peak:.6g}, while full scale is 1, which {audio_format} cannot "
                "store: divide it by the range of the integers that it was made of"
            )


def _check_channels(audio: np.ndarray, audio_format: str, target: _Format) -> None:
    frames, channels = audio.shape
    # A clip may be as short as one frame, so having more channels than frames proves nothing.
    turned = channels > frames > 0
    if not 1 <= channels <= target.max_channels:
        problem = f"{audio_format} holds 1 to {target.max_channels} channels, not {channels}"
    elif channels in target.subwoofer:
        problem = (
            f"{audio_format} takes the last of {channels} channels for a subwoofer's, and drops "
            "its high frequencies; use flac"
        )
    elif turned and channels > _USUAL_CHANNELS:
        problem = f"audio of shape {audio.shape} has more channels than frames"
    else:
        return
    if turned:
        problem += (
            ": the order is (frames, channels), while torchaudio's is (channels, frames); pass "
            "audio.T"
        )
    raise AudioError(problem)


def _prepare(audio: np.ndarray, target: _Format) -> np.ndarray:
    """Convert audio to what libsndfile takes: C-contiguous int16 or float32."""
    if not target.integers:
        scale = 32768 if audio.dtype == np.int16 else 1
        return np.ascontiguousarray(audio / np.float32(scale), dtype=np.float32)
    if audio.dtype == np.int16:
        return np.ascontiguousarray(audio)
    wide = np.float64 if audio.dtype.itemsize > 4 else np.float32
    scaled = np.rint(np.multiply(audio, 32768, dtype=wide))
    np.clip(scaled, -32768, 32767, out=scaled)
    return np.ascontiguousarray(scaled, dtype=np.int16)
