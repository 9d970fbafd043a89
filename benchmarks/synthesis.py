"""Speech-like clips out of recordings of single spoken digits: pure functions of a seed.

What matters for a benchmark is that files have the sizes, lengths and compressibility of a speech
corpus. A FLAC file's size is decided by its noise floor, so clips get one, as strong as it takes to
compress like read speech (about 0.57 of the WAV).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

__all__ = ["Clip", "Recording", "Voice", "digit", "load_voices", "utterance"]

UTTERANCE_RATE = 16_000
SHORTEST_S, LONGEST_S = 2.0, 15.0

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_MARGIN_S = (0.05, 0.3)
_PAUSE_S = (0.05, 0.3)
_SPEECH_DB = (-25.0, 3.0)
_NOISE_DB = (-56.5, 8.5)
_NOISE_LIMITS_DB = (-84.0, -40.0)
_PEAK = 0.98


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """One spoken digit: float32 samples with an RMS of 1."""

    digit: int
    samples: np.ndarray


@dataclass(frozen=True, slots=True)
class Voice:
    """Everything recorded of one speaker, at one rate in Hz."""

    speaker: str
    sample_rate: int
    recordings: tuple[Recording, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A finished clip: int16 samples of shape `(frames,)`."""

    samples: np.ndarray
    sample_rate: int
    text: str
    speaker: str


def load_voices(folder: Path, sample_rate: int | None = None) -> list[Voice]:
    """Read `DIGIT_SPEAKER_TAKE.wav` files, in order of speaker and name.

    Args:
        folder: Where they lie.
        sample_rate: Rate of the result in Hz; the recordings' own unless given.

    Raises:
        FileNotFoundError: when there are none.
    """
    voices: dict[str, list[Recording]] = {}
    rate = sample_rate or 0
    for path in sorted(folder.glob("*_*_*.wav")):
        digit, speaker, _ = path.stem.split("_")
        samples, own_rate = soundfile.read(path, dtype="float32")
        rate = sample_rate or own_rate
        samples = soxr.resample(samples, own_rate, rate).astype(np.float32)
        samples /= max(_rms(samples), 1e-6)
        voices.setdefault(speaker, []).append(Recording(int(digit), samples))
    if not voices:
        raise FileNotFoundError(f"{folder} holds no recordings named DIGIT_SPEAKER_TAKE.wav")
    return [Voice(speaker, rate, tuple(found)) for speaker, found in sorted(voices.items())]


def utterance(voices: list[Voice], seed: int, number: int) -> Clip:
    """A string of digits by one speaker, 2 to 15 s long."""
    rng = np.random.default_rng((seed, number))
    voice = voices[rng.integers(len(voices))]
    rate = voice.sample_rate
    budget = int(rng.uniform(SHORTEST_S, LONGEST_S) * rate)
    lead, tail = (int(seconds * rate) for seconds in rng.uniform(*_MARGIN_S, size=2))
    spoken: list[tuple[int, Recording]] = []
    at = lead
    while True:
        recording = voice.recordings[rng.integers(len(voice.recordings))]
        end = at + len(recording.samples)
        if spoken and end + tail > budget:
            break
        spoken.append((at, recording))
        at = end + int(rng.uniform(*_PAUSE_S) * rate)
    last_at, last = spoken[-1]
    frames = max(last_at + len(last.samples) + tail, int(SHORTEST_S * rate))
    signal = np.zeros(frames, np.float32)
    for start, recording in spoken:
        signal[start : start + len(recording.samples)] = recording.samples
    text = " ".join(_WORDS[recording.digit] for _, recording in spoken)
    return Clip(_record(signal, rng), rate, text, voice.speaker)


def digit(voices: list[Voice], seed: int, number: int) -> Clip:
    """One digit. Clips `n` and `n + (number of recordings)` share a recording, not the noise."""
    rng = np.random.default_rng((seed, number, 1))
    voice = voices[number % len(voices)]
    recording = voice.recordings[number // len(voices) % len(voice.recordings)]
    samples = _record(recording.samples, rng)
    return Clip(samples, voice.sample_rate, _WORDS[recording.digit], voice.speaker)


def _record(signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bring a signal to a level, add the noise of a room, round to 16 bits."""
    speech_db = rng.normal(*_SPEECH_DB)
    noise_db = np.clip(rng.normal(*_NOISE_DB), *_NOISE_LIMITS_DB)
    white = rng.standard_normal(len(signal) + 1, np.float32)
    tilt = np.float32(rng.uniform(0, 0.9))  # rooms are louder in the bass
    noise = white[1:] + tilt * white[:-1]
    mixed = signal * _gain(speech_db, _rms(signal)) + noise * _gain(noise_db, _rms(noise))
    peak = float(np.abs(mixed).max())
    if peak > _PEAK:
        mixed *= np.float32(_PEAK / peak)
    return np.rint(mixed * 32767).astype(np.int16)


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def _gain(wanted_db: float, rms: float) -> np.float32:
    return np.float32(10 ** (wanted_db / 20) / max(rms, 1e-9))
