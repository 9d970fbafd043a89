"""Decoding with nothing around it: the floor of everything that decodes.

The decoders are those that AudioMDB uses: dr_flac (package miniaudio) where it is installed, else
libsndfile. Clips must be 16-bit FLAC or WAV with a header that does not lie: nothing is checked.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import soundfile

__all__ = ["decode_all", "decoder", "decoder_name", "with_soundfile"]


def decoder_name() -> str:
    """Name of the decoder used for FLAC."""
    return "dr_flac" if find_spec("miniaudio") else "libsndfile"


def decode_all(clips: Sequence[Callable[[], bytes]], threads: int = 1) -> float:
    """Decode clips to float32, each kept until the next one is there.

    That is what every loop over samples does, and it is not free: C's allocator hands memory back
    to the system and gets it anew, page by page, unless one clip's memory serves the next at once.

    Args:
        clips: Functions that give the encoded bytes; called by the threads.
        threads: Number of threads; each takes every n-th clip.

    Returns:
        Frames decoded.
    """
    decode = decoder()

    def part(first: int) -> int:
        frames = 0
        for clip in clips[first::threads]:
            audio = decode(clip())
            frames += len(audio)
        return frames

    if threads == 1:
        return part(0)
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(part, range(threads)))


def decoder() -> Callable[[bytes], np.ndarray]:
    """Return a function that decodes bytes to float32 with the fastest decoder installed."""
    return _dr_flac_or_numpy() if find_spec("miniaudio") else with_soundfile


def with_soundfile(data: bytes) -> np.ndarray:
    """Decode bytes to float32 with libsndfile."""
    samples: np.ndarray = soundfile.read(io.BytesIO(data), dtype="float32")[0]
    return samples


def _dr_flac_or_numpy() -> Callable[[bytes], np.ndarray]:
    import miniaudio

    ffi, lib = miniaudio.ffi, miniaudio.lib
    scale = np.float32(1 / 32768)

    def decode(data: bytes) -> np.ndarray:
        if data[:4] != b"fLaC":
            # soundfile writes WAV with a header of 44 bytes and no chunk behind the samples.
            samples = np.frombuffer(data, np.int16, offset=44).astype(np.float32)
            samples *= scale
            return samples
        stream = lib.ma_dr_flac_open_memory(ffi.from_buffer(data), len(data), ffi.NULL)
        out = np.empty(stream.totalPCMFrameCount, np.float32)
        target = ffi.from_buffer("float[]", out, require_writable=True)
        lib.ma_dr_flac_read_pcm_frames_f32(stream, len(out), target)
        lib.ma_dr_flac_close(stream)
        return out

    return decode
