"""Findings as sections of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.machine import origin
from benchmarks.peers import measured_tables, order_tables, outcome_tables
from benchmarks.peers.markdown import heading, short
from benchmarks.peers.measured_tables import CORPORA
from benchmarks.peers.results import Findings
from benchmarks.peers.targets import targets

__all__ = ["section"]


def section(findings: Findings, plots: str) -> Iterator[str]:
    """The lines about one run.

    Args:
        findings: The run.
        plots: Folder of the plots, relative to the page.
    """
    yield from ("", "## Beside other systems", "")
    yield from _introduction(findings)
    yield from targets(findings)
    for corpus in CORPORA:
        yield from measured_tables.loaders(findings, corpus, plots)
    for corpus in CORPORA:
        yield from measured_tables.reading(findings, corpus, plots)
    for corpus in CORPORA:
        yield from measured_tables.writing(findings, corpus)
    yield from measured_tables.formats(findings, plots)
    yield from measured_tables.opening(findings)
    yield from order_tables.padding(findings)
    yield from order_tables.shuffling(findings)
    yield from outcome_tables.resuming(findings)
    yield from outcome_tables.interruptions(findings)
    yield from outcome_tables.coverage(findings)
    yield from outcome_tables.coverage_of_modes(findings)
    yield from outcome_tables.damage(findings)
    yield from measured_tables.searched(findings)
    yield from _notes(findings)


def _introduction(findings: Findings) -> Iterator[str]:
    run = findings.run
    sizes = run["sizes"]
    yield "Made by `python -m benchmarks.peers --full`; `benchmarks/README.md` describes how."
    yield "Figures are medians over rounds, with the lowest and highest in brackets; a ratio is"
    yield "taken within a round, to the floor of the same round."
    yield ""
    yield from origin(run, run["peers"])
    of_parts = [part["sizes"] for part in (run, *run.get("parts", ()))]
    rounds = {given[name] for given in of_parts for name in ("rounds", "write_rounds")}
    yield (
        f"{' to '.join(map(str, sorted({min(rounds), max(rounds)})))} rounds; "
        f"{sizes['utterances']} utterances, {sizes['digits']} digits."
    )


def _notes(findings: Findings) -> Iterator[str]:
    yield from heading("How each system was set up")
    said = set()
    for each in findings.run["systems"].values():
        if each["notes"] and each["notes"] not in said:
            said.add(each["notes"])
            yield f"- {each['name']}: {each['notes']}."
    failures = findings.of("failure")
    if failures:
        yield from ("", "What failed in this run:", "")
        for each in failures:
            lines = [line for line in each["error"].splitlines() if line.strip()]
            yield f"- {each['work']}, {findings.name(each['system'])}: {short(lines[-1])}"
