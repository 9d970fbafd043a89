"""Validate and convert arrays of audio samples, and allocate memory for decoded ones."""

from __future__ import annotations

import numpy as np

from audiomdb.errors import SampleError
from audiomdb.sample import SAMPLE_RATE

__all__ = [
    "BELIEVED_BYTES",
    "BELIEVED_RATIO",
    "array_rate",
    "as_float",
    "check_shape",
    "placed",
    "room_for",
]

BELIEVED_BYTES = 64 << 20
BELIEVED_RATIO = 64
"""An announced length is allocated at once up to 64 MiB or 64 times the encoded size."""


def check_shape(array: np.ndarray) -> None:
    """Require an array of shape `(frames,)` or `(frames, channels)`.

    Raises:
        SampleError: it has another shape, or more channels than frames; then the message says how
            to transpose an array in torchaudio's order.
    """
    if array.ndim not in (1, 2):
        raise SampleError(
            f"an audio array of shape {array.shape}, expected (frames,) or (frames, channels)"
        )
    if array.ndim == 2 and array.shape[1] > array.shape[0] > 0:
        raise SampleError(
            f"an audio array of shape {array.shape}: more channels than frames. The order here is "
            "(frames, channels); torchaudio's (channels, frames) wants `.T`"
        )


def array_rate(rate: object) -> int:
    """Return the sample rate in Hz that a sample gives for its audio array.

    Raises:
        SampleError: it is not an integer above 0.
    """
    if isinstance(rate, bool) or not isinstance(rate, int | np.integer) or rate <= 0:
        raise SampleError(f"audio is an array and {SAMPLE_RATE} is {rate!r}; give its rate in Hz")
    return int(rate)


def as_float(array: np.ndarray) -> np.ndarray:
    """Return a float32 copy, with integers scaled by the range of their type to [-1, 1).

    Raises:
        SampleError: the elements are neither floats nor integers.
    """
    kind, bits = array.dtype.kind, 8 * array.dtype.itemsize
    if kind == "f":
        return np.array(array, np.float32, order="C")
    if kind not in "iu":
        raise SampleError(f"an audio array of dtype {array.dtype}, expected floats or integers")
    half = 2.0 ** (bits - 1)
    centre = half if kind == "u" else 0.0
    return np.ascontiguousarray((array - centre) / half, np.float32)


def room_for(shape: tuple[int, ...], out: np.ndarray | None) -> np.ndarray:
    """Return `out` if it has the given shape, or else a new float32 array."""
    return out if out is not None and out.shape == shape else np.empty(shape, np.float32)


def placed(audio: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """Copy the audio into `out` and return that if the shapes match, or else return the audio."""
    if out is None or audio is out or audio.shape != out.shape:
        return audio
    out[...] = audio
    return out
