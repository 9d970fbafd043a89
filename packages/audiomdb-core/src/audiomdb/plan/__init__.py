"""The order of an epoch, as pure functions of integers.

    counts of the shards ─ line ─ shuffle ─ split ─ positions to read
                                    │
                                   bits of (seed, epoch)

`split` deals samples out one by one; `steps` and `seconds` make batches of them, `mix` weaves the
lines of several datasets into one, `filters` leaves samples out, `state` is what a checkpoint
keeps, `nodes` counts what is read by whom.

A plan knows how many samples each shard holds and nothing else (for batches by seconds, how long
each sample is): no files, no clock, no workers, no state. What it answers depends only on its
options, so every process of every node computes the same epoch by itself, and any place in it is
found without replaying what comes before.

Words used here:

- **position**: a sample's number in stored order, its shard's offset plus its place in the shard;
- **line**: the samples of a partition one after another; an **element** is an index into it;
- **partition**: a run of shards that one node reads in an epoch;
- **turn**: a sample's place in the order of the whole epoch, over all partitions;
- **step**: a global batch, shared by all ranks.
"""

from __future__ import annotations

from audiomdb.plan.bits import Purpose, random_order, random_words
from audiomdb.plan.durations import even_borders
from audiomdb.plan.epoch import EpochPlan
from audiomdb.plan.filters import Columns, Selection, select
from audiomdb.plan.line import Line, Run, StoredLine, cut_line
from audiomdb.plan.mix import INTERLEAVES, Interleave, MixPlan, Stop
from audiomdb.plan.nodes import read_twice
from audiomdb.plan.pattern import Pattern, Weight
from audiomdb.plan.seconds import SecondsPlan, SecondsReport
from audiomdb.plan.shuffle import MAX_WINDOW, ShuffledLine
from audiomdb.plan.split import TAILS, Places, Split, Tail
from audiomdb.plan.state import PlanState, plan_id
from audiomdb.plan.steps import Order, Step, StepPlan
from audiomdb.plan.turns import RankPlan

__all__ = [
    "INTERLEAVES",
    "MAX_WINDOW",
    "TAILS",
    "Columns",
    "EpochPlan",
    "Interleave",
    "Line",
    "MixPlan",
    "Order",
    "Pattern",
    "Places",
    "PlanState",
    "Purpose",
    "RankPlan",
    "Run",
    "SecondsPlan",
    "SecondsReport",
    "Selection",
    "ShuffledLine",
    "Split",
    "Step",
    "StepPlan",
    "Stop",
    "StoredLine",
    "Tail",
    "Weight",
    "cut_line",
    "even_borders",
    "plan_id",
    "random_order",
    "random_words",
    "read_twice",
    "select",
]
