"""Decoders that are faster than libsndfile and give the same samples.

Samples that lie in a file as an array (16-bit and float WAV) are read by NumPy alone. FLAC is
decoded by dr_flac where the optional package `miniaudio` is installed. dr_flac drops a damaged
frame without a word, so its result counts only when it has every frame that STREAMINFO announces;
otherwise libsndfile is asked, which raises.

What remains: a damaged frame has one chance in 65536 to keep its CRC-16, and libFLAC would mostly
notice that the next frame is not where it should be; and libsndfile refuses a file whose comments
are damaged, where dr_flac, which does not look at them, gives the audio.

Vorbis, Opus and MP3 stay with libsndfile: stb_vorbis and dr_mp3 do not give the same samples.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from audiomdb.audio.arrays import BELIEVED_BYTES, BELIEVED_RATIO, room_for
from audiomdb.audio.flac import first_coded_rate
from audiomdb.audio.riff import short_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from audiomdb.audio.flac import StreamInfo
    from audiomdb.audio.source import Source
    from audiomdb.audio.structure import Plain

__all__ = [
    "decode_flac",
    "decode_plain",
    "decode_recorded",
    "decoders",
    "flac_is_whole",
    "only_libsndfile",
    "usual_wav",
]

_FLAC_BITS = (8, 16, 24)
"""Widths that libsndfile reads too, so that what is readable does not depend on an extra."""

_SCALE_16 = np.float32(1 / 32768)

_only_libsndfile: ContextVar[bool] = ContextVar("only_libsndfile", default=False)


@contextmanager
def only_libsndfile() -> Iterator[None]:
    """Within this block, this thread decodes everything with libsndfile.

    For comparing decoders, and for finding out whether one of them is at fault.
    """
    token = _only_libsndfile.set(True)
    try:
        yield
    finally:
        _only_libsndfile.reset(token)


def decoders() -> dict[str, str]:
    """Which decoder reads what, here and now.

    Returns:
        `{"FLAC": "dr_flac", "WAV": "numpy", "other": "libsndfile"}` with `miniaudio` installed;
        `"FLAC": "libsndfile"` without. WAV is meant as 16-bit and float; other codings of it go
        to libsndfile.
    """
    forced = _only_libsndfile.get()
    return {
        "FLAC": "libsndfile" if forced or _dr_flac() is None else "dr_flac",
        "WAV": "libsndfile" if forced else "numpy",
        "other": "libsndfile",
    }


class _DrFlac(msgspec.Struct, frozen=True):
    """The parts of dr_flac that `miniaudio` was compiled with."""

    ffi: Any
    open: Callable[..., Any]
    read: Callable[..., int]
    close: Callable[..., None]


@lru_cache(maxsize=1)
def _dr_flac() -> _DrFlac | None:
    """dr_flac, looked for once; None without `miniaudio`, or where it has other parts.

    The package's own module is left alone: it is made for playing audio, and importing it takes as
    long as decoding twenty clips. What it is built on does nothing when it is imported.
    """
    try:
        compiled = import_module("_miniaudio")
    except ImportError:
        return None
    for prefix in ("ma_dr_flac_", "drflac_"):  # since miniaudio 1.70, and before
        names = ("open_memory", "read_pcm_frames_f32", "close")
        if all(hasattr(compiled.lib, prefix + name) for name in names):
            return _DrFlac(compiled.ffi, *(getattr(compiled.lib, prefix + n) for n in names))
    return None


def decode_recorded(
    octets: memoryview, frames: int, out: np.ndarray | None = None
) -> tuple[np.ndarray, int] | None:
    """Decode a whole clip of which the number of frames was recorded at conversion.

    Returns:
        Float32 audio and its rate in Hz. None where `decode` has to look closer: it is neither
        FLAC nor a WAV of the usual kind, announces another number of frames, or is damaged, or the
        view is no plain sequence of bytes.
    """
    if octets.format != "B" or octets.ndim != 1 or not octets.contiguous or frames == 0:
        return None
    if (plain := usual_wav(octets)) is not None:
        if plain.frames != frames:
            return None
        return _floats(octets[plain.position :], plain, out), plain.sample_rate
    # A rate that is not the frames' own would be taken for the audio's.
    coded = first_coded_rate(octets)
    return None if coded is None else decode_flac(octets, frames, coded, out)


def usual_wav(octets: memoryview) -> Plain | None:
    """The samples of a WAV that takes no closer look; None within `only_libsndfile`."""
    return None if _only_libsndfile.get() else short_plain(octets)


def decode_flac(
    octets: memoryview, frames: int, coded_rate: int, out: np.ndarray | None = None
) -> tuple[np.ndarray, int] | None:
    """All frames of a FLAC stream, and its rate in Hz; None where libsndfile must be asked.

    Decodes into the result itself, outside the GIL.

    Args:
        octets: The stream.
        frames: How many it has, as its header must say, too.
        coded_rate: Of its frames, in Hz; 0 where they leave that to the header.
        out: See `decode`.
    """
    opened = _opened(octets, frames, coded_rate)
    if opened is None:
        return None
    dr_flac, stream = opened
    try:
        channels = stream.channels
        if frames * channels * 4 > max(BELIEVED_BYTES, BELIEVED_RATIO * len(octets)):
            return None
        out = room_for((frames,) if channels == 1 else (frames, channels), out)
        target = dr_flac.ffi.from_buffer("float[]", out, require_writable=True)
        whole = dr_flac.read(stream, frames, target) == frames
        return (out, stream.sampleRate) if whole else None
    finally:
        dr_flac.close(stream)


def flac_is_whole(octets: memoryview, info: StreamInfo) -> bool:
    """Whether every frame of a FLAC stream of known length decodes; False also where nobody knows.

    Frames are decoded and their checksums compared, but samples are written nowhere.
    """
    opened = _opened(octets, info.frames, info.sample_rate)
    if opened is None:
        return False
    dr_flac, stream = opened
    try:
        return bool(dr_flac.read(stream, info.frames, dr_flac.ffi.NULL) == info.frames)
    finally:
        dr_flac.close(stream)


def _opened(octets: memoryview, frames: int, coded_rate: int) -> tuple[_DrFlac, Any] | None:
    """dr_flac, and a stream opened over `octets` in place, which the caller has to close.

    None where dr_flac is not installed, or reads other facts in the stream than are known of it.
    """
    dr_flac = None if _only_libsndfile.get() else _dr_flac()
    if dr_flac is None:
        return None
    held = dr_flac.ffi.from_buffer(octets)
    stream = dr_flac.open(held, len(held), dr_flac.ffi.NULL)
    if not stream:
        return None
    if (
        stream.totalPCMFrameCount != frames
        or stream.bitsPerSample not in _FLAC_BITS
        or coded_rate not in (0, stream.sampleRate)
    ):
        dr_flac.close(stream)
        return None
    return dr_flac, stream


def decode_plain(
    source: Source, plain: Plain, start: int, stop: int, out: np.ndarray | None = None
) -> np.ndarray | None:
    """The frames `[start, stop)` of samples that lie in the file as an array.

    Returns None within `only_libsndfile`; `out`, where that has the shape of the result.
    """
    if _only_libsndfile.get():
        return None
    frame_bytes = plain.dtype.itemsize * plain.channels
    octets = source.slice(plain.position + start * frame_bytes, (stop - start) * frame_bytes)
    return _floats(octets, plain, out)


def _floats(octets: memoryview, plain: Plain, out: np.ndarray | None) -> np.ndarray:
    samples = np.frombuffer(octets, plain.dtype)
    if plain.channels > 1:
        samples = samples.reshape(-1, plain.channels)
    out = room_for(samples.shape, out)
    out[...] = samples
    if plain.dtype.kind == "i":
        out *= _SCALE_16
    return out
