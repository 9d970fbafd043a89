"""Builds the corpora that are measured on, and describes what lies in them.

    python -m benchmarks.corpus --out corpus --clips 1500 --format flac

The same arguments give the same samples, and the same bytes with the same library versions,
whatever the number of threads. The result is under the recordings' licence, CC BY-SA 4.0 for those
that come with AudioMDB (a part of the Free Spoken Digit Dataset).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import soundfile

from benchmarks.synthesis import UTTERANCE_RATE, Clip, digit, load_voices, utterance

__all__ = ["RECORDINGS", "Corpus", "CorpusSpec", "build_corpus"]

RECORDINGS = Path(__file__).parents[1] / "packages/audiomdb-core/src/audiomdb/cli/data/fsdd"
"""The 160 recordings of the quickstart."""

MANIFEST = "manifest.jsonl"
_FACTS = "corpus.json"
_CLIPS_PER_FOLDER = 1000

_ENCODERS = {
    "flac": ("FLAC", "PCM_16", None),
    "wav": ("WAV", "PCM_16", None),
    "opus": ("OGG", "OPUS", 0.9),  # about 30 kbit/s
    "mp3": ("MP3", "MPEG_LAYER_III", 0.6),  # about 64 kbit/s
}
"""Container, coding and libsndfile's compression level."""

AudioFormat: TypeAlias = Literal["flac", "wav", "opus", "mp3"]


@dataclass(frozen=True, slots=True)
class CorpusSpec:
    """What a corpus is made of.

    Attributes:
        kind: "utterances": strings of digits, 2 to 15 s at 16 kHz, the shape of read speech.
            "digits": single digits at the recordings' own rate, a fraction of a second each.
        clips: Number of clips.
        audio_format: "flac" or "wav" of 16 bits, "opus" of about 30 kbit/s, "mp3" of about 64;
            one channel.
        seed: Seed of all random choices; each seed gives another corpus.
    """

    kind: Literal["utterances", "digits"]
    clips: int
    audio_format: AudioFormat = "flac"
    seed: int = 1

    @property
    def name(self) -> str:
        """Name of the corpus's folder, different for each spec."""
        return f"{self.kind}-{self.clips}-{self.audio_format}-{self.seed}"


@dataclass(frozen=True)
class Corpus:
    """A corpus in a folder: `audio/00000/...`, `manifest.jsonl`, `corpus.json`."""

    folder: Path

    @property
    def audio(self) -> Path:
        """The folder with nothing but audio."""
        return self.folder / "audio"

    @property
    def manifest(self) -> Path:
        """One JSON line a clip: audio_filepath, text, speaker, duration, sample_rate."""
        return self.folder / MANIFEST

    @cached_property
    def entries(self) -> list[dict[str, Any]]:
        """The manifest's lines, `audio_filepath` made absolute."""
        with self.manifest.open(encoding="utf-8") as lines:
            found = [json.loads(line) for line in lines]
        return [{**e, "audio_filepath": str(self.folder / e["audio_filepath"])} for e in found]

    @cached_property
    def paths(self) -> list[Path]:
        """The clips, in the manifest's order."""
        return [Path(entry["audio_filepath"]) for entry in self.entries]

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Clips, bytes, seconds and how they were made."""
        facts: dict[str, Any] = json.loads((self.folder / _FACTS).read_text(encoding="utf-8"))
        return facts

    @property
    def spec(self) -> dict[str, Any]:
        """Arguments of its `CorpusSpec`."""
        return {field.name: self.facts[field.name] for field in fields(CorpusSpec)}

    @property
    def bytes(self) -> int:
        """Size of all clips."""
        return int(self.facts["bytes"])

    @property
    def seconds(self) -> float:
        """Length of all clips."""
        return float(self.facts["seconds"])

    @property
    def frames(self) -> int:
        """Frames of all clips."""
        return sum(round(entry["duration"] * entry["sample_rate"]) for entry in self.entries)


def build_corpus(
    folder: Path, spec: CorpusSpec, *, recordings: Path = RECORDINGS, threads: int | None = None
) -> Corpus:
    """Make a corpus, unless the folder holds it already.

    Args:
        folder: Made here; appears only when it is complete.
        spec: What to make.
        recordings: Folder of `DIGIT_SPEAKER_TAKE.wav` files.
        threads: Number of threads. None: the number of cores.
    """
    if (folder / _FACTS).exists():
        return Corpus(folder)
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    make = _maker(spec, recordings)

    def write(number: int) -> dict[str, Any]:
        clip = make(number)
        path = Path("audio", f"{number // _CLIPS_PER_FOLDER:05d}")
        path /= f"{spec.kind[:-1]}_{number:07d}.{spec.audio_format}"
        data = _encode(clip, spec.audio_format)
        (unfinished / path).write_bytes(data)
        return {
            "audio_filepath": path.as_posix(),
            "text": clip.text,
            "speaker": clip.speaker,
            "duration": round(len(clip.samples) / clip.sample_rate, 6),
            "sample_rate": clip.sample_rate,
            "bytes": len(data),
        }

    for first in range(0, spec.clips, _CLIPS_PER_FOLDER):
        (unfinished / "audio" / f"{first // _CLIPS_PER_FOLDER:05d}").mkdir(parents=True)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        rows = list(pool.map(write, range(spec.clips)))
    facts = {
        **asdict(spec),
        "bytes": sum(row.pop("bytes") for row in rows),
        "seconds": round(sum(row["duration"] for row in rows), 3),
        "soundfile": soundfile.__version__,
        "libsndfile": soundfile.__libsndfile_version__,
    }
    manifest = "".join(json.dumps(row) + "\n" for row in rows)
    (unfinished / MANIFEST).write_text(manifest, encoding="utf-8")
    (unfinished / _FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    unfinished.rename(folder)
    return Corpus(folder)


def _maker(spec: CorpusSpec, recordings: Path) -> Callable[[int], Clip]:
    if spec.kind == "utterances":
        voices = load_voices(recordings, UTTERANCE_RATE)
        return lambda number: utterance(voices, spec.seed, number)
    voices = load_voices(recordings)
    return lambda number: digit(voices, spec.seed, number)


def _encode(clip: Clip, audio_format: AudioFormat) -> bytes:
    out = io.BytesIO()
    container, subtype, level = _ENCODERS[audio_format]
    options = {} if level is None else {"compression_level": level}
    soundfile.write(out, clip.samples, clip.sample_rate, subtype, format=container, **options)
    data = out.getvalue()
    if container != "OGG":
        return data
    from audiomdb.audio.ogg import set_serial  # corpora are read where AudioMDB is not installed

    # libsndfile draws the serial number of an Ogg stream; the same corpus has the same bytes.
    return set_serial(data, 1)


def main() -> None:
    """Build one corpus and print its facts."""
    parser = argparse.ArgumentParser(description="Build a corpus of speech-like clips.")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--kind", choices=("utterances", "digits"), default="utterances")
    parser.add_argument("--clips", type=int, default=1500)
    parser.add_argument("--format", choices=sorted(_ENCODERS), default="flac")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--recordings", type=Path, default=RECORDINGS, help="spoken digits")
    given = parser.parse_args()
    spec = CorpusSpec(given.kind, given.clips, given.format, given.seed)
    corpus = build_corpus(given.out, spec, recordings=given.recordings)
    print(json.dumps(corpus.facts, indent=1))


if __name__ == "__main__":
    main()
