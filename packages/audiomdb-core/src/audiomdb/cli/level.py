"""Measure the loudness of a clip over its length, and draw it as a line of bars."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np

from audiomdb.audio import decode, probe
from audiomdb.audio.arrays import as_float, recorded
from audiomdb.audio.cutting import Cutter
from audiomdb.errors import AudioError

__all__ = ["Level", "draw", "measure"]

_BINS = 48
_LONG_S = 300.0
"""Seconds. A longer clip is decoded in parts, so that an hour of music does not take gigabytes."""

_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = "_.-=+*%#"


class Level(msgspec.Struct, frozen=True):
    """Loudness of a clip, measured over its finite samples; 1.0 is full scale.

    Attributes:
        peak: Largest magnitude.
        rms: Root mean square over frames and channels.
        peaks: Largest magnitude in each of 48 equal parts; fewer parts for a very short clip.
        samples: Number of samples, counted per channel.
        not_finite: Number of samples that are NaN or infinite.
    """

    peak: float
    rms: float
    peaks: tuple[float, ...]
    samples: int
    not_finite: int

    @property
    def peak_db(self) -> float:
        """Peak in dBFS, -inf for silence."""
        return _decibels(self.peak)

    @property
    def rms_db(self) -> float:
        """RMS in dBFS, where a full-scale square wave is 0; -inf for silence."""
        return _decibels(self.rms)


def measure(sample: Mapping[str, Any], name: str) -> Level:
    """Decode a sample's audio and measure it.

    Args:
        sample: A sample of a dataset whose audio is encoded or an array that `as_float` accepts.
        name: Name of the clip in error messages.

    Raises:
        AudioError: when the audio cannot be decoded.
    """
    peaks: list[float] = []
    squares, samples, finite = 0.0, 0, 0
    for part, bins in _parts(sample, name):
        if part.size:
            is_finite = np.isfinite(part)
            samples += part.size
            finite += int(np.count_nonzero(is_finite))
            heights = np.where(is_finite, np.abs(part), 0)
            squares += float(np.square(heights, dtype=np.float64).sum())
            pieces = np.array_split(heights, min(bins, len(part)))
            peaks.extend(float(piece.max()) for piece in pieces)
    rms = math.sqrt(squares / finite) if finite else 0.0
    return Level(max(peaks, default=0.0), rms, tuple(peaks), samples, samples - finite)


def draw(level: Level, *, ascii_only: bool = False) -> str:
    """Draw the peaks as a line of bars, scaled so that the highest peak has the highest bar."""
    bars = _ASCII_BARS if ascii_only else _BARS
    scale = (len(bars) - 1) / level.peak if level.peak > 0 else 0.0
    return "".join(bars[round(peak * scale)] for peak in level.peaks)


def _parts(sample: Mapping[str, Any], name: str) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the audio in consecutive parts, each with the number of bins that it fills."""
    audio = sample["audio"]
    if isinstance(audio, np.ndarray):
        yield as_float(audio), _BINS
        return
    length = probe(audio, name=name).duration
    if length is None or length <= _LONG_S:
        try:
            frames = recorded(sample, "frames", low=0)
        except AudioError as exc:
            raise AudioError(f"{name}: {exc}") from None
        yield decode(audio, frames=frames, name=name)[0], _BINS
        return
    step = length / _BINS
    with Cutter(audio, name=name) as cutter:
        for i in range(_BINS):
            yield cutter.cut(i * step, step)[0], 1


def _decibels(amplitude: float) -> float:
    return 20 * math.log10(amplitude) if amplitude > 0 else -math.inf
