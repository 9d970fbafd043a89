"""Measures AudioMDB beside its peers: `python -m benchmarks.peers [--full] [--only load ...]`."""

from __future__ import annotations

import argparse
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.corpus import RECORDINGS
from benchmarks.machine import describe_machine
from benchmarks.peers import measuring, ordering, outcomes
from benchmarks.peers.plan import FULL, SHORT, Plan, Work
from benchmarks.peers.registry import ENVIRONMENTS, SYSTEMS
from benchmarks.peers.results import RESULTS, read_findings, versions_of
from benchmarks.peers.running import Runner
from benchmarks.results import new_file

WORKS: dict[str, Work] = {
    "write": measuring.write,
    "read": measuring.read,
    "search": measuring.search,
    "load": measuring.load,
    "turns": measuring.turns,
    "memory": measuring.memory,
    "open": measuring.open_many,
    "formats": measuring.formats,
    "padding": ordering.padding,
    "shuffle": ordering.shuffle,
    "resume": outcomes.resume,
    "cover": outcomes.cover,
    "damage": outcomes.damage,
}


def main() -> None:
    """Measure what was asked for; findings go to a new file of results."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--full", action="store_true", help="the sizes of the published figures")
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS), metavar="WORK")
    parser.add_argument(
        "--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), metavar="SYSTEM"
    )
    parser.add_argument("--corpora", nargs="+", choices=("speech", "digits"))
    parser.add_argument(
        "--searched", type=Path, metavar="FILE", help="results of a run whose search is taken over"
    )
    parser.add_argument("--rounds", type=int, help="rounds of each comparison")
    parser.add_argument("--work", type=Path, default=RESULTS / "work", help="for corpora, datasets")
    parser.add_argument("--recordings", type=Path, default=RECORDINGS, help="spoken digits as WAV")
    parser.add_argument(
        "--python",
        nargs="+",
        default=[],
        metavar="NAME=PATH",
        help=f"interpreters of other environments ({', '.join(ENVIRONMENTS[1:])})",
    )
    given = parser.parse_args()
    # Jobs are in sessions of their own; whoever ends this ends them too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sizes = FULL if given.full else SHORT
    if given.rounds:
        sizes = replace(sizes, rounds=given.rounds, write_rounds=given.rounds)
    if given.corpora:
        sizes = replace(sizes, corpora=tuple(given.corpora))
    given.work.mkdir(parents=True, exist_ok=True)
    pythons = {ENVIRONMENTS[0]: sys.executable, **dict(each.split("=", 1) for each in given.python)}
    runner = Runner(pythons, new_file(RESULTS))
    plan = Plan(runner, sizes, given.work.resolve(), given.recordings, given.systems)
    machine = describe_machine(given.work)
    runner.keep(
        "run",
        {
            "time": runner.results.stem,
            "sizes": asdict(sizes),
            **machine,
            "peers": versions_of(pythons, plan.systems),
            "systems": {
                name: {"name": each.name, "kind": each.kind, "notes": each.notes}
                for name, each in plan.systems.items()
            },
        },
    )
    if given.searched:
        measuring.take_search(plan, read_findings(given.searched))
    for name in given.only:
        print(f"\n{name}", flush=True)
        WORKS[name](plan)
    print(f"\nresults: {runner.results}")
    for failure in runner.failures:
        print(f"FAILED {failure[:600]}")


if __name__ == "__main__":
    main()
