"""Findings of a run, as they are kept and as tables need them."""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.registry import SYSTEMS
from benchmarks.peers.system import System
from benchmarks.timing import Spread

__all__ = ["RESULTS", "Findings", "read_findings", "versions_of"]

RESULTS = Path(__file__).parents[1] / "results/peers"

Finding = Mapping[str, Any]


@dataclass
class Findings:
    """One run: its first line, and everything found, by kind of work."""

    run: Finding = field(default_factory=dict)
    by_work: dict[str, list[Finding]] = field(default_factory=lambda: defaultdict(list))

    def of(self, work: str, **about: Any) -> list[Finding]:  # noqa: ANN401
        """Findings of a work with some attributes."""
        return [
            each
            for each in self.by_work[work]
            if all(each.get(name) == value for name, value in about.items())
        ]

    def systems(self, work: str, **about: Any) -> list[str]:  # noqa: ANN401
        """Systems that took part, in the order of the registry."""
        met = {each["system"] for each in self.of(work, **about)}
        return [name for name in SYSTEMS if name in met]

    def name(self, system: str) -> str:
        """Name of a system in tables."""
        named: str = self.run["systems"].get(system, {"name": system})["name"]
        return named

    def kind(self, system: str) -> str:
        """Kind of a system: ours, peer, floor or by hand."""
        kind: str = self.run["systems"].get(system, {"kind": "peer"})["kind"]
        return kind

    def rounds(
        self,
        work: str,
        system: str,
        value: Callable[[Finding], float | None],
        **about: Any,  # noqa: ANN401
    ) -> dict[int, float]:
        """A figure by round, for each round in which it was found."""
        found = {}
        for each in self.of(work, system=system, **about):
            figure = value(each["found"])
            if figure is not None:
                found[each["round"]] = figure
        return found

    def spread(
        self,
        work: str,
        system: str,
        value: Callable[[Finding], float | None],
        **about: Any,  # noqa: ANN401
    ) -> Spread | None:
        """Median, lowest and highest over rounds."""
        values = list(self.rounds(work, system, value, **about).values())
        return Spread.of(values) if values else None

    def ratio(
        self,
        work: str,
        system: str,
        floor: str,
        value: Callable[[Finding], float | None],
        **about: Any,  # noqa: ANN401
    ) -> Spread | None:
        """Ratio of a figure to the floor's in the same round."""
        ours = self.rounds(work, system, value, **about)
        theirs = self.rounds(work, floor, value, **about)
        ratios = [ours[number] / theirs[number] for number in ours if theirs.get(number)]
        return Spread.of(ratios) if ratios else None


def read_findings(path: Path) -> Findings:
    """Read a file of results back."""
    findings = Findings()
    for line in path.read_text(encoding="utf-8").splitlines():
        content = json.loads(line)
        kind = content.pop("kind")
        if kind == "run":
            findings.run = content
        else:
            findings.by_work[kind].append(content)
    return findings


def versions_of(pythons: Mapping[str, str], systems: Mapping[str, System]) -> dict[str, str]:
    """Versions of the distributions that take part, each asked for in its own environment."""
    found: dict[str, str] = {}
    for environment, python in pythons.items():
        names = {
            name
            for system, adapter in systems.items()
            if SYSTEMS[system].environment == environment
            for name in adapter.distributions
        }
        found.update(_versions(python, sorted(names | {"torch", "numpy", "torchcodec"})))
    return found


def _versions(python: str, names: list[str]) -> Iterator[tuple[str, str]]:
    code = (
        "import json, sys\nfrom importlib import metadata\nfound = {}\n"
        "for name in json.loads(sys.argv[1]):\n"
        "    try: found[name] = metadata.version(name)\n"
        "    except metadata.PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    command = [python, "-c", code, json.dumps(names)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    yield from json.loads(done.stdout).items()
