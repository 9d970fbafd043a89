"""One epoch with nothing in the cache: against the network, and against the training step."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np

from audiomdb.plan import EpochPlan
from audiomdb.shards import DatasetReader
from benchmarks.remote_cell import Cell
from benchmarks.remote_setup import (
    BARE,
    BYTES_PER_SECOND,
    LATENCY_S,
    OURS,
    Contender,
    Remote,
    Uploaded,
    failures,
    whole,
)

__all__ = ["cold"]

_BATCH = 16
_NARROW, _BUSY = 0.5, 1.5
"""Time of all training steps, over that of all bytes on the line."""

_NARROW_TITLE = "cold epoch, narrow network: time over bytes / bandwidth"

_FIRST_REQUESTS = 2
"""Nobody can ask for a shard before the answer that says which there are."""


def cold(remote: Remote) -> None:
    """A narrow network and a busy trainer in turn, as many rounds as there are."""
    who = [BARE, *remote.contenders]
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for number in range(remote.rounds):
        turn = number % len(who)
        for contender in [*who[turn:], *who[:turn]]:
            for kind in ("narrow", "first" if contender is BARE else "busy"):
                events = found[kind, contender.name]
                if not (events and events[-1]["event"] == "hang"):
                    events.append(_epoch(remote, contender, kind))
    for contender in remote.contenders:
        _keep(remote, contender, found)
    bare = [event["wall_s"] / event["line_s"] for event in whole(found["narrow", BARE.name])]
    remote.keep(
        Cell(
            row="cold.narrow",
            title=_NARROW_TITLE,
            who=BARE.name,
            values=bare,
            facts={"effective_mb_s": BYTES_PER_SECOND / 1e6 / float(np.median(bare))},
        )
    )


def _epoch(remote: Remote, contender: Contender, kind: str) -> dict[str, Any]:
    dataset = remote.dataset(contender)
    line_s = dataset.bytes / BYTES_PER_SECOND
    steps = math.ceil(len(remote.corpus.entries) / _BATCH)
    options: dict[str, Any] = {}
    if contender is BARE:
        options["names"] = dataset.shards if kind == "narrow" else _first_shards(dataset)
        options["before"] = [] if kind == "narrow" else ["metadata.json"]
    share = {"narrow": _NARROW, "busy": _BUSY}.get(kind, 0.0) if contender is not BARE else 0.0
    step_s = share * line_s / steps
    cache = remote.cache()
    task = remote.task(contender, dataset, cache, batch=_BATCH, step_s=step_s, options=options)
    remote.narrow()
    with remote.reading(contender, task) as (reader,):
        reader.go()
        event = reader.result()
        passed = remote.proxy.stats.answer_bytes
    compute_s = step_s * event.get("steps", 0)
    return {**event, "line_s": line_s, "compute_s": compute_s, "passed": passed}


def _keep(
    remote: Remote,
    contender: Contender,
    found: dict[tuple[str, str], list[dict[str, Any]]],
) -> None:
    who = contender.name
    narrow, busy = whole(found["narrow", who]), whole(found["busy", who])
    dataset = remote.dataset(contender)
    goal = contender is OURS

    def median(events: list[dict[str, Any]], name: str) -> float:
        return float(np.median([event[name] for event in events])) if events else math.nan

    busy_note = failures(found["busy", who])
    remote.keep(
        Cell(
            row="cold.narrow",
            title=_NARROW_TITLE,
            who=who,
            values=[event["wall_s"] / event["line_s"] for event in narrow],
            at_most=1.08 if goal else None,
            note=failures(found["narrow", who]),
            facts={
                "wall_s": median(narrow, "wall_s"),
                "cpu_s": median(narrow, "cpu_s"),
                "line_s": median(narrow, "line_s"),
                "samples": median(narrow, "samples"),
                "passed_over_dataset": median(narrow, "passed") / dataset.bytes,
            },
        )
    )
    remote.keep(
        Cell(
            row="cold.busy",
            title="cold epoch, busy trainer: time over that of its steps",
            who=who,
            values=[event["wall_s"] / event["compute_s"] for event in busy],
            at_most=1.08 if goal else None,
            note=busy_note,
            facts={
                "wall_s": median(busy, "wall_s"),
                "steps_s": median(busy, "compute_s"),
                "first_s": median(busy, "first_s"),
            },
        )
    )
    remote.keep(
        Cell(
            row="cold.waiting",
            title="busy trainer: waiting for data after the first batch",
            who=who,
            values=[100 * event["wait_s"] / event["wall_s"] for event in busy],
            unit="%",
            at_most=2 if goal else None,
            note=busy_note,
            facts={
                "with_the_first_percent": 100
                * float(np.median([(e["wait_s"] + e["first_s"]) / e["wall_s"] for e in busy]))
                if busy
                else math.nan
            },
        )
    )
    first = [event["first_s"] for event in busy]
    remote.keep(
        Cell(
            row="cold.first",
            title="first batch, from opening the dataset",
            who=who,
            values=first,
            unit="s",
            note=busy_note,
            facts={"narrow_s": median(narrow, "first_s")},
        )
    )
    if contender is OURS:
        bare = [event["wall_s"] for event in whole(found["first", BARE.name])]
        needed_s = _first_batch_s(dataset)
        title = "first batch: time over that of bare boto3 for metadata, then its shards"
        remote.keep(
            Cell(
                row="cold.first.ratio",
                title=title,
                who=who,
                values=[ours / floor for ours, floor in zip(first, bare, strict=False)],
                facts={"bare_s": float(np.median(bare)), "line_s": needed_s},
            )
        )


def _first_batch_s(dataset: Uploaded) -> float:
    """Two requests, and the bytes of the metadata and of the shards of the first batch."""
    size = sum(dataset.sizes[name] for name in ("metadata.json", *_first_shards(dataset)))
    return _FIRST_REQUESTS * LATENCY_S + size / BYTES_PER_SECOND


def _first_shards(dataset: Uploaded) -> list[str]:
    """Those that the first batch is made of."""
    with DatasetReader.open(dataset.folder) as reader:
        plan = EpochPlan(reader.counts, shuffle=True)
        ends = np.cumsum(reader.counts)
        shards = np.searchsorted(ends, plan.positions(0, _BATCH), side="right").tolist()
        return [f"{reader.metadata.shards[n].path}/data.mdb" for n in dict.fromkeys(shards)]
