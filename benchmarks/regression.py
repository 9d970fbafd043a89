"""Compares two commits of AudioMDB by ratio: `python -m benchmarks.regression BASE [NEW]`.

Each commit's library is laid out in a folder of its own and does the same jobs, of this checkout's
benchmark, in turn. A ratio is taken within a round: what disturbs the machine disturbs both.

    .nox/peers/bin/python -m benchmarks.regression main~5
    .nox/peers/bin/python -m benchmarks.regression v0.1.0 v0.2.0 --rounds 9 --fail-below 0.9

NEW may be left out, and is then this checkout as it is, with changes that are not committed.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.corpus import RECORDINGS, Corpus, CorpusSpec, build_corpus
from benchmarks.machine import describe_machine
from benchmarks.peers.plan import in_rounds
from benchmarks.peers.registry import ENVIRONMENTS
from benchmarks.peers.running import Runner
from benchmarks.report import RESULTS
from benchmarks.results import new_file
from benchmarks.timing import Spread

_ROOT = Path(__file__).parents[1]
_HERE = "this checkout"
_READ = ("cold", "order", "shuffled", "random", "decoded")


@dataclass(frozen=True, slots=True)
class Version:
    """A commit whose library is measured."""

    name: str
    library: Path
    """Where its packages are."""


@dataclass
class Compared:
    """Timings of both versions, by work, corpus and round."""

    seconds: dict[tuple[str, str], dict[int, dict[str, tuple[float, float]]]] = field(
        default_factory=dict
    )

    def add(
        self, work: str, corpus: str, number: int, version: str, found: Mapping[str, Any]
    ) -> None:
        """Keep the seconds on the clock and of processor time of one job."""
        rounds = self.seconds.setdefault((work, corpus), {})
        rounds.setdefault(number, {})[version] = (found["wall_s"], found["cpu_s"])

    def ratios(self, base: str, new: str) -> Iterator[tuple[str, str, Spread, Spread]]:
        """Work, corpus, and how many times as fast the new version is: clock, processor."""
        for (work, corpus), rounds in self.seconds.items():
            both = [each for each in rounds.values() if base in each and new in each]
            if both:
                wall, cpu = (
                    Spread.of([each[base][of] / max(each[new][of], 1e-9) for each in both])
                    for of in (0, 1)
                )
                yield work, corpus, wall, cpu


def main() -> None:
    """Compare, print the ratios, and fail where something has become slower."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.regression",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("base", help="the commit that is compared with")
    parser.add_argument("new", nargs="?", help="another; this checkout unless given")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--utterances", type=int, default=400)
    parser.add_argument("--digits", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2, help="of the loader")
    parser.add_argument("--shortest-s", type=float, default=1.0)
    parser.add_argument("--fail-below", type=float, default=0.0, metavar="RATIO")
    parser.add_argument("--work", type=Path, default=RESULTS / "work")
    parser.add_argument("--recordings", type=Path, default=RECORDINGS)
    given = parser.parse_args()
    work = given.work.resolve()
    versions = [_laid_out(given.base, work), _laid_out(given.new, work)]
    runner = Runner({ENVIRONMENTS[0]: sys.executable}, new_file(RESULTS / "regression"))
    names = [version.name for version in versions]
    about = {"time": runner.results.stem, "compared": names}
    runner.keep("run", {**about, **describe_machine(work)})
    compared = Compared()
    for label, corpus in _corpora(work, given):
        for number, turn in in_rounds(given.rounds, ["0", "1"]):
            version = versions[int(turn)]
            runner.library = version.library
            folder = work / "regression" / f"{turn}-{label}"
            _round(runner, compared, given, label, corpus, number, version.name, folder)
    _show(compared, names, runner.results)
    slower = [
        f"{what} {corpus}"
        for what, corpus, wall, cpu in compared.ratios(*names)
        if max(wall.median, cpu.median) < given.fail_below
    ]
    if slower:
        sys.exit(f"slower than {given.fail_below} of {given.base}: {', '.join(slower)}")


def _round(
    runner: Runner,
    compared: Compared,
    given: argparse.Namespace,
    label: str,
    corpus: Corpus,
    number: int,
    version: str,
    folder: Path,
) -> None:
    """One version's jobs on one corpus. What it cannot do, such as an old one, is left out."""
    few = folder.parent.parent / "corpora" / f"few-{label}"
    places = {"corpus": str(corpus.folder), "folder": str(folder)}
    about = {"corpus": label, "version": version, "round": number}
    build_corpus(few, CorpusSpec(**{**corpus.spec, "clips": 8}), recordings=given.recordings)

    def attempt(work: str, job: str, more: Mapping[str, Any]) -> dict[str, Any]:
        def call() -> dict[str, Any]:
            return runner.job(job, "audiomdb", given={**places, **more})

        return runner.attempt(work, about, call) or {}

    written = attempt("write", "writing:write", {"few": str(few)})
    if not written:
        return
    compared.add("write", label, number, version, written)
    repeated = {"shortest_s": given.shortest_s}
    read = attempt("read", "reading:read", {**repeated, "works": list(_READ)})
    for work in _READ:
        if "wall_s" in read.get(work, {}):
            compared.add(f"read {work}", label, number, version, read[work])
    settings = {"workers": 0, "threads": given.threads}
    loaded = attempt("load", "loading:load", {**repeated, "settings": settings})
    if loaded:
        compared.add("load", label, number, version, loaded)
        first = {"wall_s": loaded["first_batch_s"], "cpu_s": loaded["first_batch_cpu_s"]}
        compared.add("first batch", label, number, version, first)


def _corpora(work: Path, given: argparse.Namespace) -> Iterator[tuple[str, Corpus]]:
    for label, spec in (
        ("speech", CorpusSpec("utterances", given.utterances)),
        ("digits", CorpusSpec("digits", given.digits, "wav")),
    ):
        folder = work / "corpora" / spec.name
        folder.parent.mkdir(parents=True, exist_ok=True)
        yield label, build_corpus(folder, spec, recordings=given.recordings)


def _laid_out(commit: str | None, work: Path) -> Version:
    """The packages of a commit in a folder of their own; git's own state is not touched."""
    if commit is None:
        return Version(_HERE, _ROOT)
    name = _git("rev-parse", "--short", f"{commit}^{{commit}}").decode().strip()
    folder = work / "libraries" / name
    if not folder.exists():
        unfinished = folder.with_name(f"{name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        with tarfile.open(fileobj=io.BytesIO(_git("archive", name, "packages"))) as packed:
            packed.extractall(unfinished, filter="data")
        unfinished.rename(folder)
    return Version(name, folder)


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"git {' '.join(arguments)}: {done.stderr.decode().strip()}")
    return done.stdout


def _show(compared: Compared, names: Sequence[str], results: Path) -> None:
    print(f"\n{names[1]} against {names[0]}: times as fast, by the clock and by processor time")
    for work, corpus, wall, cpu in compared.ratios(*names):
        print(f"  {work:14} {corpus:8} {_shown(wall)}   {_shown(cpu)}")
    print(f"results: {results}")


def _shown(spread: Spread) -> str:
    return f"{spread.median:5.2f} ({spread.low:.2f} to {spread.high:.2f})"


if __name__ == "__main__":
    main()
