"""A window out of a short and out of a long recording, beside decoding up to it from the start.

A window has to equal the slice of the whole clip. docs/decisions/0032 says how that is cut out of
Vorbis; Opus is decoded from the start, and FLAC can be entered anywhere.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import soundfile

from audiomdb.audio import decode
from benchmarks.bench import Bench
from benchmarks.clock import now
from benchmarks.results import Figure
from benchmarks.synthesis import UTTERANCE_RATE, load_voices, utterance

__all__ = ["cut_windows"]

_WINDOW_S = 10
_SHORT_S = 30
_BLOCK = 1 << 16
_FORMATS = {"Vorbis": ("OGG", "VORBIS"), "FLAC": ("FLAC", "PCM_16"), "Opus": ("OGG", "OPUS")}


def cut_windows(bench: Bench) -> None:
    """Measure one window a round, at places that are spread evenly over the recording."""
    rounds = bench.sizes.rounds
    for seconds in (_SHORT_S, bench.sizes.recording_s):
        for name in _FORMATS:
            path = _recording(bench, name, seconds)
            data = path.read_bytes()
            cut, from_start = [], []
            for number in range(rounds):
                offset = (seconds - _WINDOW_S) * (number + 0.5) / rounds
                begin = now()
                audio, rate = decode(data, offset=offset, duration=_WINDOW_S)
                cut.append(1000 * now().since(begin).wall_s)
                begin = now()
                _decode_up_to(path, offset + _WINDOW_S)
                from_start.append(1000 * now().since(begin).wall_s)
                if len(audio) != rate * _WINDOW_S:
                    raise RuntimeError(f"{len(audio)} frames of {path} for {_WINDOW_S} s")
            bench.figure(
                Figure(
                    name=f"decode.window.{name}.{seconds}",
                    title=f"a window of {_WINDOW_S} s out of {seconds} s of {name}",
                    value=mean(cut),
                    unit="ms",
                    facts={
                        "slowest_ms": max(cut),
                        "from_the_start_ms": mean(from_start),
                        "recording_mb": len(data) / 1e6,
                    },
                )
            )


def _decode_up_to(path: Path, seconds: float) -> None:
    """By libsndfile itself, which reads the file without help from Python."""
    with soundfile.SoundFile(path) as file:
        frames = round(seconds * file.samplerate)
        for _ in file.blocks(_BLOCK, frames=frames, dtype="float32"):
            pass


def _recording(bench: Bench, name: str, seconds: int) -> Path:
    """Utterances one after another, encoded unless that was done before."""
    path = bench.work / "corpora" / f"recording-{seconds}.{name.lower()}"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    container, subtype = _FORMATS[name]
    voices = load_voices(bench.recordings, UTTERANCE_RATE)
    missing, number = seconds * UTTERANCE_RATE, 0
    with soundfile.SoundFile(unfinished, "w", UTTERANCE_RATE, 1, subtype, format=container) as file:
        while missing:
            samples = utterance(voices, 1, number).samples[:missing]
            file.write(samples)
            missing -= len(samples)
            number += 1
    return unfinished.rename(path)
