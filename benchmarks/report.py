"""Results as text: lines in the terminal, and the tables of docs/benchmarks.md.

python -m benchmarks.report            from the newest files of benchmarks/results

What the page is made of is kept beside it, in docs/benchmarks: findings as JSON lines, and plots
where matplotlib is installed, as in the environment of the peers. A section that there are no newer
results for is made of these.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import origin
from benchmarks.peers.excerpt import excerpt, put_between_marks
from benchmarks.peers.plots import draw
from benchmarks.peers.report import section as peers_section
from benchmarks.peers.results import RESULTS as PEER_RESULTS
from benchmarks.peers.results import Findings, read_findings
from benchmarks.remote_report import RESULTS as REMOTE_RESULTS
from benchmarks.remote_report import section as remote_section
from benchmarks.results import Figure, Results, Row, newest, read_results
from benchmarks.timing import Measured, Spread

__all__ = ["RESULTS", "show"]

RESULTS = Path(__file__).parent / "results"
_PAGE = Path(__file__).parents[1] / "docs/benchmarks.md"
_README = Path(__file__).parents[1] / "README.md"

_GROUPS = {
    "convert": "Conversion",
    "read": "Reading without decoding",
    "decode": "Reading and decoding to float32",
    "open": "Start-up",
    "large": "Very many shards",
    "plan": "Planning an epoch",
    "memory": "Memory",
    "layout": "Layout of shards (docs/decisions/0006)",
}


def show(row: Row) -> str:
    """A row for the terminal."""
    if isinstance(row, Figure):
        return f"\n{row.title}\n  {_figure_value(row)}{_goal_note(row)}"
    lines = ["", f"{row.title}  [{row.name}, {len(row.rounds)} rounds of {row.passes}]"]
    lines += [f"  {name:34} {_rate(row, name)}" for name in row.floors]
    for name in row.contenders:
        ratio, cpu = row.ratio_of(name), row.cpu_ratio_of(name)
        note = {None: "", True: "  goal reached", False: "  GOAL MISSED"}[row.met(name)]
        lines.append(
            f"  {name:34} {_rate(row, name)}  {_kind(row)} {_spread(ratio)}, "
            f"by processor time {_spread(cpu)}{note}"
        )
    return "\n".join(lines)


def _floors(results: Results) -> Iterator[str]:
    """The section of a run against floors, in Markdown."""
    run = results.run
    yield from ("", "## Against floors", "")
    yield "Made by `python -m benchmarks.report` from results of `python -m benchmarks --full`;"
    yield "`benchmarks/README.md` says what the rows mean and how they are measured. A ratio is the"
    yield "median over rounds, with the lowest and highest in brackets; speed is floor time over"
    yield "ours (higher is better), time the inverse (lower is better)."
    yield ""
    yield from origin(run, run["versions"])
    yield f"Sizes: {', '.join(f'{name} {value}' for name, value in run['sizes'].items())}."
    for group, title in _GROUPS.items():
        rows = [row for row in results.rows if row.name.split(".")[0] == group]
        if rows:
            yield from _section(title, rows)


def _section(title: str, rows: list[Row]) -> Iterator[str]:
    measured = [row for row in rows if isinstance(row, Measured)]
    figures = [row for row in rows if isinstance(row, Figure)]
    yield from ("", f"### {title}")
    if measured:
        yield from ("", "| what | who | rate | ratio | by processor time | goal |")
        yield "| --- | --- | --- | --- | --- | --- |"
        for row in measured:
            for name in row.floors:
                yield f"| {row.title} | {name} | {_rate(row, name).strip()} | floor | | |"
            for name in row.contenders:
                cpu = _spread(row.cpu_ratio_of(name))
                yield (
                    f"| | {name} | {_rate(row, name).strip()} | {_kind(row)} "
                    f"{_spread(row.ratio_of(name))} | {cpu} | {_goal(row, name)} |"
                )
    if figures:
        yield from ("", "| what | value | goal |", "| --- | --- | --- |")
        for figure in figures:
            goal = "" if figure.at_most is None else f"at most {figure.at_most:g} {figure.unit}"
            missed = "; missed" if figure.met() is False else ""
            yield f"| {figure.title} | {_figure_value(figure)} | {goal}{missed} |"


def _kind(row: Measured) -> str:
    return "time" if row.ratio == "time" else "speed"


def _goal(row: Measured, contender: str) -> str:
    goal = row.goals.get(contender)
    if goal is None:
        return ""
    bound = "at most" if row.ratio == "time" else "at least"
    return f"{bound} {goal:g}" + ("" if row.met(contender) else "; missed")


def _goal_note(figure: Figure) -> str:
    if figure.at_most is None:
        return ""
    verdict = "goal reached" if figure.met() else "GOAL MISSED"
    return f"  (at most {figure.at_most:g} {figure.unit}: {verdict})"


def _rate(row: Measured, case: str) -> str:
    seconds = row.wall(case).median
    rate = row.amount / seconds if seconds else 0.0
    if row.unit == "bytes":
        return f"{rate / 1e6:8.0f} MB/s"
    if row.unit == "":
        return f"{seconds * 1000:8.1f} ms"
    if rate > 1e6:
        return f"{rate / 1e6:8.1f} M {row.unit}/s"
    return f"{rate:8.0f} {row.unit}/s"


def _spread(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"


def _figure_value(figure: Figure) -> str:
    facts = ", ".join(f"{name} {value:g}" for name, value in figure.facts.items())
    return f"{figure.value:.4g} {figure.unit}" + (f" ({facts})" if facts else "")


def main() -> None:
    """Render the newest results of every kind."""
    parser = argparse.ArgumentParser(description="Render results as docs/benchmarks.md.")
    files: dict[str, Any] = {"type": Path, "nargs": "+", "default": [], "metavar": "FILE"}
    several = "; of several runs, each with a part of the works, the first says what was given"
    parser.add_argument("--floors", **files, help="results, else the newest" + several)
    parser.add_argument("--peers", **files, help="the same, of benchmarks.peers")
    parser.add_argument("--remote", **files, help="the same, of benchmarks.remote")
    parser.add_argument("--out", type=Path, default=_PAGE)
    given = parser.parse_args()
    kept = given.out.with_suffix("")
    kept.mkdir(parents=True, exist_ok=True)
    page = ["# Benchmarks"]
    if peers := _published(given.peers, PEER_RESULTS, kept / "peers.jsonl"):
        findings = read_findings(peers)
        page += _peers(findings, kept)
        if given.out == _PAGE:
            put_between_marks(_README, excerpt(findings, f"docs/{kept.name}"))
    if floors := _published(given.floors, RESULTS, kept / "floors.jsonl"):
        page += _floors(read_results(floors))
    if remote := _published(given.remote, REMOTE_RESULTS, kept / "remote.jsonl"):
        page += remote_section(remote)
    given.out.write_text("\n".join(page) + "\n", encoding="utf-8")
    print(f"wrote {given.out}")


def _peers(findings: Findings, kept: Path) -> list[str]:
    """The section beside other systems, and its plots."""
    try:
        for plot in draw(findings, kept):
            print(f"drew {plot}")
    except ImportError as error:
        print(f"no plots: {error}; run this in the environment of the peers")
    return list(peers_section(findings, kept.name))


def _published(given: Sequence[Path], newer: Path, place: Path) -> Path | None:
    """Where raw results are published, after those that are given, else the newest, came there."""
    runs = given or newest(newer)
    if runs:
        place.write_text(_as_one(runs), encoding="utf-8")
    return place if place.exists() else None


def _as_one(runs: Sequence[Path]) -> str:
    """Raw results of several runs, each of which may have been made of several.

    Rounds of a later run are numbered on: a ratio is only taken between what ran side by side. What
    a run took over from an earlier one is there once.
    """
    heads: list[dict[str, Any]] = []
    lines: dict[str, None] = {}
    rounds = 0
    for run in runs:
        head, *found = map(json.loads, run.read_text(encoding="utf-8").splitlines())
        heads.append(head)
        numbered = [row for row in found if row.get("round") is not None]
        for row in numbered:
            row["round"] += rounds
        rounds = max((row["round"] + 1 for row in numbered), default=rounds)
        lines.update(dict.fromkeys(map(json.dumps, found)))
    parts = [part for head in heads for part in (_part(head), *head.get("parts", ()))]
    text = "\n".join([json.dumps({**heads[0], "parts": parts[1:]}), *lines]) + "\n"
    # Errors that were met have paths of the machine in them.
    for machine, shown in ((_PAGE.parents[1], "."), (Path.home(), "~")):
        text = text.replace(str(machine), shown)
    return text


def _part(run: dict[str, Any]) -> dict[str, Any]:
    """What of a run may differ from others on the same machine."""
    return {name: run[name] for name in ("time", "commit", "sizes") if name in run}


if __name__ == "__main__":
    main()
