"""Figures about remote datasets as a section of docs/benchmarks.md."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.machine import origin
from benchmarks.remote_cell import Cell, with_facts

__all__ = ["RESULTS", "section"]

RESULTS = Path(__file__).parent / "results/remote"


def section(path: Path) -> Iterator[str]:
    """The lines of a run, in Markdown."""
    run, cells = _read(path)
    yield from ("", "## Remote datasets", "")
    yield from _introduction(run)
    yield from ("", "| what | who | figure | goal | facts |", "| --- | --- | --- | --- | --- |")
    for title, group in groupby(cells, key=lambda cell: cell.title):
        for number, cell in enumerate(group):
            figures = (cell.text(), _goal(cell), with_facts(cell))
            columns = ("" if number else title, cell.who, *figures)
            yield f"| {' | '.join(column.replace('|', '/') for column in columns)} |"


def _introduction(run: Mapping[str, Any]) -> Iterator[str]:
    yield "Made by `python -m benchmarks.remote --full`, see `benchmarks/README.md`: an S3 server"
    yield f"behind a proxy that adds {1000 * run['latency_s']:.0f} ms to every request and carries"
    yield f"{run['bytes_per_second'] / 1e6:.0f} MB/s, or more where only bytes are of interest;"
    yield "these are counted at the proxy. With rounds, a figure is their median, with the lowest"
    yield "and highest in brackets."
    yield ""
    yield from origin(run, run["versions"])
    sizes = run["sizes"]
    yield f"{sizes['utterances']} clips, {sizes['rounds']} rounds."


def _read(path: Path) -> tuple[Mapping[str, Any], list[Cell]]:
    run: Mapping[str, Any] = {}
    cells = []
    for line in path.read_text(encoding="utf-8").splitlines():
        content = json.loads(line)
        if content.pop("kind") == "run":
            run = content
        else:
            cells.append(Cell(**content))
    # What is compared stands together, in the order in which it was first measured.
    order = {cell.title: number for number, cell in reversed(list(enumerate(cells)))}
    return run, sorted(cells, key=lambda cell: order[cell.title])


def _goal(cell: Cell) -> str:
    if cell.at_most is None:
        return ""
    return f"at most {cell.at_most:g}" + ("" if cell.met else "; missed")
