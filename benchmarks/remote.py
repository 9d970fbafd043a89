"""Remote datasets against what network, trainer and disk allow: `python -m benchmarks.remote`.

Everything is read from a real S3 server through a proxy that adds 30 ms to every request and
carries 25 MB/s. Bytes are counted at the proxy.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from audiomdb.testing import ProxyProcess
from benchmarks.bench import FULL, SHORT, Bench
from benchmarks.corpus import RECORDINGS
from benchmarks.machine import describe_machine
from benchmarks.remote_budget import budget
from benchmarks.remote_cell import Cell
from benchmarks.remote_cold import cold
from benchmarks.remote_damage import cut, flip
from benchmarks.remote_network import running_store
from benchmarks.remote_report import RESULTS
from benchmarks.remote_setup import (
    BYTES_PER_SECOND,
    LATENCY_S,
    OURS,
    PEERS,
    Remote,
)
from benchmarks.remote_sharing import share
from benchmarks.results import append_row, new_file

GROUPS: dict[str, Callable[[Remote], None]] = {
    "cold": cold,
    "budget": budget,
    "share": share,
    "cut": cut,
    "flip": flip,
}

_VERSIONS = """
import json, sys
from importlib.metadata import version
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""


def main() -> None:
    """Measure what was asked for; figures go to the terminal and to a new file of results."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.remote",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--full", action="store_true", help="the sizes of the published figures")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP")
    parser.add_argument("--rounds", type=int, help="rounds of what the clock measures")
    parser.add_argument("--work", type=Path, default=RESULTS.parent / "work", help="for datasets")
    parser.add_argument("--recordings", type=Path, default=RECORDINGS, help="spoken digits as WAV")
    parser.add_argument("--peers-python", metavar="PATH", help="Python that has the peers")
    parser.add_argument("--who", nargs="+", metavar="NAME", help="only these of the contenders")
    given = parser.parse_args()
    sizes = FULL if given.full else SHORT
    if given.rounds:
        sizes = sizes.with_rounds(given.rounds)
    contenders = [OURS, *PEERS] if given.peers_python else [OURS]
    if given.who:
        contenders = [who for who in contenders if who.name in given.who]
    given.work.mkdir(parents=True, exist_ok=True)
    path = new_file(RESULTS)
    bench = Bench(sizes, given.work, path, given.recordings)
    machine = describe_machine(given.work)
    machine["versions"].update(_versions(sys.executable, "boto3", "moto"))
    if given.peers_python:
        machine["versions"].update(_versions(given.peers_python, *(who.name for who in PEERS)))
    network = {"latency_s": LATENCY_S, "bytes_per_second": BYTES_PER_SECOND}
    append_row(path, "run", {"time": path.stem, "sizes": bench.describe(), **network, **machine})
    with running_store() as store, ProxyProcess(store.url) as proxy:
        remote = Remote(bench, store, proxy, contenders, given.peers_python or "", path)
        _server(remote)
        for name in given.only:
            GROUPS[name](remote)
    print(f"\nresults: {path}")


def _server(remote: Remote) -> None:
    """Say what the server can do by itself, so that nobody takes it for the network."""
    dataset = remote.dataset(OURS)
    keys = [f"{dataset.prefix}/{name}" for name in dataset.shards]
    remote.keep(
        Cell(
            row="server",
            title="the S3 server without the network, four requests at once",
            who="moto",
            values=[remote.store.rate(keys) / 1e6],
            unit="MB/s",
            facts={"shards": len(keys), "dataset_mb": dataset.bytes / 1e6},
        )
    )


def _versions(python: str, *names: str) -> dict[str, Any]:
    done = subprocess.run(
        [python, "-c", _VERSIONS, *names], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
