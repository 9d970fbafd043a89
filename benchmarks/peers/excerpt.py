"""The few lines of the page that README shows, put between two marks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers.figures import FASTEST, LOOSE, TWINS, loading
from benchmarks.peers.markdown import header, number, row, shown
from benchmarks.peers.results import Findings

__all__ = ["excerpt", "put_between_marks"]

_BEGIN, _END = "<!-- benchmarks -->", "<!-- end of benchmarks -->"


def excerpt(findings: Findings, folder: str) -> Iterator[str]:
    """The whole loader on clips of speech.

    Args:
        findings: The run.
        folder: Of plots, relative to README.
    """
    run, corpus = findings.run, "speech"
    systems = [
        name
        for name in findings.systems("load", corpus=corpus)
        if name in ("audiomdb", LOOSE, *TWINS, FASTEST) or findings.kind(name) == "peer"
    ]
    figures = {name: found for name in systems if (found := loading(findings, name, corpus))}
    yield f"Shuffled, decoded and padded batches of FLAC speech, on {run['cores']} cores. Each"
    yield "value is a median over rounds. Ratios are computed within a round (those of the fastest"
    yield "systems in rounds of their own), so they can differ slightly from the quotient of two"
    yield "medians."
    yield ""
    yield f"![Loader rates]({folder}/loader-{corpus}.svg)"
    yield ""
    yield from header(
        "", "audio s/s", "of bare decoding", "CPU s/audio h", "first batch s", "memory MiB"
    )
    for name in sorted(figures, key=lambda name: -figures[name].rate.median):
        found = figures[name]
        yield row(
            findings.name(name),
            f"{found.rate.median:,.0f}",
            shown(found.ratio),
            shown(found.cpu),
            shown(found.first_s),
            number((found.memory or {}).get("peak_mib"), "{:.0f}"),
        )


def put_between_marks(page: Path, lines: Iterator[str]) -> bool:
    """Replace what stands between the marks of a page; False where it has none."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        return False
    middle = "\n".join(("", "", *lines, "", ""))
    page.write_text(before + begin + middle + end + after, encoding="utf-8")
    return True
