"""What the plan costs: a sample's share of planning, the way to the middle, batches not full.

No audio is read. Sizes are the same in short and in full runs, which differ in rounds only.
"""

from __future__ import annotations

import sys
import time
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from audiomdb.plan import EpochPlan, SecondsPlan, StepPlan, even_borders
from benchmarks.bench import Bench
from benchmarks.processes import run_python
from benchmarks.results import Figure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audiomdb.plan import SecondsReport

__all__ = ["plan"]

_SHARDS = 1000
_IN_SHARD = 1000
_READ = 100_000
"""Samples whose steps are timed."""

_SLOT_S = 200.0
_MOST_US = 2.0
_MOST_SHORT = 2.0
_OF_LHOTSE = 2.9
"""Padding in percent of lhotse's DynamicBucketingSampler (that of peers/requirements.txt) for the
same clips, buckets and slots: 2.9 to 3.0, by the order in which they come."""

_MIDDLE = """
import json, sys, time
import numpy as np
from audiomdb.plan import EpochPlan, SecondsPlan, StepPlan
kind, partitions, slots = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
shards, each = 10_000, 1000
if kind == "seconds":
    draw = np.random.default_rng(0)
    durations = np.empty(shards * each)
    for begin in range(0, len(durations), 2**17):
        clips = draw.lognormal(np.log(6), 0.6, len(durations[begin : begin + 2**17]))
        durations[begin : begin + 2**17] = clips.clip(1, 20)
start = time.perf_counter()
order = EpochPlan([each] * shards, shuffle=True, partitions=partitions)
if kind == "seconds":
    plan = SecondsPlan(order, durations, max_batch_seconds=200, slots=slots)
    chapter = plan.chapters // 2
    batches = plan.step(chapter, plan.steps(chapter) // 2)
else:
    plan = StepPlan(order, slots)
    batches = [plan.step(plan.steps // 2)]
wall_s = time.perf_counter() - start
status = open("/proc/self/status").read() if sys.platform == "linux" else "VmHWM: 0 kB"
peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
print(json.dumps({"wall_s": wall_s, "peak_mib": int(peak.split()[1]) / 1024,
                  "samples": sum(len(batch.positions) for batch in batches)}))
"""


def plan(bench: Bench) -> None:
    """Measure planning by number, by seconds, and from the middle."""
    _overhead(bench)
    _middle(bench)
    _by_seconds(bench)
    _one_slot(bench)


def _overhead(bench: Bench) -> None:
    for partitions in (1, 2, 8):
        for batch_size in (16, 64):
            each = [_step_us(partitions, batch_size) for _ in range(bench.sizes.rounds)]
            bench.figure(
                Figure(
                    name=f"plan.overhead.{partitions}.{batch_size}",
                    title=f"planning steps of {batch_size}, {partitions} partitions, a sample",
                    value=median(each),
                    unit="us of processor",
                    at_most=_MOST_US,
                    facts={"slowest": max(each), "shards": _SHARDS, "window": 4},
                )
            )


def _step_us(partitions: int, batch_size: int) -> float:
    steps = StepPlan(
        EpochPlan([_IN_SHARD] * _SHARDS, shuffle=True, partitions=partitions), batch_size
    )
    steps.step(0)
    numbers = range(1, 1 + _READ // batch_size)
    begun = time.process_time()
    for number in numbers:
        steps.step(number)
    return (time.process_time() - begun) / (len(numbers) * batch_size) * 1e6


def _middle(bench: Bench) -> None:
    cases = [("number", 1, 64, 0.5, 100), ("number", 8, 64, 0.5, 100)]
    cases += [("seconds", 1, 8, 1, 0), ("seconds", 8, 8, 1, 0), ("seconds", 8, 64, 1, 0)]
    for kind, partitions, slots, most_s, most_mib in cases:
        arguments = (kind, str(partitions), str(slots))
        runs = [run_python(_MIDDLE, *arguments).result for _ in range(bench.sizes.rounds)]
        peak = median(run["peak_mib"] for run in runs)
        name = f"plan.middle.{kind}.{partitions}.{slots}"
        what = f"{slots} slots" if kind == "seconds" else f"steps of {slots}"
        where = f"in the middle of 10,000,000 samples by {kind}, {partitions} partitions, {what}"
        bench.figure(
            Figure(
                name=name,
                title=f"the first step {where}",
                value=median(run["wall_s"] for run in runs),
                unit="s",
                at_most=most_s,
                facts={"slowest_s": max(run["wall_s"] for run in runs), "peak_mib": peak},
            )
        )
        if sys.platform == "linux" and most_mib:
            bench.figure(
                Figure(
                    name=f"{name}.memory",
                    title=f"peak memory of a process that makes it, {partitions} partitions",
                    value=peak,
                    unit="MiB",
                    at_most=most_mib,
                )
            )


def _by_seconds(bench: Bench) -> None:
    durations = _speech(_SHARDS * _IN_SHARD)
    spent = {}
    for partitions, slots in ((1, 1), (1, 8), (4, 8), (8, 8), (8, 64)):
        order = EpochPlan([_IN_SHARD] * _SHARDS, shuffle=True, partitions=partitions)
        steps = SecondsPlan(order, durations, max_batch_seconds=_SLOT_S, slots=slots)
        begun = time.process_time()
        report = steps.report()
        spent[f"{partitions}/{slots}"] = (time.process_time() - begun) / len(durations) * 1e6
        bench.figure(
            Figure(
                name=f"plan.short.{partitions}.{slots}",
                title=f"short steps of 1,000,000 clips, {partitions} partitions, {slots} slots",
                value=100 * report.short_steps / report.steps,
                unit="%",
                at_most=_MOST_SHORT,
                facts=_facts(report),
            )
        )
    bench.figure(
        Figure(
            name="plan.overhead.seconds",
            title="planning by seconds, slots of 200 s, a sample; the slowest of these",
            value=max(spent.values()),
            unit="us of processor",
            at_most=_MOST_US,
            facts=spent,
        )
    )


def _one_slot(bench: Bench) -> None:
    durations = np.random.default_rng(0).uniform(2, 15, 1500)
    borders = even_borders(durations, 30)
    reports = [
        SecondsPlan(
            EpochPlan([100] * 15, shuffle=True, seed=seed),
            durations,
            max_batch_seconds=136,
            slots=1,
            borders=borders,
        ).report()
        for seed in range(10)
    ]
    bench.figure(
        Figure(
            name="plan.padding.one_slot",
            title="padding of 1500 clips of 2 to 15 s, 30 buckets, one slot of 136 s",
            value=100 * median(report.padding for report in reports),
            unit="%",
            at_most=_OF_LHOTSE,
            facts={
                "worst_seed": 100 * max(report.padding for report in reports),
                "fill": median(report.fill for report in reports),
            },
        )
    )


def _facts(report: SecondsReport) -> dict[str, float]:
    return {
        "padding_percent": 100 * report.padding,
        "fill": report.fill,
        "steps": report.steps,
        "short_slots": report.short_slots,
        "empty_slots": report.empty_slots,
    }


def _speech(clips: int) -> NDArray[np.float64]:
    """Durations of clips, 1 to 20 s."""
    return np.random.default_rng(0).lognormal(np.log(6), 0.6, clips).clip(1, 20)
