"""The plan that every piece of work is given: how much is measured, on what, by which systems."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.corpus import Corpus, CorpusSpec, build_corpus
from benchmarks.peers.figures import competes
from benchmarks.peers.registry import make
from benchmarks.peers.running import Runner
from benchmarks.peers.system import Settings, System

_NEAR = 0.05
"""Peers slower than the fastest by at most this share may be the fastest in another run."""

_FEW = 8
"""Number of clips that every system writes and reads before it is measured."""

__all__ = ["FULL", "SHORT", "Plan", "Sizes", "Work", "in_rounds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured.

    Attributes:
        rounds: Rounds of each comparison on speech.
        write_rounds: Rounds of writing, of opening, and of everything on digits.
        turns: Rounds in which AudioMDB, the floor and the fastest peers take turns.
        shortest_s: Seconds for which repeatable work is repeated at least.
        tried: Whether every system writes a few clips before writing is measured. This doubles the
            work of systems that start processes.
        passes: Least number of epochs that are measured.
        utterances: Clips of the corpus of speech.
        digits: Clips of the corpus of small files.
        few: Clips of the corpora that are damaged, resumed and split.
        tiny: Samples of the datasets that opening is measured on.
        search: Whether settings are searched, or the likeliest ones taken.
        topologies: Numbers of ranks, and of workers of each, over which an epoch is split.
        cover_clips: Sizes of the datasets that AudioMDB splits in each of its modes, in clips.
        cover_ranks: Numbers of ranks over which it splits them.
        cover_workers: Numbers of workers of each of these ranks.
        interruptions: Number of random interruptions of AudioMDB's streams.
        formats: Formats of the table of formats.
        corpora: Which of the two corpora are measured on.
        watched: Kinds of systems that are resumed, split and damaged, whose memory is measured, and
            that open very many samples.
        padded: Number of synthetic clips in the measurement of padding.
        seeds: Number of shuffled orders whose quality is measured.
        cores: Number of cores for which settings are tried.
    """

    rounds: int
    write_rounds: int
    turns: int
    shortest_s: float
    tried: bool
    passes: int
    utterances: int
    digits: int
    few: int
    tiny: tuple[int, ...]
    search: bool
    topologies: tuple[tuple[int, int], ...]
    cover_clips: tuple[int, ...]
    cover_ranks: tuple[int, ...]
    cover_workers: tuple[int, ...]
    interruptions: int
    formats: tuple[str, ...]
    corpora: tuple[str, ...]
    watched: tuple[str, ...]
    padded: int
    seeds: int
    cores: int = 2


SHORT = Sizes(
    rounds=1,
    write_rounds=1,
    turns=2,
    shortest_s=0.3,
    tried=False,
    passes=1,
    utterances=103,
    digits=600,
    few=103,
    tiny=(20_000,),
    search=False,
    topologies=((2, 2),),
    cover_clips=(7,),
    cover_ranks=(2,),
    cover_workers=(0, 1),
    interruptions=10,
    formats=("flac", "wav"),
    corpora=("speech",),
    watched=("ours",),
    padded=5_000,
    seeds=2,
)
FULL = Sizes(
    rounds=5,
    write_rounds=3,
    turns=12,
    shortest_s=2.0,
    tried=True,
    passes=2,
    utterances=1500,
    digits=4000,
    few=203,
    tiny=(1_000_000, 10_000_000),
    search=True,
    topologies=((1, 0), (1, 3), (2, 0), (2, 2), (3, 1), (3, 3), (4, 2)),
    cover_clips=(1, 7, 100, 1500),
    cover_ranks=(1, 2, 3, 4),
    cover_workers=(0, 1, 2, 3),
    interruptions=200,
    formats=("flac", "wav", "opus", "mp3"),
    corpora=("speech", "digits"),
    watched=("ours", "peer", "by hand"),
    padded=80_000,
    seeds=10,
)


class Plan:
    """The plan of a run. Corpora and datasets are made when first asked for.

    Args:
        runner: Runs the jobs.
        sizes: How much is measured.
        work: Folder for corpora and datasets.
        recordings: Spoken digits that corpora are made of.
        systems: Names of the systems that take part, if their environments exist.
    """

    def __init__(
        self,
        runner: Runner,
        sizes: Sizes,
        work: Path,
        recordings: Path,
        systems: Sequence[str],
    ) -> None:
        self.runner = runner
        self.sizes = sizes
        self.work = work
        self.recordings = recordings
        self.systems = {name: make(name) for name in systems if runner.offers(name)}
        self._tried: dict[tuple[str, str], dict[Settings, float]] = {}
        self._written: set[Path] = set()

    def corpora(self) -> Iterator[tuple[str, Corpus]]:
        """The corpora of this run, by name."""
        if "speech" in self.sizes.corpora:
            yield "speech", self.speech(self.sizes.utterances)
        if "digits" in self.sizes.corpora:
            yield "digits", self.digits(self.sizes.digits)

    def speech(self, clips: int, audio_format: str = "flac") -> Corpus:
        """A corpus of utterances of 2 to 15 s."""
        return self._corpus(CorpusSpec("utterances", clips, audio_format))  # type: ignore[arg-type]

    def digits(self, clips: int) -> Corpus:
        """A corpus of WAV files of one digit each."""
        return self._corpus(CorpusSpec("digits", clips, "wav"))

    def rounds(self, label: str) -> int:
        """Number of rounds of a comparison on this corpus."""
        return self.sizes.rounds if label == "speech" else self.sizes.write_rounds

    def watched(self) -> dict[str, System]:
        """Systems with a loader whose memory, resuming, splitting and opening are measured too."""
        loaders = self.offering(System.loader, "speech")
        kinds = self.sizes.watched
        return {n: each for n, each in loaders.items() if each.kind in kinds and not each.twin}

    def writers(self, label: str) -> dict[str, System]:
        """Systems that write a dataset of their own from this corpus."""
        return {n: each for n, each in self._on(label).items() if each.dataset_of is None}

    def offering(self, method: Callable[..., Any], label: str) -> dict[str, System]:
        """Systems that implement a method of `System` and are measured with it on this corpus."""
        name = method.__name__
        return {
            system: each
            for system, each in self._on(label).items()
            if name in each.takes_part_in and getattr(type(each), name) is not method
        }

    def _on(self, label: str) -> dict[str, System]:
        return {name: each for name, each in self.systems.items() if label in each.corpora}

    def folder(self, system: str, corpus: Corpus) -> Path:
        """Folder of a system's dataset, whether or not it is written yet."""
        owner = self.systems[system].dataset_of or system
        return self.work / "datasets" / f"{owner}-{corpus.folder.name}"

    def dataset(self, system: str, corpus: Corpus) -> Path:
        """Folder of a system's dataset, which is written first unless this run has written it.

        Raises:
            JobError: writing failed.
        """
        folder = self.folder(system, corpus)
        if folder not in self._written:
            owner = self.systems[system].dataset_of or system
            self.runner.job("writing:write", owner, given=self.to_write(corpus, folder))
            self.wrote(folder)
        return folder

    def to_write(self, corpus: Corpus, folder: Path) -> dict[str, Any]:
        """Arguments of the job that writes a dataset."""
        given = self.given(corpus, folder)
        if not self.sizes.tried:
            return {**given, "few": None}
        spec = CorpusSpec(**{**corpus.spec, "clips": _FEW})
        return {**given, "few": str(self._corpus(spec).folder)}

    def wrote(self, folder: Path) -> None:
        """Remember that this run has written a dataset."""
        self._written.add(folder)

    def settings(self, system: str, label: str) -> Settings:
        """Fastest settings of a system on a corpus; before the search, the likeliest ones."""
        found = self.fastest(system, label)
        return found[0] if found else self._likeliest(system)

    def tried(self, system: str, label: str, settings: Settings, wall_s: float) -> None:
        """Remember the time that settings took; of several tries, only the fastest counts."""
        tried = self._tried.setdefault((label, system), {})
        tried[settings] = min(wall_s, tried.get(settings, wall_s))

    def fastest(self, system: str, label: str) -> list[Settings]:
        """All settings of a system that were tried on a corpus, the fastest first."""
        tried = self._tried.get((label, system), {})
        return sorted(tried, key=lambda each: tried[each])

    def rivals(self, label: str) -> list[str]:
        """The peers that the search found fastest on a corpus; none before that."""
        tried = {}
        for name, each in self.systems.items():
            if competes(name, each.kind) and (found := self.fastest(name, label)):
                tried[name] = self._tried[label, name][found[0]]
        return [name for name in tried if tried[name] <= (1 + _NEAR) * min(tried.values())]

    @staticmethod
    def given(corpus: Corpus, folder: Path) -> dict[str, Any]:
        """Arguments that most jobs take."""
        return {"corpus": str(corpus.folder), "folder": str(folder)}

    def _likeliest(self, system: str) -> Settings:
        """As many workers, or threads, as cores."""
        every, cores = self.systems[system].settings(self.sizes.cores), self.sizes.cores
        alike = (each for each in every if sorted((each.workers, each.threads)) == [0, cores])
        return next(alike, every[0])

    def _corpus(self, spec: CorpusSpec) -> Corpus:
        folder = self.work / "corpora" / spec.name
        return build_corpus(folder, spec, recordings=self.recordings)


Work: TypeAlias = Callable[[Plan], None]
"""A piece of work: it measures something, and the plan's runner keeps the findings."""


def in_rounds(rounds: int, names: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield all names in each round, in a rotating order, so that none always follows another."""
    for number in range(rounds):
        turn = number * len(names) // rounds
        for name in [*names[turn:], *names[:turn]]:
            yield number, name
