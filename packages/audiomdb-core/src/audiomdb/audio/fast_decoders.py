"""Decode WAV and FLAC faster than libsndfile does, to the same samples.

Uncompressed samples (16-bit and 32-bit float WAV) are read by NumPy alone. FLAC is decoded by
dr_flac if the optional package `miniaudio` is installed. dr_flac silently drops a damaged frame, so
its result is used only if it has every frame that STREAMINFO announces, and no frame follows them:
in bytes that a resumed download repeats, others would take the place of those at the end. Otherwise
the file goes to libsndfile, which raises.

Two differences remain. A damaged frame has one chance in 65536 of keeping its CRC-16; libFLAC would
mostly notice that the next frame is not where it should be, and dr_flac does not. And libsndfile
refuses a file whose comments are damaged, while dr_flac ignores them and decodes the audio.

Vorbis, Opus and MP3 are left to libsndfile: stb_vorbis and dr_mp3 do not give the same samples.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from audiomdb.audio.arrays import believed_bytes, room_for
from audiomdb.audio.flac import SUBTYPES, first_coded_rate
from audiomdb.audio.riff import short_plain
from audiomdb.lazy import importing

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

_SCALE_16 = np.float32(1 / 32768)

_only_libsndfile: ContextVar[bool] = ContextVar("only_libsndfile", default=False)


@contextmanager
def only_libsndfile() -> Iterator[None]:
    """Decode everything with libsndfile within a `with` block, in the current context.

    Other threads are not affected. Use it to compare decoders, or to find out whether one of them
    is at fault.
    """
    token = _only_libsndfile.set(True)
    try:
        yield
    finally:
        _only_libsndfile.reset(token)


def decoders() -> dict[str, str]:
    """Return which decoder is used for each format in the current context.

    Returns:
        `{"FLAC": "dr_flac", "WAV": "numpy", "other": "libsndfile"}` with `miniaudio` installed;
        `"FLAC": "libsndfile"` without it. `"WAV"` stands for 16-bit and float WAV; other codings
        use libsndfile.
    """
    forced = _only_libsndfile.get()
    return {
        "FLAC": "libsndfile" if forced or _dr_flac() is None else "dr_flac",
        "WAV": "libsndfile" if forced else "numpy",
        "other": "libsndfile",
    }


class _DrFlac(msgspec.Struct, frozen=True):
    """The functions of the dr_flac that is compiled into `miniaudio`."""

    ffi: Any
    open: Callable[..., Any]
    read: Callable[..., int]
    close: Callable[..., None]

    def ends(self, stream: Any) -> bool:  # noqa: ANN401
        """Whether no frame follows those read so far."""
        return self.read(stream, 1, self.ffi.NULL) == 0


@lru_cache(maxsize=1)
def _dr_flac() -> _DrFlac | None:
    """Find dr_flac once; None without `miniaudio`, or if the functions are missing from it.

    Only the compiled module `_miniaudio` is imported, which does nothing on import. The `miniaudio`
    module is made for playback, and importing it takes as long as decoding twenty clips.
    """
    try:
        with importing():
            compiled = import_module("_miniaudio")
    except ImportError:
        return None
    for prefix in ("ma_dr_flac_", "drflac_"):  # since miniaudio 1.70, and before it
        names = ("open_memory", "read_pcm_frames_f32", "close")
        if all(hasattr(compiled.lib, prefix + name) for name in names):
            return _DrFlac(compiled.ffi, *(getattr(compiled.lib, prefix + n) for n in names))
    return None


def decode_recorded(
    octets: memoryview, frames: int, out: np.ndarray | None = None
) -> tuple[np.ndarray, int] | None:
    """Decode a whole clip whose number of frames was recorded at conversion.

    Returns:
        Float32 audio and its rate in Hz. None if `decode` has to inspect the clip: it is neither
        FLAC nor a WAV with the shortest header, has no frames, announces another number of frames,
        or is damaged, or the view is not a contiguous sequence of bytes.
    """
    if octets.format != "B" or octets.ndim != 1 or not octets.contiguous or frames == 0:
        return None
    if (plain := usual_wav(octets)) is not None:
        if plain.frames != frames:
            return None
        return _floats(octets[plain.position :], plain, out), plain.sample_rate
    # Without the rate in the frames, a wrong rate in the header would go unnoticed.
    coded = first_coded_rate(octets)
    return None if coded is None else decode_flac(octets, frames, coded, out)


def usual_wav(octets: memoryview) -> Plain | None:
    """Locate the samples of a WAV with the shortest header; None within `only_libsndfile`."""
    return None if _only_libsndfile.get() else short_plain(octets)


def decode_flac(
    octets: memoryview, frames: int, coded_rate: int, out: np.ndarray | None = None
) -> tuple[np.ndarray, int] | None:
    """Decode a whole FLAC stream with dr_flac; None if libsndfile must decode it.

    Returns the audio and its rate in Hz. Decodes straight into the result, and releases the GIL.

    Args:
        octets: The stream.
        frames: Number of frames, which the header must announce too.
        coded_rate: Rate in the frame headers in Hz; 0 if they leave it to STREAMINFO.
        out: See `decode`.
    """
    opened = _opened(octets, frames, coded_rate)
    if opened is None:
        return None
    dr_flac, stream = opened
    try:
        channels = stream.channels
        if frames * channels * 4 > believed_bytes(len(octets)):
            return None
        out = room_for((frames,) if channels == 1 else (frames, channels), out)
        target = dr_flac.ffi.from_buffer("float[]", out, require_writable=True)
        whole = dr_flac.read(stream, frames, target) == frames and dr_flac.ends(stream)
        return (out, stream.sampleRate) if whole else None
    finally:
        dr_flac.close(stream)


def flac_is_whole(octets: memoryview, info: StreamInfo) -> bool:
    """Whether every frame of a FLAC stream of known length decodes; False also without dr_flac.

    The frames are decoded and their checksums compared, but no samples are stored.
    """
    opened = _opened(octets, info.frames, info.sample_rate)
    if opened is None:
        return False
    dr_flac, stream = opened
    try:
        read = dr_flac.read(stream, info.frames, dr_flac.ffi.NULL)
        return bool(read == info.frames) and dr_flac.ends(stream)
    finally:
        dr_flac.close(stream)


def _opened(octets: memoryview, frames: int, coded_rate: int) -> tuple[_DrFlac, Any] | None:
    """Open a stream over `octets` without a copy, and return dr_flac and the stream to close.

    None if dr_flac is not installed or cannot open the stream, if the stream has another number of
    frames or another rate than expected, or if its bit depth is not supported.
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
        or stream.bitsPerSample not in SUBTYPES  # an optional package changes no result
        or coded_rate not in (0, stream.sampleRate)
    ):
        dr_flac.close(stream)
        return None
    return dr_flac, stream


def decode_plain(
    source: Source, plain: Plain, start: int, stop: int, out: np.ndarray | None = None
) -> np.ndarray | None:
    """Read the frames `[start, stop)` of uncompressed samples.

    Returns `out` if it has the shape of the result, and None within `only_libsndfile`.
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
