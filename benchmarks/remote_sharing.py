"""Several processes that begin at once with one empty cache."""

from __future__ import annotations

from typing import Any

from benchmarks.processes import free_port
from benchmarks.remote_cell import Cell
from benchmarks.remote_setup import BYTES_PER_SECOND, OURS, Contender, Remote, failures, whole

__all__ = ["share"]


def share(remote: Remote) -> None:
    """Ranks that share an epoch, and processes each of which reads all of it."""
    for processes in (2, 8):
        for contender in remote.contenders:
            _run(remote, contender, processes, ranks=True)
        _run(remote, OURS, processes, ranks=False)


def _run(remote: Remote, contender: Contender, processes: int, *, ranks: bool) -> None:
    runs: list[dict[str, Any]] = []
    while len(runs) < remote.rounds and not (runs and runs[-1]["event"] == "hang"):
        runs.append(_epoch(remote, contender, processes, ranks=ranks))
    kind = "ranks" if ranks else "readers of all"
    remote.keep(
        Cell(
            row=f"share.{processes}.{'ranks' if ranks else 'all'}",
            title=f"{processes} {kind}, one empty cache: bytes over the dataset's",
            who=contender.name,
            values=[run["passed_over_dataset"] for run in whole(runs)],
            at_most=1.0 if contender is OURS else None,
            note=failures(runs),
            facts={"samples": max(run["samples"] for run in runs)},
        )
    )


def _epoch(remote: Remote, contender: Contender, processes: int, *, ranks: bool) -> dict[str, Any]:
    """Read an epoch in several processes; the result is that of the first to fail, if any."""
    dataset = remote.dataset(contender)
    cache = remote.cache()
    world = processes if ranks else 1
    port = free_port()
    tasks = [
        remote.task(
            contender,
            dataset,
            cache,
            world=world,
            rank=number if ranks else 0,
            options={"port": port} if not contender.ours else {},
        )
        for number in range(processes)
    ]
    remote.narrow(2 * BYTES_PER_SECOND)
    with remote.reading(contender, *tasks, limit_s=120.0) as readers:
        for reader in readers:
            reader.go()
        events = []
        for reader in readers:
            events.append(reader.result())
            if events[-1]["event"] == "hang":
                break
        passed = remote.quiet()
    failed = [event for event in events if event["event"] != "epoch"]
    return {
        **(failed or events)[0],
        "samples": sum(event.get("samples", 0) for event in events),
        "passed_over_dataset": passed / dataset.bytes,
    }
