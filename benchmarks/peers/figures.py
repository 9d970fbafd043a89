"""From findings to the figures of tables and plots."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from benchmarks.peers.results import Finding, Findings
from benchmarks.timing import Spread

__all__ = [
    "COPY",
    "DECODER",
    "FASTEST",
    "FILES",
    "LMDB",
    "LOOSE",
    "OURS",
    "OURS_AS_FLAC",
    "TWINS",
    "Loading",
    "Value",
    "beside",
    "best",
    "best_of",
    "competes",
    "cpu_per_hour",
    "loading",
    "rate",
    "seconds_of",
]

COPY, FILES, LMDB = "cp", "files", "lmdb"
DECODER, FASTEST = "dr_flac-1", "dr_flac-2"
"""Floors of the works: writing, cold reads, reading, decoding, loading."""

OURS, LOOSE = "audiomdb", "loose"
OURS_AS_FLAC = "audiomdb-flac"
TWINS = ("loose-fast", "spdl-fast")
"""Systems that are given the decoder that AudioMDB has."""

Value: TypeAlias = "Callable[[Finding], float | None]"
"""A figure of a finding."""


def seconds_of(found: Finding) -> float:
    """Seconds of audio in a pass; those of an inexact one as many as it had."""
    expected: float = found["expected_frames"]
    share = found["frames"][-1] / expected if expected else 1.0
    return float(found["seconds"]) * share


def rate(found: Finding) -> float:
    """Seconds of audio a second."""
    return seconds_of(found) / float(found["wall_s"])


def cpu_per_hour(found: Finding) -> float:
    """Seconds of processor for an hour of audio."""
    return float(found["cpu_s"]) / seconds_of(found) * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """Figures of one loader.

    Attributes:
        rate: Seconds of audio per second.
        ratio: `rate` over that of the fastest bare decoding in two threads, in the same round; see
            `beside`.
        cpu: Seconds of processor time for an hour of audio.
        cpu_ratio: `cpu` over that of the same floor.
        first_s: Seconds to the first batch, from the end of importing torch.
        settings: The settings that the search found best.
        memory: Memory of all processes in MiB, or None.
    """

    rate: Spread
    ratio: Spread | None
    cpu: Spread
    cpu_ratio: Spread | None
    first_s: Spread | None
    settings: Mapping[str, Any]
    memory: Mapping[str, float] | None


def loading(findings: Findings, system: str, corpus: str) -> Loading | None:
    """Figures of a system's loader on a corpus; None where it has none."""
    about = {"corpus": corpus}
    found = findings.of("load", system=system, **about)
    rates = findings.spread("load", system, rate, **about)
    cpu = findings.spread("load", system, cpu_per_hour, **about)
    if rates is None or cpu is None:
        return None
    memory = findings.of("memory", system=system, **about)
    return Loading(
        rate=rates,
        ratio=beside(findings, system, FASTEST, rate, corpus),
        cpu=cpu,
        cpu_ratio=beside(findings, system, FASTEST, cpu_per_hour, corpus),
        first_s=findings.spread("load", system, lambda found: found["first_batch_s"], **about),
        settings=found[0]["settings"],
        memory=memory[0]["found"] if memory else None,
    )


def beside(findings: Findings, system: str, other: str, value: Value, corpus: str) -> Spread | None:
    """Ratio of two loaders' figures in the same round; if both took turns, in those rounds."""
    by_turns = findings.ratio("turns", system, other, value, corpus=corpus)
    return by_turns or findings.ratio("load", system, other, value, corpus=corpus)


def best(
    findings: Findings, values: Mapping[str, float | None], *, highest: bool
) -> tuple[str, float] | None:
    """The best competitor: a peer, or the Dataset over loose files, with the usual decoders."""
    peers = (system for system in values if competes(system, findings.kind(system)))
    return best_of(peers, values, highest=highest)


def competes(system: str, kind: str) -> bool:
    """Whether AudioMDB is compared with a system of this name and kind."""
    return kind == "peer" or system == LOOSE


def best_of(
    systems: Iterable[str], values: Mapping[str, float | None], *, highest: bool
) -> tuple[str, float] | None:
    """The best of some systems, and its value; None if none of them has a value."""
    rivals = {name: value for name in systems if (value := values.get(name)) is not None}
    if not rivals:
        return None
    system = (max if highest else min)(rivals, key=lambda name: rivals[name])
    return system, rivals[system]
