"""Runs the benchmarks: `python -m benchmarks [--full] [--only read ...]`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.bench import FULL, SHORT, Bench, Group
from benchmarks.conversion import convert
from benchmarks.corpus import RECORDINGS
from benchmarks.decoding import decode_samples
from benchmarks.layout import layout
from benchmarks.machine import describe_machine
from benchmarks.many_shards import begin_large
from benchmarks.memory import memory
from benchmarks.planning import plan
from benchmarks.reading import read_samples
from benchmarks.report import RESULTS
from benchmarks.results import append_row, new_file
from benchmarks.starting import start
from benchmarks.windows import cut_windows

GROUPS: dict[str, Group] = {
    "convert": convert,
    "read": read_samples,
    "decode": decode_samples,
    "window": cut_windows,
    "open": start,
    "large": begin_large,
    "plan": plan,
    "memory": memory,
    "layout": layout,
}


def main() -> None:
    """Measure what was asked for; rows go to the terminal and to a new file of results."""
    parser = argparse.ArgumentParser(
        prog="benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--full", action="store_true", help="the sizes of the published figures")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP")
    parser.add_argument("--rounds", type=int, help="rounds of each comparison")
    parser.add_argument("--work", type=Path, default=RESULTS / "work", help="for corpora, datasets")
    parser.add_argument("--recordings", type=Path, default=RECORDINGS, help="spoken digits as WAV")
    given = parser.parse_args()
    sizes = FULL if given.full else SHORT
    if given.rounds:
        sizes = sizes.with_rounds(given.rounds)
    given.work.mkdir(parents=True, exist_ok=True)
    path = new_file(RESULTS)
    bench = Bench(sizes, given.work, path, given.recordings)
    machine = describe_machine(given.work)
    append_row(path, "run", {"time": path.stem, "sizes": bench.describe(), **machine})
    for name in given.only:
        GROUPS[name](bench)
    print(f"\nresults: {path}")


if __name__ == "__main__":
    main()
