"""From an array to a file in memory, the same bytes every time."""

from __future__ import annotations

import io

import msgspec
import numpy as np
import soundfile

from audiomdb.audio.ogg import set_serial
from audiomdb.errors import AudioError

__all__ = ["encode"]


class _Format(msgspec.Struct, frozen=True):
    container: str
    subtype: str
    integers: bool
    """Whether samples are stored as 16-bit integers; lossy encoders take float."""
    max_channels: int
    rates: tuple[int, ...] = ()
    """The only rates there are; empty where any will do."""
    empty: bool = False
    """Whether a file without frames can be read again."""


_FORMATS = {
    "flac": _Format("FLAC", "PCM_16", integers=True, max_channels=8),
    "wav": _Format("WAV", "PCM_16", integers=True, max_channels=1024, empty=True),
    "opus": _Format(
        "OGG",
        "OPUS",
        integers=False,
        max_channels=8,
        rates=(8000, 12000, 16000, 24000, 48000),
    ),
    "vorbis": _Format("OGG", "VORBIS", integers=False, max_channels=8, empty=True),
    "mp3": _Format(
        "MP3",
        "MPEG_LAYER_III",
        integers=False,
        max_channels=2,
        rates=(8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
    ),
}

_SERIAL = 0x42444D41
"""Serial number of Ogg streams; the bytes `AMDB`."""

_BLOCK_FRAMES = 1 << 16
"""Frames handed to the encoder at a time; libvorbis overflows the stack on very long blocks."""


def encode(audio: np.ndarray, sample_rate: int, audio_format: str = "flac") -> bytes:
    """Encode audio. The same input gives the same bytes (with the same library versions).

    `"flac"` and `"wav"` store 16-bit integers: float samples are multiplied by 32768, rounded to
    the nearest (ties to even) and clipped, so that values beyond [-1, 1) are cut off, and what
    `decode` gave of a 16-bit file comes back unchanged. int16 arrays are stored as they are.
    `"opus"`, `"vorbis"` and `"mp3"` are lossy and use libsndfile's default quality.

    Thread-safe; releases the GIL while encoding.

    Args:
        audio: `(frames,)` or `(frames, channels)`; float (full scale is 1) or int16.
        sample_rate: in Hz. Opus allows 8, 12, 16, 24 and 48 kHz; MP3 nine rates up to 48 kHz.
        audio_format: `"flac"`, `"wav"`, `"opus"`, `"vorbis"` or `"mp3"`.

    Returns:
        The file's bytes.

    Raises:
        AudioError: another format, type, shape or rate; NaN or infinite samples; no frames, where
            the format cannot say so (FLAC, Opus, MP3); or the encoder refuses.
    """
    target = _FORMATS.get(audio_format)
    if target is None:
        raise AudioError(f"audio_format {audio_format!r} is not one of {', '.join(_FORMATS)}")
    _check(audio, sample_rate, audio_format, target)
    samples = _prepare(audio, target)
    channels = 1 if audio.ndim == 1 else audio.shape[1]
    out = io.BytesIO()
    try:
        with soundfile.SoundFile(
            out,
            "w",
            samplerate=sample_rate,
            channels=channels,
            format=target.container,
            subtype=target.subtype,
        ) as file:
            for start in range(0, len(samples), _BLOCK_FRAMES):
                file.write(samples[start : start + _BLOCK_FRAMES])
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"libsndfile cannot write {channels} channels at {sample_rate} Hz as {audio_format}: "
            f"{error.error_string}"
        ) from error
    stream = out.getvalue()
    return set_serial(stream, _SERIAL) if target.container == "OGG" else stream


def _check(audio: np.ndarray, sample_rate: int, audio_format: str, target: _Format) -> None:
    if audio.ndim not in (1, 2):
        raise AudioError(f"audio must be (frames,) or (frames, channels), not {audio.shape}")
    if audio.dtype != np.int16 and audio.dtype.kind != "f":
        raise AudioError(f"audio must be float or int16, not {audio.dtype}")
    if audio.ndim == 2 and audio.shape[1] > audio.shape[0] > 0:
        raise AudioError(
            f"audio of shape {audio.shape} has more channels than frames: the order is (frames, "
            "channels), while torchaudio's is (channels, frames); pass audio.T"
        )
    if audio.ndim == 2 and not 1 <= audio.shape[1] <= target.max_channels:
        raise AudioError(
            f"{audio_format} holds 1 to {target.max_channels} channels, not {audio.shape[1]}"
        )
    if len(audio) == 0 and not target.empty:
        raise AudioError(f"a clip of 0 frames cannot be written as {audio_format}")
    if sample_rate <= 0 or (target.rates and sample_rate not in target.rates):
        allowed = ", ".join(map(str, target.rates)) or "positive rates"
        raise AudioError(
            f"{audio_format} cannot be written at {sample_rate} Hz, only at {allowed}: resample "
            "first"
        )
    if audio.dtype.kind == "f" and not np.isfinite(audio).all():
        bad = int(np.count_nonzero(~np.isfinite(audio)))
        raise AudioError(f"audio holds {bad} NaN or infinite samples, which no encoder can store")


def _prepare(audio: np.ndarray, target: _Format) -> np.ndarray:
    """What libsndfile is handed: int16 or float32, C-contiguous."""
    if not target.integers:
        scale = 32768 if audio.dtype == np.int16 else 1
        return np.ascontiguousarray(audio / np.float32(scale), dtype=np.float32)
    if audio.dtype == np.int16:
        return np.ascontiguousarray(audio)
    wide = np.float64 if audio.dtype.itemsize > 4 else np.float32
    scaled = np.rint(np.multiply(audio, 32768, dtype=wide))
    np.clip(scaled, -32768, 32767, out=scaled)
    return np.ascontiguousarray(scaled, dtype=np.int16)
