"""Set up what every group of measurements uses: sizes, corpora, folders, a place for results."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from audiomdb.shards import DatasetWriter
from benchmarks.corpus import Corpus, CorpusSpec, build_corpus
from benchmarks.report import show
from benchmarks.results import Figure, Row, append_row, as_content
from benchmarks.timing import Comparison, Measured, measure

__all__ = ["FULL", "SHORT", "Bench", "Group", "Sizes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured.

    Attributes:
        rounds: Rounds of each comparison.
        shortest_s: Shortest timing of work that can be repeated.
        utterances: Clips of the speech-like FLAC corpus; 1500 are 3.4 hours and 0.22 GB.
        digits: Clips of the corpus of small WAV files.
        recording_s: Seconds of the long recording that windows are cut out of.
        tiny: Samples of the dataset that opening is measured on.
        tiny_shards: Number of shards of that dataset.
    """

    rounds: int
    shortest_s: float
    utterances: int
    digits: int
    recording_s: int
    tiny: int
    tiny_shards: int

    def with_rounds(self, rounds: int) -> Sizes:
        """Return these sizes with another number of rounds."""
        return replace(self, rounds=rounds)


SHORT = Sizes(
    rounds=3,
    shortest_s=0.2,
    utterances=400,
    digits=1000,
    recording_s=300,
    tiny=20_000,
    tiny_shards=20,
)
FULL = Sizes(
    rounds=7,
    shortest_s=0.5,
    utterances=1500,
    digits=4000,
    recording_s=3600,
    tiny=1_000_000,
    tiny_shards=200,
)


class Bench:
    """The surroundings of one run. Corpora and datasets are made when first asked for, and kept.

    Args:
        sizes: How much to measure.
        work: Folder for corpora and datasets.
        results: File that rows are appended to.
        recordings: Spoken digits that corpora are made of.
    """

    def __init__(self, sizes: Sizes, work: Path, results: Path, recordings: Path) -> None:
        self.sizes = sizes
        self.work = work
        self.recordings = recordings
        self._results = results

    def compare(self, comparison: Comparison) -> Measured:
        """Run a comparison, keep and show its result."""
        measured = measure(comparison, rounds=self.sizes.rounds, shortest_s=self.sizes.shortest_s)
        self._keep(measured)
        return measured

    def figure(self, figure: Figure) -> None:
        """Keep and show a figure."""
        self._keep(figure)

    @cached_property
    def speech(self) -> Corpus:
        """A corpus of FLAC utterances of 2 to 15 s."""
        return self.corpus(CorpusSpec("utterances", self.sizes.utterances))

    @cached_property
    def digits(self) -> Corpus:
        """A corpus of WAV files of one digit each, some kilobytes long."""
        return self.corpus(CorpusSpec("digits", self.sizes.digits, "wav"))

    def corpus(self, spec: CorpusSpec) -> Corpus:
        """A corpus, made unless it is there."""
        folder = self.work / "corpora" / spec.name
        return build_corpus(folder, spec, recordings=self.recordings)

    def dataset(self, corpus: Corpus) -> Path:
        """A corpus as a dataset, made anew in every run: the code may have changed."""
        folder = self.fresh(f"dataset-{corpus.folder.name}")
        with DatasetWriter(folder) as writer:
            for entry in corpus.entries:
                path = Path(entry["audio_filepath"])
                fields = {"text": entry["text"], "speaker": entry["speaker"]}
                writer.write(path.stem, {"audio": path, **fields})
        return folder

    def fresh(self, name: str) -> Path:
        """Path of a folder that does not exist; what was there is deleted."""
        folder = self.work / "made" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        return folder

    def describe(self) -> dict[str, object]:
        """The sizes, as plain data."""
        return asdict(self.sizes)

    def _keep(self, row: Row) -> None:
        append_row(self._results, *as_content(row))
        print(show(row), flush=True)


Group: TypeAlias = Callable[[Bench], None]
"""A group of measurements, which passes its results to `compare` and `figure`."""
