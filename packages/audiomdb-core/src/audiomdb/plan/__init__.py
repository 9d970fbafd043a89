"""The order of an epoch, as pure functions of integers.

    counts of the shards ─ line ─ shuffle ─ split ─ positions to read
                                    │
                                   bits of (seed, epoch)

A plan knows how many samples each shard holds and nothing else: no files, no clock, no workers,
no state. What it answers depends only on its options, so every process of every node computes the
same epoch by itself, and any place in it is found without replaying what comes before.

Words used here:

- **position**: a sample's number in stored order, its shard's offset plus its place in the shard;
- **line**: the samples of a partition one after another; an **element** is an index into it;
- **partition**: a run of shards that one node reads in an epoch;
- **turn**: a sample's place in the order of the whole epoch, over all partitions.
"""

from __future__ import annotations

from audiomdb.plan.bits import Purpose, random_order, random_words
from audiomdb.plan.epoch import EpochPlan, RankPlan
from audiomdb.plan.line import Line, Run, StoredLine, cut_line
from audiomdb.plan.shuffle import MAX_WINDOW, ShuffledLine
from audiomdb.plan.split import TAILS, Places, Split, Tail

__all__ = [
    "MAX_WINDOW",
    "TAILS",
    "EpochPlan",
    "Line",
    "Places",
    "Purpose",
    "RankPlan",
    "Run",
    "ShuffledLine",
    "Split",
    "StoredLine",
    "Tail",
    "cut_line",
    "random_order",
    "random_words",
]
