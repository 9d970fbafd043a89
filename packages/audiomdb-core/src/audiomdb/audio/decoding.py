"""Decode a whole clip, or a window of it, into an array."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from audiomdb.audio.arrays import averaged, no_frames, placed
from audiomdb.audio.cutting import Cutter
from audiomdb.audio.fast_decoders import decode_flac, decode_plain, decode_recorded
from audiomdb.audio.inspection import inspect
from audiomdb.audio.opening import open_decoder
from audiomdb.audio.resampling import resample
from audiomdb.audio.source import Source
from audiomdb.checks import is_finite
from audiomdb.errors import AudioError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audiomdb.audio.info import AudioSource
    from audiomdb.audio.structure import Structure

__all__ = ["decode"]


def decode(
    source: AudioSource,
    *,
    sample_rate: int | None = None,
    mono: bool = False,
    offset: float = 0.0,
    duration: float | None = None,
    frames: int | None = None,
    out: np.ndarray | None = None,
    name: str | None = None,
) -> tuple[NDArray[np.float32], int]:
    """Decode a clip, or a window of it.

    Truncated audio is never returned without an error: the file must hold what the container
    announces, and the decoder must return exactly that. Two faults cannot be detected: an
    open-ended file (a WAV written to a pipe, an MP3 without a tag) that was cut between two frames,
    and damage to bytes that carry no checksum (WAV samples, the inside of MP3 frames).

    A window equals the same slice of the whole clip, sample for sample. If seeking is exact, only
    the window is decoded. Some clips are decoded from the start up to the window: Opus, Vorbis of
    an unusual make (one that was joined or edited), FLAC of unknown length or with a wrong smallest
    block, and some old codings (GSM 6.10, G.721, DWVW). In any other FLAC, only the window is
    checked for damage. An MP3 or Ogg file is read and checked as a whole, though not decoded.

    Thread-safe. The decoders release the GIL.

    Args:
        source: encoded bytes (not copied), or the path of a file.
        sample_rate: rate of the result in Hz, converted by `resample`; None keeps the clip's rate.
        mono: average the channels into one.
        offset: start of the window in seconds, rounded to the nearest frame.
        duration: length of the window in seconds; None means to the end. Its end is rounded to
            the nearest frame too, so that adjoining windows tile a clip. A window that extends
            past the end of the clip is shortened.
        frames: number of frames of the whole clip, at its own rate, as recorded when it was
            checked. It is an error if the whole clip decodes to another number; for a window,
            nothing is compared.
        out: C-contiguous float32 array to decode into. It is returned if its shape is that of the
            result; otherwise its contents are undefined afterwards.
        name: name of the clip in error messages; the path by default.

    Returns:
        The audio and its rate in Hz. The audio is float32, C-contiguous and writable, of shape
        `(frames,)`, or `(frames, channels)` if there are several and `mono` is False. Integer
        formats lie in [-1, 1); float formats are returned unchanged, including values beyond 1,
        NaN and infinities.

    Raises:
        UnreadableAudioError: not audio, an unsupported format, or no such file.
        DamagedAudioError: truncated, damaged, or not as long as its header or `frames` says.
        AudioError: the window is invalid, or starts at or after the clip's end.
        ValueError: `out` is not a C-contiguous, writable array of float32.
    """
    if out is not None and not (out.dtype == np.float32 and out.flags.carray):
        # Decoders write to its memory without knowing what it is.
        raise ValueError(f"out is an array of {out.dtype}, expected C-contiguous, writable float32")
    whole = offset == 0.0 and duration is None
    if not whole:
        _check_window(offset, duration)
    found = None
    if whole and frames is not None and type(source) is memoryview:
        found = decode_recorded(source, frames, out)  # nearly always, while training
    if found is None:
        if whole:
            with Source(source, name=name) as opened:
                found = _decode_whole(opened, frames, out)
        else:
            with Cutter(source, name=name) as cutter:
                found = cutter.cut(offset, duration)
    audio, rate = found
    if mono:
        audio = averaged(audio)
    if sample_rate is not None and sample_rate != rate:
        audio, rate = resample(audio, rate, sample_rate), sample_rate
    return placed(audio, out), rate


def _check_window(offset: float, duration: float | None) -> None:
    if not (is_finite(offset) and offset >= 0):
        raise AudioError(f"offset must be 0 or more seconds, not {offset!r}")
    if duration is not None and not (is_finite(duration) and duration >= 0):
        raise AudioError(f"duration must be 0 or more seconds, not {duration!r}")


def _decode_whole(
    source: Source, frames: int | None, out: np.ndarray | None
) -> tuple[np.ndarray, int]:
    source.view()  # a file is read once; every decoder then works from memory
    audio, rate = _decode_all(source, inspect(source, frames=frames), frames, out)
    _compare(source, len(audio), frames)
    return audio, rate


def _compare(source: Source, found: int | None, recorded: int | None) -> None:
    if None not in (found, recorded) and found != recorded:
        raise source.damaged(
            f"holds {found} frames, but {recorded} were recorded: the bytes are not the ones that "
            "were converted"
        )


def _decode_all(
    source: Source, structure: Structure, frames: int | None, out: np.ndarray | None
) -> tuple[np.ndarray, int]:
    audio: np.ndarray | None
    flac, plain = structure.flac, structure.plain
    # Before decoding: the compressed silence of a day has few bytes.
    _compare(source, structure.frames, frames)
    if flac is not None:
        if structure.frames == 0:
            return no_frames(flac.channels), flac.sample_rate
        if structure.frames is not None:
            decoded = decode_flac(source.view(), structure.frames, flac.sample_rate, out)
            if decoded is not None:
                return decoded
    elif plain is not None:
        audio = decode_plain(source, plain, 0, plain.frames, out)
        if audio is not None:
            return audio, plain.sample_rate
    with open_decoder(source, structure) as decoder:
        _compare(source, decoder.frames, frames)
        return decoder.read_all(), decoder.sample_rate
