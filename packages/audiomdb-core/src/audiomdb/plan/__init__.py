"""Compute the order in which an epoch reads samples, as pure functions of integers.

    counts of the shards ─ line ─ shuffle ─ split ─ positions to read
                                    │
                                   bits of (seed, epoch)

`split` assigns single samples to ranks and workers, `steps` and `seconds` form batches, `mix`
interleaves several datasets, `filters` excludes samples, and `state` is what a checkpoint stores.

A plan knows only how many samples each shard holds (and, for batches by seconds, the duration of
each sample). It uses no files, clock, workers or state. Its results depend only on its options, so
every process on every node computes the same epoch independently, and any place in the epoch is
found without replaying what comes before it.

Terms:

- **position**: the number of a sample in stored order: its shard's offset plus its place there;
- **partition**: a run of shards that one node reads in an epoch;
- **line**: the sequence of the samples of a partition; an **element** is an index into it;
- **turn**: the index of a sample in the order of the whole epoch, over all partitions;
- **step**: a global batch, shared by all ranks.
"""

from __future__ import annotations

from audiomdb.plan.durations import even_borders
from audiomdb.plan.epoch import EpochPlan
from audiomdb.plan.filters import Columns, Selection, select
from audiomdb.plan.mix import Interleave, MixPlan, Stop
from audiomdb.plan.order import Order, RankPlan
from audiomdb.plan.pattern import Weight
from audiomdb.plan.seconds import SecondsPlan, SecondsReport
from audiomdb.plan.split import Split, Tail
from audiomdb.plan.state import PlanState
from audiomdb.plan.steps import Step, StepPlan

__all__ = [
    "Columns",
    "EpochPlan",
    "Interleave",
    "MixPlan",
    "Order",
    "PlanState",
    "RankPlan",
    "SecondsPlan",
    "SecondsReport",
    "Selection",
    "Split",
    "Step",
    "StepPlan",
    "Stop",
    "Tail",
    "Weight",
    "even_borders",
    "select",
]
