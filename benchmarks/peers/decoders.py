# mypy: disable-error-code="import-not-found, import-untyped"
"""From encoded bytes to float32, for systems that leave this to their user.

`soundfile` (libsndfile) is what most audio code uses. `torchcodec` is what the documentation of
some peers uses. `dr_flac` is what AudioMDB uses for FLAC: a peer gets it as a row of its own, so
that a table shows how much of a difference is the decoder's.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes.util import find_library
from functools import cache

import numpy as np

from benchmarks.bare_decoders import decoder, with_soundfile

__all__ = ["DECODERS", "Decode", "has_ffmpeg"]

Decode = Callable[[bytes], np.ndarray]


def with_torchcodec(data: bytes) -> np.ndarray:
    """By FFmpeg, through torchcodec."""
    from torchcodec.decoders import AudioDecoder

    channel: np.ndarray = AudioDecoder(bytes(data)).get_all_samples().data.numpy()[0]
    return channel


def with_dr_flac(data: bytes) -> np.ndarray:
    """By the fastest exact decoder there is; WAV by NumPy. Nothing is checked."""
    return _fastest()(data)


_fastest = cache(decoder)

DECODERS: dict[str, Decode] = {
    "soundfile": with_soundfile,
    "torchcodec": with_torchcodec,
    "dr_flac": with_dr_flac,
}


def has_ffmpeg() -> bool:
    """Whether FFmpeg's libraries are on this machine."""
    return find_library("avcodec") is not None
