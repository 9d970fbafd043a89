"""Validate and convert arrays of audio samples, and allocate memory for decoded ones."""

from __future__ import annotations

from collections.abc import Mapping
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from audiomdb.checks import whole_number
from audiomdb.errors import AudioError, SampleError
from audiomdb.sample import SAMPLE_RATE

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "BLOCK_FRAMES",
    "array_rate",
    "as_array",
    "as_float",
    "averaged",
    "believed_bytes",
    "check_array",
    "no_frames",
    "placed",
    "recorded",
    "room_for",
]

BLOCK_FRAMES = 1 << 16
"""Frames decoded at a time if the audio is discarded, or the announced size is not trusted."""

_BELIEVED_BYTES, _BELIEVED_RATIO = 64 << 20, 64


def believed_bytes(encoded_bytes: int) -> int:
    """Return the size up to which a decoded clip gets its memory before it is decoded.

    Beyond 64 MiB, or 64 times its encoded size, an announced length may be a lie.
    """
    return max(_BELIEVED_BYTES, _BELIEVED_RATIO * encoded_bytes)


def as_array(audio: ArrayLike) -> np.ndarray:
    """Return an array, tensor or list as a NumPy array, without a copy if it is one.

    Raises:
        AudioError: NumPy cannot take it.
    """
    try:
        return np.asarray(audio)
    except (TypeError, ValueError, RuntimeError) as exc:  # RuntimeErrors are those of tensors
        raise AudioError(f"audio is what NumPy cannot take: {exc}") from exc


def check_array(array: np.ndarray) -> None:
    """Require floats, or integers of up to 32 bits, of shape `(frames,)` or `(frames, channels)`.

    Raises:
        SampleError: it has another shape or dtype, or more channels than frames; then the message
            says how to transpose an array in torchaudio's order.
    """
    if array.dtype.kind not in "fiu":
        raise SampleError(f"an audio array of dtype {array.dtype}, expected floats or integers")
    if array.dtype.kind in "iu" and array.dtype.itemsize > 4:
        raise SampleError(
            f"an audio array of dtype {array.dtype}, which Python's ints become whatever their "
            "range is: how to scale them is not known. Give them the type that they were recorded "
            "as (such as int16), or floats from -1 to 1"
        )
    if array.ndim not in (1, 2) or 0 in array.shape[1:]:
        raise SampleError(
            f"an audio array of shape {array.shape}, expected (frames,) or (frames, channels)"
        )
    if array.ndim == 2 and array.shape[1] > array.shape[0] > 0:
        raise SampleError(
            f"an audio array of shape {array.shape}: more channels than frames. The order here is "
            "(frames, channels); torchaudio's (channels, frames) wants `.T`"
        )


def no_frames(channels: int) -> np.ndarray:
    """Return the audio of a clip without frames, float32 `(0,)` or `(0, channels)`."""
    return np.empty(0 if channels == 1 else (0, channels), np.float32)


def recorded(sample: Mapping[str, Any], field: str, *, low: int) -> int | None:
    """Return a whole number that was recorded with a clip; None if it was not.

    Raises:
        AudioError: it is something else, or below `low`.
    """
    value = sample.get(field)
    if value is None:
        return None
    try:
        number = index(value)
    except TypeError:
        number = low - 1
    if number < low:
        raise AudioError(f"its {field} is {value!r:.80}, expected a whole number from {low}")
    return number


def array_rate(rate: Any) -> int:  # noqa: ANN401
    """Return the sample rate in Hz that a sample gives for its audio array.

    Raises:
        SampleError: it is not a whole number above 0.
    """
    return whole_number(f"audio is an array, and its {SAMPLE_RATE}", rate, low=1, error=SampleError)


def as_float(array: np.ndarray) -> np.ndarray:
    """Return a float32 copy, with integers scaled by the range of their type to [-1, 1).

    Args:
        array: Floats or integers, as `check_array` requires.
    """
    kind, bits = array.dtype.kind, 8 * array.dtype.itemsize
    if kind == "f":
        return np.array(array, np.float32, order="C")
    half = 2.0 ** (bits - 1)
    centre = half if kind == "u" else 0.0
    return np.ascontiguousarray((array - centre) / half, np.float32)


def averaged(audio: np.ndarray) -> np.ndarray:
    """Return float audio with the mean of its channels, of shape `(frames,)`."""
    return audio if audio.ndim == 1 else audio.mean(axis=1, dtype=np.float32)


def room_for(shape: tuple[int, ...], out: np.ndarray | None) -> np.ndarray:
    """Return `out` if it has the given shape, or else a new float32 array."""
    return out if out is not None and out.shape == shape else np.empty(shape, np.float32)


def placed(audio: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """Copy the audio into `out` and return that if the shapes match, or else return the audio."""
    if out is None or audio is out or audio.shape != out.shape:
        return audio
    out[...] = audio
    return out
